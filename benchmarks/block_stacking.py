"""Block stacking's learning curves, like kitchen.py's: several seeds, each with its own skills. The last line is JSON.

Every run's evaluations go into ``benchmarks/results/block_stacking.json``, with ``score`` the stacked blocks (dense
reward) or the height of the tower (sparse) at the end of an episode.

python benchmarks/block_stacking.py --seeds 3
python benchmarks/block_stacking.py --seeds 3 --example block_stacking_sparse
python benchmarks/block_stacking.py --seeds 3 --example block_stacking_baselines --experiment flat_prior
"""

from pathlib import Path
from typing import Any

import typer
from learning import RESULTS, Method, learn, numbers

from rllib_spirl.evaluation.curve import Curve


def main(
    example: str = "block_stacking",
    experiment: str | None = None,
    seeds: int = 3,
    first: int = 0,
    steps: int | None = None,
    folder: Path = Path("~/rllib_spirl_runs"),
    settings: list[str] = typer.Option([], "--set", help="As for 'rllib train file'; for ablations, with --name."),
    name: str = "",
    jobs: int = typer.Option(1, help="Runs at a time, each in one process."),
) -> None:
    """Train, then aggregate."""
    numbers_of_seeds = list(range(first, first + seeds))
    method = Method(
        example=example, experiment=experiment, name=name, seeds=numbers_of_seeds, steps=steps, settings=settings
    )
    learn([method], folder, jobs, record=record, results=RESULTS / "block_stacking.json")


def record(name: str, curve: Curve) -> dict[str, Any]:
    """A run's evaluations."""
    sparse = curve.rule == "sparse reward"
    return {
        "method": "spirl" if name in ("block_stacking", "block_stacking_sparse") else name,
        "data": curve.data,
        "reward": "sparse" if sparse else "dense",
        "seed": curve.seed,
        "env_steps": numbers(curve.env_steps),
        "score": numbers(curve.tower_height if sparse else curve.stacked_blocks),
        "stacked_blocks": numbers(curve.stacked_blocks),
        "tower_height": numbers(curve.tower_height),
        "return": numbers(curve.episode_return),
    }


if __name__ == "__main__":
    typer.run(main)
