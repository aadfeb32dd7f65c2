"""An experiment's ``tasks:`` section: which tasks are for training and which for test."""

from pathlib import Path
from typing import Any

from rllib_spirl.cli.experiment import Experiment
from rllib_spirl.errors import UserError
from rllib_spirl.locations import find, nowhere
from rllib_spirl.yaml_text import did_you_mean, parse_file

SECTION = {"training": "training_tasks", "test": "test_tasks"}
"""The section's keys, and the settings of the algorithm that they are."""


def settings(experiment: Experiment) -> dict[str, list[Any]]:
    """The section as settings of the algorithm. Whether there are such tasks, the environment tells.

    Raises:
        UserError: The section, or the file that it names, is not what is expected.
    """
    section, where = experiment.tasks, f"{experiment.where}: tasks"
    if isinstance(section, str):
        where = f"{where}: {section}"
        section = _read(section, experiment)
    if not isinstance(section, dict):
        raise UserError(f"{where}: expected a mapping with 'training' and 'test'")
    for key, value in section.items():
        if key not in SECTION:
            raise UserError(f"{where}: unknown key '{key}'{did_you_mean(str(key), list(SECTION))}")
        if not isinstance(value, list):
            raise UserError(f"{where}: '{key}' must be a list of tasks, not {value!r}")
    if not section.get("training"):
        raise UserError(f"{where}: 'training' is missing (the tasks to learn from)")
    return {SECTION[key]: value for key, value in section.items()}


def _read(name: str, experiment: Experiment) -> Any:
    if isinstance(file := find(name, experiment.places), Path):
        return parse_file(file)
    raise UserError(f"{experiment.where}: tasks: {nowhere(name, experiment.places)}")
