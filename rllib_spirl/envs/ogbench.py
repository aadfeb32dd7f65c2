"""OGBench's manipulation environments, with one task each: what to make of cubes, buttons, a drawer and a window."""

from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.benchmark import BenchmarkEnv, Reward, info
from rllib_spirl.envs.outside import ARM, BUTTON, CUBE, FAMILIES, OGBENCH, SLIDE, Family
from rllib_spirl.envs.physics import physics_of, set_physics
from rllib_spirl.errors import UserError
from rllib_spirl.extras import optional

# How observations are scaled, and how near is near enough, in metres.
_CENTRE, _SCALE = np.array([0.425, 0.0, 0.0]), 10.0
_SLIDE_SCALES = np.array([18.0, 15.0])
_NEAR = 0.04


class Goal(NamedTuple):
    """What a task asks for."""

    cubes: NDArray[np.float64]  # (C, 3) positions
    buttons: NDArray[np.int64]  # (B,) states
    slides: NDArray[np.float64]  # (L,) positions


def split(states: NDArray[np.floating], family: Family) -> tuple[NDArray, NDArray, NDArray]:
    """Cubes' positions (..., C, 3), buttons' states (..., B), and positions of slides (..., L) in states (..., S)."""
    if states.shape[-1] != family.state_dim:
        raise UserError(f"States of this environment have {family.state_dim} numbers; these have {states.shape[-1]}.")
    ends = np.cumsum([CUBE * family.cubes, BUTTON * family.buttons]) + ARM
    cubes, buttons, slides = np.split(states[..., ARM:].astype(np.float64), ends - ARM, axis=-1)
    shape = states.shape[:-1]
    return (
        cubes.reshape(*shape, family.cubes, CUBE)[..., :3] / _SCALE + _CENTRE,
        buttons.reshape(*shape, family.buttons, BUTTON)[..., :2].argmax(-1),
        slides[..., ::SLIDE] / _SLIDE_SCALES[: family.slides],
    )


def met(states: NDArray[np.floating], family: Family, goal: Goal) -> NDArray[np.bool_]:
    """Which of a goal's conditions are met in states: (..., S) to (..., C + B + L)."""
    cubes, buttons, slides = split(states, family)
    placed = np.linalg.norm(cubes - goal.cubes, axis=-1) <= _NEAR
    return np.concatenate((placed, buttons == goal.buttons, np.abs(slides - goal.slides) <= _NEAR), axis=-1)


def relabel(
    states: NDArray[np.floating], family: Family, goal: Goal, reward: Reward
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """The rewards that an `OGBenchEnv` of this goal would have given along recorded states.

    Args:
        states: (T+1, S); the first is the one before the first action.
        family: Whose states they are.
        goal: Of the task.
        reward: Which of the two.

    Returns:
        Rewards (T,) and the steps (0 to T-1) with which an episode would have ended: play goes on, and each of them
        ends what came before it. As in the benchmark, a step is judged by the state before it.
    """
    conditions = met(states[:-1], family, goal)
    missing = conditions.shape[-1] - conditions.sum(-1)
    rewards = -(missing if reward == "dense" else missing > 0).astype(np.float64)
    return rewards, np.flatnonzero(missing == 0)


class _Still(gym.spaces.Box):
    """The benchmark's actions, of which it draws a few when it is reset: always that of an arm that stays.

    It draws them, unseeded, to note what the goal looks like. With these a reset depends on its seed alone.
    """

    def __init__(self) -> None:
        super().__init__(-1.0, 1.0, (5,), np.float32)

    def sample(self, mask: Any = None, probability: Any = None) -> NDArray[np.float32]:
        return np.zeros(5, np.float32)


def make_benchmark(name: str, **settings: Any) -> Any:
    """An environment of the benchmark by its name there, without wrappers.

    Raises:
        UserError: If OGBench is not installed.
    """
    optional("ogbench", "ogbench")  # registers its environments
    spec = gym.spec(name)
    module, _, kind_name = str(spec.entry_point).partition(":")
    kind = getattr(optional(module, "ogbench"), kind_name)
    env = type(kind.__name__, (kind,), {"action_space": _Still()})(**spec.kwargs, **settings)
    env.reset(seed=0)  # builds the scene
    return env


def reset_benchmark(env: Any, seed: int) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Reset an environment of `make_benchmark`; the seed alone decides the result, bit for bit."""
    if hasattr(env, "_cur_button_states"):
        # The buttons lock drawer and window by changing the model, and the solver starts from what it found before.
        env._cur_button_states[:] = 0
        env._apply_button_states()
    return env.reset(seed=seed)


class OGBenchEnv(BenchmarkEnv):
    """One task of OGBench, such as ``ogbench/scene-play-singletask-task2-v0``, with the benchmark's own physics.

    Observation (S,) float32 and action (5,) in [-1, 1], clipped, are the benchmark's.
    Reward of a step, judged by the state before it: "dense", minus the number of conditions not met; "sparse", -1
    unless all are met, then 0.
    Terminated: after the step before which all conditions were met. Gymnasium's time limit is the benchmark's.
    Info: ``success`` and, the same as a number, ``measures``.

    Args:
        task: One of `rllib_spirl.envs.outside.OGBENCH`.
        reward: "dense" or "sparse".
        render_mode: None or "rgb_array".
        width, height: Of pictures, in pixels.

    Raises:
        UserError: On bad arguments, or if OGBench is not installed; when rendering, without an OpenGL back end.
    """

    title, camera = "OGBench", "front"
    metadata = {"render_modes": ["rgb_array"], "render_fps": 20}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        task: str,
        reward: Reward = "dense",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        super().__init__(reward, render_mode, width, height)
        self.family = FAMILIES[OGBENCH[task]]
        self.benchmark = make_benchmark(task.replace("-play", ""))
        self.goal = _goal(self.benchmark)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (self.family.state_dim,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (5,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        drawn = int(self.np_random.integers(2**31)) if seed is None else seed
        observation, _ = reset_benchmark(self.benchmark, drawn)
        return observation.astype(np.float32), info(False)

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        clipped = np.asarray(action, np.float64).clip(-1.0, 1.0)
        observation, reward, terminated, _, told = self.benchmark.step(clipped)
        earned = float(reward) if self.reward == "dense" else -float(reward < 0)
        return observation.astype(np.float32), earned, bool(terminated), False, info(bool(told["success"]))

    def relabel(self, states: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """`relabel` for this environment's task: what recorded states would have earned here."""
        return relabel(states, self.family, self.goal, self.reward)

    def get_state(self) -> dict[str, Any]:
        """What decides how the episode goes on, for `set_state` of an environment with the same arguments."""
        env = self.benchmark
        return {
            "physics": physics_of(env.model, env.data),
            # The controller starts from where the hand was a moment ago, as the last step left it.
            "sites": (env.data.site_xpos.copy(), env.data.site_xmat.copy()),
            "buttons": env._cur_button_states.copy() if self.family.buttons else None,
            "success": env._success,
            "random": (self.np_random.bit_generator.state, env.np_random.bit_generator.state),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was, after a reset."""
        env = self.benchmark
        if self.family.buttons:
            env._cur_button_states = state["buttons"].copy()
            env._apply_button_states()
        set_physics(env.model, env.data, state["physics"])
        env.data.site_xpos[:], env.data.site_xmat[:] = state["sites"]
        env._success = state["success"]
        self.np_random.bit_generator.state, env.np_random.bit_generator.state = state["random"]


def _goal(benchmark: Any) -> Goal:
    """The goal of an environment of the benchmark that has one task."""
    task = benchmark.task_infos[benchmark._reward_task_id - 1]
    goal = task.get("goal", {})
    return Goal(
        np.reshape(goal.get("block_xyzs", task.get("goal_xyzs", [])), (-1, 3)),
        np.array(goal.get("button_states", task.get("goal_button_states", [])), np.int64),
        np.array([goal[key] for key in ("drawer_pos", "window_pos") if key in goal], np.float64),
    )
