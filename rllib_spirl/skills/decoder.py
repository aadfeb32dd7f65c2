"""The frozen decoder as an environment runs it: one state in, one action out, as fast as a CPU core goes."""

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rllib_spirl.nets import NumpyMLP, NumpySetEncoder, SetEncoder
from rllib_spirl.skills.model import SkillModel, SkillPrior

Array = NDArray[np.float32]


class NumpyStates:
    """`SkillPrior.normalize`, or `seen` for skills, and a state encoder, for one state at a time. Shares weights."""

    def __init__(self, prior: SkillPrior, encoder: nn.Module, *, of_skills: bool) -> None:
        self._prior = prior
        self._state_set = prior.state_set if of_skills else None
        self._encoder = NumpySetEncoder(encoder) if isinstance(encoder, SetEncoder) else None
        self._mean, self._std = np.zeros(0, np.float32), np.ones(0, np.float32)

    def __call__(self, state: NDArray[np.floating]) -> Array:
        """A state (S,) in environment units to features (F,)."""
        if len(self._mean) != len(state):
            self._mean, self._std = (x.numpy() for x in self._prior.scale(len(state)))
        state = np.asarray(state, np.float32)
        normalized = (state - self._mean) / self._std
        if self._state_set is not None:
            self._state_set.show_skills(normalized, state)
        return normalized if self._encoder is None else self._encoder(normalized)


class SkillDecoder:
    """Runs skills one low-level step at a time.

    ``start(z)`` begins a skill; ``act(state)`` then gives its next action, (A,), not clipped. Without a closed loop all
    H actions are known at the start, and the states are ignored. The model must be on the CPU.
    """

    def __init__(self, model: SkillModel) -> None:
        self._horizon = model.config.horizon
        self._plan: Array | None = None
        self._step = 0
        self._chunks = model.config.decoder == "identity"
        if self._chunks:
            return
        self._net = NumpyMLP(model.decoder)
        self._closed_loop = model.closed_loop
        weight, self._bias = self._net.weight, self._net.bias
        inputs = weight.shape[1] - model.config.latent_dim
        self._encoder: NumpyStates | None = None
        from_state = weight[:, :inputs]
        if model.config.state_set is not None:
            self._encoder = NumpyStates(model.prior, model.features, of_skills=True)
        elif self._closed_loop:  # the normalisation of states as part of the first layer
            from_state = from_state / model.prior.std.numpy()
            self._bias = self._bias - from_state @ model.prior.mean.numpy()
        self._from_state = np.ascontiguousarray(from_state)
        self._from_z = np.ascontiguousarray(weight[:, inputs:])  # what z adds, once per skill
        self._start = self._bias

    def start(self, z: Array) -> None:
        """Begin the skill z, (Z,)."""
        if self._chunks:
            self._step, self._plan = 0, np.asarray(z, np.float32).reshape(self._horizon, -1)
            return
        self._start = self._from_z @ np.asarray(z, np.float32) + self._bias
        self._step = 0
        if not self._closed_loop:
            self._plan = self._net.head(self._start).reshape(self._horizon, -1)

    def act(self, state: NDArray[np.floating]) -> Array:
        """The skill's action (A,) in ``state`` (S,), environment units."""
        if self._plan is not None:
            action = self._plan[self._step]
        else:
            inputs = np.asarray(state, np.float32) if self._encoder is None else self._encoder(state)
            action = self._net.head(self._from_state @ inputs + self._start)
        self._step += 1
        return action
