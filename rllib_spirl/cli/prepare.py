"""What an experiment's ``skills:`` section asks for: made when it is missing, reused when it is there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from rllib_spirl.data import DataSet
from rllib_spirl.data.recipe import build
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.prior import report_prior
from rllib_spirl.locations import Location, Remote, location
from rllib_spirl.locking import sole
from rllib_spirl.skills.checkpoint import CARD, load_card
from rllib_spirl.skills.pretrain import DRIVER_LOCK, pretrain
from rllib_spirl.skills.training import PretrainConfig


class SkillsSection(BaseModel):
    """The ``skills:`` section of an experiment."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = None
    """A recipe (``.yaml``), a data set directory, or a data set's URI."""
    checkpoint: str | None = None
    """Skills to use; or, where there are none yet, the folder in which to keep the new ones."""
    pretrain: PretrainConfig = PretrainConfig()
    rollouts: int = 10
    """Episodes run with skills from the prior after pretraining, to tell what the skills alone achieve."""


@dataclass(frozen=True)
class PreparedSkills:
    """Skills ready for use, and the data set they come from where that is known."""

    checkpoint: str
    data: DataSet | None


def prepare_skills(
    skills: dict[str, Any],
    *,
    base: Path,
    env: str | None = None,
    env_config: dict[str, Any] | None = None,
    show_progress: bool = True,
) -> PreparedSkills:
    """Build the data, train the skills, and report what the prior does alone, each only if it is missing.

    Args:
        skills: The section as read from YAML, see `SkillsSection`.
        base: Where relative paths are looked for if not in the working directory: the YAML file's repository.
        env, env_config: The experiment's environment, for the prior's rollouts.
        show_progress: Whether to show progress bars.

    Raises:
        UserError: If the section is invalid or a step fails.
    """
    try:
        section = SkillsSection.model_validate(skills)
    except ValidationError as error:
        problem = error.errors()[0]
        where = ".".join(["skills", *map(str, problem["loc"])])
        raise UserError(f"{where}: {problem['msg']} (got {problem['input']!r}).") from None

    data = None if section.data is None else _open(_resolve(section.data, base), show_progress)
    if section.checkpoint is not None and ("://" in section.checkpoint or data is None):
        load_card(section.checkpoint)
        return PreparedSkills(section.checkpoint, data)
    if data is None:
        raise UserError("skills: needs `data` (a recipe or a data set), or `checkpoint` (existing skills), or both.")

    folder = pretrain(data, section.pretrain, output=section.checkpoint, show_progress=show_progress)
    if env is not None and section.rollouts > 0 and not _tried(folder):
        with sole(folder / DRIVER_LOCK, "trying the prior"):
            if not _tried(folder):  # by the one waited for
                report_prior(folder / CARD, env, env_config or {}, section.rollouts, show_progress=show_progress)
    return PreparedSkills(str(folder), data)


def _open(data: Location, show_progress: bool) -> DataSet:
    """The data set there, or the one that the recipe there builds."""
    if data.suffix not in (".yaml", ".yml"):
        return DataSet.open(data)
    if isinstance(data, Remote):
        raise UserError(f"skills.data: {data}: a recipe is a local file; only data sets are read from URIs.")
    return build(data, show_progress=show_progress)


def _tried(folder: Path) -> bool:
    return "prior_mean" in load_card(folder).metrics


def _resolve(path: str, base: Path) -> Location:
    """A path or URI as given, else below ``base``.

    Raises:
        UserError: If it is in neither place.
    """
    for candidate in (location(path), base / path):
        if isinstance(candidate, Remote) or candidate.exists():
            return candidate
    raise UserError(f"skills.data: {path} does not exist, neither here nor in {base}.")
