"""The policy as an env runner uses it: one state in, one skill out, in NumPy."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from rllib_spirl.algorithm.spirl_rl_module import (
    LOG_STD_BOUND,
    MEAN_BOUND,
    CopiedPolicy,
    FlowPolicy,
    ResidualPolicy,
    SkillPriorRLModule,
    WithContext,
)
from rllib_spirl.nets import NumpyMLP
from rllib_spirl.skills.decoder import NumpyStates
from rllib_spirl.skills.model import LOG_STD_MAX, LOG_STD_MIN, SkillPrior

Array = NDArray[np.float32]
_NONE = np.zeros(0, np.float32)


class ActingPolicy:
    """`SkillPriorRLModule.skills` and `best_skills` for single states.

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
        elif isinstance(policy, CopiedPolicy):
            self._policy = _prior(policy.net)
        self._prior = None if module.prior.images else _prior(module.prior)

    def sample(self, state: NDArray[np.floating], rng: np.random.Generator) -> Array:
        """z ~ π(z|s), (Z,), for an observation (S,) in environment units; see `SkillPrior` for its form."""
        if isinstance(self._module.policy, FlowPolicy):
            noise = torch.from_numpy(rng.standard_normal(self._module._around.shape, np.float32))
            states = torch.as_tensor(np.asarray(state, np.float32))[None]
            return self._module.choose(self._module.policy, states, noise[:, None])[0][0].numpy()
        mean, std = self._skills(state)
        return mean + std * rng.standard_normal(len(mean), np.float32)

    @torch.no_grad()
    def best(self, state: NDArray[np.floating]) -> Array:
        """The deterministic policy's skill, (Z,). In evaluation only, so PyTorch's overhead does not count."""
        return self._module.best_skills(torch.as_tensor(np.asarray(state, np.float32))[None])[0].numpy()

    def _skills(self, state: NDArray[np.floating]) -> tuple[Array, Array]:
        """π(z|s)'s mean and deviation, (Z,) each."""
        if not self._residual:
            return _gaussian(*self._policy(state))
        context_at = len(state) - self._module.context_dim
        said_at = context_at - self._module.prior.said
        state, said_by_prior, context = state[:said_at], state[said_at:context_at], state[context_at:]
        mean, log_std = self._policy(state, context)
        mean = MEAN_BOUND * np.tanh(mean / MEAN_BOUND)
        std = np.exp(LOG_STD_BOUND * np.tanh(log_std / LOG_STD_BOUND))
        if not self._module.regularized_to_prior:
            return mean, std
        if self._prior is None:
            prior_mean, prior_std = np.split(said_by_prior, 2)
        else:
            prior_mean, prior_std = _gaussian(*self._prior(state))
        prior_std = self._module.prior_spread * prior_std
        return prior_mean + prior_std * mean, prior_std * std


class _Parameters:
    """A network's two outputs for single states in environment units."""

    def __init__(self, scale: SkillPrior, encoder: nn.Module, net: nn.Sequential, *, of_skills: bool) -> None:
        self._states = NumpyStates(scale, encoder, of_skills=of_skills)
        self._net = NumpyMLP(net)

    def __call__(self, state: NDArray[np.floating], context: NDArray[np.floating] = _NONE) -> tuple[Array, Array]:
        features = self._states(state)
        if len(context):
            features = np.concatenate([features, context], dtype=np.float32)
        mean, log_std = np.split(self._net(features), 2)
        return mean, log_std


def _prior(prior: SkillPrior) -> _Parameters:
    return _Parameters(prior, prior.features, prior.net, of_skills=True)


def _gaussian(mean: Array, log_std: Array) -> tuple[Array, Array]:
    return mean, np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
