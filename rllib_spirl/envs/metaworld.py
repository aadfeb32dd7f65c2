"""Meta-World's tasks of a Sawyer arm on a table."""

from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.benchmark import BenchmarkEnv, Reward, info
from rllib_spirl.envs.physics import physics_of, set_physics
from rllib_spirl.errors import UserError
from rllib_spirl.extras import optional


class MetaWorldEnv(BenchmarkEnv):
    """One task of Meta-World, such as ``metaworld/drawer-open-v3``, with the goal in the observation.

    Observation (39,) float32: hand, fingers and objects now and one step before, and the goal. Action (4,) in [-1, 1],
    clipped: motion of the hand, and force of the fingers. Where objects and goal are is drawn at each reset.
    Reward: "dense", the benchmark's own, up to 10 for each step; "sparse", 1 in the step in which the task succeeds.
    Terminated: with "sparse" rewards, when the task succeeds; with "dense" ones never, as in the benchmark.
    Info: ``success``, whether the task has succeeded so far, and the same as a number in ``measures``.

    States do not tell whether a task has succeeded, so recorded ones cannot be labelled for this task.

    Args:
        task: One of `rllib_spirl.envs.outside.METAWORLD`.
        reward: "dense" or "sparse".
        render_mode: None or "rgb_array".
        width, height: Of pictures, in pixels.

    Raises:
        UserError: On bad arguments, or if Meta-World is not installed; when rendering, without an OpenGL back end.
    """

    title, camera = "Meta-World", "corner"
    replays_demonstrations = False
    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        task: str,
        reward: Reward = "dense",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        super().__init__(reward, render_mode, width, height)
        self.task = task
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (39,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (4,), np.float32)
        self.benchmark = optional("metaworld.env_dict", "metaworld").ALL_V3_ENVIRONMENTS[task]()
        # The benchmark hides the goal and draws nothing until it is told otherwise.
        self.benchmark._partially_observable = False
        del self.benchmark.sawyer_observation_space
        self.benchmark._set_task_called = True
        self.benchmark._freeze_rand_vec, self.benchmark.seeded_rand_vec = False, True
        self.benchmark.max_path_length = np.inf  # Gymnasium's wrapper ends the episode
        self._success = False
        self._began: Mapping[str, Any] = {}  # state of the random numbers from which objects and goal were drawn

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self._began = self.np_random.bit_generator.state
        return self._begin().astype(np.float32), info(self._success)

    def _begin(self) -> NDArray[np.float64]:
        self.benchmark.np_random = self.np_random
        self._success = False
        return self.benchmark.reset()[0]

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        clipped = np.asarray(action, np.float64).clip(-1.0, 1.0)
        observation, reward, _, _, told = self.benchmark.step(clipped)
        newly = bool(told["success"]) and not self._success
        self._success |= newly
        sparse = self.reward == "sparse"
        earned = float(newly) if sparse else float(reward)
        return observation.astype(np.float32), earned, sparse and self._success, False, info(self._success)

    def relabel(self, states: NDArray[np.floating]) -> tuple[NDArray[np.float64], int | None]:
        """Raises UserError: states do not tell."""
        raise UserError("Meta-World's states do not tell whether a task has succeeded; set offline_fraction to 0")

    def get_state(self) -> dict[str, Any]:
        """What decides how the episode goes on, for `set_state` of an environment with the same arguments."""
        env = self.benchmark
        return {
            "physics": physics_of(env.model, env.data),
            "observed": env._prev_obs.copy(),
            # Some tasks remember a number of their episode, for the dense reward.
            "numbers": {key: value for key, value in vars(env).items() if isinstance(value, int | float)},
            "success": self._success,
            "random": (self._began, self.np_random.bit_generator.state),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the environment of `get_state` was."""
        env = self.benchmark
        # What was drawn is kept in many places of the benchmark: it is drawn once more.
        self._began, now = state["random"]
        self.np_random.bit_generator.state = self._began
        self._begin()
        self.np_random.bit_generator.state = now
        set_physics(env.model, env.data, state["physics"])
        vars(env).update(state["numbers"])
        env._prev_obs, self._success = state["observed"].copy(), state["success"]

    def render(self) -> Any:
        picture = super().render()
        return None if picture is None else picture[::-1, ::-1].copy()  # that camera hangs upside down
