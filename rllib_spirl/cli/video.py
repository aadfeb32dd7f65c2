"""``spirl video``: a film of what a checkpoint's policy does."""

from pathlib import Path
from typing import Annotated

import typer


def video(
    checkpoint: Annotated[str, typer.Argument(help="Checkpoint of SPiRL. Restoring runs code: trust it first.")],
    episodes: Annotated[int, typer.Option(min=1, help="Evaluation episodes to film.")] = 1,
    output: Annotated[Path, typer.Option("--output", "-o", help="An .mp4 or .gif file.")] = Path("video.mp4"),
    seed: Annotated[int, typer.Option(min=0, help="Seed of the first episode.")] = 0,
    every: Annotated[int | None, typer.Option(min=1, help="Steps per picture.", show_default="2; .gif: 3")] = None,
    speed: Annotated[float, typer.Option(min=0.1, help="1 is the speed of the environment.")] = 2.0,
    width: Annotated[int | None, typer.Option(min=64, help="Pixels.", show_default="as rendered; .gif: 320")] = None,
) -> None:
    """Film evaluation episodes, with the completed subtasks below the picture."""
    from rllib_spirl.cli import session

    session.quiet(0)
    from rllib_spirl.evaluation.video import record_video

    results = record_video(checkpoint, output, episodes=episodes, seed=seed, every=every, speed=speed, width=width)
    for result in results:
        subtasks = f"  {sum(result.subtasks.values())} of {len(result.subtasks)} subtasks" if result.subtasks else ""
        typer.echo(f"seed {result.seed}  return {result.episode_return:.3g}{subtasks}  {result.low_level_steps} steps")
    typer.echo(f"video  {output}")
