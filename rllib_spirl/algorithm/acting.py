"""The policy as an env runner uses it: one state in, one skill out, or a few at once, in NumPy."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rllib_spirl.algorithm.spirl_rl_module import (
    MEAN_BOUND,
    CopiedPolicy,
    ResidualPolicy,
    SkillPriorRLModule,
    WithContext,
)
from rllib_spirl.envs.rollout import skill_random
from rllib_spirl.nets import NumpyMLP
from rllib_spirl.skills.decoder import NumpyStates
from rllib_spirl.skills.model import LOG_STD_MAX, LOG_STD_MIN, SkillPrior

Array = NDArray[np.float32]


class ActingPolicy:
    """`SkillPriorRLModule.skills` and `best_skills` for single states, or a batch of them.

    After thousands of physics steps nothing of PyTorch is in the processor's caches: there it needs 0.7 ms for a state,
    this a fifth. Shares the module's weights, so it follows them; the module must be on the CPU.
    """

    def __init__(self, module: SkillPriorRLModule) -> None:
        self._module = module
        policy = module.policy
        self._residual = isinstance(policy, ResidualPolicy)
        if isinstance(policy, ResidualPolicy):
            features = policy.features.features if isinstance(policy.features, WithContext) else policy.features
            self._policy = _Parameters(module.prior, features, policy.net, of_skills=False)
            self._log_std_bound = policy.log_std_bound
        elif isinstance(policy, CopiedPolicy):
            self._policy = _prior(policy.net)
        self._prior = None if module.prior.images else _prior(module.prior)

    def sample(self, states: NDArray[np.floating], rng: np.random.Generator) -> Array:
        """z ~ π(z|s), (..., Z), for observations (..., S) in environment units; see `SkillPrior` for their form.

        Of several draws the one that is valued most.
        """
        module = self._module
        if module.explores_by_value:
            rows = _rows(states)
            z = module.best_drawn(rows, self._noise(rng, module.candidates, rows)).numpy()
            return z.reshape(*states.shape[:-1], module.latent_dim)
        mean, std = self._skills(states)
        return mean + std * rng.standard_normal(mean.shape, np.float32)

    @torch.no_grad()
    def best(self, states: NDArray[np.floating], rng: np.random.Generator | None = None) -> Array:
        """The deterministic policy's skills, (..., Z). In evaluation only, so PyTorch's overhead does not count.

        With ``rng`` those that it chooses among are drawn anew.
        """
        module = self._module
        rows = _rows(states)
        noise = None if rng is None else self._noise(rng, module.skill_candidates, rows)
        z = module.best_skills(rows, noise).numpy()
        return z.reshape(*states.shape[:-1], z.shape[-1])

    def in_episode(self, seed: int, explore: bool) -> Callable[[Any], Array]:
        """The policy of an evaluation episode: the deterministic one, or draws by random numbers of their own."""
        return partial(self.sample, rng=skill_random(seed)) if explore else self.best

    def _noise(self, rng: np.random.Generator, count: int, rows: torch.Tensor) -> torch.Tensor:
        """N(0, 1), (count, B, Z), of which so many skills are made in states (B, S)."""
        return torch.from_numpy(rng.standard_normal((count, len(rows), self._module.latent_dim), np.float32))

    def _skills(self, observations: NDArray[np.floating]) -> tuple[Array, Array]:
        """π(z|s)'s mean and deviation, (..., Z) each."""
        if not self._residual:
            return _gaussian(*self._policy(observations))
        context_at = observations.shape[-1] - self._module.context_dim
        said_at = context_at - self._module.prior.said
        states, context = observations[..., :said_at], observations[..., context_at:]
        mean, log_std = self._policy(states, context)
        mean = MEAN_BOUND * np.tanh(mean / MEAN_BOUND)
        std = np.exp(self._log_std_bound * np.tanh(log_std / self._log_std_bound))
        if not (self._module.regularized_to_prior or self._module.around_said):
            return mean, std
        if self._prior is None:
            prior_mean, prior_std = np.split(observations[..., said_at:context_at], 2, -1)
        else:
            prior_mean, prior_std = _gaussian(*self._prior(states))
        if not self._module.around_said:
            prior_std = self._module.prior_spread * prior_std
        return prior_mean + prior_std * mean, prior_std * std


def _rows(states: NDArray[np.floating]) -> torch.Tensor:
    """States (..., S) as (B, S)."""
    return torch.as_tensor(np.atleast_2d(np.asarray(states, np.float32)))


class _Parameters:
    """A network's two outputs, (..., Z) each, for states (..., S) in environment units and their context (..., C)."""

    def __init__(self, scale: SkillPrior, encoder: nn.Module, net: nn.Sequential, *, of_skills: bool) -> None:
        self._states = NumpyStates(scale, encoder, of_skills=of_skills)
        self._net = NumpyMLP(net)

    def __call__(
        self, states: NDArray[np.floating], context: NDArray[np.floating] | None = None
    ) -> tuple[Array, Array]:
        features = self._states(states)
        if context is not None and context.shape[-1]:
            features = np.concatenate([features, context], -1, dtype=np.float32)
        both = self._net(features)
        width = both.shape[-1] // 2  # np.split takes longer than a layer
        return both[..., :width], both[..., width:]


def _prior(prior: SkillPrior) -> _Parameters:
    return _Parameters(prior, prior.features, prior.net, of_skills=True)


def _gaussian(mean: Array, log_std: Array) -> tuple[Array, Array]:
    return mean, np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
