"""Navigation's learning curves, like kitchen.py's: mazes never shown, on several seeds. The last line is JSON.

Every run's evaluations go into ``benchmarks/results/maze_runs.json``, and the curves that belong together into
``benchmarks/results/maze.json``.

python benchmarks/maze.py --seeds 3
python benchmarks/maze.py --queue benchmarks/maze_queue.yaml --jobs 2
"""

from typing import Any

import typer
from learning import command, numbers

from rllib_spirl.evaluation.curve import Curve


def record(name: str, curve: Curve) -> dict[str, Any]:
    """A run's evaluations."""
    return {
        "method": "spirl" if name == "maze" else name,
        "data": curve.data,
        "task": curve.task,
        "seed": curve.seed,
        "env_steps": numbers(curve.env_steps),
        "success": numbers(curve.success),
    }


if __name__ == "__main__":
    typer.run(command("maze", 3, record, "maze_runs.json"))
