"""The headline: a tuned example on several seeds, each with skills trained from its own seed. The last line is JSON.

Runs are kept in ``--folder``; finished ones are not repeated and interrupted ones go on, so the command may be given
again. Writes the report (curves, tables, pictures) to ``benchmarks/results/NAME``, and every run's evaluations into
``benchmarks/results/kitchen.json`` beside those of other commands.

python benchmarks/kitchen.py --seeds 5
python benchmarks/kitchen.py --seeds 5 --example kitchen_human
python benchmarks/kitchen.py --seeds 3 --example kitchen_baselines --experiment flat_prior
python benchmarks/kitchen.py --seeds 3 --steps 50000 --name "delta 5" --set config.target_divergence=5
"""

import json
import shlex
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import typer
from common import report

from rllib_spirl.cli.experiment import Experiment, load
from rllib_spirl.evaluation.aggregate import aggregate
from rllib_spirl.evaluation.report import write_report
from rllib_spirl.evaluation.runs import Curve, read_runs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MILESTONES = (10_000, 25_000, 50_000, 100_000, 200_000)
PACKAGES = ("rllib_spirl", "ray", "torch", "mujoco", "gymnasium")


def main(
    example: str = "kitchen",
    experiment: str | None = None,
    seeds: int = 5,
    first: int = 0,
    steps: int = 200_000,
    folder: Path = Path("~/rllib_spirl_runs"),
    settings: list[str] = typer.Option([], "--set", help="As for 'rllib train file'; for ablations, with --name."),
    name: str | None = None,
) -> None:
    """Train, then aggregate."""
    [spec] = load(ROOT / f"tuned_examples/{example}.yaml", only=[experiment or example])
    name = name or spec.name
    runs = {seed: folder.expanduser() / name / f"seed-{seed}" for seed in range(first, first + seeds)}
    commands = {seed: train(spec, path, seed, steps, settings) for seed, path in runs.items()}
    found = [f"{name}={path}" for path in runs.values()]
    write_report(found, RESULTS / name, published=True)
    curves = read_runs(found)
    keep([record(name, curve, shlex.join(commands[curve.seed or 0])) for curve in curves])
    curve = aggregate(name, curves, "completed_subtasks")
    milestones = {str(step): curve.at(step) for step in MILESTONES}
    report(
        {
            "name": f"{name}: completed subtasks, deterministic evaluation, IQM over seeds",
            "seeds": len(found),
            "skill_models": len({run.skill_checkpoint for run in curve.runs}),
            "env_steps": numbers(curve.steps),
            "iqm": numbers(curve.iqm),
            "ci_low": numbers(curve.low),
            "ci_high": numbers(curve.high),
            "lowest": numbers(np.nanmin(curve.values, axis=0)),
            "at": {step: round(float(curve.iqm[i]), 3) for step, i in milestones.items() if i is not None},
            "settings": settings,
        }
    )


def numbers(values: np.ndarray) -> list[float | None]:
    """JSON has no NaN: a single run has no interval."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]


def record(name: str, curve: Curve, command: str) -> dict[str, Any]:
    """One run as it stands in the results."""
    return {
        "method": "spirl" if name in ("kitchen", "kitchen_human") else name,
        "data": "human" if "human" in curve.data else "scripted",
        "seed": curve.seed,
        "task": curve.task,
        "env_steps": numbers(curve.env_steps),
        "completed_subtasks": numbers(curve.completed_subtasks),
        "all_four": numbers(curve.all_completed),
        "episodes": int(curve.episodes[-1]),
        "command": command,
        "versions": {package: version(package) for package in PACKAGES},
        "date": datetime.fromtimestamp((curve.trial / "result.json").stat().st_mtime, UTC).date().isoformat(),
    }


def keep(records: list[dict[str, Any]]) -> None:
    """Put runs in the place of earlier ones of the same method, data, task and seed."""
    file = RESULTS / "kitchen.json"

    def key(run: dict[str, Any]) -> tuple[Any, ...]:
        return run["method"] != "spirl", run["method"], run["data"], run["task"], run["seed"]

    runs = {key(run): run for run in json.loads(file.read_text())["runs"]} if file.exists() else {}
    runs |= {key(run): run for run in records}
    lines = ",\n".join(json.dumps(runs[k]) for k in sorted(runs))
    file.write_text(f'{{"runs": [\n{lines}\n]}}\n')


def train(spec: Experiment, storage: Path, seed: int, steps: int, settings: list[str]) -> list[str]:
    """One run, unless it is done; its output goes to ``log.txt``. Returns its command."""
    changes = [f"config.seed={seed}", *([f"skills.pretrain.seed={seed}"] if spec.skills else []), *settings]
    command = ["rllib", "train", "file", str(spec.source.relative_to(ROOT)), "--only", spec.name]
    command += [part for change in changes for part in ("--set", change)]
    command += ["--stop", f"{next(iter(spec.stop))}={steps}"]
    made = json.dumps({"experiment": spec.given, "settings": settings})
    if (storage / "made").exists() and (storage / "made").read_text() != made:
        raise SystemExit(f"{storage} holds a run of other settings: remove it, or give another --name")
    if (storage / "done").exists() and int((storage / "done").read_text()) >= steps:
        return command
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "made").write_text(made)
    resume = ["--resume"] if (storage / spec.name).exists() else []
    here = [sys.executable, "-m", "rllib_spirl.cli.rllib", *command[1:], "--set", f"storage_path={storage}", *resume]
    print(f"{storage}/log.txt", file=sys.stderr)
    with (storage / "log.txt").open("a") as log:
        subprocess.run(here, cwd=ROOT, stdout=log, stderr=log, check=True)
    (storage / "done").write_text(str(steps))
    return command


if __name__ == "__main__":
    typer.run(main)
