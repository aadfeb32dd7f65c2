"""The networks used throughout, perceptrons with LayerNorm, sets and pictures before them, and fast matrix products."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from threading import Lock
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional as F


def mlp(inputs: int, outputs: int, *, hidden: int, layers: int, layer_norm: bool = True) -> nn.Sequential:
    """Linear → (LayerNorm) → SiLU, ``layers`` times ``hidden`` wide, then a linear head of ``outputs``.

    LayerNorm rather than the paper's BatchNorm: it behaves the same for one state in an environment as for a batch.
    """
    modules: list[nn.Module] = []
    width = inputs
    for _ in range(layers):
        modules.append(nn.Linear(width, hidden))
        if layer_norm:
            modules.append(nn.LayerNorm(hidden))
        modules.append(nn.SiLU())
        width = hidden
    modules.append(nn.Linear(width, outputs))
    return nn.Sequential(*modules)


# Items are given a second time on a scale that is fine about their origin, where the agent is: it works there.
FINE = np.float32(30)


class SetEncoder(nn.Module):
    """Features of a state that is an agent's own numbers followed by any number of items: one attention pool.

    Each item is embedded together with the agent's own part; each head then takes a weighted mean of its share of the
    embeddings, with weights that depend on them too. Neither the items' order nor, in the size of the features, their
    number matters: what is learned among five blocks works among eleven. Items whose first number is NaN are not there,
    so that states of different numbers of items go into one batch.

    Args:
        own: Numbers of the agent, at the front of a state.
        item: Numbers of each item.
        hidden: Width of an embedding; a multiple of ``heads``.
        heads: How many means there are, each with weights of its own.
    """

    def __init__(self, own: int, item: int, *, hidden: int = 64, heads: int = 4) -> None:
        super().__init__()
        self.own, self.item, self.heads = own, item, heads
        self.outputs = own + hidden
        self.from_own = nn.Linear(own, hidden)
        self.from_item = nn.Linear(2 * item, hidden, bias=False)
        self.embed = nn.Linear(hidden, hidden)
        self.score = nn.Linear(hidden, heads)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """States (..., own + N·item) to features (..., own + hidden), the agent's own numbers in front."""
        own, items = states[..., : self.own], states[..., self.own :].unflatten(-1, (-1, self.item))
        absent = items[..., :1].isnan()
        items = items.nan_to_num(0.0)
        items = torch.cat([items, torch.asinh(float(FINE) * items)], -1)
        items = self.embed(F.silu(self.from_item(items) + self.from_own(own).unsqueeze(-2)))
        weights = self.score(items).masked_fill(absent, -1e9).softmax(-2)  # (..., N, heads)
        weights = weights.masked_fill(absent, 0.0).unsqueeze(-1)  # there may be no item at all
        pooled = (weights * items.unflatten(-1, (self.heads, -1))).sum(-3)
        return torch.cat([own, F.silu(pooled.flatten(-2))], -1)


class PictureEncoder(nn.Module):
    """Features of the pictures before and after a step: three strided convolutions over both together."""

    CHANNELS = (16, 32, 32)

    def __init__(self, size: int = 32) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 6  # RGB of two pictures
        for outputs in self.CHANNELS:
            layers += [nn.Conv2d(channels, outputs, 4, stride=2, padding=1), nn.SiLU()]
            channels = outputs
        self.net = nn.Sequential(*layers)
        self.outputs = channels * (size // 2 ** len(self.CHANNELS)) ** 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Pictures (B, 2, size, size, 3) uint8 to features (B, F)."""
        planes = images.movedim(-1, 2).flatten(1, 2)  # (B, 6, size, size)
        return self.net(planes.float() / 127.5 - 1).flatten(1)


class NumpySetEncoder:
    """A `SetEncoder` for one state at a time. Shares its weights."""

    def __init__(self, net: SetEncoder) -> None:
        self._own, self._item, self._heads = net.own, net.item, net.heads
        self._weights = [_view(x.weight) for x in (net.from_own, net.from_item, net.embed, net.score)]
        self._biases = [_view(x.bias) for x in (net.from_own, net.embed, net.score)]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(own + N·item,) to (own + hidden,)."""
        from_own, from_item, embed, score = self._weights
        own_bias, embed_bias, score_bias = self._biases
        own = x[: self._own]
        items = x[self._own :].reshape(-1, self._item)
        items = items[~np.isnan(items[:, 0])]
        if not len(items):
            return np.concatenate([own, np.zeros_like(embed_bias)])
        items = np.concatenate([items, np.arcsinh(float(FINE) * items)], 1)
        items = _silu(items @ from_item.T + (from_own @ own + own_bias))
        items = items @ embed.T + embed_bias
        scores = items @ score.T + score_bias
        weights = np.exp(scores - scores.max(0))
        weights /= weights.sum(0)
        pooled = np.einsum("nh,nhd->hd", weights, items.reshape(len(items), self._heads, -1))
        return np.concatenate([own, _silu(pooled.ravel())])


class NumpyMLP:
    """An `mlp` with LayerNorm, for one input or few in a fraction of PyTorch's time. Shares its weights."""

    def __init__(self, net: nn.Sequential) -> None:
        linear = [m for m in net if isinstance(m, nn.Linear)]
        norms = [m for m in net if isinstance(m, nn.LayerNorm)]
        self.weight, self.bias = _view(linear[0].weight), _view(linear[0].bias)
        self._layers = [
            (_view(n.weight), _view(n.bias), n.eps, _view(m.weight).T, _view(m.bias))
            for n, m in zip(norms, linear[1:], strict=True)
        ]

    def __call__(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """(..., inputs) to (..., outputs)."""
        return self.head(x @ self.weight.T + self.bias)

    def head(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """What follows the first linear layer: its output (..., hidden) to (..., outputs)."""
        for scale, shift, eps, weight, bias in self._layers:
            x = _layer_norm(x, scale, shift, eps)
            x = _silu(x)
            x = x @ weight + bias
        return x


def _layer_norm(
    x: NDArray[np.float32], scale: NDArray[np.float32], shift: NDArray[np.float32], eps: float
) -> NDArray[np.float32]:
    width = x.shape[-1]
    if x.ndim == 1:  # most of the time for one input is that of calling NumPy
        x = x - np.add.reduce(x) / width
        return x * (scale / math.sqrt(x @ x / width + eps)) + shift
    x = x - np.add.reduce(x, -1, keepdims=True) / width
    return x * (scale / np.sqrt(np.vecdot(x, x)[..., None] / width + eps)) + shift


def _silu(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return x / (1 + np.exp(-x))


def _view(parameter: torch.Tensor) -> NDArray[np.float32]:
    return parameter.detach().numpy()


@contextmanager
def fast_matmul() -> Iterator[None]:
    """float32 matrix products on the CPU by oneDNN, where that keeps float32's accuracy.

    PyTorch takes MKL for them, which does not use AVX-512 on AMD processors: half the speed. Its one switch to oneDNN
    is the permission to round to bfloat16, which processors without bfloat16 matrix units do not make use of; whether
    this one does is measured. Not for single states: oneDNN takes longer to begin.
    """
    setting = _onednn()
    if setting is None or not _onednn_is_exact():
        yield
        return
    global _users, _before
    with _lock:  # the setting is the process's: the first user makes it, the last one takes it back
        if _users == 0:
            _before, setting.fp32_precision = setting.fp32_precision, "bf16"
        _users += 1
    try:
        yield
    finally:
        with _lock:
            _users -= 1
            if _users == 0:
                setting.fp32_precision = _before


_lock, _users, _before = Lock(), 0, "ieee"


def _onednn() -> Any:
    return getattr(torch.backends.mkldnn, "matmul", None)


@cache
def _onednn_is_exact() -> bool:
    a, b = torch.rand(2, 256, 256, generator=torch.Generator().manual_seed(0))
    exact = a.double() @ b.double()
    setting = _onednn()
    before = setting.fp32_precision
    try:
        setting.fp32_precision = "bf16"
        # Sums of 256 products round to about 1e-6 in float32 and 1e-3 in bfloat16.
        return bool(((a @ b - exact) / exact).abs().max() < 2e-5)
    finally:
        setting.fp32_precision = before
