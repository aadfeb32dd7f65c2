"""Metrics by name: how one is found in a result, and whether there will be one of a name."""

import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

from ray.rllib.utils.metrics import ENV_RUNNER_RESULTS, EVALUATION_RESULTS, REPLAY_BUFFER_RESULTS
from ray.tune.result import AUTO_RESULT_KEYS

from rllib_spirl.algorithm import SPiRL, results
from rllib_spirl.algorithm.episode_end import SUBTASK_RATE
from rllib_spirl.algorithm.results import ENV_STEPS
from rllib_spirl.cli.experiment import Experiment
from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import did_you_mean

# The same quantity under the names of different algorithms and of RLlib's old API stack: `stop:` takes any of them.
ALIASES = {
    "env_steps": "num_env_steps_sampled_lifetime",
    "timesteps_total": "num_env_steps_sampled_lifetime",
    "episode_reward_mean": "env_runners/episode_return_mean",
    "episode_return_mean": "env_runners/episode_return_mean",
}
# What RLlib's own algorithms have beside what SPiRL has too.
_THEIR_GROUPS = (REPLAY_BUFFER_RESULTS, "info", "learner_group", "aggregator_actors", "offline_eval_runners")

# How what else is in an evaluation begins: groups, the first episodes in test tasks, and RLlib's counts.
_IN_EVALUATION = re.compile(rf"({ENV_RUNNER_RESULTS}|{SUBTASK_RATE}|episode_\d+)/|num_|actor_manager_")


def lookup(result: Mapping[str, Any], metric: str) -> float | None:
    """A number of a (nested) result by its path, e.g. ``env_runners/episode_return_mean``; None if absent or nan."""
    value: Any = result.get(metric)
    if value is None:
        value = result
        for part in metric.split("/"):
            value = value.get(part) if isinstance(value, Mapping) else None
    if value is None and metric in ALIASES:
        return lookup(result, ALIASES[metric])
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return None if math.isnan(number) else number


def missing(where: str, metric: str, known: Collection[str]) -> str:
    """The one line that says that no result has a metric, with the nearest known one."""
    return f"{where}: no result has '{metric}'{did_you_mean(metric, tuple(known))}"


def results_known(kind: type) -> bool:
    """Whether it is known what the results of an algorithm contain, before there is one."""
    return issubclass(kind, SPiRL)


def check_metrics(experiment: Experiment, kind: type, measures: Callable[[], Collection[str]]) -> list[str]:
    """Check the names of all metrics that an experiment names: in its results there must be such.

    The results of SPiRL are known, but for what is in groups such as ``learners``. Other algorithms may report more
    than is known here, so that there is no more than a warning; `StopAt` looks at their first result.

    Args:
        experiment: From ``experiment.load``.
        kind: Its algorithm.
        measures: Tells what an environment measures beside its subtasks; asked only where all else is unknown.

    Returns:
        Warnings, a line each.

    Raises:
        UserError: No result will have a metric.
    """
    warnings = []
    for key, metric in _named(experiment):
        where = f"{experiment.where}: {key}"
        if metric.startswith(f"{EVALUATION_RESULTS}/") and not experiment.config.get("evaluation_interval"):
            raise UserError(f"{where}: {metric} needs 'config.evaluation_interval'")
        ours = results_known(kind)
        # Tune itself looks for all but those of `stop`, and knows no other names.
        numbers, groups = _known(ours, aliases=key == "stop")
        head, nested, inside = metric.partition("/")
        if head == EVALUATION_RESULTS and nested and ours:
            if metric in results.EVALUATION or _IN_EVALUATION.match(inside) or inside in (found := measures()):
                continue
            expected = [*results.EVALUATION, *(f"{head}/{name}" for name in found)]
            warnings.append(f"{missing(where, metric, expected)}, as far as the start of an episode tells")
            continue
        if (head in groups) if nested else (metric in numbers):
            continue
        if ours and not nested and metric in (found := measures()):
            continue
        known = [ALIASES[metric]] if metric in ALIASES else [*numbers, *results.EVALUATION, *ALIASES.values()]
        if ours or metric in ALIASES:
            raise UserError(missing(where, metric, [*known, *(() if nested else found)]))
        warnings.append(f"{missing(where, metric, known)} (as far as is known of {experiment.run})")
    return warnings


def _named(experiment: Experiment) -> Iterator[tuple[str, str]]:
    """The key of the experiment file and the metric, for each one that it names."""
    for metric in experiment.stop:
        yield "stop", metric
    for key, value in (
        ("metric", experiment.metric),
        ("scheduler_config.metric", experiment.scheduler_config.get("metric")),
        ("scheduler_config.time_attr", experiment.scheduler_config.get("time_attr")),
        (
            "checkpoint_config.checkpoint_score_attribute",
            experiment.checkpoint_config.get("checkpoint_score_attribute"),
        ),
    ):
        if isinstance(value, str):
            yield key, value


def _known(ours: bool, aliases: bool) -> tuple[Sequence[str], Sequence[str]]:
    """Names of numbers at the top of a result, and of groups of others."""
    numbers = [name for name in results.NUMBERS if ours or name != ENV_STEPS]
    groups = results.GROUPS if ours else (*results.GROUPS, *_THEIR_GROUPS)
    # Tune adds its own keys to every result.
    return [*numbers, *(ALIASES if aliases else ()), *AUTO_RESULT_KEYS], [*groups, "config", "perf"]
