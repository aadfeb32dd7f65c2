"""The headline: a tuned example on several seeds, each with skills trained from its own seed. The last line is JSON.

Runs are kept in ``--folder``; finished ones are not repeated and interrupted ones go on, so the command may be given
again. Writes the report (curves, tables, pictures) to ``benchmarks/results/NAME``, and every run's evaluations into
``benchmarks/results/kitchen.json`` beside those of other commands.

python benchmarks/kitchen.py --seeds 5
python benchmarks/kitchen.py --seeds 5 --example kitchen_human
python benchmarks/kitchen.py --seeds 3 --example kitchen_baselines --experiment flat_prior
python benchmarks/kitchen.py --queue benchmarks/kitchen_queue.yaml --jobs 2
python benchmarks/kitchen.py --seeds 3 --steps 50000 --name "delta 5" --set config.target_divergence=5
"""

from typing import Any

import typer
from learning import command, numbers

from rllib_spirl.evaluation.curve import Curve


def record(name: str, curve: Curve) -> dict[str, Any]:
    """A run's evaluations."""
    return {
        "method": "spirl" if name in ("kitchen", "kitchen_human") else name,
        "data": "human" if "human" in curve.data else "scripted",
        "seed": curve.seed,
        "task": curve.task,
        "env_steps": numbers(curve.env_steps),
        "completed_subtasks": numbers(curve.score("completed_subtasks")),
        "all_four": numbers(curve.score("all_completed")),
    }


if __name__ == "__main__":
    typer.run(command("kitchen", 5, record, "kitchen.json", published=True))
