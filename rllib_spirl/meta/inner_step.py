"""MAML's loss (Finn et al. 2017): how good a policy is after steps of policy gradient in each of several tasks."""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.distributions import Normal
from torch.func import functional_call, grad, vmap

from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.meta.gaussian_policy import GaussianPolicy

Parameters = Mapping[str, Tensor]
"""A policy's, by their names."""


def adapted(
    policy: GaussianPolicy, parameters: Parameters, batch: Batch, *, inner_lr: float, first_order: bool = False
) -> Parameters:
    """One inner step: θ' = θ − inner_lr ∇L(θ) on the trajectories of a task, see `inner_loss`.

    Gradients flow through it to θ, so that an outer loss of θ' is differentiated twice; ``first_order`` takes the inner
    gradient for a constant, which is called first-order MAML.
    """
    gradients = grad(inner_loss, argnums=1)(policy, dict(parameters), batch)
    if first_order:
        gradients = {name: gradient.detach() for name, gradient in gradients.items()}
    return {name: weight - inner_lr * gradients[name] for name, weight in parameters.items()}


def inner_loss(policy: GaussianPolicy, parameters: Parameters, batch: Batch) -> Tensor:
    """L(θ) = −mean π_θ(a|s) / π_old(a|s) · A, a scalar. Its gradient where θ is old is that of policy gradient.

    With the ratio, in place of log π_θ(a|s), its second derivative is right too, but for the advantages, of which
    nothing is known but their values (Rothfuss et al. 2018); and it remains so after outer steps on the same
    trajectories.

    Args:
        policy: Whose form it is.
        parameters: θ.
        batch: Transitions (N, ·) of a task: ``observations``, ``actions``, their log-probabilities ``logp`` when they
            were drawn, ``advantages``, and ``counted``, 1 for what counts and 0 for padding.
    """
    return -_mean(_ratio(policy, parameters, batch) * batch["advantages"], batch)


def maml_loss(
    policy: GaussianPolicy, batch: Batch, *, inner_lr: float, clip: float, first_order: bool
) -> tuple[Tensor, dict[str, Tensor]]:
    """PPO's clipped objective of the policy after its inner steps, mean over tasks, and values to be logged.

    Args:
        policy: Its parameters are θ.
        batch: As of `inner_loss`, (T, K + 1, N, ·): of T tasks the transitions before each of K inner steps, and those
            after the last one, on which the objective is.
        inner_lr, first_order: As of `adapted`.
        clip: How far from 1 the ratio of new to old probabilities may go.
    """
    start = dict(policy.named_parameters())

    def of_task(task: Batch) -> tuple[Tensor, Tensor]:
        *before, after = ({name: column[k] for name, column in task.items()} for k in range(len(task["counted"])))
        parameters: Parameters = start
        for transitions in before:
            parameters = adapted(policy, parameters, transitions, inner_lr=inner_lr, first_order=first_order)
        ratio, advantages = _ratio(policy, parameters, after), after["advantages"]
        clipped = torch.minimum(ratio * advantages, ratio.clamp(1 - clip, 1 + clip) * advantages)
        return -_mean(clipped, after), _mean((ratio - 1).abs(), after)

    losses, change = vmap(of_task)(batch)
    return losses.mean(), {"outer_loss": losses.detach(), "ratio_change": change.detach()}


def log_probability(policy: GaussianPolicy, parameters: Parameters, observations: Tensor, actions: Tensor) -> Tensor:
    """log π_θ(a|s) of actions (N, A) in states (N, S), (N,)."""
    mean, log_std = functional_call(policy, dict(parameters), (observations,))
    return Normal(mean, log_std.exp(), validate_args=False).log_prob(actions).sum(-1)


def _ratio(policy: GaussianPolicy, parameters: Parameters, batch: Batch) -> Tensor:
    """π_θ(a|s) / π_old(a|s), (N,); 1 where there is padding."""
    logp = log_probability(policy, parameters, batch["observations"], batch["actions"])
    return ((logp - batch["logp"]) * batch["counted"]).exp()


def _mean(values: Tensor, batch: Batch) -> Tensor:
    return (values * batch["counted"]).sum() / batch["counted"].sum()
