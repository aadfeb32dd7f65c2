"""The context encoder q(e | c): what transitions of a task say about it, as a Gaussian over its embedding e."""

import torch
from torch import Tensor, nn
from torch.distributions import Normal
from torch.nn import functional as F

from rllib_spirl.nets import mlp

# Before the softplus that makes precisions: a transition says little at first, so that many together say not too much.
_PRECISION_SHIFT = -3.0


class ContextEncoder(nn.Module):
    """A product of Gaussians (Rakelly et al. 2019): N(0, I) times one factor for each transition.

    Factors are multiplied in any order, so the encoder is permutation invariant; precisions add, so that the belief
    narrows as transitions come in, those that say more count for more, and without any it is the prior N(0, I).

    Args:
        inputs: Numbers of a transition.
        context_dim: Dimensions of e.
        hidden, layers: Of the network that makes a factor of a transition.
    """

    def __init__(self, inputs: int, context_dim: int, *, hidden: int, layers: int) -> None:
        super().__init__()
        self.net = mlp(inputs, 2 * context_dim, hidden=hidden, layers=layers)

    def forward(self, transitions: Tensor, counted: Tensor) -> Normal:
        """Transitions (..., N, I), of which those with ``counted`` (..., N) 1 and not 0 count, to q(e), (..., E)."""
        mean, precision = self.net(transitions).chunk(2, -1)
        precision = F.softplus(precision + _PRECISION_SHIFT) * counted.unsqueeze(-1)
        total = 1 + precision.sum(-2)
        return Normal((precision * mean).sum(-2) / total, total.rsqrt(), validate_args=False)


def divergence_from_unit(belief: Normal) -> Tensor:
    """KL(q(e) ‖ N(0, I)) in nats, of beliefs (..., E): (...,)."""
    variance = belief.stddev.square()
    return 0.5 * (belief.mean.square() + variance - 1 - torch.log(variance)).sum(-1)
