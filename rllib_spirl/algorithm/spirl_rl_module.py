"""The policy over skills, its frozen prior, and the critics, as an RLlib RLModule."""

import copy
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import torch
from ray.rllib.core.columns import Columns
from ray.rllib.core.rl_module.apis import InferenceOnlyAPI
from ray.rllib.core.rl_module.torch import TorchRLModule
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from rllib_spirl.algorithm.losses import residual_kl
from rllib_spirl.nets import mlp
from rllib_spirl.skills.checkpoint import SkillFiles, load_skills
from rllib_spirl.skills.model import SkillModelConfig, SkillPrior

# How far a residual policy can leave the prior: means in prior standard deviations, and log ratios of deviations, if
# `log_std_bound` is not another.
MEAN_BOUND, LOG_STD_BOUND = 4.0, 2.0
# Euler steps from noise to a skill.
FLOW_STEPS = 10
# How far from its mean the deterministic policy looks for better skills, in its standard deviations.
CANDIDATE_SPREAD = 0.5


class WithContext(nn.Module):
    """Features of inputs (..., I + C): those of the first I by a network, and the C numbers of context as they are."""

    def __init__(self, features: nn.Module, context_dim: int) -> None:
        super().__init__()
        self.features, self.context_dim = features, context_dim

    def forward(self, inputs: Tensor) -> Tensor:
        states, context = inputs.split([inputs.shape[-1] - self.context_dim, self.context_dim], -1)
        return torch.cat([self.features(states), context], -1)


def state_encoder(shape: SkillModelConfig, context_dim: int) -> tuple[nn.Module, int]:
    """A new network from normalised states, and context, to features, and the number of these."""
    features, outputs = shape.state_encoder()
    return (WithContext(features, context_dim), outputs + context_dim) if context_dim else (features, outputs)


class ResidualPolicy(nn.Module):
    """π(z|s) = N(μ_p + σ_p·m(s), σ_p·e^{l(s)}) around the prior N(μ_p, σ_p), with m = l = 0 at the start.

    The KL to the prior is then exactly 0 before the first update, and does not depend on how narrow the prior is: a
    copy of the prior's network makes the KL and Q explode where the prior is almost deterministic.
    """

    def __init__(
        self,
        shape: SkillModelConfig,
        hidden: int,
        layers: int,
        context_dim: int = 0,
        log_std_bound: float = LOG_STD_BOUND,
    ) -> None:
        super().__init__()
        self.log_std_bound = log_std_bound
        self.features, inputs = state_encoder(shape, context_dim)
        self.net = mlp(inputs, 2 * shape.latent_dim, hidden=hidden, layers=layers)
        head = self.net[-1]
        assert isinstance(head, nn.Linear)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)

    def forward(self, prior: Normal, states: Tensor) -> tuple[Normal, Tensor]:
        mean, log_std = self.net(self.features(states)).chunk(2, -1)
        mean = MEAN_BOUND * torch.tanh(mean / MEAN_BOUND)
        log_std = self.log_std_bound * torch.tanh(log_std / self.log_std_bound)
        z = Normal(prior.mean + prior.stddev * mean, prior.stddev * log_std.exp(), validate_args=False)
        return z, residual_kl(mean, log_std)


class CopiedPolicy(nn.Module):
    """π(z|s) as a trainable copy of the prior's network, the paper's parameterisation."""

    def __init__(self, prior: SkillPrior) -> None:
        super().__init__()
        self.net = copy.deepcopy(prior).requires_grad_(True)

    def forward(self, prior: Normal, raw_states: Tensor) -> tuple[Normal, Tensor]:
        z = self.net(raw_states)
        return z, kl_divergence(z, prior).sum(-1)


class FlowPolicy(nn.Module):
    """π(z|s) by flow matching: noise (…, Z) is carried along dx/dt = v(s, x, t) from t = 0 to 1.

    It clones the skills in its batches. What chooses among its samples is their value, see `SkillPriorRLModule.choose`.
    """

    def __init__(self, shape: SkillModelConfig, hidden: int, layers: int) -> None:
        super().__init__()
        self.features, inputs = shape.state_encoder()
        self.net = mlp(inputs + shape.latent_dim + 1, shape.latent_dim, hidden=hidden, layers=layers)

    def forward(self, states: Tensor, noise: Tensor) -> Tensor:
        """Normalised states (B, S) and N(0, I) noise (N, B, Z) to skills (N, B, Z)."""
        features = self.features(states).expand(*noise.shape[:-1], -1)
        x = noise
        for step in range(FLOW_STEPS):
            x = x + self._velocity(features, x, x.new_full((*x.shape[:-1], 1), step / FLOW_STEPS)) / FLOW_STEPS
        return x

    def loss(self, states: Tensor, z: Tensor, noise: Tensor, t: Tensor) -> Tensor:
        """mean ‖v(s, (1 − t) x + t z, t) − (z − x)‖² of skills z (B, Z), noise x (B, Z), times t (B, 1); a scalar."""
        velocity = self._velocity(self.features(states), (1 - t) * noise + t * z, t)
        return (velocity - (z - noise)).square().mean()

    def _velocity(self, features: Tensor, x: Tensor, t: Tensor) -> Tensor:
        return self.net(torch.cat([features, x, t], -1))


class CriticEnsemble(nn.Module):
    """E critics Q(s, z) evaluated as one batched matrix product per layer.

    With a ``skill_bound`` they see what skills come to, bound · tanh(u), in place of u: where that no longer changes,
    its value does not either.
    """

    def __init__(
        self,
        shape: SkillModelConfig,
        *,
        hidden: int,
        layers: int,
        members: int,
        layer_norm: bool,
        context_dim: int = 0,
        skill_bound: float | None = None,
        initial_value: float = 0.0,
    ) -> None:
        super().__init__()
        self._skill_bound = skill_bound
        self.features, inputs = state_encoder(shape, context_dim)  # one for all members
        widths = [inputs + shape.latent_dim, *[hidden] * layers, 1]
        self.weights = nn.ParameterList()
        self.biases = nn.ParameterList()
        for fan_in, fan_out in pairwise(widths):
            bound = 1 / math.sqrt(fan_in)  # torch's default for a Linear layer
            self.weights.append(nn.Parameter(torch.empty(members, fan_in, fan_out).uniform_(-bound, bound)))
            self.biases.append(nn.Parameter(torch.empty(members, 1, fan_out).uniform_(-bound, bound)))
        # Before it has learned anything a critic prefers no skill to another.
        nn.init.zeros_(self.weights[-1])
        nn.init.constant_(self.biases[-1], initial_value)
        self.scales = nn.ParameterList(
            nn.Parameter(torch.ones(members, 1, hidden)) for _ in range(layers if layer_norm else 0)
        )
        self.shifts = nn.ParameterList(
            nn.Parameter(torch.zeros(members, 1, hidden)) for _ in range(layers if layer_norm else 0)
        )
        self.members = members

    def forward(self, states: Tensor, z: Tensor, members: Tensor | None = None) -> Tensor:
        """Normalised states (B, S) and latents (B, Z) to values (E, B), or (K, B) of the ``members`` (K,) alone."""
        return self.values(self.features(states), z, members=members)

    def values(self, features: Tensor, z: Tensor, *, frozen: bool = False, members: Tensor | None = None) -> Tensor:
        """Features of states (B, F) and latents (B, Z) to values (E, B).

        Args:
            features, z: Of states, and of the skills in them.
            frozen: No gradient but for z.
            members: Only the values of these critics, by their indices (K,): (K, B).
        """

        def of_each(parameter: Tensor) -> Tensor:
            chosen = parameter if members is None else parameter[members]
            return chosen.detach() if frozen else chosen

        if self._skill_bound is not None:
            z = self._skill_bound * torch.tanh(z)
        count = self.members if members is None else len(members)
        x = torch.cat([features.detach() if frozen else features, z], -1).expand(count, -1, -1)
        last = len(self.weights) - 1
        for index, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            x = torch.bmm(x, of_each(weight)) + of_each(bias)
            if index < last:
                if len(self.scales):
                    scale, shift = of_each(self.scales[index]), of_each(self.shifts[index])
                    x = torch.addcmul(shift, F.layer_norm(x, x.shape[-1:]), scale)
                x = F.silu(x)
        return x.squeeze(-1)


def most_valued(
    critic: CriticEnsemble, inputs: Tensor, candidates: Tensor, over_members: Callable[[Tensor, int], Tensor]
) -> Tensor:
    """Of skills (N, B, Z) in states, for which critics see ``inputs`` (B, S'), those that are valued most, (B, Z).

    ``over_members`` makes one value of those of the critics, along its dimension: `torch.amin` or `torch.mean`.
    """
    features = critic.features(inputs).expand(len(candidates), -1, -1)
    q = over_members(critic.values(features.flatten(0, 1), candidates.flatten(0, 1)), 0)
    best = q.view(len(candidates), -1).argmax(0)
    return candidates[best, torch.arange(len(inputs))]


class SkillPriorRLModule(TorchRLModule, InferenceOnlyAPI):
    """Policy π(z|s) regularised to a frozen skill prior, E critics with targets, and the temperature α.

    With a ``context_dim`` policy and critics see so many numbers of context besides, at the end of observations; the
    prior does not.

    ``model_config`` (see `SPiRLConfig.training`): skill_checkpoint, skill_bound, policy, regularize_to, prior_spread,
    policy_hidden, policy_layers, log_std_bound, critic_hidden, critic_layers, critic_members, critic_layer_norm,
    initial_value, initial_alpha, skill_candidates, exploring_candidates.

    Args:
        skills: In place of those at ``model_config["skill_checkpoint"]``.
    """

    def __init__(self, *args: Any, skills: SkillFiles | None = None, **kwargs: Any) -> None:
        if skills is not None:
            kwargs["model_config"] = {**kwargs["model_config"], "skill_checkpoint": skills}
        super().__init__(*args, **kwargs)

    def setup(self) -> None:
        c: dict[str, Any] = self.model_config
        skills, card = load_skills(c["skill_checkpoint"])
        self.latent_dim = latent_dim = card.model.latent_dim
        self.context_dim = context_dim = int(c.get("context_dim", 0))
        self.prior = skills.prior
        self._chunks = card.model.decoder == "identity"
        self.regularized_to_prior = c["regularize_to"] == "prior"
        self.uniform = c["regularize_to"] == "uniform"
        self.prior_spread: float = c["prior_spread"]
        self.policy: ResidualPolicy | CopiedPolicy | FlowPolicy
        # Observations hold what a prior over pictures says, not the pictures: the copy is a residual around that.
        self.around_said = c["policy"] == "copied" and self.prior.images
        if c["policy"] == "residual" or self.around_said:
            self.policy = ResidualPolicy(
                card.model, c["policy_hidden"], c["policy_layers"], context_dim, c["log_std_bound"]
            )
        elif c["policy"] == "flow":
            self.policy = FlowPolicy(card.model, c["policy_hidden"], c["policy_layers"])
        else:
            self.policy = CopiedPolicy(self.prior)
        # What acts when no exploration is wanted: a slow average of the policy, steadier than its latest iterate.
        self.averaged_policy = copy.deepcopy(self.policy).requires_grad_(False)
        # Where it looks for skills, in units of CANDIDATE_SPREAD σ around its mean; what a flow makes its skills of.
        around = torch.randn(c["skill_candidates"], latent_dim, generator=torch.Generator().manual_seed(0))
        self.register_buffer("_around", around, persistent=False)
        self.candidates = int(c["skill_candidates"] if c["policy"] == "flow" else c["exploring_candidates"])
        """How many skills are drawn at once to explore with the one that is valued most."""
        self.explores_by_value = self.candidates > 1 or c["policy"] == "flow"
        self.target_critic = CriticEnsemble(
            card.model,
            hidden=c["critic_hidden"],
            layers=c["critic_layers"],
            members=c["critic_members"],
            layer_norm=c["critic_layer_norm"],
            context_dim=context_dim,
            skill_bound=c["skill_bound"],
            initial_value=c["initial_value"],
        ).requires_grad_(False)
        if not self.inference_only:
            self.critic = copy.deepcopy(self.target_critic).requires_grad_(True)
            # A parameter, so that it is saved with the module.
            self.log_alpha = nn.Parameter(torch.tensor(math.log(c["initial_alpha"])))

    def get_non_inference_attributes(self) -> list[str]:
        return ["critic", "log_alpha"]

    def sampling_state(self) -> dict[str, Tensor]:
        """The part of the module's state that sampling needs: not what only evaluation does."""
        parts: dict[str, nn.Module] = {"policy": self.policy}
        if self.explores_by_value:
            parts["target_critic"] = self.target_critic
        return {f"{part}.{name}": value for part, net in parts.items() for name, value in net.state_dict().items()}

    def inputs(self, observations: Tensor) -> Tensor:
        """The normalised states (..., S) in observations, what policy and critics see; and the context."""
        if not self.context_dim:
            return self.normalized(observations)
        observed, context = self._split(observations)
        return torch.cat([self.normalized(observed), context], -1)

    def normalized(self, observed: Tensor) -> Tensor:
        """The normalised states in what the environment of skills observes."""
        return self.prior.normalize(self.prior.states(observed))

    def _split(self, observations: Tensor) -> tuple[Tensor, Tensor]:
        """What the environment of skills observes, and the context."""
        observed, context = observations.split([observations.shape[-1] - self.context_dim, self.context_dim], -1)
        return observed, context

    def skills(self, states: Tensor, prior: Normal | None = None) -> tuple[Normal, Tensor]:
        """Observations (B, S) in environment units to π(z|s) over (B, Z) and its KL to the reference, (B,) in nats.

        With ``regularize_to: uniform`` the KL to be regularised is another one, see `losses.uniform_divergence`.

        Here and below: with a prior over pictures, observations hold what it says of them, see `SkillPrior`.

        Args:
            states: Observations where skills start.
            prior: The reference there, if it is known already.
        """
        return self._around_prior(self.policy, states, prior or self.reference(self._split(states)[0]))

    def best_skills(self, states: Tensor, noise: Tensor | None = None) -> Tensor:
        """States (B, S) to skills (B, Z): the deterministic policy.

        Of the averaged policy's mean and fixed points around it, the skill that the target critics value most. A mean
        between two good skills can be a bad one, and a robot that only ever takes it stays stuck. A flow has no mean:
        its skills are made of fixed noise.

        Args:
            states: Observations.
            noise: N(0, 1), (N, B, Z), in place of the fixed points, the mean in place of the first: a policy that does
                the same whenever the state is the same stays for good where its skill does not move the robot.
        """
        if noise is None:
            noise = self._around[:, None].expand(-1, len(states), -1)
        if isinstance(self.averaged_policy, FlowPolicy):
            return self.choose(self.averaged_policy, states, noise)
        policy, _ = self._around_prior(self.averaged_policy, states, self.reference(self._split(states)[0]))
        around = torch.cat([torch.zeros_like(noise[:1]), noise[1:]])
        candidates = policy.mean + CANDIDATE_SPREAD * policy.stddev * around
        return most_valued(self.target_critic, self.inputs(states), candidates, torch.amin)

    @property
    def skill_candidates(self) -> int:
        """How many skills `best_skills` chooses among."""
        return len(self._around)

    @torch.no_grad()
    def best_drawn(self, states: Tensor, noise: Tensor) -> Tensor:
        """Of skills drawn from π(z|s) in states (B, S), made of noise (N, B, Z), those that are valued most, (B, Z)."""
        if isinstance(self.policy, FlowPolicy):
            return self.choose(self.policy, states, noise)
        policy, _ = self.skills(states)
        return most_valued(self.target_critic, self.inputs(states), policy.mean + policy.stddev * noise, torch.amin)

    @torch.no_grad()
    def choose(self, policy: FlowPolicy, states: Tensor, noise: Tensor, critic: CriticEnsemble | None = None) -> Tensor:
        """Of a flow's skills in states (B, S), made of noise (N, B, Z), those that critics value most, (B, Z).

        Values are means over the critics: those of ``critic``, else the target critics. Chunks of actions are clipped
        to [-1, 1] first.
        """
        inputs = self.inputs(states)
        z = policy(inputs, noise)
        if self._chunks:
            z = z.clamp(-1, 1)
        return most_valued(critic or self.target_critic, inputs, z, torch.mean)

    @torch.no_grad()
    def reference(self, states: Tensor) -> Normal:
        """What the policy is regularised to in states (B, S), which are without context; without gradient.

        The frozen p_a(z|s), its deviation multiplied by ``prior_spread``, or N(0, I).
        """
        if self.regularized_to_prior:
            prior = self.prior.at(states)
            return Normal(prior.mean, self.prior_spread * prior.stddev, validate_args=False)
        mean = states.new_zeros(*states.shape[:-1], self.latent_dim)
        return Normal(mean, torch.ones_like(mean), validate_args=False)

    def _around_prior(self, policy: nn.Module, states: Tensor, prior: Normal) -> tuple[Normal, Tensor]:
        inputs = self.inputs(states) if isinstance(policy, ResidualPolicy) else states
        if not self.around_said:
            return policy(prior, inputs)
        z, _ = policy(self.prior.at(self._split(states)[0]), inputs)
        return z, kl_divergence(z, prior).sum(-1)

    def _forward_inference(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        return {Columns.ACTIONS: self.best_skills(batch[Columns.OBS].float())}

    def _forward_exploration(self, batch: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        states = batch[Columns.OBS].float()
        if self.explores_by_value:
            noise = torch.randn(self.candidates, len(states), self.latent_dim, device=states.device)
            return {Columns.ACTIONS: self.best_drawn(states, noise)}
        return {Columns.ACTIONS: self.skills(states)[0].sample()}
