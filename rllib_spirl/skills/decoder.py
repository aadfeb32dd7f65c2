"""The frozen decoder as an environment runs it: one state in, one action out, as fast as a CPU core goes."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from rllib_spirl.nets import NumpyMLP, NumpySetEncoder, SetEncoder
from rllib_spirl.skills.model import SkillModel, SkillPrior

Array = NDArray[np.float32]


class NumpyStates:
    """`SkillPrior.normalize`, or `seen` for skills, and a state encoder, for one state or few. Shares weights."""

    def __init__(self, prior: SkillPrior, encoder: nn.Module, *, of_skills: bool) -> None:
        self._prior = prior
        self._of_skills = of_skills
        self._encoder = NumpySetEncoder(encoder) if isinstance(encoder, SetEncoder) else None
        self._mean, self._std = np.zeros(0, np.float32), np.ones(0, np.float32)

    def __call__(self, states: NDArray[np.floating]) -> Array:
        """States (..., S) in environment units to features (..., F)."""
        if len(self._mean) != states.shape[-1]:
            self._mean, self._std = (x.numpy() for x in self._prior.scale(states.shape[-1]))
        states = np.asarray(states, np.float32)
        normalized = (states - self._mean) / self._std
        if self._of_skills:
            self._prior.show_skills(normalized, states)
        if self._encoder is None:
            return normalized
        if normalized.ndim == 1:
            return self._encoder(normalized)
        return np.stack([self._encoder(state) for state in normalized])  # each may have another number of items


class SkillDecoder:
    """Runs skills one low-level step at a time, one skill or K of them side by side.

    ``start(z)`` begins skills; ``act(states)`` then gives their next actions, (..., A), not clipped. Without a closed
    loop all H actions are known at the start, and the states are ignored. The model must be on the CPU.

    With an ``action_std`` actions are samples of p(a|z, s), from random numbers that ``seed(seed)`` begins anew.
    """

    def __init__(self, model: SkillModel) -> None:
        self._horizon, self._action_dim = model.config.horizon, model.config.action_dim
        self._begun = np.zeros(0, np.float32)  # what z adds in the first layer, or all actions, (..., H, A)
        self._steps: NDArray[np.int_] = np.zeros((), int)
        self._std = np.float32(model.config.action_std)
        self._random = np.random.default_rng()  # until it is seeded
        self._chunks = model.config.decoder == "identity"
        self._closed_loop = model.closed_loop
        if self._chunks:
            return
        self._net = NumpyMLP(model.decoder)
        weight, self._bias = self._net.weight, self._net.bias
        inputs = weight.shape[1] - model.config.latent_dim
        self._encoder: NumpyStates | None = None
        from_state = weight[:, :inputs]
        if model.config.state_set is not None:
            self._encoder = NumpyStates(model.prior, model.features, of_skills=True)
        elif self._closed_loop:  # the normalisation of states as part of the first layer
            from_state = from_state / model.prior.std.numpy()
            from_state[:, model.prior.blind] = 0
            self._bias = self._bias - from_state @ model.prior.mean.numpy()
        self._from_state = np.ascontiguousarray(from_state.T)
        self._from_z = np.ascontiguousarray(weight[:, inputs:].T)

    def seed(self, seed: Any) -> None:
        """Begin the noise anew with the seed, or seeds, that environments are reset with; None goes on."""
        if seed is not None:
            given = [each for each in np.ravel(seed).tolist() if each is not None]
            self._random = np.random.default_rng([1, *given])  # 1: the environment draws from the seed itself

    def start(self, z: Array, due: NDArray[np.bool_] | None = None) -> None:
        """Begin skills z, (..., Z); with a mask ``due`` (K,) only those of its rows, the others go on."""
        if due is None:
            self._begun, self._steps = self._begin(z), np.zeros(z.shape[:-1], int)
        else:
            self._begun[due], self._steps[due] = self._begin(z[due]), 0

    def _begin(self, z: Array) -> Array:
        z = np.asarray(z, np.float32)
        if not self._chunks:
            z = z @ self._from_z + self._bias
            if self._closed_loop:
                return z
            z = self._net.head(z)
        return z.reshape(*z.shape[:-1], self._horizon, self._action_dim)

    def act(self, states: NDArray[np.floating]) -> Array:
        """The skills' actions (..., A) in ``states`` (..., S), environment units."""
        actions = self._means(states)
        if self._std:
            actions = actions + self._std * self._random.standard_normal(actions.shape, np.float32)
        return actions

    def _means(self, states: NDArray[np.floating]) -> Array:
        if self._closed_loop:
            inputs = np.asarray(states, np.float32) if self._encoder is None else self._encoder(states)
            return self._net.head(inputs @ self._from_state + self._begun)
        # A skill that ended with its episode may be asked once more, for a step that only begins the next episode.
        steps = np.minimum(self._steps, self._horizon - 1)
        actions = self._begun[(*np.indices(steps.shape), steps)]
        self._steps += 1
        return actions

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs to go on in the middle of skills."""
        return {"begun": self._begun.copy(), "steps": self._steps.copy(), "random": self._random.bit_generator.state}

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on where the decoder of `get_state` was."""
        self._begun, self._steps = state["begun"].copy(), state["steps"].copy()
        self._random.bit_generator.state = state["random"]
