"""The frozen decoder as an environment runs it: one state in, one action out, as fast as a CPU core goes."""

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.nets import NumpyMLP
from rllib_spirl.skills.model import SkillModel

Array = NDArray[np.float32]


class SkillDecoder:
    """Runs skills one low-level step at a time.

    ``start(z)`` begins a skill; ``act(state)`` then gives its next action, (A,), not clipped. The open-loop decoder
    computes all H actions at the start and ignores the states. The model must be on the CPU.
    """

    def __init__(self, model: SkillModel) -> None:
        self._net = NumpyMLP(model.decoder)
        self._horizon = model.config.horizon
        self._plan: Array | None = None
        self._closed_loop = model.closed_loop
        self._states = model.config.state_dim if model.closed_loop else 0
        # The normalisation of states as part of the first layer, and what z adds to it, once per skill.
        scaled = self._net.weight[:, : self._states] / model.prior.std.numpy()[: self._states]
        self._from_state = np.ascontiguousarray(scaled)
        self._from_z = np.ascontiguousarray(self._net.weight[:, self._states :])
        self._bias = self._net.bias - scaled @ model.prior.mean.numpy()[: self._states]
        self._start = self._bias
        self._step = 0

    def start(self, z: Array) -> None:
        """Begin the skill z, (Z,)."""
        self._start = self._from_z @ np.asarray(z, np.float32) + self._bias
        self._step = 0
        if not self._closed_loop:
            self._plan = self._net.head(self._start).reshape(self._horizon, -1)

    def act(self, state: NDArray[np.floating]) -> Array:
        """The skill's action (A,) in ``state`` (S,), environment units."""
        if self._plan is not None:
            action = self._plan[self._step]
        else:
            action = self._net.head(self._from_state @ np.asarray(state, np.float32) + self._start)
        self._step += 1
        return action
