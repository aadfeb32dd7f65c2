"""Block stacking's learning curves, like kitchen.py's: several seeds, each with its own skills. The last line is JSON.

Every run's evaluations go into ``benchmarks/results/block_stacking.json``, with ``score`` the stacked blocks (dense
reward) or the height of the tower (sparse) at the end of an episode.

python benchmarks/block_stacking.py --seeds 3
python benchmarks/block_stacking.py --seeds 3 --example block_stacking_sparse
python benchmarks/block_stacking.py --seeds 3 --example block_stacking_baselines --experiment flat_prior
python benchmarks/block_stacking.py --queue benchmarks/block_stacking_queue.yaml --jobs 2
"""

from typing import Any

import typer
from learning import command, numbers

from rllib_spirl.evaluation.curve import Curve


def record(name: str, curve: Curve) -> dict[str, Any]:
    """A run's evaluations."""
    sparse = curve.rule == "sparse reward"
    return {
        "method": "spirl" if name in ("block_stacking", "block_stacking_sparse") else name,
        "data": curve.data,
        "reward": "sparse" if sparse else "dense",
        "seed": curve.seed,
        "env_steps": numbers(curve.env_steps),
        "score": numbers(curve.score("tower_height" if sparse else "stacked_blocks")),
        "stacked_blocks": numbers(curve.score("stacked_blocks")),
        "tower_height": numbers(curve.score("tower_height")),
        "return": numbers(curve.score("episode_return")),
    }


if __name__ == "__main__":
    typer.run(command("block_stacking", 3, record, "block_stacking.json"))
