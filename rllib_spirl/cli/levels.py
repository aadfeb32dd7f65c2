"""The levels of an experiment file, for a key that stands at the wrong one."""

from collections.abc import Collection

from rllib_spirl.yaml_text import did_you_mean


def hint(key: str, here: str, run: str) -> str:
    """Where an unknown key is known, as ``"; did you mean 'skills.pretrain.updates'?"``; else the nearest one here.

    Args:
        key: The key.
        here: The level it was found at: "" for the experiment's own, "config", "skills" or "skills.pretrain".
        run: The experiment's algorithm, which decides what ``config`` takes.
    """
    levels = _levels(run)
    places = [f"'{level}.{key}'" if level else f"'{key}' beside 'config'" for level in levels if key in levels[level]]
    return f"; did you mean {' or '.join(places)}?" if places else did_you_mean(key, list(levels.get(here, ())))


def _levels(run: str) -> dict[str, Collection[str]]:
    from rllib_spirl.cli.algorithms import config_keys
    from rllib_spirl.cli.experiment import KEYS
    from rllib_spirl.cli.prepare import SkillsSection
    from rllib_spirl.cli.tasks import SECTION
    from rllib_spirl.skills.training import PretrainConfig

    config = config_keys(run)
    levels: dict[str, Collection[str]] = {"": KEYS, "config": config}
    if "skill_checkpoint" in config:
        levels |= {"skills": SkillsSection.model_fields, "skills.pretrain": PretrainConfig.model_fields}
    if "training_tasks" in config:
        levels["tasks"] = tuple(SECTION)
    return levels
