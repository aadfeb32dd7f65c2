"""Run one checked experiment on Tune: its skills, its Tuner, interruption, resumption and the record that allows it."""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import ray
import yaml
from pyarrow import fs
from ray import tune
from ray.rllib.algorithms.algorithm_config import AlgorithmConfig
from ray.train._internal.storage import get_fs_and_path

from rllib_spirl.cli import algorithms, storage
from rllib_spirl.cli.experiment import Experiment
from rllib_spirl.cli.interrupt import CheckpointOnInterrupt
from rllib_spirl.cli.long_runs import ConfigOnce, forgetful_tune
from rllib_spirl.cli.metrics import missing, results_known
from rllib_spirl.cli.progress import Progress, StopAt, console, summary
from rllib_spirl.cli.schedulers import CatchUp, check_goes_on, compared_by, scheduler
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.runs import RECORD
from rllib_spirl.locations import joined, location
from rllib_spirl.locking import sole_if_free
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


def directory(experiment: Experiment) -> str:
    """Where the experiment's results are: a path or URI."""
    return joined(experiment.storage_path, experiment.name)


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


@contextmanager
def in_its_folder(experiment: Experiment, *, resume: bool) -> Iterator[None]:
    """Around what trains an experiment into a folder of this machine: nobody can resume it there meanwhile.

    Raises:
        UserError: With ``resume``, where another command trains there: both would go on with the same trials.
    """
    folder = location(directory(experiment))
    with sole_if_free(folder) if isinstance(folder, Path) else nullcontext(True) as alone:
        if resume and not alone:
            raise UserError(
                f"{experiment.where}: --resume: another command trains in {folder}; wait for its end, or stop it"
            )
        yield


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
    trial_scheduler = scheduler(experiment)
    stop = StopAt(experiment.stop, experiment.where, experiment.name, checked=results_known(kind))
    tuner = tune.Tuner(
        _trainable(experiment),
        param_space=space,
        tune_config=tune.TuneConfig(
            num_samples=experiment.num_samples,
            max_concurrent_trials=experiment.max_concurrent_trials,
            scheduler=trial_scheduler,
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
                *([CatchUp(trial_scheduler)] if resume and trial_scheduler is not None else []),
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
    metric = compared_by(experiment)
    seen = {name for trial in progress.trials for name in trial.metric_analysis}
    if metric and seen and metric not in seen and not interrupt.ending:
        raise UserError(f"{missing(f'{experiment.where}: metric', metric, sorted(seen))}, so trials were not compared")
    return failed, interrupt.interrupted


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
    return tune.with_resources(kind, _resources(experiment.resources_per_trial))


def _resources(given: Mapping[str, float]) -> dict[str, float]:
    """By Ray's names."""
    return {name.upper() if name.lower() in ("cpu", "gpu") else name: amount for name, amount in given.items()}


def check_bundles(experiment: Experiment) -> None:
    """Raise a UserError if `resources_per_trial` is given where RLlib asks for those of each of several processes."""
    if experiment.resources_per_trial is None:
        return
    for config, need in _requests(experiment):
        if len(need.bundles) > 1:
            raise UserError(
                f"{experiment.where}: resources_per_trial is of one process, and a trial has {len(need.bundles)} here "
                f"(config.num_env_runners: {config.num_env_runners}): leave it out, and set "
                "config.num_cpus_for_main_process and config.num_cpus_per_env_runner"
            )


def _requests(experiment: Experiment) -> Iterator[tuple[AlgorithmConfig, Any]]:
    """The config of each trial, as far as they can be looked at, and what RLlib asks Ray for in it."""
    kind = algorithms.algorithm_class(experiment)
    for config in algorithms.validated(experiment, algorithms.param_space(experiment), without_skills=True):
        if getattr(config, "skill_checkpoint", "") is None:
            config.skill_checkpoint = "still to be made"  # it decides no resources, but RLlib validates the config
        yield config, kind.default_resource_request(config)


def check_resources(experiment: Experiment) -> None:
    """Compare each trial, as far as they can be looked at, with a Ray that runs on this machine only.

    Tune would wait for ever for a trial that does not fit.

    Raises:
        UserError: One does not.
    """
    if experiment.resources_per_trial is not None:
        given = _resources(experiment.resources_per_trial)
        have = ray.cluster_resources()
        for name in given:
            if name not in ("CPU", "GPU") and name not in have:
                hint = did_you_mean(name, ["cpu", "gpu"])
                raise UserError(f"{experiment.where}: resources_per_trial: this Ray has no '{name}'{hint}")
        _check_fits(experiment, given, "lower resources_per_trial", "lower resources_per_trial")
        return
    for config, need in _requests(experiment):
        fewer = f"lower config.num_env_runners (now {config.num_env_runners})"
        _check_fits(experiment, need.required_resources, fewer, "set config.num_gpus_per_learner: 0")


def _check_fits(experiment: Experiment, need: Mapping[str, float], fewer_cpus: str, fewer_gpus: str) -> None:
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
    path = joined(directory(experiment), RECORD)
    filesystem, inner = get_fs_and_path(path)
    if filesystem.get_file_info(inner).type == fs.FileType.NotFound:
        return False
    with filesystem.open_input_stream(inner) as stream:
        document = parse(stream.read().decode(errors="replace"), path)
    before = document.get(experiment.name) if isinstance(document, dict) else None
    if not isinstance(before, dict):
        return False
    check_goes_on(experiment)
    given = parse(yaml.safe_dump(experiment.given), path)  # as the record was, in which "1e5" is a number
    for key in _FIXED:
        if difference := _difference(before.get(key), given.get(key), key):
            raise UserError(
                f"{experiment.where}: --resume: {difference} in {Path(path).parent.name}; "
                "put it back, or train under another experiment name"
            )
    longer = before.get("stop") != given.get("stop")
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
    same = before == now or (before != before and now != now)  # nan is no number, not even itself
    return None if same else f"'{path}' is {now} but was {before}"
