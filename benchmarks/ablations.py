"""What each design choice is worth: the kitchen example with one change at a time. The last line is one JSON object.

Every run's evaluations go into ``benchmarks/results/kitchen_ablations.json`` as soon as it has ended; what is there is
not repeated, so the command may be stopped and given again. The table, ``kitchen_ablations.md``, is written from that
file and, for the row without a change, from ``kitchen.json``.

python benchmarks/ablations.py --jobs 2
python benchmarks/ablations.py --only "δ 5" --only "two critics"
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import typer
from common import report
from kitchen import record
from learning import RESULTS, ROOT, keep, provenance, recorded, train

from rllib_spirl.cli.experiment import load
from rllib_spirl.evaluation.runs import read_runs
from rllib_spirl.evaluation.statistics import iqm

RUNS, TABLE = RESULTS / "kitchen_ablations.json", RESULTS / "kitchen_ablations.md"
DEFAULT = "the defaults"
MILESTONES = (20_000, 30_000, 40_000, 50_000)


@dataclass(frozen=True)
class Change:
    """A row: its name, what it sets, and whether the skills are others than the defaults'."""

    name: str
    settings: tuple[str, ...]

    @property
    def skills(self) -> bool:
        return any(setting.startswith("skills.") for setting in self.settings)


VELOCITIES = ("skills.data=offline_data/kitchen_mixed_velocities.yaml", "config.env_config.velocities=true")
CHANGES = [
    Change("no corrective state noise in skill training", ("skills.pretrain.state_noise=0",)),
    Change("no demonstrations in replay", ("config.offline_fraction=0", "config.offline_updates=0")),
    Change("two critics", ("config.critic_members=2",)),
    Change("evaluation with the mean", ("config.skill_candidates=1",)),
    Change("policy a copy of the prior", ("config.policy=copied",)),
    Change("no KL in the Q-target", ("config.kl_in_target=false",)),
    Change("δ 5", ("config.target_divergence=5",)),
    Change("δ 3", ("config.target_divergence=3",)),
    Change("δ 0.5", ("config.target_divergence=0.5",)),
    Change("1 update a skill", ("config.updates_per_step=1",)),
    Change("4 updates a skill", ("config.updates_per_step=4",)),
    Change("critics without LayerNorm", ("config.critic_layer_norm=false",)),
    Change("no bounds on the Q-target", ("config.target_bounds=null",)),
    Change("γ 0.99", ("config.gamma=0.99",)),
    Change("γ 0.95", ("config.gamma=0.95",)),
    Change("warm-up of 5,000 skills, as in the paper", ("config.warmup_steps=5000",)),
    Change("open loop", ("skills.pretrain.decoder=open_loop",)),
    Change("β 5e-4, half of the paper's", ("skills.pretrain.beta=5.0e-4",)),
    Change("no weight decay in skill training", ("skills.pretrain.weight_decay=0",)),
    Change("skills bounded by 2·tanh, as in the paper", ("config.skill_bound=2",)),
    Change("δ from 3 to 1 in 30,000 steps", ("config.initial_divergence=3",)),
    Change("velocities in the states", VELOCITIES),
    Change("velocities that the skills see", (*VELOCITIES, "skills.pretrain.blind=[]")),
]


def main(
    seeds: int = 3,
    steps: int = typer.Option(52_000, help="The fiftieth training iteration, with its evaluation, ends before."),
    only: list[str] = typer.Option([], help="Rows, by name."),
    folder: Path = Path("~/rllib_spirl_runs/ablations"),
    jobs: int = typer.Option(1, help="Runs at a time, each in one process."),
) -> None:
    """Train what is missing, then write the table."""
    if unknown := sorted(set(only) - {change.name for change in CHANGES}):
        raise SystemExit(f"There is no row {unknown[0]!r}; there are: {', '.join(c.name for c in CHANGES)}")
    chosen = [change for change in CHANGES if not only or change.name in only]
    done = {(run["method"], run["seed"]) for run in recorded(RUNS)}
    missing = [(c, seed) for c in chosen for seed in range(seeds) if (c.name, seed) not in done]
    lock = Lock()

    def run(task: tuple[Change, int]) -> None:
        change, seed = task
        [spec] = load(ROOT / "tuned_examples/kitchen.yaml")
        settings = [*change.settings, "config.num_env_runners=0"]  # one process: the same results at any time
        storage = folder.expanduser() / f"{CHANGES.index(change):02d}-seed-{seed}"
        command = train(spec, storage, seed, steps, settings)
        [curve] = read_runs([f"{change.name}={storage}"])
        with lock:
            keep(RUNS, [record(change.name, curve) | provenance(curve, command)])
            write_table()

    # Skills that several runs share are made by the first of them; these go first, one seed each.
    missing.sort(key=lambda task: task[0].skills)
    first = {seed: next((t for t in missing if t[1] == seed and not t[0].skills), None) for seed in range(seeds)}
    ahead = [task for task in first.values() if task is not None]
    for group in (ahead, [task for task in missing if task not in ahead]):
        with ThreadPoolExecutor(jobs) as pool:
            list(pool.map(run, group))
    report({"name": "kitchen ablations, completed subtasks", "rows": write_table()})


def write_table() -> list[dict[str, Any]]:
    """The rows, in the order of `CHANGES`, also as Markdown in ``TABLE``."""
    known = recorded(RESULTS / "kitchen.json")
    defaults = [run for run in known if (run["method"], run.get("example")) == ("spirl", "kitchen")]
    runs = [run | {"method": DEFAULT} for run in defaults] + recorded(RUNS)
    rows = []
    for name in (DEFAULT, *(change.name for change in CHANGES)):
        scores = np.array([at(run, MILESTONES) for run in runs if run["method"] == name])  # (seeds, milestones)
        if len(scores):
            rows.append(
                {
                    "change": name,
                    "seeds": len(scores),
                    "mean": scores.mean(0).round(2).tolist(),
                    "iqm": [round(float(iqm(column)), 2) for column in scores.T],
                    "lowest": scores.min(0).round(2).tolist(),
                    "average": round(float(scores.mean()), 2),
                }
            )
    lines = [
        "| change | seeds | " + " | ".join(f"{step // 1000}k" for step in MILESTONES) + " | average | worst at 50k |",
        "|---|---|" + "---|" * (len(MILESTONES) + 2),
    ]
    for row in rows:
        means = " | ".join(f"{value:.2f}" for value in row["mean"])
        lines.append(f"| {row['change']} | {row['seeds']} | {means} | {row['average']:.2f} | {row['lowest'][-1]:.2f} |")
    TABLE.write_text("\n".join(lines) + "\n")
    return rows


def at(run: dict[str, Any], steps: tuple[int, ...]) -> list[float]:
    """The scores of the evaluations nearest to ``steps``."""
    given = np.array(run["env_steps"])
    return [run["completed_subtasks"][int(np.abs(given - step).argmin())] for step in steps]


if __name__ == "__main__":
    sys.exit(typer.run(main))
