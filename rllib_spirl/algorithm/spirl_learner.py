"""The learner: K gradient steps on one batch of K·B skill transitions."""

import logging
import math
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.rllib.core.learner.torch.torch_learner import TorchLearner
from ray.rllib.utils.metrics import NUM_ENV_STEPS_SAMPLED_LIFETIME
from torch import Tensor
from torch.distributions import Normal
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from rllib_spirl.algorithm.any_state import TakesAnyState
from rllib_spirl.algorithm.losses import (
    cloning_loss,
    conservative_loss,
    critic_loss,
    policy_loss,
    q_target,
    temperature_loss,
    uniform_divergence,
)
from rllib_spirl.algorithm.spirl_rl_module import FlowPolicy, SkillPriorRLModule
from rllib_spirl.memory import keep_freed_memory
from rllib_spirl.nets import fast_matmul
from rllib_spirl.progress import stage
from rllib_spirl.skills.checkpoint import pickled_by_name

logger = logging.getLogger(__name__)

TORCH_RNG, GPU_RNG = "torch_rng", "gpu_rng"
"""In a learner's state: the random states of PyTorch, of which the noise in the losses comes; the GPU's on a GPU."""


class SPiRLLearner(TakesAnyState, TorchLearner):
    """Skill-prior soft actor-critic. Splits what it is given into minibatches itself: one call does many updates.

    N learners are one: each gets B rows of every minibatch of N·B, and their gradients are averaged before each step of
    the optimizer. They begin with the same weights and random state, so that weights, averages and α stay equal.
    """

    def build(self) -> None:
        if self.config.num_learners > 0:  # else the process's random state is the algorithm's
            torch.manual_seed(self.config.seed or 0)
        super().build()
        self._env_steps = 0
        keep_freed_memory()
        loss = self._loss_function()
        self._losses: Callable[..., Any] = Compiled(loss) if self.config.compile_updates else loss

    def _loss_function(self) -> Callable[..., Any]:
        return flow_loss if self.config.policy == "flow" else spirl_loss

    def _make_modules_ddp_if_necessary(self) -> None:
        """Nothing: losses call parts of a module, which DDP's wrapper would not see; see `_average_gradients`."""

    def get_state(self, components: Any = None, *, not_components: Any = None, **kwargs: Any) -> dict[str, Any]:
        state: dict[str, Any] = super().get_state(components, not_components=not_components, **kwargs)
        if self._check_component(TORCH_RNG, components, not_components):
            state[TORCH_RNG] = torch.get_rng_state().numpy()
            if self.device.type == "cuda":
                state[GPU_RNG] = torch.cuda.get_rng_state(self.device).numpy()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self._set_rates()
        if TORCH_RNG in state:
            torch.set_rng_state(torch.from_numpy(state[TORCH_RNG].copy()))
        if GPU_RNG in state and self.device.type == "cuda":
            torch.cuda.set_rng_state(torch.from_numpy(state[GPU_RNG].copy()), self.device)

    def _set_rates(self) -> None:
        """Learning rates are the config's, not those of the optimizer's state: they may have been changed since."""
        for module_id, module in self.module.items():
            groups = self._parameter_groups(module, self.config.get_config_for_module(module_id))
            for group, wanted in zip(self.get_optimizer(module_id).param_groups, groups, strict=True):
                group["lr"] = wanted["lr"]

    def save_to_path(self, *args: Any, **kwargs: Any) -> str:
        with pickled_by_name():  # here too: a learner may be in a process of its own
            saved: str = super().save_to_path(*args, **kwargs)
        return saved

    def configure_optimizers_for_module(self, module_id: str, config: Any = None) -> None:
        module: SkillPriorRLModule = self._module[module_id]
        groups = self._parameter_groups(module, config)
        self.register_optimizer(
            module_id=module_id,
            optimizer=torch.optim.Adam(groups, fused=True),
            params=[parameter for group in groups for parameter in group["params"]],
        )

    def _parameter_groups(self, module: Any, config: Any) -> list[dict[str, Any]]:
        """What is learned, and how fast, as PyTorch's optimizers take it."""
        return [
            {"params": list(module.critic.parameters()), "lr": config.critic_lr},
            {"params": list(module.policy.parameters()), "lr": config.policy_lr},
            {"params": [module.log_alpha], "lr": config.alpha_lr},
        ]

    def before_gradient_based_update(self, *, timesteps: dict[str, Any]) -> None:
        self._env_steps = int(timesteps.get(NUM_ENV_STEPS_SAMPLED_LIFETIME, 0))  # low-level ones, see `SPiRL`

    def _update(self, batch: dict[str, Any], **kwargs: Any) -> tuple[Any, Any, Any]:
        """All gradient steps of one training step; metrics are those of the last."""
        losses: dict[str, Tensor] = {}
        for module_id, columns in batch.items():
            config = self.config.get_config_for_module(module_id)
            module: SkillPriorRLModule = self._module[module_id]
            optimizer = self.get_optimizer(module_id)
            online: list[Tensor] = list(module.critic.parameters())
            target: list[Tensor] = list(module.target_critic.parameters())
            policy: list[Tensor] = list(module.policy.parameters())
            averaged: list[Tensor] = list(module.averaged_policy.parameters())
            with fast_matmul():
                if config.policy != "flow":
                    columns = with_prior(module, columns)
                minibatches = self._minibatches(columns, config)
                for index, minibatch in enumerate(minibatches):
                    loss = self._loss(module_id, module, config, minibatch, log=index == len(minibatches) - 1)
                    optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    self._average_gradients(optimizer)
                    optimizer.step()
                    with torch.no_grad():
                        torch._foreach_lerp_(target, online, config.tau)
                        torch._foreach_lerp_(averaged, policy, config.policy_tau)
            losses[module_id] = loss.detach()
        return {}, losses, {}

    def _average_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        """What DDP does: each parameter's gradient becomes the mean of all learners'."""
        if not self.distributed:
            return
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = parameters_to_vector(gradients)
        torch.distributed.all_reduce(flat)
        vector_to_parameters(flat / self.config.num_learners, gradients)

    def _minibatches(self, columns: dict[str, Tensor], config: Any) -> list[dict[str, Tensor]]:
        size = config.train_batch_size_per_learner
        return [
            {name: column[first : first + size] for name, column in columns.items()}
            for first in range(0, len(columns["rewards"]) // size * size, size)
        ]

    def compute_loss_for_module(
        self, *, module_id: str, config: AlgorithmConfig, batch: dict[str, Any], fwd_out: dict[str, Any]
    ) -> Tensor:
        """The sum of critic, policy and temperature losses on one minibatch; their gradients do not overlap."""
        module = self._module[module_id]
        return self._loss(module_id, module, config, with_prior(module, batch), log=True)

    def _loss(
        self, module_id: str, module: SkillPriorRLModule, config: Any, batch: dict[str, Tensor], *, log: bool
    ) -> Tensor:
        loss, values = self._losses(module, batch, **self._arguments(module, config, batch))
        if log:
            # The δ in use: schedules and population-based training change it.
            logged = {k: v.mean().item() for k, v in values.items()}
            if config.policy != "flow":
                logged["target_divergence"] = divergence_at(self._env_steps, config)
            self.metrics.log_dict(logged, key=module_id, window=1)
        return loss

    def _arguments(self, module: SkillPriorRLModule, config: Any, batch: dict[str, Tensor]) -> dict[str, Any]:
        """Those of the loss beside module and batch."""
        # Of a policy's skills; of a flow the first two are for its own loss, the others the next skills' candidates.
        count = 2 + config.skill_candidates if config.policy == "flow" else 3
        return {
            "noise": self._noise(count, *batch["z"].shape),
            "members": self._members(module, config),
            "target_divergence": torch.tensor(divergence_at(self._env_steps, config), device=batch["z"].device),
            "gamma": config.gamma,
            "kl_in_target": config.kl_in_target,
            "target_bounds": config.target_bounds,
            "conservatism": config.conservatism,
            "cloning": config.cloning,
            "least_alpha": config.least_alpha,
            "target_value_mean": config.target_value == "mean",
            "policy_value_mean": config.policy_value == "mean",
        }

    def _noise(self, count: int, rows: int, dim: int) -> Tensor:
        """N(0, 1), (count, rows, dim): this learner's part of what one learner would draw for the rows of all."""
        drawn = torch.randn(count, max(1, self.config.num_learners), rows, dim, device=self.device)
        return drawn[:, self._learner_index]

    @staticmethod
    def _members(module: SkillPriorRLModule, config: Any) -> Tensor | None:
        """The critics whose least value counts in the target, drawn anew for each minibatch; None for all."""
        if config.target_members is None:
            return None
        return torch.randperm(module.critic.members, device=module.log_alpha.device)[: config.target_members]


def spirl_loss(
    module: SkillPriorRLModule,
    batch: dict[str, Tensor],
    *,
    noise: Tensor,
    members: Tensor | None = None,
    target_divergence: Tensor,
    gamma: float,
    kl_in_target: bool,
    target_bounds: tuple[float, float] | None,
    conservatism: float,
    cloning: float = 0.0,
    target_value_mean: bool = False,
    policy_value_mean: bool = False,
    least_alpha: float = 0.0,
    log_alpha: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of critic, policy and temperature losses on a batch with its prior, and values whose means are logged.

    Where states carry a gradient, by a context in them, it is that of the critics' loss alone.

    Args:
        module: Policy, critics and α.
        batch: B transitions of one skill each, as the replay buffer has them: ``states`` and ``next_states`` (B, S),
            ``z`` (B, Z), ``rewards`` (B,), the sums over a skill's steps, and ``terminated`` (B,) of 1 and 0; and what
            `with_prior` adds.
        noise: N(0, 1), (3, B, Z): of the next skills, the policy's and the prior's.
        members: Which critics count in the target, indices (K,); None for all.
        target_divergence: δ in nats, a scalar or, of each row, (B,).
        gamma: γ from one skill to the next.
        kl_in_target: Whether the next state's value is less by α times its KL, as in the paper.
        target_bounds: The least and the greatest return that there can be, to which targets are clipped; None for none.
        conservatism: The weight of `conservative_loss`.
        cloning: The weight of `cloning_loss`.
        target_value_mean, policy_value_mean: Whether the mean of the critics counts and not the least, in the target
            and for the policy.
        least_alpha: α is never below it.
        log_alpha: The logarithm of α, a scalar or (B,); None for the module's.

    Returns:
        The loss, a scalar; and by name what is logged, scalars or a value for each row.
    """
    states, next_states = batch["states"], batch["next_states"]
    if log_alpha is None:
        log_alpha = module.log_alpha
    alpha = log_alpha.detach().exp().clamp(min=least_alpha)
    with torch.no_grad():
        _, next_z, next_kl = _drawn(module, next_states, prior_in(batch, "next_prior"), noise[0])
        next_q = module.target_critic(module.inputs(next_states), next_z, members)
        penalty = alpha * next_kl if kl_in_target else None
        target = q_target(
            batch["rewards"], batch["terminated"], next_q, gamma, penalty, target_bounds, mean=target_value_mean
        )
    features = module.critic.features(module.inputs(states))
    q = module.critic.values(features, batch["z"])
    critic = critic_loss(q, target)

    prior = prior_in(batch, "prior")
    policy, z, kl = _drawn(module, states.detach(), prior, noise[1])
    policy_q = module.critic.values(features, z, frozen=True)
    if conservatism > 0:
        prior_z = prior.mean + prior.stddev * noise[2]
        rivals = module.critic.values(features, z.detach()), module.critic.values(features, prior_z)
        critic = critic + conservatism * conservative_loss(*rivals, q)
    actor = policy_loss(policy_q, kl, alpha, mean=policy_value_mean)
    if cloning > 0:
        actor = actor + cloning * cloning_loss(policy, batch["z"])
    temperature = temperature_loss(log_alpha, kl, target_divergence, least_alpha)
    values = {
        "critic_loss": critic,
        "policy_loss": actor,
        "alpha": alpha,
        "kl": kl,
        "q": q,
        "policy_q": policy_q,
        "q_target": target,
    }
    return critic + actor + temperature, {name: value.detach() for name, value in values.items()}


def _drawn(module: SkillPriorRLModule, states: Tensor, prior: Normal, noise: Tensor) -> tuple[Normal, Tensor, Tensor]:
    """π(z|s), the skills (B, Z) that it makes of N(0, 1) noise (B, Z), and the divergence (B,) to be regularised."""
    policy, kl = module.skills(states, prior)
    z = policy.mean + policy.stddev * noise
    return policy, z, uniform_divergence(policy, z) if module.uniform else kl


def flow_loss(
    module: SkillPriorRLModule,
    batch: dict[str, Tensor],
    *,
    noise: Tensor,
    gamma: float,
    target_bounds: tuple[float, float] | None,
    **others: Any,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The critics' and the flow's loss: the next skill is the best of the flow's by value (Li et al. 2025, QC).

    Args:
        module, batch, gamma, target_bounds: As of `spirl_loss`; the batch without a prior.
        noise: N(0, 1), (2 + N, B, Z): noise and times of the flow's own loss, and for N candidates of the next skill.
        others: Of `spirl_loss`, which a flow has no use for.

    Returns:
        As `spirl_loss`.
    """
    states, z = batch["states"], batch["z"]
    policy = module.policy
    assert isinstance(policy, FlowPolicy)
    with torch.no_grad():  # chosen by the critics themselves, valued by the target ones
        next_z = module.choose(policy, batch["next_states"], noise[2:], module.critic)
        next_q = module.target_critic(module.inputs(batch["next_states"]), next_z)
        target = q_target(batch["rewards"], batch["terminated"], next_q, gamma, None, target_bounds, mean=True)
    inputs = module.inputs(states)
    q = module.critic(inputs, z)
    critic = critic_loss(q, target)
    times = 0.5 * (1 + torch.erf(noise[1, :, :1] / math.sqrt(2)))  # uniform over (0, 1)
    actor = policy.loss(inputs, z, noise[0], times)
    values = {"critic_loss": critic, "policy_loss": actor, "q": q, "q_target": target}
    return critic + actor, {name: tensor.detach() for name, tensor in values.items()}


class Compiled:
    """A function compiled by PyTorch at its first call, or as it is where that cannot be done, with a warning.

    On a CPU that takes a C++ compiler and Python's header files.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function
        self._compiled: Callable[..., Any] | None = torch.compile(function, dynamic=False)
        self._called = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._compiled is not None:
            try:
                # Later calls with other shapes compile again, which takes as long but is rare.
                with nullcontext() if self._called else stage("compiling the updates", watched_only=True):
                    self._called = True
                    return self._compiled(*args, **kwargs)
            except torch._dynamo.exc.TorchDynamoException as error:
                self._compiled = None
                reason = str(error).strip().splitlines()[0]
                logger.warning("Updates are not compiled (compile_updates), they go on as they are: %s", reason)
        return self._function(*args, **kwargs)


def divergence_at(env_steps: int, config: Any) -> float:
    """δ after ``env_steps`` low-level steps: linear from initial_divergence, if there is one, to target_divergence."""
    if config.initial_divergence is None:
        return config.target_divergence
    done = min(1.0, env_steps / config.divergence_steps)
    return config.initial_divergence + done * (config.target_divergence - config.initial_divergence)


def with_prior(module: SkillPriorRLModule, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The batch (N, …) and the reference's means and deviations in its states and next states, each (N, Z).

    For many minibatches at once: the reference does not change between them.
    """
    added: dict[str, Tensor] = {}
    for states, name in (("states", "prior"), ("next_states", "next_prior")):
        prior = module.reference(batch[states])
        added |= {f"{name}_mean": prior.mean, f"{name}_std": prior.stddev}
    return dict(batch) | added


def prior_in(batch: dict[str, Tensor], name: str) -> Normal:
    """What `with_prior` added: ``prior`` or ``next_prior``."""
    return Normal(batch[f"{name}_mean"], batch[f"{name}_std"], validate_args=False)
