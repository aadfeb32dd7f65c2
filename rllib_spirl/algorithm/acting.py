"""The policy as an env runner uses it: one state in, one skill out, in NumPy."""

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_spirl.algorithm.spirl_rl_module import LOG_STD_BOUND, MEAN_BOUND, ResidualPolicy, SkillPriorRLModule
from rllib_spirl.nets import NumpyMLP
from rllib_spirl.skills.model import LOG_STD_MAX, LOG_STD_MIN, SkillPrior

Array = NDArray[np.float32]


class ActingPolicy:
    """`SkillPriorRLModule.skills` and `best_skills` for single states.

    After thousands of physics steps nothing of PyTorch is in the processor's caches: there it needs 0.7 ms for a state,
    this a fifth. Shares the module's weights, so it follows them; the module must be on the CPU.
    """

    def __init__(self, module: SkillPriorRLModule) -> None:
        self._module = module
        self._prior = _Gaussian(module.prior)
        self._around_prior = module.regularized_to_prior
        policy = module.policy
        self._policy = NumpyMLP(policy.net) if isinstance(policy, ResidualPolicy) else _Gaussian(policy.net)

    def sample(self, state: NDArray[np.floating], rng: np.random.Generator) -> Array:
        """z ~ π(z|s), (Z,), for a state (S,) in environment units."""
        mean, std = self._skills(state)
        return mean + std * rng.standard_normal(len(mean), np.float32)

    @torch.no_grad()
    def best(self, state: NDArray[np.floating]) -> Array:
        """The deterministic policy's skill, (Z,). In evaluation only, so PyTorch's overhead does not count."""
        return self._module.best_skills(torch.as_tensor(np.asarray(state, np.float32))[None])[0].numpy()

    def _skills(self, state: NDArray[np.floating]) -> tuple[Array, Array]:
        """π(z|s)'s mean and deviation, (Z,) each."""
        inputs = self._prior.normalize(state)
        if isinstance(self._policy, _Gaussian):
            return self._policy(inputs)
        prior_mean, prior_std = self._prior(inputs) if self._around_prior else (np.float32(0), np.float32(1))
        mean, log_std = np.split(self._policy(inputs), 2)
        mean = MEAN_BOUND * np.tanh(mean / MEAN_BOUND)
        log_std = LOG_STD_BOUND * np.tanh(log_std / LOG_STD_BOUND)
        return prior_mean + prior_std * mean, prior_std * np.exp(log_std)


class _Gaussian:
    """A `SkillPrior` for single states."""

    def __init__(self, prior: SkillPrior) -> None:
        self._net = NumpyMLP(prior.net)
        self._mean, self._std = prior.mean.numpy(), prior.std.numpy()

    def normalize(self, state: NDArray[np.floating]) -> Array:
        return (np.asarray(state, np.float32) - self._mean) / self._std

    def __call__(self, inputs: Array) -> tuple[Array, Array]:
        """Normalised state (S,) to means and deviations, (Z,) each."""
        mean, log_std = np.split(self._net(inputs), 2)
        return mean, np.exp(np.clip(log_std, LOG_STD_MIN, LOG_STD_MAX))
