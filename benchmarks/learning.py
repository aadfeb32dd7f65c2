"""Learning curves over seeds: trains tuned examples and keeps every run's evaluations as data."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from common import report

from rllib_spirl.cli.experiment import Experiment, load
from rllib_spirl.evaluation.aggregate import METRICS, aggregate, choose_metric
from rllib_spirl.evaluation.curve import Curve
from rllib_spirl.evaluation.report import write_report
from rllib_spirl.evaluation.runs import read_runs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MILESTONES = (10_000, 25_000, 50_000, 100_000, 150_000, 200_000, 600_000, 750_000)
COMMITS = "commits"
PACKAGES = ("rllib_spirl", "ray", "torch", "mujoco", "gymnasium")


def learn(
    example: str,
    name: str,
    seeds: range,
    steps: int | None,
    folder: Path,
    settings: list[str],
    jobs: int,
    *,
    experiment: str | None,
    record: Callable[[str, Curve], dict[str, Any]],
    results: Path,
    published: bool = False,
) -> None:
    """Train ``example`` on every seed, write its report to ``RESULTS/name`` and its runs into ``results``, print JSON.

    Args:
        example: Name of a file in tuned_examples.
        name: The method's, in the report and the results.
        steps: Low-level environment steps, instead of the example's.
        folder: Of runs; finished ones are not repeated and interrupted ones go on.
        settings: ``path.to.key=value``, as for ``rllib train file --set``.
        jobs: Runs at a time. Several have their env runner in their own process: on as many cores as jobs that takes
            less time in all, because no core waits for another.
        experiment: Which of the file's experiments, if it is not called like the file.
        record: What to keep of a run of this name.
        results: JSON file to which the runs are added, in the place of those of the same method, task and seed.
        published: Whether the papers' kitchen curves belong into the picture.
    """
    [spec] = load(ROOT / f"tuned_examples/{example}.yaml", only=[experiment or example])
    runs = {seed: folder.expanduser() / name / f"seed-{seed}" for seed in seeds}
    if jobs > 1:
        settings = [*settings, "config.num_env_runners=0"]
        if spec.skills:  # made once, not by every run at the same time
            subprocess.run(
                [sys.executable, "-m", "rllib_spirl.cli.spirl", "data", "build", spec.skills["data"]], cwd=ROOT
            )
    with ThreadPoolExecutor(jobs) as pool:
        done = pool.map(lambda run: train(spec, run[1], run[0], steps, settings), runs.items())
        commands = dict(zip(runs, done, strict=True))
    found = [f"{name}={path}" for path in runs.values()]
    write_report(found, RESULTS / name, published=published)
    curves = read_runs(found)
    metric = choose_metric(curves)
    curve = aggregate(name, curves, metric)
    keep(results, [record(name, c) | provenance(c, commands[c.seed or 0]) for c in curves])
    milestones = {str(step): curve.at(step) for step in MILESTONES}
    report(
        {
            "name": f"{name}: {METRICS[metric]}, IQM over seeds",
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


def provenance(curve: Curve, command: list[str]) -> dict[str, Any]:
    """How a run was made, with the commits of this repository that it was begun and gone on at."""
    commits = curve.trial.parent.parent / COMMITS
    return {
        "commits": commits.read_text().split() if commits.exists() else [],
        "episodes": int(curve.episodes[-1]) if np.isfinite(curve.episodes[-1]) else None,
        "command": shlex.join(command),
        "versions": {package: version(package) for package in PACKAGES},
        "date": datetime.fromtimestamp((curve.trial / "result.json").stat().st_mtime, UTC).date().isoformat(),
    }


def keep(file: Path, records: list[dict[str, Any]]) -> None:
    """Put runs in the place of earlier ones of the same method, task, data and seed."""
    identity = ("method", "reward", "data", "task", "seed")

    def key(run: dict[str, Any]) -> tuple[str, ...]:
        return run["method"] != "spirl", *(str(run.get(name, "")) for name in identity)  # ours first

    runs = {key(run): run for run in json.loads(file.read_text())["runs"]} if file.exists() else {}
    runs |= {key(run): run for run in records}
    lines = ",\n".join(json.dumps(runs[k]) for k in sorted(runs))
    file.write_text(f'{{"runs": [\n{lines}\n]}}\n')


def commit() -> str:
    """The commit that the code is at, with a + behind it where files of the package differ from that."""
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "rllib_spirl", "tuned_examples"], cwd=ROOT)
    return f"{head.stdout.strip() or 'unknown'}{'+' if changed.returncode == 1 else ''}"


def train(spec: Experiment, storage: Path, seed: int, steps: int | None, settings: list[str]) -> list[str]:
    """One run, unless it is done; its output goes to ``log.txt``. Returns its command."""
    metric, given = next(iter(spec.stop.items()))
    steps = steps or int(given)
    changes = [f"config.seed={seed}", *([f"skills.pretrain.seed={seed}"] if spec.skills else []), *settings]
    command = ["rllib", "train", "file", str(spec.source.relative_to(ROOT)), "--only", spec.name]
    command += [part for change in changes for part in ("--set", change)]
    command += ["--stop", f"{metric}={steps}"]
    made = json.dumps({"experiment": spec.given, "settings": settings})
    if (storage / "made").exists() and (storage / "made").read_text() != made:
        raise SystemExit(f"{storage} holds a run of other settings: remove it, or give another --name")
    if (storage / "done").exists() and int((storage / "done").read_text()) >= steps:
        return command
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "made").write_text(made)
    resume = ["--resume"] if (storage / spec.name).exists() else []
    with (storage / COMMITS).open("a") as commits:
        commits.write(f"{commit()}\n")
    here = [sys.executable, "-m", "rllib_spirl.cli.rllib", *command[1:], "--set", f"storage_path={storage}", *resume]
    print(f"{storage}/log.txt", file=sys.stderr)
    with (storage / "log.txt").open("a") as log:
        subprocess.run(here, cwd=ROOT, stdout=log, stderr=log, check=True)
    (storage / "done").write_text(str(steps))
    return command
