"""Skills: a variational model of H-step action sequences with a skill prior (Pertsch et al. 2020, §3.2).

Shapes: B batch, H horizon (low-level steps), S state, A action, Z latent. States are in the environment's own units
everywhere outside this file; the model normalises them itself.
"""

from typing import Literal, Self, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import Tensor, nn
from torch.distributions import Normal, kl_divergence

from rllib_spirl.nets import PictureEncoder, SetEncoder, mlp
from rllib_spirl.skills.resnet import ResNet18Features

# Bounds on log σ. The lower one keeps KL terms finite where the data determine a skill completely.
LOG_STD_MIN, LOG_STD_MAX = -5.0, 2.0

Array = TypeVar("Array", Tensor, NDArray[np.float32])


class StateSet(BaseModel):
    """How to read a state as a set: the agent's ``own`` numbers, then items of ``item`` numbers each, in any order.

    Skills and their prior are blind to the agent's numbers at the places ``blind_own`` and to each item's at
    ``blind_item``: they are the same whatever stands there. With ``see_item: {place: (least, most)}`` they see only
    items whose numbers at these places are within these bounds, in the state's units. Critics see all, and
    a residual policy.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    own: int = Field(gt=0)
    item: int = Field(gt=0)
    blind_own: tuple[int, ...] = ()
    blind_item: tuple[int, ...] = ()
    see_item: dict[int, tuple[float, float]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _inside(self) -> Self:
        for name, places, size in (
            ("blind_own", self.blind_own, self.own),
            ("blind_item", self.blind_item, self.item),
            ("see_item", tuple(self.see_item), self.item),
        ):
            if not all(0 <= place < size for place in places):
                raise ValueError(f"{name} {list(places)}: places are from 0 to {size - 1}")
        return self

    def show_skills(self, normalized: Array, states: Array) -> None:
        """Take from normalised states (..., S), in place, what skills do not see of these states (..., S)."""
        for place in self.blind_own:
            normalized[..., place] = 0
        for place in self.blind_item:
            normalized[..., self.own + place :: self.item] *= 0  # an item that is not there, NaN, stays away
        for place, (least, most) in self.see_item.items():
            numbers = states[..., self.own + place :: self.item]
            normalized[..., self.own :: self.item][(numbers < least) | (numbers > most)] = torch.nan


Decoder = Literal["closed_loop", "open_loop", "identity"]
"""p(a|z, s), which sees the state at each step; p(a|z), as in the paper; or none: z is a chunk of H actions itself."""


PictureEncoding = Literal["conv", "resnet18"]
"""How a prior sees pictures: by three convolutions that are trained with it, or by a frozen ResNet-18."""


class SkillModelConfig(BaseModel):
    """What fixes a skill model's shape. It travels in the checkpoint's card."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state_dim: int = Field(gt=0)
    state_set: StateSet | None = None
    """Where there is one, the model works with states of any number of items."""
    blind: tuple[int, ...] = ()
    """Dimensions of flat states that skills do not see; policy and critics do."""
    prior_sees_all: bool = False
    """Whether the prior sees these dimensions all the same."""
    prior_images: bool = False
    """Whether the prior sees pictures instead of states."""
    picture_encoder: PictureEncoding = "conv"
    action_dim: int = Field(gt=0)
    horizon: int = Field(default=10, gt=0)
    latent_dim: int = Field(default=10, gt=0)
    decoder: Decoder = "closed_loop"
    action_std: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    """σ of p(a|z, s) = N(decoder's mean, σ²), of which skills that are run take samples; 0 takes the mean."""
    hidden: int = Field(default=128, gt=0)
    layers: int = Field(default=3, gt=0)
    prior_layers: int = Field(default=4, gt=0)

    @model_validator(mode="after")
    def _whole_items(self) -> Self:
        if self.state_set is not None and not self.fits(self.state_dim):
            raise ValueError(
                f"states of {self.state_dim} numbers are not {self.state_set.own} and a number of items of "
                f"{self.state_set.item}"
            )
        return self

    @model_validator(mode="after")
    def _flat(self) -> Self:
        if self.blind and self.state_set is not None:
            raise ValueError("blind: is for flat states; in a state_set it is blind_own and blind_item")
        if not all(0 <= place < self.state_dim for place in self.blind):
            raise ValueError(f"blind {list(self.blind)}: places are from 0 to {self.state_dim - 1}")
        return self

    @model_validator(mode="after")
    def _chunk(self) -> Self:
        if self.decoder == "identity" and self.latent_dim != self.horizon * self.action_dim:
            raise ValueError(
                f"latent_dim {self.latent_dim}: with the identity decoder z is a chunk of {self.horizon} actions of "
                f"{self.action_dim} numbers"
            )
        return self

    @property
    def unseen(self) -> list[int]:
        """The dimensions of states that skills do not see, whatever stands there; those of a `StateSet` too."""
        shape = self.state_set
        if shape is None:
            return list(self.blind)
        items = range(shape.own, self.state_dim, shape.item)
        return [*shape.blind_own, *(start + place for start in items for place in shape.blind_item)]

    def prior_encoder(self) -> tuple[nn.Module, int]:
        """A new network from what the prior sees to features (..., F), and F."""
        if not self.prior_images:
            return self.state_encoder()
        encoder = ResNet18Features() if self.picture_encoder == "resnet18" else PictureEncoder()
        return encoder, encoder.outputs

    def fits(self, state_dim: int) -> bool:
        """Whether the model works with states of ``state_dim`` numbers."""
        if self.state_set is None:
            return state_dim == self.state_dim
        items = state_dim - self.state_set.own
        return items > 0 and items % self.state_set.item == 0

    def state_encoder(self) -> tuple[nn.Module, int]:
        """A new network from normalised states (..., S) to features (..., F), and F: for flat states, themselves."""
        if self.state_set is None:
            return nn.Identity(), self.state_dim
        encoder = SetEncoder(self.state_set.own, self.state_set.item)
        return encoder, encoder.outputs


def gaussian(parameters: Tensor) -> Normal:
    """A diagonal Gaussian from a network's output, (..., 2·Z): means and bounded log standard deviations."""
    mean, log_std = parameters.chunk(2, dim=-1)
    return Normal(mean, log_std.clamp(LOG_STD_MIN, LOG_STD_MAX).exp(), validate_args=False)


class SkillPrior(nn.Module):
    """p_a(z|s): the Gaussian over skills that the demonstrations make likely in a state. Normalises states itself.

    ``mean`` and ``std`` are (S,); of a set, (own + item,): all items share theirs.

    With ``prior_images`` it sees two pictures around the agent instead, those before and after the step that led to
    the state; at the start of an episode, twice the same. It is frozen once it is trained, and what it says of the
    pictures is then all that anyone needs of them: observations of environments of skills, (S + 2 Z,), are the state
    and this mean and deviation, see `observe`. Without pictures they are the state, (S,).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: SkillModelConfig) -> None:
        super().__init__()
        self.state_set = config.state_set
        self.blind = list(config.blind)
        self.sees_all = config.prior_sees_all
        self.images = config.prior_images
        self.said = 2 * config.latent_dim if self.images else 0  # numbers in an observation after the state
        width = config.state_dim if self.state_set is None else self.state_set.own + self.state_set.item
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("std", torch.ones(width))
        self.features, inputs = config.prior_encoder()
        self.net = mlp(inputs, 2 * config.latent_dim, hidden=config.hidden, layers=config.prior_layers)

    @torch.no_grad()
    def set_scale(self, mean: Tensor, std: Tensor) -> None:
        """Normalise by means and deviations (S,) from now on; a set's items by one scale for all.

        Items are not centred: zero is where the agent is.
        """
        if self.state_set is not None:
            own = self.state_set.own
            means, variances = (x[own:].unflatten(0, (-1, self.state_set.item)) for x in (mean, std.square()))
            spread = (variances + means.square()).mean(0).sqrt()
            mean, std = torch.cat([mean[:own], torch.zeros_like(spread)]), torch.cat([std[:own], spread])
        self.mean.copy_(mean)
        self.std.copy_(std)

    def scale(self, state_dim: int) -> tuple[Tensor, Tensor]:
        """Mean and deviation (S,) of states of ``state_dim`` numbers."""
        if self.state_set is None:
            return self.mean, self.std
        own, item = self.state_set.own, self.state_set.item
        items = (state_dim - own) // item
        return (
            torch.cat([self.mean[:own], self.mean[own:].repeat(items)]),
            torch.cat([self.std[:own], self.std[own:].repeat(items)]),
        )

    def normalize(self, states: Tensor) -> Tensor:
        """States (..., S) in environment units to zero mean and unit variance over the data set."""
        mean, std = self.scale(states.shape[-1])
        return (states - mean) / std

    def seen(self, states: Tensor) -> Tensor:
        """What skills see of states (..., S), normalised; see `StateSet`."""
        normalized = self.normalize(states)
        self.show_skills(normalized, states)
        return normalized

    def show_skills(self, normalized: Array, states: Array) -> None:
        """Take from normalised states (..., S), in place, what skills do not see of these states (..., S)."""
        if self.state_set is not None:
            self.state_set.show_skills(normalized, states)
        if self.blind:
            normalized[..., self.blind] = 0

    @torch.no_grad()
    def pace(self, states: Tensor, steps: int) -> Tensor:
        """How far states (..., T, S) come in a step, in deviations, on average over what skills see; (..., T-1).

        ``steps`` lie between one of these states and the next. Items of a `StateSet` that skills do not see do not
        count.
        """
        return self.seen(states).diff(dim=-2).abs().nanmean(-1) / steps

    def forward(self, observed: Tensor) -> Normal:
        """States (B, S) in which skills start, or pictures (B, 2, 32, 32, 3) uint8, to a Gaussian over (B, Z)."""
        if not self.images:
            observed = self.normalize(observed) if self.sees_all else self.seen(observed)
        return gaussian(self.net(self.features(observed)))

    @torch.no_grad()
    def observe(self, states: Tensor, images: Tensor) -> Tensor:
        """States (B, S) and pictures (B, 2, 32, 32, 3) to what an environment of skills observes, (B, S + 2 Z)."""
        said = self(images)
        return torch.cat([states, said.mean, said.stddev], -1)

    def states(self, observations: Tensor) -> Tensor:
        """The states (..., S) in observations of an environment of skills."""
        return observations[..., : observations.shape[-1] - self.said]

    def at(self, observations: Tensor) -> Normal:
        """The Gaussian over (B, Z) where an environment of skills observes (B, S) or, with pictures, (B, S + 2 Z)."""
        if not self.images:
            return self(observations)
        mean, std = observations[..., -self.said :].chunk(2, -1)
        return Normal(mean, std, validate_args=False)


class SkillModel(nn.Module):
    """Encoder q(z|a, s), decoder p(a|z) or p(a|s, z), and skill prior p_a(z|s).

    With the identity decoder a skill is the chunk of actions itself: q(z|a) lies on the chunk, as narrow as Gaussians
    get here, and what is trained is the prior alone, by how likely it makes the chunks.

    The horizon is fixed, so the encoder and the open-loop decoder see the whole window at once instead of step by step:
    the same function class as the paper's LSTMs on windows of H steps, at a fraction of their cost on a CPU.
    """

    def __init__(self, config: SkillModelConfig) -> None:
        super().__init__()
        self.config = c = config
        self.closed_loop = c.decoder == "closed_loop"
        features, inputs = c.state_encoder() if self.closed_loop else (nn.Identity(), 0)
        self.features = features  # of the encoder and the decoder; the prior has its own
        if c.decoder != "identity":
            encoder_inputs = c.horizon * (c.action_dim + inputs)
            self.encoder = mlp(encoder_inputs, 2 * c.latent_dim, hidden=c.hidden, layers=c.layers)
            actions = c.action_dim if self.closed_loop else c.horizon * c.action_dim
            self.decoder = mlp(inputs + c.latent_dim, actions, hidden=c.hidden, layers=c.layers)
        self.prior = SkillPrior(config)

    def posterior(self, states: Tensor, actions: Tensor) -> Normal:
        """q(z | window): states (B, H, S) and actions (B, H, A) to a Gaussian over (B, Z)."""
        if self.config.decoder == "identity":
            chunk = actions.flatten(1)
            return gaussian(torch.cat([chunk, torch.full_like(chunk, LOG_STD_MIN)], -1))
        window = torch.cat([self._seen(states), actions], -1) if self.closed_loop else actions
        return gaussian(self.encoder(window.flatten(1)))

    def decode(self, z: Tensor, states: Tensor, hidden: Tensor | None = None) -> Tensor:
        """Mean actions (B, H, A) of skills z (B, Z); only the closed-loop decoder sees the states (B, H, S).

        It does not see those of windows that are ``hidden`` (B,): features of zero, the mean state, take their place.
        """
        if not self.closed_loop:
            plan = z if self.config.decoder == "identity" else self.decoder(z)
            return plan.unflatten(-1, (self.config.horizon, self.config.action_dim))
        repeated = z.unsqueeze(1).expand(-1, states.shape[1], -1)
        seen = self._seen(states)
        if hidden is not None:
            seen = seen.masked_fill(hidden[:, None, None], 0.0)
        return self.decoder(torch.cat([seen, repeated], -1))

    def _seen(self, states: Tensor) -> Tensor:
        return self.features(self.prior.seen(states))


def skill_loss(
    model: SkillModel,
    states: Tensor,
    actions: Tensor,
    *,
    beta: float,
    perturbed_states: Tensor | None = None,
    corrected_actions: Tensor | None = None,
    hidden: Tensor | None = None,
    images: Tensor | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The negative of equation (3) of the paper for a batch of windows, in means over elements, with its error doubled.

        loss = ‖a − p(a|z, s)‖² / (H·A)  +  β · KL(q(z|a) ‖ N(0, I)) / Z  +  KL(sg(q(z|a)) ‖ p_a(z|s_0)) / Z

    Args:
        states, actions: (B, H, S) and (B, H, A), as recorded. The encoder sees only these: perturbed ones would leak
            the correction into z.
        beta: Weight of the posterior's regularisation, for means over latent dimensions. A normal likelihood has half
            the squared error, so that this is twice the paper's β.
        perturbed_states, corrected_actions: What the decoder sees and has to answer instead, see
            `rllib_spirl.skills.correction`. The prior sees the perturbed first state.
        hidden: (B,) bool, the windows whose states the decoder does not see: z alone tells their recorded actions.
        images: (B, 2, 32, 32, 3) uint8, what a prior over pictures sees: as recorded, nothing perturbs them.

    Returns:
        The scalar loss and its parts, detached.
    """
    seen = states if perturbed_states is None else perturbed_states
    wanted = actions if corrected_actions is None else corrected_actions
    q = model.posterior(states, actions)
    if hidden is not None:  # nothing is corrected for what is not seen
        wanted = torch.where(hidden[:, None, None], actions, wanted)
    reconstruction = (model.decode(q.rsample(), seen, hidden) - wanted).square().mean()
    unit = Normal(torch.zeros_like(q.mean), torch.ones_like(q.stddev), validate_args=False)
    regularisation = kl_divergence(q, unit).mean()
    q_fixed = Normal(q.mean.detach(), q.stddev.detach(), validate_args=False)
    prior = kl_divergence(q_fixed, model.prior(seen[:, 0] if images is None else images)).mean()
    loss = reconstruction + beta * regularisation + prior
    parts = {"loss": loss, "reconstruction": reconstruction, "posterior_kl": regularisation, "prior_kl": prior}
    return loss, {name: part.detach() for name, part in parts.items()}
