"""The frozen decoder as an environment runs it: one state in, one action out, as fast as a CPU core goes."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rllib_spirl.skills.model import SkillModel

Array = NDArray[np.float32]


class SkillDecoder:
    """Runs skills one low-level step at a time.

    ``start(z)`` begins a skill; ``act(state)`` then gives its next action, (A,), not clipped. The open-loop decoder
    computes all H actions at the start and ignores the states.

    In NumPy, which needs a quarter of PyTorch's time for a single state: what is the same for all of a skill's steps is
    computed at its start, and what is linear is folded into the weights: the normalisation of states into the first
    layer, LayerNorm's centring into every layer before one.
    """

    def __init__(self, model: SkillModel) -> None:
        self._horizon = model.config.horizon
        self._closed_loop = model.closed_loop
        linear = [m for m in model.decoder if isinstance(m, nn.Linear)]
        weights = [_array(m.weight).T for m in linear]
        biases = [_array(m.bias) for m in linear]
        for i in range(len(linear) - 1):
            weights[i] = weights[i] - weights[i].mean(1, keepdims=True)
            biases[i] = biases[i] - biases[i].mean()
        self._scales = [(_array(m.weight), _array(m.bias), m.eps) for m in model.decoder if isinstance(m, nn.LayerNorm)]
        first = weights[0]
        if self._closed_loop:
            state_dim = model.config.state_dim
            scaled = first[:state_dim] / _array(model.prior.std)[:, None]
            biases[0] = biases[0] - _array(model.prior.mean) @ scaled
            self._from_state, first = np.ascontiguousarray(scaled), first[state_dim:]
        self._from_z = np.ascontiguousarray(first)
        self._rest = [np.ascontiguousarray(w) for w in weights[1:]]
        self._biases = biases
        self._start = biases[0]  # what z adds to the first layer
        self._plan: Array | None = None
        self._step = 0

    def start(self, z: Array) -> None:
        """Begin the skill z, (Z,)."""
        self._start = np.asarray(z, np.float32) @ self._from_z + self._biases[0]
        self._step = 0
        if not self._closed_loop:
            self._plan = self._head(self._start).reshape(self._horizon, -1)

    def act(self, state: NDArray[np.floating]) -> Array:
        """The skill's action (A,) in ``state`` (S,), environment units."""
        if self._plan is not None:
            action = self._plan[self._step]
        else:
            action = self._head(np.asarray(state, np.float32) @ self._from_state + self._start)
        self._step += 1
        return action

    def _head(self, x: Array) -> Array:
        """The first layer's centred output (hidden,) to the network's."""
        for weight, bias, (scale, shift, eps) in zip(self._rest, self._biases[1:], self._scales, strict=True):
            x = x * (scale / np.sqrt(x @ x / np.float32(len(x)) + np.float32(eps))) + shift  # LayerNorm
            x = x / (1 + np.exp(-x))  # SiLU
            x = x @ weight + bias
        return x


def _array(tensor: torch.Tensor) -> Array:
    return tensor.detach().cpu().numpy()
