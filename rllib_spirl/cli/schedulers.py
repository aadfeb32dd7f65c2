"""Tune's trial schedulers: made as an experiment file says, and brought up to date when a run is resumed."""

import inspect
import json
from collections.abc import Mapping
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import SCHEDULER_IMPORT, AsyncHyperBandScheduler, PopulationBasedTraining, TrialScheduler

from rllib_spirl.cli import algorithms
from rllib_spirl.cli.experiment import Experiment, is_space
from rllib_spirl.errors import UserError, one_line
from rllib_spirl.yaml_text import did_you_mean

_EXAMPLES = {"metric": "metric: evaluation/completed_subtasks", "mode": "mode: max"}
_NEEDS_EVERY_RESULT = ("hyperband",)
_NEEDS_A_SEARCHER = ("hb_bohb",)
# Those that would wait for trials that had ended before.
_CANNOT_GO_ON = ("hyperband",)
_NEAREST_SCHEDULER = {"asha": "async_hyperband", "median": "median_stopping_rule"}


def compared_by(experiment: Experiment) -> str | None:
    """What trials are compared by, where they are."""
    return experiment.scheduler_config.get("metric") or experiment.metric


def scheduler(experiment: Experiment) -> TrialScheduler | None:
    """Tune's trial scheduler of that name; None for the default, first in first out.

    Raises:
        UserError: unknown scheduler or argument.
    """
    if experiment.scheduler is None:
        if experiment.scheduler_config:
            raise UserError(f"{experiment.where}: 'scheduler_config' is given without 'scheduler'")
        return None
    name = _NEAREST_SCHEDULER.get(experiment.scheduler.lower(), experiment.scheduler.lower())
    known = (*_NEAREST_SCHEDULER, *SCHEDULER_IMPORT)
    if name in _NEEDS_A_SEARCHER:
        raise UserError(
            f"{experiment.where}: scheduler {name} needs a search algorithm, which a file cannot set; take pbt"
        )
    if name not in SCHEDULER_IMPORT:
        raise UserError(f"{experiment.where}: unknown scheduler '{experiment.scheduler}'{did_you_mean(name, known)}")
    try:
        found: Any = SCHEDULER_IMPORT[name]
        kind = found() if inspect.isfunction(found) else found
        arguments = tuple(k for k in inspect.signature(kind.__init__).parameters if k != "self")
        for key in experiment.scheduler_config:
            if key not in arguments:
                hint = did_you_mean(key, arguments)
                raise UserError(f"{experiment.where}: scheduler_config: unknown key '{key}'{hint}")
        for key in ("metric", "mode"):
            given = experiment.scheduler_config.get(key) or getattr(experiment, key)
            if key in arguments and not given:
                raise UserError(f"{experiment.where}: scheduler {name} needs '{key}', e.g. {_EXAMPLES[key]}")
        for mutated in ("hyperparam_mutations", "hyperparam_bounds"):
            algorithms.check_names(experiment.scheduler_config.get(mutated) or {}, experiment, mutated)
        compared = compared_by(experiment) or ""
        sometimes = compared.startswith("evaluation/") and experiment.config.get("evaluation_interval") != 1
        if name in _NEEDS_EVERY_RESULT and sometimes:
            raise UserError(
                f"{experiment.where}: scheduler {name} compares all results: set config.evaluation_interval: 1 for "
                f"{compared}, or take another scheduler such as asha"
            )
        # An evaluation's metric is not in every result; PBT alone insists on it.
        lenient = {"require_attrs": False} if "require_attrs" in arguments else {}
        return kind(**{**lenient, **experiment.scheduler_config, **_mutations(experiment.scheduler_config)})
    except (ValueError, TypeError, AssertionError, ImportError, RuntimeError, tune.TuneError) as error:
        raise UserError(f"{experiment.where}: scheduler {name}: {one_line(error)}") from None


def _mutations(scheduler_config: Mapping[str, Any]) -> dict[str, Any]:
    """What population-based training mutates, with lists in place of the spaces that are lists: it knows no others."""
    mutated = scheduler_config.get("hyperparam_mutations")
    if not mutated:
        return {}
    plain = {
        name: next(iter(space.values())) if is_space(space) else getattr(space, "categories", space)
        for name, space in mutated.items()
    }
    return {"hyperparam_mutations": plain}


def check_goes_on(experiment: Experiment) -> None:
    """Raise a UserError if a sweep with this scheduler cannot be resumed: Tune does not keep what schedulers know."""
    name = (experiment.scheduler or "").lower()
    if name in _CANNOT_GO_ON:
        raise UserError(
            f"{experiment.where}: --resume: scheduler {name} would wait for trials that have ended, as Ray does not "
            "keep its brackets; train under another experiment name, or take asha"
        )


class CatchUp(tune.Callback):
    """Tells the new scheduler of a resumed sweep what its trials had done before."""

    def __init__(self, scheduler: TrialScheduler) -> None:
        self._scheduler = scheduler
        self._done = False

    def on_step_begin(self, iteration: int, trials: list[Trial], **unused: Any) -> None:
        if not self._done:
            self._done = True
            catch_up(self._scheduler, trials)


def catch_up(scheduler: TrialScheduler, trials: list[Trial]) -> None:
    """Bring a scheduler to where its trials are.

    Population-based training would take all of them for unbegun, and wait for ever for a time that some have passed;
    successive halving would have nothing to compare a trial with.
    """
    if isinstance(scheduler, PopulationBasedTraining):
        interval, times = scheduler._perturbation_interval, [0]
        for trial, state in scheduler._trial_state.items():
            time = (trial.last_result or {}).get(scheduler._time_attr, 0)
            state.last_train_time, state.last_perturbation_time = time, time // interval * interval
            times.append(time)
        scheduler._next_perturbation_sync = max(
            scheduler._next_perturbation_sync, (max(times) // interval + 1) * interval
        )
    if isinstance(scheduler, AsyncHyperBandScheduler):
        for trial in trials:
            if trial.trial_id in scheduler._trial_info:
                for result in _results(trial):
                    scheduler.on_trial_result(None, trial, result)


def _results(trial: Trial) -> list[dict[str, Any]]:
    """All results of a trial that was begun, as Tune has written them."""
    storage = trial.storage
    try:
        with storage.storage_filesystem.open_input_stream(f"{storage.trial_fs_path}/result.json") as stream:
            lines = stream.read().decode().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("}")]  # the last one may have been cut off
