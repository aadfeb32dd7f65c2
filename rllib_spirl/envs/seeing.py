"""What environments have in common that show pictures around the agent, for a skill prior that sees them."""

from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data.columns import PICTURE


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
            pair = gym.spaces.Box(0, 255, (2, *PICTURE), np.uint8)
            self.observation_space = gym.spaces.Dict({"state": self.observation_space, "images": pair})
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
