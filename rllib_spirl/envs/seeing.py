"""Environments that show pictures around the agent, for a skill prior that sees them: our own, and any others."""

from typing import Any, SupportsFloat

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rllib_spirl.data.columns import PICTURE
from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import did_you_mean


def with_pictures(states: gym.Space) -> gym.spaces.Dict:
    """The space of observations of states and pictures, see `rllib_spirl.data.recording.state_part`."""
    return gym.spaces.Dict({"state": states, "images": gym.spaces.Box(0, 255, (2, *PICTURE), np.uint8)})


class SeeingEnv(gym.Env[Any, NDArray[np.floating]]):
    """Observes states or, with ``images``, a dict of "state" and "images".

    "images" (2, 32, 32, 3) uint8 are the pictures before and after the step, after a reset twice the same. Who needs
    only some of them sets ``paint_on_demand`` and calls `paint` for each: "images" stay as they are in between.

    Args:
        state_dim: Numbers of a state.
        images: Observe pictures too.
    """

    def __init__(self, state_dim: int, images: bool) -> None:
        self.images = images
        self.observation_space: gym.Space = gym.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
        if images:
            self.observation_space = with_pictures(self.observation_space)
        self.paint_on_demand = False
        self._images = np.zeros((2, *PICTURE), np.uint8)
        self._last_two: list[NDArray[np.float32]] = []  # states
        self._painted: NDArray[np.float32] | None = None  # the state that the later picture shows

    def pictured(self, states: NDArray[np.floating]) -> NDArray[np.uint8]:
        """The pictures (..., 32, 32, 3) of states (..., S)."""
        raise NotImplementedError

    def paint(self) -> NDArray[np.uint8]:
        """The pictures (2, 32, 32, 3) before and after the last step."""
        before, now = self._last_two
        if self._painted is before:  # after the step before, so it need not be painted again
            self._images = np.stack([self._images[1], self.pictured(now)])
        else:
            self._images = self.pictured(np.stack(self._last_two))
        self._painted = now
        return self._images

    def _observe_first(self, state: NDArray[np.float32]) -> Any:
        """The observation of an episode's first state."""
        self._last_two = [state, state]
        return self._observe(state)

    def _observe(self, state: NDArray[np.float32]) -> Any:
        """The observation of the next state."""
        if not self.images:
            return state
        self._last_two = [self._last_two[1], state]
        if not self.paint_on_demand:
            self.paint()
        return {"state": state, "images": self._images}


class PictureWrapper(gym.Wrapper[Any, Any, Any, Any]):
    """Observes beside the states of anyone's environment what one of its methods shows, as `SeeingEnv` does.

    The method is called after every step. It returns a picture (h, w, 3) uint8, which is scaled to 32 × 32; for skills
    to carry over to other places it should show what is around the agent, with the agent in the middle.

    Args:
        env: With observations (S,).
        method: Name of the method, of the environment or of a wrapper of it.

    Raises:
        UserError: If there is no such method, or it returns something else.
    """

    def __init__(self, env: gym.Env, method: str = "render") -> None:
        super().__init__(env)
        if not (env.has_wrapper_attr(method) and callable(env.get_wrapper_attr(method))):
            methods = [name for name in dir(env.unwrapped) if not name.startswith("_")]
            raise UserError(
                f"images: {type(env.unwrapped).__name__} has no method {method}{did_you_mean(method, methods)}"
            )
        self.method = method
        self.observation_space = with_pictures(env.observation_space)
        self._images = np.zeros((2, *PICTURE), np.uint8)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        state, info = self.env.reset(seed=seed, options=options)
        self._images = np.stack([self._picture()] * 2)
        return self._observation(state), info

    def step(self, action: Any) -> tuple[Any, SupportsFloat, bool, bool, dict[str, Any]]:
        state, reward, terminated, truncated, info = self.env.step(action)
        self._images = np.stack([self._images[1], self._picture()])
        return self._observation(state), reward, terminated, truncated, info

    def _observation(self, state: Any) -> dict[str, Any]:
        return {"state": state, "images": self._images}

    def _picture(self) -> NDArray[np.uint8]:
        shown = np.asarray(self.env.get_wrapper_attr(self.method)())
        if shown.dtype != np.uint8 or shown.ndim != 3 or shown.shape[-1] != 3:
            raise UserError(
                f"images: {type(self.env.unwrapped).__name__}.{self.method} returns {shown.dtype} {shown.shape}, but a "
                "picture is uint8 (rows, columns, 3)."
            )
        scaled = Image.fromarray(shown).resize(PICTURE[1::-1], Image.Resampling.BOX)
        return np.asarray(scaled)
