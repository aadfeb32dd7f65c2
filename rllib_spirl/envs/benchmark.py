"""What environments around those of outside benchmarks have in common."""

from typing import Any, ClassVar, Literal

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.arguments import check_render_mode, check_reward, check_whole
from rllib_spirl.envs.rendering import OffscreenRenderer, mujoco

Reward = Literal["dense", "sparse"]


class BenchmarkEnv(gym.Env[NDArray[np.float32], NDArray[np.floating]]):
    """An environment around one of a benchmark, ``benchmark``, which a subclass makes, with a MuJoCo model and data.

    Args:
        reward: "dense" or "sparse".
        render_mode: None or "rgb_array".
        width, height: Of pictures, in pixels.

    Raises:
        UserError: On bad arguments.
    """

    benchmark: Any
    title: ClassVar[str]
    """The benchmark's, for errors."""
    camera: ClassVar[str]
    """The model's camera that takes the pictures."""

    def __init__(self, reward: Reward, render_mode: str | None, width: int, height: int) -> None:
        check_reward(self.title, reward)
        check_render_mode(self.title, render_mode)
        check_whole(self.title, width=width, height=height)
        self.reward, self.render_mode = reward, render_mode
        self._picture_size = (width, height)
        self._renderer: OffscreenRenderer | None = None

    def render(self) -> Any:
        """A picture (height, width, 3) uint8 of the scene, or None without ``render_mode="rgb_array"``."""
        if self.render_mode is None:
            return None
        model = self.benchmark.model
        if self._renderer is None:
            camera = mujoco.MjvCamera()
            camera.type, camera.fixedcamid = mujoco.mjtCamera.mjCAMERA_FIXED, model.camera(self.camera).id
            self._renderer = OffscreenRenderer(model, *self._picture_size, camera)
        return self._renderer.render(self.benchmark.data)

    def close(self) -> None:
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None


def info(success: bool) -> dict[str, Any]:
    """An episode's success, as info and as a measure of its end."""
    return {"success": success, "measures": {"success": float(success)}}
