"""Meta-World's tasks of a Sawyer arm on a table."""

from typing import Any, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.rendering import OffscreenRenderer, mujoco
from rllib_spirl.errors import UserError
from rllib_spirl.extras import optional

Reward = Literal["dense", "sparse"]

_PHYSICS = mujoco.mjtState.mjSTATE_INTEGRATION


class MetaWorldEnv(gym.Env[NDArray[np.float32], NDArray[np.floating]]):
    """One task of Meta-World, such as ``metaworld/drawer-open-v3``, with the goal in the observation.

    Observation (39,) float32: hand, fingers and objects now and one step before, and the goal. Action (4,) in [-1, 1],
    clipped: motion of the hand, and force of the fingers. Where objects and goal are is drawn at each reset.
    Reward: "dense", the benchmark's own, up to 10 for each step; "sparse", 1 in the step in which the task succeeds.
    Terminated: with "sparse" rewards, when the task succeeds; with "dense" ones never, as in the benchmark.
    Info: ``success``, whether the task has succeeded so far, and the same as a number in ``measures``.

    States do not tell whether a task has succeeded, so recorded ones cannot be labelled for another task.

    Args:
        task: One of `rllib_spirl.envs.outside.METAWORLD`.
        reward: "dense" or "sparse".
        render_mode: None or "rgb_array".
        width, height: Of pictures, in pixels.

    Raises:
        UserError: On bad arguments, or if Meta-World is not installed; when rendering, without an OpenGL back end.
    """

    metadata = {"render_modes": ["rgb_array"], "render_fps": 80}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(
        self,
        task: str,
        reward: Reward = "dense",
        render_mode: str | None = None,
        width: int = 480,
        height: int = 480,
    ) -> None:
        if reward not in ("dense", "sparse"):
            raise UserError(f"Meta-World: reward is '{reward}'; choose 'dense' or 'sparse'.")
        if render_mode not in (None, "rgb_array"):
            raise UserError(f"Meta-World: render_mode is '{render_mode}'; choose 'rgb_array' or None.")
        self.task, self.reward, self.render_mode = task, reward, render_mode
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
        self._picture_size = (width, height)
        self._renderer: OffscreenRenderer | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        self.benchmark.np_random = self.np_random
        observation, _ = self.benchmark.reset()
        self._success = False
        return observation.astype(np.float32), self._info()

    def step(self, action: NDArray[np.floating]) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        clipped = np.asarray(action, np.float64).clip(-1.0, 1.0)
        observation, reward, _, _, info = self.benchmark.step(clipped)
        newly = bool(info["success"]) and not self._success
        self._success |= newly
        sparse = self.reward == "sparse"
        earned = float(newly) if sparse else float(reward)
        return observation.astype(np.float32), earned, sparse and self._success, False, self._info()

    def _info(self) -> dict[str, Any]:
        return {"success": self._success, "measures": {"success": float(self._success)}}
