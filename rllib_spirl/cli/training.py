"""Run one checked experiment on Tune: its skills, its Tuner, interruption, resumption and the record that allows it."""

import inspect
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from pyarrow import fs
from ray import tune
from ray.train._internal.storage import get_fs_and_path
from ray.tune.schedulers import SCHEDULER_IMPORT, TrialScheduler

from rllib_spirl.cli import algorithms, storage
from rllib_spirl.cli.experiment import Experiment
from rllib_spirl.cli.interrupt import CheckpointOnInterrupt
from rllib_spirl.cli.long_runs import ConfigOnce, forgetful_tune
from rllib_spirl.cli.metrics import missing, results_known
from rllib_spirl.cli.progress import Progress, StopAt, console, summary
from rllib_spirl.errors import UserError, one_line
from rllib_spirl.evaluation.runs import RECORD
from rllib_spirl.progress import tell, watch
from rllib_spirl.yaml_text import did_you_mean, parse

# What must not change between a run and its resumption: Tune takes these from the run and would ignore the file.
_FIXED = (
    "run",
    "env",
    "config",
    "skills",
    "tasks",
    "num_samples",
    "max_concurrent_trials",
    "resources_per_trial",
    "log_to_file",
)
_EXAMPLES = {"metric": "metric: evaluation/completed_subtasks", "mode": "mode: max"}
_NEEDS_EVERY_RESULT = ("hyperband", "hb_bohb")
_NEAREST_SCHEDULER = {"asha": "async_hyperband", "median": "median_stopping_rule"}


def directory(experiment: Experiment) -> str:
    """Where the experiment's results are: a path or URI."""
    return f"{experiment.storage_path.rstrip('/')}/{experiment.name}"


def check_storage(experiment: Experiment) -> None:
    """Make the result directory, so that hours of work do not end at a folder nobody can write to.

    Raises:
        UserError: it cannot be made or written to.
    """
    path = directory(experiment)
    try:
        filesystem, inner = get_fs_and_path(path)
        filesystem.create_dir(inner)
        probe = f"{inner}/.{RECORD}.probe"
        with filesystem.open_output_stream(probe) as stream:
            stream.write(b"")
        filesystem.delete_file(probe)
    except (OSError, ValueError) as error:
        raise UserError(f"{experiment.where}: storage_path: {path} cannot be written to: {error}") from None


def resumable(experiment: Experiment) -> bool:
    """Whether Tune has left a state in the experiment's directory that a run can go on from."""
    return storage.resumable(directory(experiment))


def train(
    experiment: Experiment,
    *,
    resume: bool,
    verbosity: int,
    plot: bool = True,
    trackers: Sequence[tune.Callback] = (),
) -> tuple[int, bool]:
    """Run an experiment to its end, or until Ctrl-C.

    Args:
        experiment: from ``experiment.load``.
        resume: go on with the run in the experiment's directory.
        verbosity: 0 prints our lines only, 1 and 2 Tune's too.
        plot: whether to draw the learning curve at the end.
        trackers: callbacks of `tracking`.

    Returns:
        The number of failed trials, and whether the user interrupted the run.

    Raises:
        UserError: a mistake in the experiment that only shows now.
    """
    if resume:
        storage.check_state(directory(experiment))
    finished_too = resume and check_record(experiment)
    if experiment.skills is not None:
        own = storage.skills_of_all_trials(directory(experiment)) if resume else None
        experiment = with_skills(experiment) if own is None else _with(experiment, own)
    space = algorithms.param_space(experiment)
    algorithms.validate(experiment, space, without_skills=resume)
    end = ", ".join(f"{metric} {value:,.10g}" for metric, value in experiment.stop.items())
    if not end and experiment.time_budget_s is None:
        console().print(f"{experiment.name}: no 'stop:' is given; it trains until Ctrl-C", highlight=False)
    tell(f"training {experiment.name}{f' to {end}' if end else ''}, into {directory(experiment)}")

    # Tune would end a trial whose result lacks the scheduler's metric; schedulers leave such a result out.
    os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")
    progress, interrupt = Progress(experiment.name), CheckpointOnInterrupt(experiment.time_budget_s)
    checkpoints = tune.CheckpointConfig(**experiment.checkpoint_config)
    kind = algorithms.algorithm_class(experiment)
    stop = StopAt(experiment.stop, experiment.where, experiment.name, checked=results_known(kind))
    tuner = tune.Tuner(
        _trainable(experiment),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=experiment.num_samples,
            max_concurrent_trials=experiment.max_concurrent_trials,
            scheduler=scheduler(experiment),
            # A scheduler made with its own metric refuses a second one.
            metric=None if "metric" in experiment.scheduler_config else experiment.metric,
            mode=None if "mode" in experiment.scheduler_config else experiment.mode,
        ),
        run_config=tune.RunConfig(
            name=experiment.name,
            **storage.storage_arguments(experiment.storage_path),
            # A Stopper, not a mapping: Tune freezes a mapping into its trials, and a resumed run could not go further.
            stop=stop,
            checkpoint_config=checkpoints,
            failure_config=tune.FailureConfig(max_failures=experiment.max_failures),
            callbacks=[
                progress,
                interrupt,
                ConfigOnce(),
                *([storage.FromNewestCheckpoint(checkpoints, experiment.max_failures)] if resume else []),
                *trackers,
            ],
            log_to_file=experiment.log_to_file,
            verbose=verbosity,
        ),
        # `Tuner.restore` would bring back the first run's stop, checkpoint settings and callbacks instead of these.
        _tuner_kwargs={"resume_config": _resume_config(finished_too)} if resume else None,
    )
    _write_record(experiment)
    with interrupt, forgetful_tune(), watch(f"{experiment.name}: waiting for results"):
        tuner.fit()
    if stop.mistake:
        raise UserError(stop.mistake)
    failed = summary(progress, experiment.name, directory(experiment))
    if plot:
        from rllib_spirl.evaluation.run_pictures import draw_run  # a second's import of Matplotlib, for who draws

        for picture in draw_run(directory(experiment)):
            console().print(f"picture  {picture}", soft_wrap=True, highlight=False)
    metric = _metric(experiment)
    seen = {name for trial in progress.trials for name in trial.metric_analysis}
    if metric and seen and metric not in seen and not interrupt.ending:
        raise UserError(f"{missing(f'{experiment.where}: metric', metric, sorted(seen))}, so trials were not compared")
    return failed, interrupt.interrupted


def _metric(experiment: Experiment) -> str | None:
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
        compared = _metric(experiment) or ""
        sometimes = compared.startswith("evaluation/") and experiment.config.get("evaluation_interval") != 1
        if name in _NEEDS_EVERY_RESULT and sometimes:
            raise UserError(
                f"{experiment.where}: scheduler {name} compares all results: set config.evaluation_interval: 1 for "
                f"{compared}, or take another scheduler such as asha"
            )
        # An evaluation's metric is not in every result; PBT alone insists on it.
        lenient = {"require_attrs": False} if "require_attrs" in arguments else {}
        return kind(**{**lenient, **experiment.scheduler_config})
    except (ValueError, TypeError, AssertionError, ImportError, tune.TuneError) as error:
        raise UserError(f"{experiment.where}: scheduler {name}: {one_line(error)}") from None


def with_skills(experiment: Experiment) -> Experiment:
    """Make or find the skill checkpoint the experiment asks for, and name it in the config."""
    from rllib_spirl.cli.prepare import prepare_skills

    point = next(algorithms.variants(algorithms.param_space(experiment)))
    prepared = prepare_skills(
        dict(experiment.skills or {}),
        places=experiment.places,
        env=point.get("env"),
        env_config=point.get("env_config"),
    )
    experiment = _with(experiment, prepared.checkpoint)
    if prepared.data is not None:
        experiment.config.setdefault("offline_data", str(prepared.data))
    return experiment


def _with(experiment: Experiment, skill_checkpoint: str) -> Experiment:
    return replace(experiment, config={**experiment.config, "skill_checkpoint": skill_checkpoint})


def _trainable(experiment: Experiment) -> Any:
    kind = algorithms.algorithm_class(experiment)
    if experiment.resources_per_trial is None:
        return kind
    return tune.with_resources(kind, experiment.resources_per_trial)


def check_resources(experiment: Experiment) -> None:
    """Compare each trial, as far as they can be looked at, with a Ray that runs on this machine only.

    Tune would wait for ever for a trial that does not fit.

    Raises:
        UserError: One does not.
    """
    if experiment.resources_per_trial is not None:
        given = {name.upper(): amount for name, amount in experiment.resources_per_trial.items()}
        _check_fits(experiment, given, "lower resources_per_trial", "lower resources_per_trial")
        return
    kind = algorithms.algorithm_class(experiment)
    for config in algorithms.validated(experiment, algorithms.param_space(experiment), without_skills=True):
        if getattr(config, "skill_checkpoint", "") is None:
            config.skill_checkpoint = "still to be made"  # it decides no resources, but RLlib validates the config
        need = kind.default_resource_request(config).required_resources
        fewer = f"lower config.num_env_runners (now {config.num_env_runners})"
        _check_fits(experiment, need, fewer, "set config.num_gpus_per_learner: 0")


def _check_fits(experiment: Experiment, need: Mapping[str, float], fewer_cpus: str, fewer_gpus: str) -> None:
    import ray

    have = ray.cluster_resources()
    for kind in ("CPU", "GPU"):
        if need.get(kind, 0) > have.get(kind, 0):
            share = f"{fewer_cpus}, or give --ray-num-cpus {math.ceil(need[kind])} to let them share cores"
            remedy = share if kind == "CPU" else fewer_gpus
            lack = f"a trial needs {need[kind]:g} {kind}s and this Ray has {have.get(kind, 0):g}"
            raise UserError(f"{experiment.where}: {lack}; {remedy}")


def _resume_config(finished_too: bool) -> tune.ResumeConfig:
    again: Any = tune.ResumeConfig.ResumeType.RESUME  # Ray annotates these fields as str
    skip: Any = tune.ResumeConfig.ResumeType.SKIP
    return tune.ResumeConfig(finished=again if finished_too else skip, unfinished=again, errored=again)


def _write_record(experiment: Experiment) -> None:
    """Keep the experiment beside its results, under its final name only when complete."""
    filesystem, inner = get_fs_and_path(directory(experiment))
    text = yaml.safe_dump({experiment.name: experiment.given}, sort_keys=False)
    with filesystem.open_output_stream(f"{inner}/.{RECORD}.tmp") as stream:
        stream.write(text.encode())
    filesystem.move(f"{inner}/.{RECORD}.tmp", f"{inner}/{RECORD}")


def check_record(experiment: Experiment) -> bool:
    """Compare the experiment with the run to resume.

    Returns:
        True if `stop` has changed, so that trials which had reached the old one go on too.

    Raises:
        UserError: a setting differs that a resumed run cannot change.
    """
    path = f"{directory(experiment)}/{RECORD}"
    filesystem, inner = get_fs_and_path(path)
    if filesystem.get_file_info(inner).type == fs.FileType.NotFound:
        return False
    with filesystem.open_input_stream(inner) as stream:
        document = parse(stream.read().decode(errors="replace"), path)
    before = document.get(experiment.name) if isinstance(document, dict) else None
    if not isinstance(before, dict):
        return False
    for key in _FIXED:
        if difference := _difference(before.get(key), experiment.given.get(key), key):
            raise UserError(
                f"{experiment.where}: --resume: {difference} in {Path(path).parent.name}; "
                "put it back, or train under another experiment name"
            )
    longer = before.get("stop") != experiment.given.get("stop")
    if longer and experiment.scheduler not in (None, "fifo"):
        tell(f"{experiment.name}: trials that have ended stay as they are, as the scheduler has compared them")
        return False
    return longer


def _difference(before: Any, now: Any, path: str) -> str | None:
    if isinstance(before, dict) and isinstance(now, dict):
        for key in {**before, **now}:
            if found := _difference(before.get(key), now.get(key), f"{path}.{key}"):
                return found
        return None
    return None if before == now else f"'{path}' is {now} but was {before}"
