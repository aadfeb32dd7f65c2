"""The loss mathematics against numbers worked out by hand."""

import math

import pytest
import torch
from torch.distributions import Normal, kl_divergence

from rllib_spirl.algorithm.losses import critic_loss, policy_loss, q_target, residual_kl, temperature_loss


def test_residual_kl_is_zero_at_the_prior_and_matches_the_gaussian_formula() -> None:
    assert residual_kl(torch.zeros(2, 3), torch.zeros(2, 3)).tolist() == [0, 0]
    # One dimension, mean 1, deviation 2: ½(1 + 4 − 1) − ln 2.
    assert residual_kl(torch.tensor([[1.0]]), torch.tensor([[math.log(2)]])).item() == pytest.approx(2 - math.log(2))


def test_residual_kl_does_not_depend_on_the_prior() -> None:
    mean, log_std = torch.randn(5, 4), 0.3 * torch.randn(5, 4)
    prior = Normal(torch.randn(5, 4), torch.rand(5, 4) + 0.1)
    policy = Normal(prior.mean + prior.stddev * mean, prior.stddev * log_std.exp())
    expected = kl_divergence(policy, prior).sum(-1)
    torch.testing.assert_close(residual_kl(mean, log_std), expected, rtol=1e-4, atol=1e-5)


def test_q_target_bootstraps_from_the_lower_critic_unless_terminated() -> None:
    rewards, terminated = torch.tensor([1.0, 2.0]), torch.tensor([0.0, 1.0])
    next_q = torch.tensor([[10.0, 10.0], [8.0, 20.0]])
    assert q_target(rewards, terminated, next_q, 0.5).tolist() == [1 + 0.5 * 8, 2]


def test_q_target_takes_the_penalty_before_discounting_and_clips_last() -> None:
    rewards, terminated = torch.tensor([1.0]), torch.tensor([0.0])
    next_q = torch.tensor([[8.0], [9.0]])
    penalised = q_target(rewards, terminated, next_q, 0.5, entropy_penalty=torch.tensor([2.0]))
    assert penalised.item() == 1 + 0.5 * (8 - 2)
    assert q_target(rewards, terminated, next_q, 0.5, bounds=(0.0, 4.0)).item() == 4


def test_critic_loss_sums_over_critics_and_averages_over_the_batch() -> None:
    q = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    target = torch.tensor([0.0, 0.0])
    assert critic_loss(q, target).item() == 0.5 * ((1 + 4) / 2 + (9 + 16) / 2)


def test_policy_loss_trades_the_lower_value_against_the_divergence() -> None:
    q, kl = torch.tensor([[1.0, 5.0], [2.0, 3.0]]), torch.tensor([4.0, 6.0])
    assert policy_loss(q, kl, torch.tensor(0.5)).item() == ((0.5 * 4 - 1) + (0.5 * 6 - 3)) / 2


@pytest.mark.parametrize(("kl", "grows"), [(9.0, True), (1.0, False)])
def test_temperature_grows_while_the_divergence_exceeds_its_target(kl: float, grows: bool) -> None:
    log_alpha = torch.tensor(0.0, requires_grad=True)
    temperature_loss(log_alpha, torch.tensor([kl]), target_divergence=5.0).backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad.item() == pytest.approx(5.0 - kl)
    assert (log_alpha.grad.item() < 0) == grows  # gradient descent moves against the gradient


@pytest.mark.parametrize(("alpha", "kl", "gradient"), [(0.5, 1.0, 0.0), (0.5, 9.0, -2.0), (2.0, 1.0, 8.0)])
def test_temperature_does_not_fall_below_its_least(alpha: float, kl: float, gradient: float) -> None:
    log_alpha = torch.tensor(alpha).log().requires_grad_()
    temperature_loss(log_alpha, torch.tensor([kl]), target_divergence=5.0, least_alpha=0.6).backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad.item() == pytest.approx(gradient)


def test_each_row_has_its_own_least_temperature() -> None:
    log_alpha = torch.tensor([0.5, 2.0]).log().requires_grad_()
    temperature_loss(log_alpha, torch.tensor([1.0, 1.0]), torch.tensor([5.0, 5.0]), least_alpha=0.6).backward()
    assert log_alpha.grad is not None
    assert log_alpha.grad.tolist() == pytest.approx([0.0, 4.0])  # of a mean of two
