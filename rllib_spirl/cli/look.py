"""A look before a run: what can be known of an experiment before anything is recorded, trained or written."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import closing
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.spaces import Box, flatdim

from rllib_spirl.algorithm.offline import check_widths
from rllib_spirl.cli import algorithms
from rllib_spirl.cli.experiment import Experiment
from rllib_spirl.cli.metrics import check_metrics
from rllib_spirl.cli.prepare import Frames, SkillsSection, check_checkpoint, frames_of, look, read_section
from rllib_spirl.data import DataSet
from rllib_spirl.data.episode import labelled
from rllib_spirl.envs.rollout import checked_measures
from rllib_spirl.envs.skill_env import ActionBounds, name_of, state_space, try_env
from rllib_spirl.envs.tasks import check_split, flat_boxes
from rllib_spirl.errors import UserError, at
from rllib_spirl.evaluation.settings import in_evaluation
from rllib_spirl.progress import tell
from rllib_spirl.skills.model import SkillModelConfig

_TOLERATED = 0.1  # the range of the data's actions, of which an import tells, may be a little smaller than the space's
_SETTINGS = (
    "env",
    "env_config",
    "skill_checkpoint",
    "offline_data",
    "offline_fraction",
    "training_tasks",
    "test_tasks",
)


def metrics(experiment: Experiment, space: Mapping[str, Any]) -> list[str]:
    """Check the names of metrics, see `check_metrics`, and return the warnings."""

    def measures() -> Collection[str]:
        """What the environment measures, as far as the start of an episode tells."""
        for settings in _variants(space):
            with closing(_make(experiment, settings)) as env:
                return tuple(checked_measures(env.reset()[1]))
        return ()

    return check_metrics(experiment, algorithms.algorithm_class(experiment), measures)


def surroundings(experiment: Experiment, space: Mapping[str, Any]) -> None:
    """Make the environments of an experiment, and hold them against its data and its skills.

    Raises:
        UserError: An environment cannot be made as ``env_config`` says; data or skills are missing, damaged or of
            another environment; or the ``skills`` section is wrong.
    """
    section = None
    if experiment.skills is not None:
        if not algorithms.uses_skills(experiment):
            raise UserError(
                f"{experiment.where}: 'skills' is for algorithms that use skills (SPiRL), not {experiment.run}"
            )
        with at(experiment.where):
            section = read_section(experiment.skills, experiment.run)
    for settings in _variants(space):
        with closing(_make(experiment, settings)) as env, at(experiment.where):
            if algorithms.uses_skills(experiment):
                _hold_against(env, settings, section, experiment)
            elif algorithms.uses_tasks(experiment):
                flat_boxes(f"{experiment.run} in {settings['env']}", env.observation_space, env.action_space)
            if algorithms.uses_tasks(experiment):
                with at("tasks"):
                    check_split(env, settings.get("training_tasks") or (), settings.get("test_tasks") or ())


def _make(experiment: Experiment, settings: Mapping[str, Any]) -> gym.Env:
    with at(f"{experiment.where}: {'config.env_config' if settings.get('env_config') else 'env'}"):
        return try_env(settings["env"], settings.get("env_config") or {})


def _variants(space: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The different settings of what surrounds an agent in a search space, those of its evaluation among them.

    None where an algorithm learns from recorded data and has no environment.
    """
    seen: list[dict[str, Any]] = []
    chosen = {key: space[key] for key in (*_SETTINGS, "evaluation_config") if key in space}
    for found in algorithms.variants(chosen):
        for everywhere in (found, in_evaluation(found)):
            settings = {key: everywhere[key] for key in _SETTINGS if key in everywhere}
            if settings.get("env") is not None and settings not in seen:
                seen.append(settings)
                yield settings


def _hold_against(
    env: gym.Env, settings: Mapping[str, Any], section: SkillsSection | None, experiment: Experiment
) -> None:
    frames: Frames | None = None
    model: SkillModelConfig | None = None
    if section is not None:
        frames, model = look(section, places=experiment.places, env=env)
    elif settings.get("skill_checkpoint"):
        with at("config.skill_checkpoint"):
            model = check_checkpoint(str(settings["skill_checkpoint"]), env)
    if settings.get("offline_data"):
        with at("config.offline_data"):
            frames = frames_of(DataSet.open(str(settings["offline_data"])))
    fraction = settings.get("offline_fraction", algorithms.default(experiment, "offline_fraction"))
    replays = fraction != 0 and (settings.get("offline_data") or (section is not None and section.data))
    if replays and not getattr(env.unwrapped, "replays_demonstrations", True):
        raise UserError(
            f"config.offline_fraction: {settings['env']} cannot label demonstrations for its task; set it to 0"
        )
    if replays and algorithms.uses_tasks(experiment) and not hasattr(env.unwrapped, "relabel"):
        raise UserError(
            f"config.offline_fraction: {settings['env']} has no relabel(states), so that demonstrations have the "
            "rewards of one task only; set it to 0"
        )
    if frames is not None and model is not None and fraction != 0:
        states = flatdim(state_space(env, images=model.prior_images))
        with at("config.offline_data" if settings.get("offline_data") else "skills.data"):
            check_widths(frames.source, frames.state_dim, frames.action_dim, model, states)
            if replays and frames.data is not None and frames.data.num_frames:
                _label_first(env, frames.data)
    if frames is not None and frames.data is not None and (warning := _other_bounds(env, frames.data)):
        tell(f"warning: {experiment.where}: {warning}")


def _label_first(env: gym.Env, data: DataSet) -> None:
    """Have the environment label the first recorded episode, which it has to do with all before the first update."""
    relabel = getattr(env.unwrapped, "relabel", None)
    if relabel is not None:
        labelled(relabel, next(data.episodes()).states)


def _other_bounds(env: gym.Env, data: DataSet) -> str:
    """What is to be said where actions of [-1, 1] stand for others in the environment than in the data, or ""."""
    facts, space = data.ours.get("source"), env.action_space
    if not isinstance(facts, dict) or not isinstance(space, Box):
        return ""
    bounds = ActionBounds(env)
    for name, end in (("action_low", -1), ("action_high", 1)):
        executed = bounds(np.full(space.shape, end, np.float32))
        told = np.asarray(facts.get(name, executed), float)
        if told.shape != executed.shape:
            continue
        far = np.abs(executed - told) > _TOLERATED * np.abs(told)
        if far.any():
            place = int(far.argmax())
            return (
                f"action[{place}] = {end} was {told[place]:g} in what made {data}, and will be {executed[place]:g} in "
                f"{name_of(env)}"
            )
    return ""
