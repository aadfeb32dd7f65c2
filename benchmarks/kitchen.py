"""The headline: a tuned example on several seeds, each with skills trained from its own seed. The last line is JSON.

Runs are kept in ``--folder``; finished ones are not repeated and interrupted ones go on, so the command may be given
again. Writes the report (curves, tables, pictures) to ``benchmarks/results/EXAMPLE`` and the closing line beside it.

python benchmarks/kitchen.py --seeds 5
python benchmarks/kitchen.py --example kitchen_human --seeds 5
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import typer
from common import report

from rllib_spirl.evaluation.aggregate import aggregate
from rllib_spirl.evaluation.report import write_report
from rllib_spirl.evaluation.runs import read_runs

ROOT = Path(__file__).resolve().parent.parent
MILESTONES = (10_000, 25_000, 50_000, 100_000, 200_000)


def main(
    example: str = "kitchen",
    seeds: int = 5,
    first: int = 0,
    steps: int = 200_000,
    folder: Path = Path("~/rllib_spirl_runs"),
    settings: list[str] = typer.Option([], "--set", help="As for 'rllib train file'; for ablations, with --name."),
    name: str | None = None,
) -> None:
    """Train, then aggregate."""
    name = name or example
    runs = folder.expanduser() / name
    found = [str(runs / f"seed-{seed}") for seed in range(first, first + seeds)]
    for seed, run in enumerate(found, first):
        train(example, Path(run), seed, steps, settings)
    results = ROOT / "benchmarks" / "results"
    write_report([f"{name}={path}" for path in found], results / name, published=True)
    curve = aggregate(name, read_runs([f"{name}={path}" for path in found]), "completed_subtasks")
    summary = {
        "name": f"{name}: completed subtasks, deterministic evaluation, IQM over seeds",
        "seeds": len(found),
        "skill_models": len({run.skill_checkpoint for run in curve.runs}),
        "env_steps": numbers(curve.steps),
        "iqm": numbers(curve.iqm),
        "ci_low": numbers(curve.low),
        "ci_high": numbers(curve.high),
        "lowest": numbers(np.nanmin(curve.values, axis=0)),
        "at": {str(step): round(float(curve.iqm[i]), 3) for step in MILESTONES if (i := curve.at(step)) is not None},
        "settings": settings,
    }
    (results / f"{name}.json").write_text(json.dumps(summary, indent=1) + "\n")
    report(summary)


def numbers(values: np.ndarray) -> list[float | None]:
    """JSON has no NaN: a single run has no interval."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]


def train(example: str, storage: Path, seed: int, steps: int, settings: list[str]) -> None:
    """One run, unless it is done; its output goes to ``log.txt``."""
    made = json.dumps({"example": (ROOT / f"tuned_examples/{example}.yaml").read_text(), "settings": settings})
    if (storage / "made").exists() and (storage / "made").read_text() != made:
        raise SystemExit(f"{storage} holds a run of other settings: remove it, or give another --name")
    if (storage / "done").exists() and int((storage / "done").read_text()) >= steps:
        return
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "made").write_text(made)
    command = [sys.executable, "-m", "rllib_spirl.cli.rllib", "train", "file", f"tuned_examples/{example}.yaml"]
    changes = [f"config.seed={seed}", f"skills.pretrain.seed={seed}", f"storage_path={storage}", *settings]
    for change in changes:
        command += ["--set", change]
    command += ["--stop", f"env_steps={steps}"]
    if (storage / example).exists():
        command.append("--resume")
    print(f"{example}, seed {seed}: {storage}/log.txt", file=sys.stderr)
    with (storage / "log.txt").open("a") as log:
        subprocess.run(command, cwd=ROOT, stdout=log, stderr=log, check=True)
    (storage / "done").write_text(str(steps))


if __name__ == "__main__":
    typer.run(main)
