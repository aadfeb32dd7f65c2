"""The mathematics of skill-prior soft actor-critic (Pertsch et al. 2020, §3.3) as functions of tensors.

Shapes: B batch, Z latent, E critics. α is the temperature, δ the target divergence, in nats summed over z.
"""

import math

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.nn import functional as F


def residual_kl(mean: Tensor, log_std: Tensor) -> Tensor:
    """KL(N(μ_p + σ_p·mean, σ_p·e^log_std) ‖ N(μ_p, σ_p)), (B,), from the residuals (B, Z): the prior's scale cancels.

    KL = Σ_z ½ (mean² + e^{2·log_std} − 1) − log_std
    """
    return (0.5 * (mean.square() + (2 * log_std).exp() - 1) - log_std).sum(-1)


def uniform_divergence(policy: Normal, u: Tensor) -> Tensor:
    """An estimate of KL(π ‖ U), (B,), by a sample u ~ π, (B, Z): of tanh(u) to the uniform distribution over (−1, 1)^Z.

    KL = E[log π(u) − Σ_z log ½ (1 − tanh²u)] = Z log 2 − the entropy of tanh(u), which maximum-entropy SAC is about.
    """
    log_slope = 2 * (math.log(2) - u - F.softplus(-2 * u))  # log (1 − tanh²u)
    return (policy.log_prob(u) - log_slope + math.log(2)).sum(-1)


def cloning_loss(policy: Normal, z: Tensor) -> Tensor:
    """−mean_B log π(z|s) of the skills z (B, Z) that were taken; a scalar."""
    return -policy.log_prob(z).sum(-1).mean()


def q_target(
    rewards: Tensor,
    terminated: Tensor,
    next_q: Tensor,
    gamma: float,
    entropy_penalty: Tensor | None = None,
    bounds: tuple[float, float] | None = None,
    *,
    mean: bool = False,
) -> Tensor:
    """y = Σr + γ (1 − d) [min_E Q̄(s', z') − α KL'], equation (6) of the paper.

    Args:
        rewards, terminated: (B,).
        next_q: Target critics' values (E, B) of z' ~ π(·|s').
        gamma: Discount per skill.
        entropy_penalty: α KL(π(·|s') ‖ p_a(·|s')), (B,); None leaves it out of the target.
        bounds: The least and the greatest return there can be; targets outside are clipped.
        mean: Whether the critics' mean counts instead of the least of them, as in Q-chunking.

    Returns:
        (B,).
    """
    value = next_q.mean(0) if mean else next_q.min(0).values
    if entropy_penalty is not None:
        value = value - entropy_penalty
    target = rewards + gamma * (1 - terminated) * value
    return target if bounds is None else target.clamp(*bounds)


def critic_loss(q: Tensor, target: Tensor) -> Tensor:
    """½ mean over B, summed over the E critics: (E, B) and (B,) to a scalar."""
    return 0.5 * (q - target).square().mean(-1).sum()


def conservative_loss(policy_q: Tensor, prior_q: Tensor, data_q: Tensor) -> Tensor:
    """mean_B [log(e^Q(s, z_π) + e^Q(s, z_p)) − Q(s, z)], summed over the critics: three (E, B) to a scalar.

    Conservative Q-learning (Kumar et al. 2020) with samples of the policy and of the prior: values of skills nobody
    has tried in a state do not rise above those of skills somebody has.
    """
    return (torch.logaddexp(policy_q, prior_q) - data_q).mean(-1).sum()


def policy_loss(q: Tensor, kl: Tensor, alpha: Tensor, *, mean: bool = False) -> Tensor:
    """mean_B [α KL(π ‖ p_a) − min_E Q(s, z)], z reparameterised: (E, B), (B,), scalar to a scalar. Equation (7).

    With ``mean`` the critics' mean counts instead of the least of them, as in RLPD.
    """
    return (alpha * kl - (q.mean(0) if mean else q.min(0).values)).mean()


def temperature_loss(
    log_alpha: Tensor, kl: Tensor, target_divergence: float | Tensor, least_alpha: float = 0.0
) -> Tensor:
    """α (δ − KL), KL without gradient: a step down makes α grow while KL > δ and shrink while KL < δ. Equation (8).

    At ``least_alpha`` it shrinks no further. Where rows have temperatures of their own, α and δ are (B,), and this is
    the mean over the rows.
    """
    kl = kl.detach() if log_alpha.ndim else kl.detach().mean()
    alpha = log_alpha.exp()
    slack = target_divergence - kl
    if least_alpha > 0:
        slack = torch.where(alpha > least_alpha, slack, slack.clamp(max=0))
    return (alpha * slack).mean()
