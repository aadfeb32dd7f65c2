"""``spirl adapt``: how soon a checkpoint of MetaSPiRL solves tasks that it was not trained on."""

from pathlib import Path
from typing import Annotated, Any

import typer

from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import parse


def adapt(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint of MetaSPiRL. Restoring runs code: trust it first.")],
    task: Annotated[
        list[str] | None,
        typer.Option(help="A task, e.g. 'microwave, kettle'; repeatable [default: the checkpoint's test tasks]."),
    ] = None,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes in each task.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of all random numbers.")] = 0,
    exploring: Annotated[
        int | None, typer.Option(min=0, help="Episodes before the task is told from them [default: the checkpoint's].")
    ] = None,
    fine_tune_after: Annotated[
        int | None, typer.Option(min=1, help="Episodes after which the networks learn on [default: never].")
    ] = None,
    demonstrations: Annotated[
        bool, typer.Option("--demonstrations/--no-demonstrations", help="Learn on from the demonstrations too.")
    ] = True,
    trained_on_too: Annotated[bool, typer.Option("--trained-on-too", help="Take training tasks as well.")] = False,
    method: Annotated[str, typer.Option(help="The name of the curves in the file.")] = "MetaSPiRL",
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for adaptation.json.")] = Path("adaptation"),
) -> None:
    """Run the first episodes in new tasks and report what each came to: completed subtasks, or its return."""
    from rllib_spirl.cli import session

    session.quiet(0)
    from rllib_spirl.envs.tasks import task_name
    from rllib_spirl.evaluation import adapting

    wanted = adapting.check_tasks(checkpoint, [_task(text) for text in task or ()], trained_on_too=trained_on_too)

    def told(task: Any, episode: int, score: float) -> None:
        typer.echo(f"{task_name(task)}  episode {episode}  {score:.4g}")

    try:
        session.start(None, None, None, 0)
        curves = adapting.adapt(
            checkpoint,
            wanted,
            episodes=episodes,
            seed=seed,
            exploring_episodes=exploring,
            fine_tune_after=fine_tune_after,
            with_demonstrations=demonstrations,
            told=told,
        )
    finally:
        session.stop()
    for episode in range(episodes):
        mean = sum(curve[episode][1] for curve in curves.values()) / len(curves)
        typer.echo(f"mean of {len(curves)} tasks  episode {episode + 1}  {mean:.4g}")
    typer.echo(f"curves  {adapting.write_curves(output, method, seed, curves)}")


def _task(text: str) -> Any:
    """A task from the command line: YAML, or names between commas."""
    value = parse(text, "--task")
    if isinstance(value, str) and "," in value:
        return [name.strip() for name in value.split(",")]
    if value is None:
        raise UserError("--task: a task is missing")
    return value
