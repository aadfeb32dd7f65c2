"""What an experiment's ``skills:`` section asks for: made when it is missing, reused when it is there."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium as gym
from gymnasium.spaces import flatdim
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rllib_spirl import examples
from rllib_spirl.cli.levels import hint
from rllib_spirl.data import DataSet
from rllib_spirl.data import columns as c
from rllib_spirl.data.recipe import build, built, place_of, read_recipe
from rllib_spirl.data.recording import state_part
from rllib_spirl.demos.recording import RecordedRecipe
from rllib_spirl.envs.skill_env import check_dimensions, check_skills, state_space, try_env
from rllib_spirl.errors import UserError, at, problem_in
from rllib_spirl.evaluation.prior import prior_episodes, report_prior
from rllib_spirl.files import check_writable
from rllib_spirl.locations import Location, Remote, absolute, find, location, nowhere
from rllib_spirl.locking import sole
from rllib_spirl.paths import home
from rllib_spirl.skills.checkpoint import CARD, load_card, load_skills
from rllib_spirl.skills.chunks import chunk_config, save_chunks
from rllib_spirl.skills.model import SkillModelConfig
from rllib_spirl.skills.pretrain import DRIVER_LOCK, check_workers, pretrain, skills_folder, skills_key, trained
from rllib_spirl.skills.training import PretrainConfig


class SkillsSection(BaseModel):
    """The ``skills:`` section of an experiment."""

    model_config = ConfigDict(extra="forbid")

    data: str | None = None
    """A recipe (``.yaml``), a data set directory, or a data set's URI."""
    checkpoint: str | None = None
    """Skills to use; or, where there are none yet, the folder in which to keep the new ones."""
    chunk: int | None = Field(default=None, gt=0)
    """In place of skills, chunks of so many of the environment's own actions, see `rllib_spirl.skills.chunks`."""
    pretrain: PretrainConfig = PretrainConfig()
    rollouts: int = Field(default=10, ge=0)
    """Episodes run with skills from the prior after pretraining, to tell what the skills alone achieve."""

    @property
    def given(self) -> bool:
        """Whether ``checkpoint`` names skills that are there: nothing is trained."""
        return self.checkpoint is not None and ("://" in self.checkpoint or self.data is None)


@dataclass(frozen=True)
class PreparedSkills:
    """Skills ready for use, and the data set they come from where that is known."""

    checkpoint: str
    data: DataSet | None


class Frames(NamedTuple):
    """What is known of frames before they are read, or even recorded."""

    source: str
    state_dim: int
    action_dim: int
    images: bool
    data: DataSet | None = None
    """What they are in, if they are there."""


def read_section(skills: Mapping[str, Any], run: str = "SPiRL") -> SkillsSection:
    """The section as read from YAML, checked.

    Args:
        skills: The mapping.
        run: The experiment's algorithm, for a hint where a key belongs.

    Raises:
        UserError: An unknown key, an impossible value, or a file that does not hold what it should, in one line.
    """
    try:
        section = SkillsSection.model_validate(skills)
    except ValidationError as error:
        problem = problem_in(error)
        *levels, key = ["skills", *problem.levels]
        here = ".".join(levels)
        if problem.kind == "extra_forbidden":
            raise UserError(f"{here}: unknown key '{key}'{hint(key, here, run)}") from None
        raise UserError(f"{here}.{key}: {problem.message} (got {problem.given!r})") from None
    if section.chunk is not None and section.checkpoint is not None:
        raise UserError("skills: `chunk` makes its own skills: leave `checkpoint` out.")
    unused = next((name for name in ("pretrain", "rollouts") if name in section.model_fields_set), None)
    if unused is not None and section.chunk is not None:
        raise UserError(f"skills: with `chunk` there are no skills to train: leave `{unused}` out.")
    if not section.given:
        with at("skills.pretrain.picture_weights"):
            section.pretrain.check_picture_weights()
    if section.data is None and section.checkpoint is None and section.chunk is None:
        raise UserError("skills: needs `data` (a recipe or a data set), or `checkpoint` (existing skills), or both.")
    return section


def look(
    section: SkillsSection, *, places: Sequence[Path], env: gym.Env | None
) -> tuple[Frames | None, SkillModelConfig | None]:
    """Check what can be known of a section before anything is recorded, imported or trained.

    Skills that are there are loaded. Data is held against the environment where it is there, or where the recipe of
    scripted demonstrations tells what it will be.

    Args:
        section: From `read_section`.
        places: As for `prepare_skills`.
        env: The environment that the skills are for, where there is one.

    Returns:
        What is known of the data, and of the skills; None for what is still to be imported.

    Raises:
        UserError: Data or skills are missing, damaged, or of another environment.
    """
    data = None if section.data is None else _resolve(section.data, places)
    if section.chunk is not None:
        frames = frames_of(_existing(data)) if data else None
        return frames, None if env is None else _chunks(env, section.chunk)
    if section.given:
        with at("skills.checkpoint"):
            model = check_checkpoint(absolute(str(section.checkpoint), places), env)
        return (frames_of(_existing(data)) if data else None), model
    assert data is not None
    existing = _existing(data)
    if isinstance(existing, DataSet) and existing.ours.get("fingerprint"):  # else it takes reading all of the data
        key = skills_key(existing, section.pretrain)
        folder = skills_folder(key, section.checkpoint)
        if trained(folder, key):
            check_checkpoint(str(folder), env)
    elif section.checkpoint is not None and (location(section.checkpoint) / CARD).exists():
        with at("skills.checkpoint"):
            check_checkpoint(section.checkpoint, env)
    elif section.checkpoint is not None:
        with at("skills.checkpoint"):
            check_writable(skills_folder("", section.checkpoint), "name another folder")
    frames = frames_of(existing)
    return frames, None if frames is None else check_frames(frames, section.pretrain, env)


def check_checkpoint(checkpoint: str, env: gym.Env | None) -> SkillModelConfig:
    """Load skills and hold them against an environment. Raises UserError when they are damaged, or of another one."""
    model = load_skills(checkpoint)[1].model
    if env is not None:
        check_skills(env, checkpoint, model)
    return model


def check_frames(frames: Frames, config: PretrainConfig, env: gym.Env | None) -> SkillModelConfig:
    """The skill model that data asks for, held against an environment. Raises UserError if they do not go together."""
    try:
        model = config.model(frames.state_dim, frames.action_dim)
    except ValidationError as error:
        problem = problem_in(error).message
        key = "blind" if problem.startswith("blind") else "state_set"
        raise UserError(f"skills.pretrain.{key}: {frames.source}: {problem}") from None
    if config.prior == "images" and not frames.images:
        raise UserError(f"skills.pretrain.prior: {frames.source} has no pictures; set prior: state, or record some")
    if env is not None:
        remedy = "Set skills.data to data of this environment, or env and env_config to the data's."
        check_dimensions(env, model, f"the data of {frames.source} has", remedy)
    return model


def prepare_skills(
    skills: Mapping[str, Any],
    *,
    places: Sequence[Path],
    env: str | None = None,
    env_config: dict[str, Any] | None = None,
) -> PreparedSkills:
    """Build the data, train the skills, and report what the prior does alone, each only if it is missing.

    Args:
        skills: The section as read from YAML, see `SkillsSection`.
        places: Folders in which relative paths are looked for, in this order; then among the packaged recipes.
        env, env_config: The experiment's environment, for the prior's rollouts.

    Raises:
        UserError: If the section is invalid or a step fails.
    """
    section = read_section(skills)
    with at("env_config" if env_config else "env"):
        made = None if env is None else try_env(env, env_config or {})
    try:
        look(section, places=places, env=made)
        trains = None if section.given or section.chunk is not None else section.pretrain
        data = None if section.data is None else _open(_resolve(section.data, places), trains)
        if section.chunk is not None:
            if made is None:
                raise UserError("skills.chunk: needs an environment, whose actions they are")
            shape = _chunks(made, section.chunk)
            folder = home() / "skills" / f"chunk-{shape.horizon}-{shape.state_dim}-{shape.action_dim}"
            return PreparedSkills(str(save_chunks(folder, shape)), data)
        if section.given:
            return PreparedSkills(absolute(str(section.checkpoint), places), data)
        assert data is not None
        if (frames := frames_of(data)) is not None:  # of an import that is only now known
            check_frames(frames, section.pretrain, made)
    finally:
        if made is not None:
            made.close()

    folder = pretrain(data, section.pretrain, output=section.checkpoint)
    if env is None or section.rollouts == 0:
        return PreparedSkills(str(folder), data)
    task = env, env_config or {}
    if _tried(folder, *task) < section.rollouts and os.access(folder, os.W_OK):
        with sole(folder / DRIVER_LOCK, "trying the prior"):
            if _tried(folder, *task) < section.rollouts:  # by the one waited for
                report_prior(folder / CARD, *task, section.rollouts)
    return PreparedSkills(str(folder), data)


def _chunks(env: gym.Env, length: int) -> SkillModelConfig:
    shape = chunk_config(flatdim(state_space(env, images=False)), flatdim(env.action_space), length)
    check_dimensions(env, shape, "the chunks have", "")
    return shape


def _existing(data: Location) -> DataSet | RecordedRecipe | None:
    """The data set there, or the one that the recipe there has built; else the recipe, if it needs no import."""
    if data.suffix not in (".yaml", ".yml"):
        return DataSet.open(data)
    if isinstance(data, Remote):
        raise UserError(f"skills.data: {data}: a recipe is a local file; only data sets are read from URIs.")
    recipe = read_recipe(data)
    found = built(recipe, place_of(recipe, data))
    return found or (recipe if isinstance(recipe, RecordedRecipe) else None)


def frames_of(data: DataSet | RecordedRecipe | None) -> Frames | None:
    """What is known of the frames of a data set, or of those that a recipe will record."""
    if data is None:
        return None
    if isinstance(data, DataSet):
        return Frames(str(data), data.state_dim, data.action_dim, c.IMAGE in data.columns, data)
    env = try_env(data.env, data.env_config())
    images = state_part(env.observation_space) is not None
    try:
        state_dim, action_dim = flatdim(state_space(env, images=images)), flatdim(env.action_space)
    finally:
        env.close()
    return Frames(f"the {data.subject}'s demonstrations", state_dim, action_dim, images)


def _open(data: Location, trains: PretrainConfig | None) -> DataSet:
    """The data set there, or the one that the recipe there builds, of which skills are then trained, if they are."""
    found = _existing(data)
    if isinstance(found, DataSet):
        return found
    if trains is not None:
        check_workers(trains)  # before what takes minutes
    return build(Path(str(data)))


def _tried(folder: Path, env: str, env_config: dict[str, Any]) -> float:
    return prior_episodes(load_card(folder).metrics, env, env_config)


def _resolve(path: str, places: Sequence[Path]) -> Location:
    """A URI as given, or a path in the first of these places where it is, else a packaged recipe.

    Raises:
        UserError: If it is in none of these places.
    """
    found = find(path, (*places, examples.root()))
    if found is None:
        raise UserError(f"skills.data: {nowhere(path, places)}")
    return found
