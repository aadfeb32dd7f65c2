"""Episodes to the transitions that policy gradients are of: generalised advantages over a linear baseline, in NumPy."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from ray.rllib.core.columns import Columns
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_spirl.algorithm.replay_buffer import Batch

Array = NDArray[np.floating]
# Of the ridge regression: enough where features depend on each other, as constant ones do.
_RIDGE = 1e-5


def transitions(episodes: Sequence[SingleAgentEpisode], *, gamma: float, lambda_: float) -> Batch:
    """All steps of episodes in one task, (N, ·), as `rllib_spirl.meta.inner_step.inner_loss` takes them.

    An episode's end is the end of its rewards, also where time is up: the baseline knows the time. Advantages have
    mean 0 and deviation 1.
    """
    states = [np.asarray(episode.get_observations()[:-1], np.float64) for episode in episodes]
    rewards = [np.asarray(episode.get_rewards(), np.float64) for episode in episodes]
    features = [baseline_features(each) for each in states]
    weights = fit_baseline(np.concatenate(features), np.concatenate([discounted(each, gamma) for each in rewards]))
    found = np.concatenate(
        [
            generalized_advantages(reward, feature @ weights, gamma, lambda_)
            for reward, feature in zip(rewards, features, strict=True)
        ]
    )
    columns = {
        "observations": np.concatenate(states),
        "actions": np.concatenate([episode.get_actions() for episode in episodes]),
        "logp": np.concatenate([episode.get_extra_model_outputs(Columns.ACTION_LOGP) for episode in episodes]),
        "advantages": (found - found.mean()) / (found.std() + 1e-8),
        "counted": np.ones(len(found)),
    }
    return {name: torch.as_tensor(np.asarray(column, np.float32)) for name, column in columns.items()}


def baseline_features(states: Array) -> Array:
    """What values are linear in (Duan et al. 2016): states (T, S), their squares, and powers of time; (T, 2 S + 4)."""
    states = states.clip(-10, 10)
    time = np.arange(len(states))[:, None] / 100
    return np.concatenate([states, states**2, time, time**2, time**3, np.ones_like(time)], 1)


def fit_baseline(features: Array, returns: Array) -> Array:
    """The weights (F,) of features (N, F) that come nearest to returns (N,)."""
    ridge = _RIDGE * np.eye(features.shape[1])
    return np.linalg.solve(features.T @ features + ridge, features.T @ returns)


def generalized_advantages(rewards: Array, values: Array, gamma: float, lambda_: float) -> Array:
    """Σ_k (γλ)^k (r + γ V' − V) of an episode's rewards and values, (T,) each; after its end V is 0."""
    return discounted(rewards + gamma * np.append(values[1:], 0) - values, gamma * lambda_)


def discounted(values: Array, factor: float) -> Array:
    """Σ_k factor^k values_{t+k}, (T,)."""
    sums = np.empty_like(values)
    total = 0.0
    for t in range(len(values) - 1, -1, -1):
        sums[t] = total = values[t] + factor * total
    return sums


def padded(batches: Sequence[Sequence[Batch]]) -> Batch:
    """Of T tasks K + 1 batches (N, ·) each, of any N, to one (T, K + 1, largest N, ·); padding is 0."""
    rows = max(len(batch["counted"]) for task in batches for batch in task)

    def filled(column: torch.Tensor) -> torch.Tensor:
        return torch.cat([column, column.new_zeros(rows - len(column), *column.shape[1:])])

    return {
        name: torch.stack([torch.stack([filled(batch[name]) for batch in task]) for task in batches])
        for name in batches[0][0]
    }
