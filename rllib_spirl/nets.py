"""The one network shape used throughout, a multi-layer perceptron with LayerNorm, and fast matrix products for it."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import nn


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
    before = setting.fp32_precision
    setting.fp32_precision = "bf16"
    try:
        yield
    finally:
        setting.fp32_precision = before


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
