"""The ``rllib`` command: ``rllib train file X.yaml`` and ``rllib evaluate CHECKPOINT``."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_spirl import examples
from rllib_spirl.cli import errors
from rllib_spirl.cli.experiment import Experiment, checkpoint_config, load, spaces
from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import mapping

app = typer.Typer(
    help="Train and evaluate RLlib algorithms, SPiRL among them, from YAML files.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
train_app = typer.Typer(help="Train.", no_args_is_help=True)
app.add_typer(train_app, name="train")

example_app = typer.Typer(help="The examples that come with the package.", no_args_is_help=True)
app.add_typer(example_app, name="example")

INTERRUPTED = 130


@app.callback()
def _rllib() -> None:
    """Train and evaluate RLlib algorithms, SPiRL among them, from YAML files."""


@train_app.callback()
def _train() -> None:
    """Train."""


@train_app.command("file")
def train_file(
    file: Annotated[Path, typer.Argument(help="YAML file with one or more experiments, or an example's name.")],
    env: Annotated[str | None, typer.Option(help="Environment id, instead of the file's.")] = None,
    stop: Annotated[
        list[str] | None,
        typer.Option(help="metric=number, e.g. env_steps=200000; replaces the file's 'stop:'. Repeatable."),
    ] = None,
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", help="path.to.key=value, e.g. config.policy_lr=1e-4 (value: YAML). Repeatable."),
    ] = None,
    only: Annotated[list[str] | None, typer.Option(help="Run this experiment of the file. Repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume/--no-resume", help="Go on with the interrupted run.")] = False,
    plot: Annotated[bool, typer.Option("--plot/--no-plot", help="Draw the learning curve at the end.")] = True,
    wandb: Annotated[str | None, typer.Option(help="Send results to this project of Weights & Biases.")] = None,
    mlflow: Annotated[str | None, typer.Option(help="Send results to this experiment of MLflow.")] = None,
    verbose: Annotated[int, typer.Option("-v", count=True, help="-v: Ray's warnings and tables, -vv: more.")] = 0,
    scheduler: Annotated[str | None, typer.Option(help="Tune scheduler: fifo, asha, hyperband, pbt, ...")] = None,
    scheduler_config: Annotated[str | None, typer.Option(help="The scheduler's arguments, as JSON or YAML.")] = None,
    checkpoint_freq: Annotated[int | None, typer.Option(min=0, help="Iterations between checkpoints; 0: none.")] = None,
    checkpoint_at_end: Annotated[
        bool | None, typer.Option("--checkpoint-at-end/--no-checkpoint-at-end", help="Checkpoint when a trial ends.")
    ] = None,
    keep_checkpoints_num: Annotated[int | None, typer.Option(min=1, help="Checkpoints to keep.")] = None,
    checkpoint_score_attr: Annotated[
        str | None, typer.Option(help="Metric by which checkpoints are kept; 'min-' before it: lowest.")
    ] = None,
    ray_address: Annotated[str | None, typer.Option(help="Cluster to connect to; 'auto' finds one here.")] = None,
    ray_num_cpus: Annotated[int | None, typer.Option(min=1, help="CPUs of the local Ray.")] = None,
    ray_num_gpus: Annotated[int | None, typer.Option(min=0, help="GPUs of the local Ray.")] = None,
) -> None:
    """Train the experiments of a YAML file, one after the other."""
    from rllib_spirl.cli import session

    session.quiet(verbose)
    experiments = load(file, overrides=set_ or (), stops=stop or (), only=only or ())
    checkpoints = _checkpoint_flags(checkpoint_freq, checkpoint_at_end, keep_checkpoints_num, checkpoint_score_attr)
    plain: dict[str, Any] = {}
    if env is not None:
        plain["env"] = env
    if scheduler is not None:
        plain["scheduler"] = scheduler
    if scheduler_config is not None:
        plain["scheduler_config"] = mapping(scheduler_config, "--scheduler-config", "{grace_period: 5}")
    changes = {key: spaces(value, f"--{key.replace('_', '-')}") for key, value in plain.items()}
    experiments = [
        replace(
            experiment,
            **changes,
            given={**experiment.given, **plain},
            checkpoint_config=checkpoint_config({**experiment.checkpoint_config, **checkpoints}, "command line"),
        )
        for experiment in experiments
    ]
    from rllib_spirl.cli import tracking, training

    fresh = _check(experiments, resume)
    trackers = tracking.callbacks(wandb, mlflow)
    with session.ray_session(ray_address, ray_num_cpus, ray_num_gpus, verbose) as started_here:
        if started_here:
            for experiment in experiments:
                training.check_resources(experiment)
        failed, interrupted = 0, False
        for experiment in experiments:
            going_on = resume and experiment.name not in fresh
            with training.in_its_folder(experiment, resume=going_on):
                failures, interrupted = training.train(
                    experiment, resume=going_on, verbosity=verbose, plot=plot, trackers=trackers
                )
            failed += failures
            if interrupted:
                typer.echo(f"interrupted; go on with: rllib train file {file} --resume (and the same options)")
                break
    if interrupted:
        raise typer.Exit(INTERRUPTED)
    if failed:
        raise typer.Exit(1)


@app.command()
def evaluate(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint directory or URI. Restoring runs code: trust it first.")
    ],
    episodes: Annotated[int, typer.Option(min=1, help="Episodes to run.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the evaluation environments.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Run episodes with the policy of a checkpoint, as training's evaluations do."""
    from rllib_spirl.cli import session

    session.quiet(0)
    from rllib_spirl.cli import evaluating

    result = evaluating.evaluate(checkpoint, episodes=episodes, seed=seed)
    if as_json:
        typer.echo(json.dumps(result, default=float))
        return
    for name, value in result.items():
        if not isinstance(value, list | dict):
            typer.echo(f"{name:<28} {value:.4g}" if isinstance(value, float) else f"{name:<28} {value}")
        elif isinstance(value, dict):
            typer.echo(f"{name:<28} " + ", ".join(f"{k} {v:.3g}" for k, v in value.items()))


@example_app.command("list")
def list_examples() -> None:
    """The examples' names and what they are; train one with: rllib train file NAME."""
    for name in examples.names():
        typer.echo(f"{name:<26} {examples.description(name)}")


@example_app.command("get")
def get_example(
    name: Annotated[str, typer.Argument(help="From: rllib example list.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder to write it into.")] = Path(),
) -> None:
    """Copy an example, and the data recipes that it names, into a folder, to change them there."""
    for file in examples.copy(name, output):
        typer.echo(file)


def _check(experiments: list[Experiment], resume: bool) -> set[str]:
    """Check every experiment before the first one starts. Nothing is written when a check refuses.

    Returns:
        With ``--resume``, the experiments that have nothing to resume and start afresh.
    """
    import rllib_spirl  # noqa: F401 - registers the algorithm and the environments
    from rllib_spirl.cli import algorithms, look, training

    spaces = {}
    for experiment in experiments:
        space = spaces[experiment.name] = algorithms.param_space(experiment)
        algorithms.validate(experiment, space, without_skills=resume or experiment.skills is not None)
        training.scheduler(experiment)
        training.check_bundles(experiment)
    fresh = [experiment for experiment in experiments if not (resume and training.resumable(experiment))]
    if resume:
        for experiment in experiments:
            training.check_record(experiment)
        if len(fresh) == len(experiments):
            raise UserError(
                f"--resume: nothing to resume in {', '.join(training.directory(e) for e in experiments)}; "
                "leave --resume away to start"
            )
    for experiment in experiments:
        for warning in look.metrics(experiment, spaces[experiment.name]):
            typer.echo(f"warning: {warning}")
    for experiment in fresh:
        look.surroundings(experiment, spaces[experiment.name])
    for experiment in fresh:
        training.check_storage(experiment)
    return {experiment.name for experiment in fresh}


def _checkpoint_flags(freq: int | None, at_end: bool | None, keep: int | None, score: str | None) -> dict[str, Any]:
    """Only what the command line names; the file's ``checkpoint_config`` keeps the rest."""
    flags: dict[str, Any] = {}
    if freq is not None:
        flags["checkpoint_frequency"] = freq
    if at_end is not None:
        flags["checkpoint_at_end"] = at_end
    if keep is not None:
        flags["num_to_keep"] = keep
    if score is not None:
        flags["checkpoint_score_order"] = "min" if score.startswith("min-") else "max"
        flags["checkpoint_score_attribute"] = score.removeprefix("min-")
    return flags


def main() -> None:
    """Entry point of the console script."""
    errors.run(app)


if __name__ == "__main__":
    main()
