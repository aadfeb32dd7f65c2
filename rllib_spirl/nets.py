"""The one network shape used throughout: a multi-layer perceptron with LayerNorm."""

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
