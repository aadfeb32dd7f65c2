"""The Franka kitchen: FrankaKitchen-v1's physics and noise with a flat observation, an ordered task and a lean step."""

import functools
import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.arguments import check_flags, check_render_mode, check_whole
from rllib_spirl.envs.physics import physics_of, set_physics
from rllib_spirl.envs.rendering import OffscreenRenderer, camera, mujoco
from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import did_you_mean


class Subtask(NamedTuple):
    """A subtask is done when the object's generalised coordinates are within THRESHOLD of the goal."""

    indices: list[int]  # into qpos, and so into the 30-d state
    goal: list[float]


# Names, indices and goals are FrankaKitchen-v1's.
SUBTASKS = {
    "bottom burner": Subtask([11, 12], [-0.88, -0.01]),
    "top burner": Subtask([15, 16], [-0.92, -0.01]),
    "light switch": Subtask([17, 18], [-0.69, -0.05]),
    "slide cabinet": Subtask([19], [0.37]),
    "hinge cabinet": Subtask([20, 21], [0.0, 1.45]),
    "microwave": Subtask([22], [-0.75]),
    "kettle": Subtask([23, 24, 25, 26, 27, 28, 29], [-0.23, 0.75, 1.62, 0.99, 0.0, 0.0, -0.06]),
}
THRESHOLD = 0.3
SUBSTEPS = 40  # of 2 ms: one step is 0.08 s

# What FrankaKitchen-v1 starts from and what it reads of its robot's configuration file.
_START = np.fromstring(
    """
    0.148388023 -1.76848573 1.84390296 -2.4768576 0.260252026 0.712533105 1.59515394 0.0479267505 0.0371350919
    -2.6627985e-4 -5.18043486e-5 3.1287722e-5 -4.51199853e-5 -3.90842156e-6 -4.22629655e-5 6.28065475e-5
    4.04984708e-5 4.62730939e-4 -2.26906415e-4 -4.65501369e-4 -6.44129196e-3 -1.77048263e-3 1.08009684e-3
    -0.26939744 0.350383255 1.61944683 1.00618764 4.06395120e-3 -6.62095997e-3 -2.68278933e-4
    """,
    sep=" ",
)
# Of what the servos are told, in radians and, the fingers, metres.
CTRL_LOW = np.array([-2.9, -1.8, -2.9, -3.1, -2.9, 0.0, -2.9, 0.0, 0.0])
CTRL_HIGH = np.array([2.9, 1.8, 2.9, 0.0, 2.9, 3.8, 2.9, 0.04, 0.04])
_ROBOT_NOISE = np.full(9, 0.1)
_OBJECT_POSITION_NOISE = np.repeat([0.1, 0.005, 0.0005, 0.005, 0.1, 0.005, 0.1], [1, 2, 6, 3, 3, 3, 3])
_OBJECT_VELOCITY_NOISE = np.repeat([0.005, 0.1, 0.005, 0.1], [11, 3, 3, 3])
_CAMERA = {"distance": 2.2, "azimuth": 70.0, "elevation": -35.0, "lookat": (-0.2, 0.5, 2.0)}


@functools.cache
def load_model(visual: bool = False) -> mujoco.MjModel:
    """The kitchen, compiled once per process and to be treated as read-only.

    Without ``visual``, geoms that only decorate are left out: the physics is the same bit for bit, and 10-15 % faster.
    """
    package = importlib.util.find_spec("gymnasium_robotics")
    if package is None or package.origin is None:
        raise UserError("The kitchen's model comes with gymnasium-robotics: pip install gymnasium-robotics==1.4.2")
    scene = Path(package.origin).parent / "envs/assets/kitchen_franka/kitchen_assets/kitchen_env_model.xml"
    spec = mujoco.MjSpec.from_file(str(scene))
    spec.compiler.discardvisual = not visual
    return spec.compile()


def check_tasks(tasks: Sequence[str]) -> tuple[str, ...]:
    """The target subtasks as a tuple. Raises UserError on an unknown name, one given twice, or none at all."""
    names = (tasks,) if isinstance(tasks, str) else tuple(tasks)
    for name in names:
        if name not in SUBTASKS:
            raise UserError(f"Kitchen: unknown subtask '{name}' in tasks{did_you_mean(name, list(SUBTASKS))}")
    if not names or len(set(names)) < len(names):
        raise UserError(f"Kitchen: tasks must name one or more subtasks, each once; got {list(names)}.")
    return names


class Progress:
    """The completion rule, in the one place that the environment and relabelling share.

    A subtask is completed the first time its object is within THRESHOLD of its goal, and stays so. ``ordered``: only
    the first subtask not yet completed can be, so that several may be completed in one step.
    """

    def __init__(self, tasks: Sequence[str], ordered: bool) -> None:
        self.tasks = check_tasks(tasks)
        self.ordered = ordered
        self.completed: list[str] = []
        chosen = [SUBTASKS[name] for name in self.tasks]
        self._indices = np.concatenate([s.indices for s in chosen])
        self._goals = np.concatenate([s.goal for s in chosen])
        self._starts = np.cumsum([0] + [len(s.indices) for s in chosen[:-1]])

    def within(self, positions: NDArray[np.floating]) -> NDArray[np.bool_]:
        """Whether each target subtask's object is at its goal: positions (..., 30) to (..., len(tasks))."""
        difference = positions[..., self._indices] - self._goals
        return np.sqrt(np.add.reduceat(difference * difference, self._starts, axis=-1)) < THRESHOLD

    def advance(self, within: NDArray[np.bool_]) -> int:
        """Take one step's ``within`` (len(tasks),) into account; return how many subtasks it newly completed."""
        before = len(self.completed)
        if self.ordered:
            while len(self.completed) < len(self.tasks) and within[len(self.completed)]:
                self.completed.append(self.tasks[len(self.completed)])
        else:
            self.completed += [
                n for n, near in zip(self.tasks, within, strict=True) if near and n not in self.completed
            ]
        return len(self.completed) - before


def positions_of(states: NDArray[np.floating]) -> NDArray[np.floating]:
    """The 30 positions (..., 30) in states with or without velocities (..., 59 or 30). Raises UserError on others."""
    if states.shape[-1] == 30:
        return states
    if states.shape[-1] == 59:
        return np.concatenate((states[..., :9], states[..., 18:39]), axis=-1)
    raise UserError(f"Kitchen states have 30 or, with velocities, 59 numbers; these have {states.shape[-1]}.")


def relabel(
    states: NDArray[np.floating], tasks: Sequence[str], ordered: bool
) -> tuple[NDArray[np.float64], int | None]:
    """The rewards that ``KitchenEnv(tasks, ordered)`` would have given along recorded states.

    Args:
        states: (T+1, 30) or (T+1, 59); the first is the one before the first action.
        tasks: Target subtasks.
        ordered: Whether they count in this order only.

    Returns:
        Rewards (T,) and the step (0 to T-1) at which the last subtask was completed, where the environment would have
        terminated, or None. Rewards after it are 0.
    """
    progress = Progress(tasks, ordered)
    within = progress.within(positions_of(states[1:]))
    rewards = np.array([progress.advance(row) for row in within], np.float64)
    all_done = len(progress.completed) == len(progress.tasks)
    return rewards, int(np.flatnonzero(rewards)[-1]) if all_done else None


class KitchenEnv(gym.Env[NDArray[np.float64], NDArray[np.floating]]):
    """A Franka arm in a kitchen, ``rllib_spirl/Kitchen-v0``.

    Positions equal those of gymnasium-robotics' FrankaKitchen-v1 for the same seed and actions. What differs: the
    observation is flat, the target subtasks may have to be completed in order, and whether an object is at its goal is
    decided on the (noisy) observation, so that recorded states determine the rewards.

    Observation (30,): noisy positions of the robot (9: seven joints and two fingers) and the objects (21), in radians
    and metres. With velocities (59,): robot positions 9 and velocities 9, object positions 21 and velocities 20.
    Action (9,) in [-1, 1], clipped: joint velocities in units of 2 rad/s (fingers: 2 m/s), applied for 0.08 s.
    Reward: number of target subtasks newly completed. Terminated: all are. Truncated: after ``max_episode_steps``.
    Info: ``completed_subtasks`` (how many), ``completed`` (their names in the order of completion), ``subtasks``
    (each target subtask: completed or not).

    It is a family of tasks, see `rllib_spirl.envs.tasks`: a task is the list of target subtasks, in their order. The
    observation does not tell it.

    Args:
        tasks: Target subtasks, names from SUBTASKS, until others are set.
        ordered: Count a subtask only after those before it.
        velocities: Observe velocities too.
        max_episode_steps: Steps of 0.08 s until truncation.
        robot_noise_ratio: Scale of the observation noise on the robot, 1 being 0.1 rad. The robot's controller starts
            from the noisy positions, so this noise also moves the arm.
        object_noise_ratio: The same for the objects.
        render_mode: None or "rgb_array".
        width, height: Of pictures, in pixels.

    Raises:
        UserError: On bad arguments; when rendering, if the machine has no OpenGL back end.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 12}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        tasks: Sequence[str] = ("microwave", "kettle", "bottom burner", "light switch"),
        ordered: bool = True,
        velocities: bool = False,
        max_episode_steps: int = 280,
        robot_noise_ratio: float = 0.01,
        object_noise_ratio: float = 5e-4,
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        check_whole("Kitchen", max_episode_steps=max_episode_steps, width=width, height=height)
        check_flags("Kitchen", ordered=ordered, velocities=velocities)
        check_render_mode("Kitchen", render_mode)
        if not (0 <= robot_noise_ratio < math.inf and 0 <= object_noise_ratio < math.inf):
            raise UserError("Kitchen: noise ratios must be numbers from 0 on.")
        self.tasks, self.ordered, self.max_episode_steps = check_tasks(tasks), ordered, max_episode_steps
        self.render_mode, self._picture_size = render_mode, (width, height)
        self.model = load_model()
        self.data = mujoco.MjData(self.model)
        self._ctrl_step = self.model.opt.timestep * SUBSTEPS
        # One draw covers what the original draws in four: robot qpos, robot qvel, object qpos, object qvel.
        self._noise = np.concatenate(
            (
                robot_noise_ratio * _ROBOT_NOISE,
                robot_noise_ratio * _ROBOT_NOISE,
                object_noise_ratio * _OBJECT_POSITION_NOISE,
                object_noise_ratio * _OBJECT_VELOCITY_NOISE,
            )
        )
        self._observed = np.r_[0:59] if velocities else np.r_[0:9, 18:39]
        size = len(self._observed)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (size,), np.float64)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (9,), np.float32)
        self._state = np.empty(59)  # noisy positions and velocities in FrankaKitchen-v1's layout
        self._progress = Progress(self.tasks, ordered)
        self._steps = 0
        self._renderer: OffscreenRenderer | None = None
        self._picture_data: mujoco.MjData | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float64], dict[str, Any]]:
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = _START
        mujoco.mj_forward(self.model, self.data)
        self._progress = Progress(self.tasks, self.ordered)
        self._steps = 0
        return self._observe(), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float64], float, bool, bool, dict[str, Any]]:
        velocity = 2.0 * np.asarray(action, np.float64).clip(-1.0, 1.0)
        target = self._state[:9] + velocity * self._ctrl_step
        self.data.ctrl[:] = target.clip(CTRL_LOW, CTRL_HIGH)
        mujoco.mj_step(self.model, self.data, nstep=SUBSTEPS)
        self._steps += 1
        observation = self._observe()
        reward = self._progress.advance(self._progress.within(positions_of(observation)))
        terminated = len(self._progress.completed) == len(self._progress.tasks)
        truncated = not terminated and self._steps >= self.max_episode_steps
        return observation, float(reward), terminated, truncated, self._info()

    def sample_tasks(self, n_tasks: int) -> list[list[str]]:
        """Orders of four different subtasks, drawn uniformly."""
        return [self.np_random.permutation(list(SUBTASKS))[:4].tolist() for _ in range(n_tasks)]

    def set_task(self, task: Sequence[str]) -> None:
        """Make these the target subtasks from the next reset on, and of `relabel` at once.

        Raises:
            UserError: On an unknown name, one given twice, or none at all.
        """
        if not isinstance(task, list | tuple | str) or not all(isinstance(name, str) for name in task):
            raise UserError(f"Kitchen: a task is a list of subtasks, not {task!r}.")
        self.tasks = check_tasks(task)

    def get_task(self) -> list[str]:
        return list(self.tasks)

    def get_state(self) -> dict[str, Any]:
        """What decides how the episode goes on, for `set_state` of an environment with the same arguments."""
        return {
            "physics": physics_of(self.model, self.data),
            "observed": self._state.copy(),
            "tasks": self._progress.tasks,
            "next_tasks": self.tasks,
            "completed": self._progress.completed.copy(),
            "steps": self._steps,
            "random": self.np_random.bit_generator.state,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was, with the same noise."""
        set_physics(self.model, self.data, state["physics"])
        self._state[:] = state["observed"]
        self._progress = Progress(state["tasks"], self.ordered)
        self.tasks = state["next_tasks"]
        self._progress.completed = list(state["completed"])
        self._steps = state["steps"]
        self.np_random.bit_generator.state = state["random"]

    def relabel(self, states: NDArray[np.floating]) -> tuple[NDArray[np.float64], int | None]:
        """`relabel` for this environment's task: what recorded states would have earned here."""
        return relabel(states, self.tasks, self.ordered)

    def render(self) -> Any:
        """A picture (height, width, 3) uint8 of the scene, or None without ``render_mode="rgb_array"``."""
        return None if self.render_mode is None else self._draw(self.data.qpos)

    def render_state(self, state: NDArray[np.floating]) -> NDArray[np.uint8]:
        """A picture (height, width, 3) of a recorded state (30,) or (59,); the episode that is running stays as it is.

        Raises:
            UserError: On a state of another size; if the machine has no OpenGL back end.
        """
        return self._draw(positions_of(state))

    def subtasks_along(self, states: NDArray[np.floating], task: str) -> dict[str, NDArray[np.bool_]]:
        """Which subtasks of a recorded episode were completed by the time of each state, whatever the order.

        Args:
            states: (T, 30) or (T, 59).
            task: Subtasks with ";" between them; if it says anything else, all subtasks are meant.

        Returns:
            For each of the subtasks (T,).
        """
        named = list(dict.fromkeys(name.strip() for name in task.split(";")))
        progress = Progress(named if all(name in SUBTASKS for name in named) else list(SUBTASKS), ordered=False)
        done = np.logical_or.accumulate(progress.within(positions_of(states)), axis=0)
        return dict(zip(progress.tasks, done.T, strict=True))

    def _draw(self, positions: NDArray[np.floating]) -> NDArray[np.uint8]:
        if self._renderer is None or self._picture_data is None:
            self._renderer = OffscreenRenderer(load_model(visual=True), *self._picture_size, camera(_CAMERA))
            self._picture_data = mujoco.MjData(load_model(visual=True))
        self._picture_data.qpos[:] = positions
        mujoco.mj_forward(load_model(visual=True), self._picture_data)
        return self._renderer.render(self._picture_data)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    @property
    def observed_joints(self) -> NDArray[np.float64]:
        """The robot's last noisy positions (9,): the controller adds each action to these."""
        return self._state[:9]

    def _observe(self) -> NDArray[np.float64]:
        state, data = self._state, self.data
        state[:9], state[9:18], state[18:39], state[39:] = data.qpos[:9], data.qvel[:9], data.qpos[9:], data.qvel[9:]
        state += self._noise * self.np_random.uniform(-1.0, 1.0, 59)
        return state[self._observed]

    def _info(self) -> dict[str, Any]:
        completed = self._progress.completed.copy()
        return {
            "completed_subtasks": len(completed),
            "completed": completed,
            "subtasks": {name: name in completed for name in self._progress.tasks},
        }
