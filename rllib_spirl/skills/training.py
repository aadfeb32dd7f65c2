"""The training loop of one skill pretraining worker: a stream of windows, one optimizer, no Ray."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from rllib_spirl.errors import UserError
from rllib_spirl.files import replacing
from rllib_spirl.nets import fast_matmul
from rllib_spirl.skills.dataset import SkillData, WindowStream
from rllib_spirl.skills.model import (
    Decoder,
    PictureEncoding,
    SkillModel,
    SkillModelConfig,
    StateSet,
    skill_loss,
)
from rllib_spirl.skills.resnet import ResNet18Features

PICTURES_AT_ONCE = 256  # windows whose pictures are looked at together in validation


class PretrainConfig(BaseModel):
    """Hyper-parameters of skill pretraining. The paper's are in ``tuned_examples/kitchen_paper.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    decoder: Decoder = "closed_loop"
    action_std: float = Field(
        default=0.0,
        ge=0,
        description="Noise on the actions, within [-1, 1], of skills that are run; it frees those that get stuck.",
    )
    horizon: int = Field(default=10, gt=0)
    latent_dim: int = Field(default=10, gt=0, description="With the identity decoder horizon × action numbers instead.")
    hidden: int = Field(default=128, gt=0)
    layers: int = Field(default=3, gt=0)
    prior_layers: int = Field(default=4, gt=0)
    state_set: StateSet | None = Field(default=None, description="States are sets: skills for any number of items.")
    blind: Literal["motion"] | tuple[int, ...] = Field(
        default="motion",
        description="Dimensions of flat states that skills do not see; by default velocities that tell the actions.",
    )
    prior_sees_all: bool = Field(default=False, description="Whether the prior sees these dimensions all the same.")
    prior: Literal["state", "images"] = Field(default="state", description="What the prior sees.")
    picture_encoder: PictureEncoding = Field(
        default="conv", description="How it sees pictures: trained with it, or frozen, with picture_weights."
    )
    picture_weights: str | None = Field(
        default=None, description="File with torchvision's weights of resnet18 (.pth or .safetensors), on every node."
    )

    updates: int = Field(default=10_000, gt=0, description="Gradient steps in all.")
    batch_size: int = Field(default=128, gt=0, description="Windows per gradient step, over all workers.")
    lr: float = Field(default=2e-3, gt=0, description="Peak of the one-cycle schedule.")
    weight_decay: float = Field(default=1e-3, ge=0)
    beta: float = Field(default=0.015, ge=0, description="Weight of KL(q‖N(0, I)), both in means over elements.")
    state_noise: float = Field(default=0.05, ge=0, description="Corrective noise, as a share of noise_like; 0 is off.")
    noise_like: Literal["states", "motions"] = Field(
        default="states", description="Independent in every dimension, as wide as states; or as what a step changes."
    )
    correction_gain: float = Field(default=1.0, ge=0, description="Share of a displacement undone within one step.")
    state_dropout: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="Share of windows whose states the decoder does not see: z tells the actions.",
    )
    std_floor: float = Field(default=0.05, gt=0, description="Least standard deviation used to normalise a state.")
    validation_fraction: float = Field(default=0.1, ge=0, lt=1, description="Share of episodes held out.")
    report_every: int = Field(default=1000, gt=0, description="Updates between validations and checkpoints.")
    seed: int = Field(default=0, ge=0)

    num_workers: int = Field(default=1, gt=0, description="Ray Train workers; one GPU each where there are GPUs.")
    use_gpu: bool | None = Field(default=None, description="None: where the cluster has a GPU for every worker.")
    threads_per_worker: int = Field(
        default=1, gt=0, description="2 are a third faster on idle cores, far slower on busy ones."
    )
    memory_gib: float = Field(default=1.0, gt=0, description="Frames a worker holds; data beyond that is streamed.")

    @model_validator(mode="after")
    def _chunk(self) -> Self:
        if self.decoder == "identity" and self.action_std > 0:
            raise ValueError("action_std: with the identity decoder z is the actions, and the policy has their noise")
        return self

    @model_validator(mode="after")
    def _sees(self) -> Self:
        if self.decoder != "closed_loop" and self.state_dropout > 0:
            raise ValueError("state_dropout: only the closed_loop decoder sees states")
        if self.prior == "images" and self.prior_sees_all:
            raise ValueError("prior_sees_all: a prior over pictures sees no states")
        return self

    @model_validator(mode="after")
    def _pretrained(self) -> Self:
        if (self.picture_encoder == "resnet18") != (self.picture_weights is not None):
            raise ValueError("picture_encoder: resnet18 needs picture_weights, and nothing else has a use for them")
        if self.picture_encoder != "conv" and self.prior != "images":
            raise ValueError("picture_encoder: only a prior that sees pictures has one; set prior: images")
        return self

    @property
    def corrects(self) -> float:
        """The share of a displacement undone within one step: none by a decoder that does not see it.

        Its actions would be the mean of corrections in all directions, which are clipped: less than was recorded.
        """
        return self.correction_gain if self.decoder == "closed_loop" else 0.0

    @field_validator("picture_weights")
    @classmethod
    def _absolute(cls, file: str | None) -> str | None:
        return file and str(Path(file).expanduser().absolute())  # workers have working directories of their own

    def load_picture_weights(self, encoder: nn.Module) -> None:
        """Give a prior's encoder of pictures its published weights, if it is one that has some.

        Raises:
            UserError: If there is no such file, or it holds something else.
        """
        if self.picture_weights is not None and isinstance(encoder, ResNet18Features):
            encoder.load(self.picture_weights)

    def check_picture_weights(self) -> None:
        """As `load_picture_weights` for an encoder that nobody keeps: what is wrong is found before anything begins."""
        if self.picture_weights is not None:
            self.load_picture_weights(ResNet18Features())

    def model_of(self, data: SkillData) -> SkillModelConfig:
        """The shape of skills of this data: with what they are blind to, which the data tells."""
        motion = () if self.state_set else data.statistics.giveaways
        return self.model(data.state_dim, data.action_dim, motion)

    def model(self, state_dim: int, action_dim: int, motion: tuple[int, ...] = ()) -> SkillModelConfig:
        """The shape of skills of states and actions of so many numbers, of which these of a state tell of motion."""
        blind = motion if self.blind == "motion" else self.blind
        names = {
            "prior_sees_all",
            "decoder",
            "action_std",
            "horizon",
            "latent_dim",
            "hidden",
            "layers",
            "prior_layers",
            "state_set",
        }
        shape = self.model_dump(include=names | {"picture_encoder"})
        if self.decoder == "identity":
            shape["latent_dim"] = self.horizon * action_dim
        images = self.prior == "images"
        return SkillModelConfig(
            state_dim=state_dim,
            action_dim=action_dim,
            blind=blind,
            prior_images=images,
            **shape,
        )


class SkillTrainer:
    """Model, optimizer, schedule and random numbers of a pretraining run; ``step()`` is one gradient step.

    Args:
        data: The scanned data set.
        config: Hyper-parameters.
        rank, world_size: Which share of the training windows is this worker's.
        device: Where the model and its batches are; None for the CPU.
        wrap: Wraps the model for distributed training (Ray Train's ``prepare_model``).
    """

    def __init__(
        self,
        data: SkillData,
        config: PretrainConfig,
        *,
        rank: int = 0,
        world_size: int = 1,
        device: torch.device | None = None,
        wrap: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        device = device or torch.device("cpu")
        torch.manual_seed(config.seed)
        self.config = config
        self.updates = 0
        # Each worker validates on its share, if there is one for each.
        self._validates_share = 1 < world_size <= len(data.validation_states)
        share = slice(rank, None, world_size) if self._validates_share else slice(None)
        self._validation = [
            torch.from_numpy(x)[share]
            for x in (data.validation_states, data.validation_actions, data.validation_images)
            if x is not None
        ]
        self._device = device

        std = np.maximum(data.statistics.std, config.std_floor)
        self.model = SkillModel(config.model_of(data)).to(device)
        config.load_picture_weights(self.model.prior.features)
        self.model.prior.set_scale(torch.from_numpy(data.statistics.mean), torch.from_numpy(std))
        # What skills do not see is not displaced either: nothing would show what the action is corrected for.
        blind = self.model.config.unseen
        correction = data.statistics.correction(std, blind)
        self._correction = torch.from_numpy(config.corrects * correction.T).float().to(device)
        noise = data.statistics.motion.T if config.noise_like == "motions" else np.diag(std)
        noise[:, blind] = 0
        self._noise_scale = config.state_noise * torch.from_numpy(noise).to(device)
        torch.manual_seed(config.seed + 1000 * rank)  # every worker begins with the same weights and draws other noise
        self._rank = rank
        loss_module = SkillLoss(self.model)
        self._trained = wrap(loss_module) if wrap else loss_module

        self.optimizer = torch.optim.AdamW(
            [p for p in self.model.parameters() if p.requires_grad],
            lr=config.lr,
            weight_decay=config.weight_decay,
            fused=True,
        )
        self._schedule = torch.optim.lr_scheduler.OneCycleLR(self.optimizer, config.lr, total_steps=config.updates)
        self._order = torch.Generator().manual_seed(config.seed + 1000 * rank)
        self._noise = torch.Generator(device).manual_seed(config.seed + 1000 * rank + 1)
        memory = config.memory_gib * 2**30
        self.stream = WindowStream(data, data.train[rank::world_size], config.horizon, memory, self._order, device)
        each, left = divmod(config.batch_size, world_size)
        self._batches = self.stream.batches(max(1, each + int(rank < left)))

    def step(self) -> dict[str, Tensor]:
        """One gradient step; returns the detached loss terms."""
        states, actions, *images = next(self._batches)
        with fast_matmul():
            others = {"beta": self.config.beta, "images": images[0] if images else None}
            loss, parts = self._trained(states, actions, **others, **self._perturbed(states, actions))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
        self.optimizer.step()
        self._schedule.step()
        self.updates += 1
        return parts

    def _perturbed(self, states: Tensor, actions: Tensor) -> dict[str, Tensor]:
        """Arguments of `skill_loss`."""
        given: dict[str, Tensor] = {}
        if self.config.state_noise > 0:
            noise = torch.randn(states.shape, generator=self._noise, device=states.device) @ self._noise_scale
            corrected = (actions + noise @ self._correction).clamp(-1, 1)
            given |= {"perturbed_states": states + noise, "corrected_actions": corrected}
        if self.config.state_dropout > 0:
            drawn = torch.rand(len(states), generator=self._noise, device=states.device)
            given["hidden"] = drawn < self.config.state_dropout
        return given

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Loss terms on the held-out windows, without corrective noise, and how far states come there in a step.

        All workers of a run call it together.
        """
        count = len(self._validation[0])
        if count == 0:
            return {}
        sums: dict[str, Tensor] = {}
        self.model.eval()
        # Where there are pictures, a part at a time: their features take a hundred times the memory of states.
        at_once = PICTURES_AT_ONCE if len(self._validation) > 2 else count
        for part in zip(*(x.split(at_once) for x in self._validation), strict=True):
            states, actions, *images = (x.to(self._device) for x in part)
            _, parts = skill_loss(
                self.model, states, actions, beta=self.config.beta, images=images[0] if images else None
            )
            if self.config.horizon > 1:
                ends = states[:, [0, -1]]
                parts["pace"] = self.model.prior.pace(ends, self.config.horizon - 1).mean()
            sums = {name: sums.get(name, 0) + len(states) * value for name, value in parts.items()}
        self.model.train()
        values = torch.stack(list(sums.values())) / count
        if self._validates_share:
            pooled = torch.cat([values * count, values.new_tensor([count])])
            torch.distributed.all_reduce(pooled)
            values = pooled[:-1] / pooled[-1]
        return {f"validation_{name}": value for name, value in zip(sums, values.tolist(), strict=True)}

    def save(self, path: Path) -> None:
        """Write everything a resumed run needs, as plain tensors."""
        tensors = {f"model.{name}": tensor.contiguous() for name, tensor in self.model.state_dict().items()}
        for index, state in self.optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in state.items()}
        tensors["rng.order"] = self._order.get_state()
        tensors["rng.noise"] = self._noise.get_state()
        tensors["rng.torch"] = torch.get_rng_state()
        if self._noise.device.type == "cuda":  # where z is drawn by the device's own generator
            tensors["rng.cuda"] = torch.cuda.get_rng_state(self._noise.device)
        with replacing(path) as file:
            save_file({name: tensor.cpu() for name, tensor in tensors.items()}, file, {"updates": str(self.updates)})

    def restore(self, path: Path, updates: int) -> None:
        """Continue from `save`'s file, written after ``updates`` gradient steps. The pass over the data starts anew."""
        tensors = load_file(path)
        groups: dict[str, Any] = {"model": {}, "optimizer": {}, "rng": {}}
        for name, tensor in tensors.items():
            group, _, rest = name.partition(".")
            groups[group][rest] = tensor
        self.model.load_state_dict(groups["model"])
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in groups["optimizer"].items():
            index, _, key = name.partition(".")
            moments.setdefault(int(index), {})[key] = tensor
        self.updates = updates
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self._schedule.load_state_dict({"last_epoch": updates - 1, "_step_count": updates + 1})
        self._schedule.step()
        random = groups["rng"]
        if self._rank == 0 and random["noise"].shape == self._noise.get_state().shape:
            self._order.set_state(random["order"])
            self._noise.set_state(random["noise"])
            torch.set_rng_state(random["torch"])
            if "cuda" in random:
                torch.cuda.set_rng_state(random["cuda"], self._noise.device)
        else:  # the file is rank 0's, and of one kind of device: others draw anew
            for offset, generator in enumerate((self._order, self._noise, torch.default_generator)):
                generator.manual_seed(hash((self.config.seed, self._rank, updates, offset)) % 2**63)


def trained_model(path: Path, config: SkillModelConfig) -> SkillModel:
    """The model of this configuration with the weights in a file of `SkillTrainer.save`.

    Raises:
        UserError: When the training has diverged.
    """
    weights = {n.removeprefix("model."): t for n, t in load_file(path).items() if n.startswith("model.")}
    if not all(tensor.isfinite().all() for tensor in weights.values()):
        raise UserError("Skill pretraining diverged: its weights are not finite. Choose a smaller lr.")
    model = SkillModel(config)
    model.load_state_dict(weights)
    return model


class SkillLoss(nn.Module):
    """`skill_loss` as a module, because distributed data parallelism hooks into a module's forward pass."""

    def __init__(self, model: SkillModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, states: Tensor, actions: Tensor, **others: Any) -> tuple[Tensor, dict[str, Tensor]]:
        return skill_loss(self.model, states, actions, **others)
