"""``spirl adapt``: how soon a checkpoint that has learned from many tasks solves others."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import parse


def adapt(
    checkpoint: Annotated[
        str, typer.Argument(help="Checkpoint of MetaSPiRL, MAML or trials. Restoring runs code: trust it first.")
    ],
    task: Annotated[
        list[str] | None,
        typer.Option(help="A task, e.g. 'microwave, kettle'; repeatable.", show_default="the checkpoint's test tasks"),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes in each task.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    exploring: Annotated[
        int | None,
        typer.Option(min=0, help="MetaSPiRL: episodes before the task is told.", show_default="the checkpoint's"),
    ] = None,
    told_by_demonstrations: Annotated[
        bool,
        typer.Option(
            "--told-by-demonstrations",
            help="MetaSPiRL: tell the task from the demonstrations with its rewards; no episode explores for that.",
        ),
    ] = False,
    follow_after: Annotated[
        int | None,
        typer.Option(min=1, help="MetaSPiRL: episodes after which the best ones are followed.", show_default="never"),
    ] = None,
    fine_tune_after: Annotated[
        int | None,
        typer.Option(min=1, help="MetaSPiRL: episodes after which it learns on.", show_default="never"),
    ] = None,
    updates_per_step: Annotated[
        float | None, typer.Option(help="Gradient steps for each skill then.", show_default="1")
    ] = None,
    first_updates: Annotated[
        int | None,
        typer.Option(min=0, help="Gradient steps before the first episode after these.", show_default="1000"),
    ] = None,
    explore_every: Annotated[
        int | None,
        typer.Option(min=0, help="Skills are drawn in one of so many episodes then.", show_default="0, none"),
    ] = None,
    demonstrations: Annotated[
        bool | None,
        typer.Option(
            "--demonstrations/--no-demonstrations",
            help="Learn on from the demonstrations too.",
            show_default="where there are any",
        ),
    ] = None,
    trained_on_too: Annotated[bool, typer.Option("--trained-on-too", help="Take training tasks as well.")] = False,
    method: Annotated[
        str | None,
        typer.Option(help="The name of the curves in the file.", show_default="the algorithm's"),
    ] = None,
    videos: Annotated[
        bool, typer.Option("--videos", help="MetaSPiRL: film the last episode in each task, into the same folder.")
    ] = False,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for adaptation.json.")] = Path("adaptation"),
    resume: Annotated[
        bool,
        typer.Option("--resume", help="Go on after an interruption: keep the curves that are whole in the folder."),
    ] = False,
) -> None:
    """Run the first episodes in new tasks and report what each came to: completed subtasks, or its return."""
    from rllib_spirl.cli import session

    session.quiet(0)
    from rllib_spirl.envs.tasks import task_name
    from rllib_spirl.evaluation import adaptation_curves, adapting
    from rllib_spirl.meta.meeting import check_ways
    from rllib_spirl.progress import heard, stage

    fine_tuning = _fine_tuning(
        fine_tune_after,
        updates_per_step=updates_per_step,
        first_updates=first_updates,
        explore_every=explore_every,
        from_demonstrations=demonstrations,
    )
    check_ways(fine_tuning, follow_after, episodes)
    if told_by_demonstrations and exploring is not None:
        raise UserError("--exploring: with --told-by-demonstrations no episode explores; leave one of them out.")
    source = adapting.adaptable(checkpoint)
    wanted = adapting.check_tasks(source, [_task(text) for text in task or ()], trained_on_too=trained_on_too)
    if (possible := source.at_most(episodes)) < episodes:
        typer.echo(f"{checkpoint} is of trials of {possible} episodes: there are no more in a task")
        episodes = possible

    name = method or source.method
    known = adaptation_curves.present(output, name, seed)
    curves = {each: points for each, points in known.items() if resume and len(points) == episodes}
    left = [each for each in wanted if task_name(each) not in curves]
    replaced = sorted(known.keys() & {task_name(each) for each in left})
    for each in replaced:
        typer.echo(f"{output}: the curve of {name}, seed {seed}, in {each} is replaced; --method names another")
    if len(left) < len(wanted):
        typer.echo(f"{output} has {len(wanted) - len(left)} of {len(wanted)} tasks already")

    with session.ray_session(), stage("episodes in new tasks", len(left) * episodes) as progress:

        def told(task: Any, episode: int, score: float) -> None:
            adaptation_curves.remove(output, name, seed, replaced)  # not before it is known that there are others
            replaced.clear()
            typer.echo(f"{task_name(task)}  episode {episode}  {score:.4g}")
            heard()
            progress.advance()

        curves |= adapting.adapt(
            source,
            left,
            episodes=episodes,
            seed=seed,
            exploring_episodes=exploring,
            told_by_demonstrations=told_by_demonstrations,
            fine_tuning=fine_tuning,
            follow_after=follow_after,
            videos=output if videos else None,
            told=told,
            keep=lambda curve: adaptation_curves.add(output, name, seed, curve),
        )
    found = [curves[task_name(each)] for each in wanted]
    for number, points in enumerate(zip(*found, strict=True), 1):
        mean = sum(score for _, score in points) / len(points)
        typer.echo(f"mean of {len(found)} tasks  episode {number}  {mean:.4g}")
    typer.echo(f"curves  {output / adaptation_curves.CURVES}")
    for film in [adapting.film_of(output, task) for task in left] if videos else ():
        typer.echo(f"video  {film}")


def _fine_tuning(after: int | None, **options: Any) -> Any:
    """How to learn on, by the options that are given; None for not at all."""
    from rllib_spirl.meta.fine_tuning import FineTuning

    given = {name: value for name, value in options.items() if value is not None}
    if after is not None:
        return FineTuning(after, **given)
    if given:
        raise UserError(
            "--updates-per-step, --first-updates, --explore-every and --no-demonstrations are of learning on: "
            "add --fine-tune-after, or leave them out."
        )
    return None


def _task(text: str) -> Any:
    """A task from the command line: YAML, or names between commas."""
    value = parse(text, "--task")
    if isinstance(value, str) and "," in value:
        return [name.strip() for name in value.split(",")]
    if value is None:
        raise UserError("--task: a task is missing")
    return value
