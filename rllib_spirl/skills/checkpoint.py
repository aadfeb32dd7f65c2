"""The skill checkpoint that pretraining writes and the online part reads: ``skill.safetensors`` and ``skill.json``."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save

from rllib_spirl.errors import UserError, problem_in
from rllib_spirl.files import replacing, writing
from rllib_spirl.locations import location
from rllib_spirl.skills.model import SkillModel, SkillModelConfig

WEIGHTS = "skill.safetensors"
CARD = "skill.json"
FORMAT = 1


class SkillCard(BaseModel):
    """What a person or a program needs to know of a skill model without loading its weights."""

    model_config = ConfigDict(extra="forbid")

    format: int = FORMAT
    package_version: str = version("rllib_spirl")
    model: SkillModelConfig
    data: str = ""
    """Fingerprint of the data set the skills come from."""
    training: dict[str, Any] = {}
    """The pretraining configuration."""
    metrics: dict[str, float] = {}
    """Final training and validation losses, and what skills sampled from the prior achieve."""


PRIOR_METRICS = ("prior_mean", "prior_sampled", "prior_pace", "prior_episodes")
"""Of metrics that tell what skills of the prior do in a task; the names go on with the task."""


_by_name = ContextVar("_by_name", default=False)


@contextmanager
def pickled_by_name() -> Iterator[None]:
    """Within, `SkillFiles` are pickled as their name alone.

    For RLlib's checkpoints: they keep the arguments of every part of an algorithm, and each would have the files again.
    """
    token = _by_name.set(True)
    try:
        yield
    finally:
        _by_name.reset(token)


@dataclass(frozen=True)
class SkillFiles:
    """A skill checkpoint in memory, which goes to other processes and machines as it is."""

    name: str
    """The folder or URI it was read from."""
    weights: bytes = field(repr=False)
    card: bytes = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def __deepcopy__(self, memo: dict[int, Any]) -> "SkillFiles":
        return self

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return (str, (self.name,)) if _by_name.get() else (SkillFiles, (self.name, self.weights, self.card))

    def write(self, directory: Path) -> None:
        """Write the checkpoint to a folder. The weights appear under their name whole or not at all, the card last.

        Raises:
            UserError: If it cannot be written.
        """
        with writing(f"Cannot write the skill checkpoint to {directory}", "make room, or choose a writable folder"):
            directory.mkdir(parents=True, exist_ok=True)
            with replacing(directory / CARD) as card, replacing(directory / WEIGHTS) as weights:
                weights.write_bytes(self.weights)
                card.write_bytes(self.card)


# What skills are read from: a folder, a URI (`rllib_spirl.locations`), or their files.
SkillSource = str | Path | SkillFiles


def read_skills(source: SkillSource) -> SkillFiles:
    """The files of a skill checkpoint.

    Raises:
        UserError: If one is missing or cannot be read.
    """
    if isinstance(source, SkillFiles):
        return source
    name = str(source)
    return SkillFiles(name, card=_read(name, CARD), weights=_read(name, WEIGHTS))


def save_skills(directory: str | Path, model: SkillModel, card: SkillCard) -> Path:
    """Write a skill checkpoint, see `SkillFiles.write`."""
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    SkillFiles(str(directory), save(weights), f"{card.model_dump_json(indent=2)}\n".encode()).write(Path(directory))
    return Path(directory)


def _read(directory: str, name: str) -> bytes:
    file = location(directory) / name
    try:
        return file.read_bytes()
    except OSError as error:
        reason = "there is none" if isinstance(error, FileNotFoundError) else str(error)
        raise UserError(
            f"Cannot read the skill checkpoint file {file}: {reason}. "
            "Make one with `spirl pretrain`, or name the folder that holds skill.json."
        ) from None


def load_card(source: SkillSource) -> SkillCard:
    """Read a checkpoint's card.

    Raises:
        UserError: If it is missing, not JSON, or not a card this version understands.
    """
    file = f"{source}/{CARD}"
    try:
        card = json.loads(source.card if isinstance(source, SkillFiles) else _read(str(source), CARD))
        if isinstance(card, dict) and card.get("format") != FORMAT:
            raise UserError(
                f"{file} has format {card.get('format')!r}, this version reads {FORMAT}. Pretrain the skills again."
            )
        return SkillCard.model_validate(card)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON ({error}). Pretrain the skills again.") from None
    except ValidationError as error:
        problem = problem_in(error)
        where = problem.key or "the card"
        raise UserError(f"{file}: {where}: {problem.message}. Pretrain the skills again.") from None


def load_skills(source: SkillSource) -> tuple[SkillModel, SkillCard]:
    """Read a skill model, in evaluation mode and without gradients.

    Raises:
        UserError: If a file is missing or corrupt, or the weights do not fit the card.
    """
    files = read_skills(source)
    card = load_card(files)
    file = f"{files}/{WEIGHTS}"
    try:
        weights = load(files.weights)
    except SafetensorError as error:
        raise UserError(f"{file} is corrupt ({error}). Restore it from a copy or pretrain again.") from None
    with torch.device("meta"):  # no initial weights, so that loading leaves the random numbers alone
        model = SkillModel(card.model)
    try:
        model.load_state_dict(weights, assign=True)
    except RuntimeError as error:
        detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
        raise UserError(f"{file} does not fit its card: {detail} Pretrain the skills again.") from None
    if not all(torch.isfinite(tensor).all() for tensor in weights.values()):
        raise UserError(f"{file} holds NaN or infinite weights. Restore it from a copy or pretrain again.")
    return model.eval().requires_grad_(False), card
