"""The skill checkpoint, in which the two halves meet: ``skill.safetensors`` and its card ``skill.json``."""

import json
import os
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load, save_file

from rllib_spirl.errors import UserError
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


def save_skills(directory: str | Path, model: SkillModel, card: SkillCard) -> Path:
    """Write a skill checkpoint. The weights appear under their name whole or not at all, the card last."""
    path = Path(directory)
    try:
        path.mkdir(parents=True, exist_ok=True)
        weights = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
        with tempfile.TemporaryDirectory(dir=path, prefix=".writing-") as staging:
            save_file(weights, Path(staging, WEIGHTS))
            Path(staging, CARD).write_text(card.model_dump_json(indent=2) + "\n")
            os.replace(Path(staging, WEIGHTS), path / WEIGHTS)
            os.replace(Path(staging, CARD), path / CARD)
    except (OSError, SafetensorError) as error:  # safetensors' own for a full disk
        raise UserError(
            f"Cannot write the skill checkpoint to {path}: {error}. Make room, or choose a writable folder."
        ) from None
    return path


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


def load_card(directory: str | Path) -> SkillCard:
    """Read a checkpoint's card. ``directory`` is a folder or a URI, see `rllib_spirl.locations`.

    Raises:
        UserError: If it is missing, not JSON, or not a card this version understands.
    """
    file = f"{directory}/{CARD}"
    try:
        card = json.loads(_read(str(directory), CARD))
        if isinstance(card, dict) and card.get("format") != FORMAT:
            raise UserError(
                f"{file} has format {card.get('format')!r}, this version reads {FORMAT}. Pretrain the skills again."
            )
        return SkillCard.model_validate(card)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{file} is not JSON ({error}). Pretrain the skills again.") from None
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(map(str, problem["loc"])) or "the card"
        raise UserError(f"{file}: {where}: {problem['msg']}. Pretrain the skills again.") from None


def load_skills(directory: str | Path) -> tuple[SkillModel, SkillCard]:
    """Read a skill model, in evaluation mode and without gradients, from a folder or a URI (`rllib_spirl.locations`).

    Raises:
        UserError: If a file is missing or corrupt, or the weights do not fit the card.
    """
    card = load_card(directory)
    file = f"{directory}/{WEIGHTS}"
    try:
        weights = load(_read(str(directory), WEIGHTS))
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
