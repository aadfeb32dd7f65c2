"""Skill training on data larger than memory. The last line is one JSON object.

Makes a synthetic set of a million transitions once, in ``--folder`` (0.3 GB), with --long one of 20 million (6 GB; the
first call takes some minutes).
``ratio`` is the rate of training streamed from it against that on 140,000 transitions held in memory, in one process,
interleaved; ``growth_mib`` the resident memory that a Ray Train worker streaming it gained from its start.
"""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import typer
from common import SHORT_S, Long, compare, report, rounds, start_ray, synthetic_data

from rllib_spirl import paths
from rllib_spirl.data import DataSet
from rllib_spirl.skills.checkpoint import load_card
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.pretrain import pretrain
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer


def main(
    transitions: int | None = None,
    folder: Path | None = None,
    memory_gib: float = 0.1,
    count: int = 5,
    updates: int | None = None,
    long: Long = False,
) -> None:
    """Measure with ``memory_gib`` of frames held by a worker: a small share, so that files change often."""
    torch.set_num_threads(1)
    transitions = transitions or (20_000_000 if long else 1_000_000)
    updates = updates or (2500 if long else 500)
    root = folder or paths.home() / "benchmarks"
    root.mkdir(parents=True, exist_ok=True)
    large = synthetic_data(root / f"synthetic-{transitions}", transitions)
    small = synthetic_data(root / "synthetic-140000", 140_000)
    config = PretrainConfig(updates=10**6, memory_gib=memory_gib)

    def trainer(data: DataSet) -> SkillTrainer:
        return SkillTrainer(SkillData.scan(data, config.horizon, config.validation_fraction, 0), config)

    streamed, held = trainer(large), trainer(small)
    assert streamed.stream.streamed
    assert not held.stream.streamed

    def run(trained: SkillTrainer) -> float:
        start = time.perf_counter()
        for _ in range(updates):
            trained.step()
        return updates * config.batch_size / (time.perf_counter() - start)

    rates = rounds({"streamed": lambda: run(streamed), "held": lambda: run(held)}, count, None if long else SHORT_S)
    result: dict[str, Any] = compare("streamed / in memory", rates, "streamed", "held", "samples/s")
    start_ray()
    short = config.model_copy(update={"updates": 3 * updates, "report_every": updates})
    with tempfile.TemporaryDirectory() as output:
        pretrain(large, short, output=output)
        growth = load_card(output).metrics["memory_growth_mib"]
    report(result | {"transitions": transitions, "memory_gib": memory_gib, "growth_mib": round(growth)})


if __name__ == "__main__":
    typer.run(main)
