"""How soon methods that have learned from many tasks solve others, and those that have not. The last line is JSON.

Each row of the queue is trained on its seeds, and each run then meets its test tasks with ``spirl adapt``; a row with
``anew`` is trained in each test task from nothing instead, and its evaluations are its curve. Runs are kept in
``--folder``: what is done is not repeated, and interrupted trainings go on, so the command may be given again. What
runs came to, with their commits and the steps that they took to learn from many tasks, goes into
``benchmarks/results/adaptation_runs.json`` as soon as they have ended. From that are written, for each table of the
queue, ``TABLE.json`` with the curves, ``{method: {task: {seed: [[episode, score], …]}}}``, ``TABLE.md`` and
``TABLE.png``; the kitchen's table is ``adaptation``.

python benchmarks/adaptation.py
python benchmarks/adaptation.py --table adaptation_point --jobs 2
python benchmarks/adaptation.py --table adaptation --method MetaSPiRL --method PEARL
"""

import json
import shlex
import sys
from collections import defaultdict
from pathlib import Path
from threading import Lock
from typing import Any

import typer
from common import report
from learning import (
    RESULTS,
    ROOT,
    Method,
    call,
    commit,
    keep,
    making,
    provenance,
    recorded,
    specifications,
    steps_of,
    train,
    work_off,
)
from pydantic import model_validator

from rllib_spirl.cli.experiment import Experiment
from rllib_spirl.envs.tasks import task_name
from rllib_spirl.evaluation import adaptation_curves, plots
from rllib_spirl.evaluation.adaptation_report import score_table
from rllib_spirl.evaluation.aggregate import choose_metric
from rllib_spirl.evaluation.runs import find_trials, read_runs
from rllib_spirl.yaml_text import parse_file

RUNS = "adaptation_runs.json"
QUEUE = ROOT / "benchmarks" / "adaptation_queue.yaml"
SCORES = dict.fromkeys(("adaptation", "adaptation_task_weight"), "completed subtasks (of 4)")
"""What is scored in a table, if not returns."""


class Row(Method):
    """A method in a table. ``steps`` are those of learning from many tasks."""

    table: str
    """Whose curves are drawn together: those of one family of tasks."""
    episodes: int
    """In each test task."""
    adapt: tuple[str, ...] = ()
    """Further options of ``spirl adapt``."""
    trained: str = ""
    """The name of the row whose trainings these are, where several rows only differ in how new tasks are met."""
    anew: str | None = None
    """The setting that is the task, as ``config.env_config.task``: the example is trained in each test task alone."""
    tasks: tuple[Any, ...] | str = ()
    """With ``anew``, the test tasks, or a file that has them as ``test``."""
    episode_steps: int = 0
    """With ``anew``, the steps of an episode."""

    @model_validator(mode="after")
    def _whole(self) -> "Row":
        if self.anew and not (self.tasks and self.episode_steps):
            raise ValueError("a row with 'anew' needs 'tasks' and 'episode_steps'")
        return self

    @property
    def test_tasks(self) -> list[Any]:
        return list(parse_file(ROOT / self.tasks)["test"] if isinstance(self.tasks, str) else self.tasks)


def main(
    queue: Path = typer.Option(QUEUE, help="A YAML list of rows, see Row."),
    table: list[str] = typer.Option([], help="Only these tables."),
    method: list[str] = typer.Option([], help="Only these methods, by name."),
    folder: Path = Path("~/rllib_spirl_runs/adaptation"),
    results: Path = typer.Option(RESULTS, help="Folder of the results."),
    jobs: int = typer.Option(1, help="Runs at a time, each in one process."),
    anew: bool = typer.Option(False, "--anew", help="Train and adapt what is among the recorded results, too."),
) -> None:
    """Train and adapt what is missing, then write the tables."""
    rows = [Row.model_validate(values) for values in parse_file(queue)]
    rows = [row for row in rows if row.table in (table or [row.table]) and row.title in (method or [row.title])]
    if not rows:
        raise SystemExit(f"{queue} has no such row; its tables and methods are named there")
    rows.sort(key=lambda row: bool(row.trained))  # rows that only adapt would block a job while their training runs
    # By table, for methods have the same name in each.
    for name in dict.fromkeys(row.table for row in rows):
        _learn([row for row in rows if row.table == name], folder.expanduser() / name, results, jobs, anew)
    report({"name": "adaptation", "tables": write_tables(results)})


def _learn(rows: list[Row], folder: Path, results: Path, jobs: int, anew: bool) -> None:
    specs, lock = specifications(rows), Lock()
    training: defaultdict[Path, Lock] = defaultdict(Lock)

    def run(row: Row, seed: int) -> None:
        spec = specs[row.title]
        made = making(row, spec, jobs)
        made["experiment"]["tasks"] = spec.given.get("tasks")
        asked = {"steps": 0 if row.anew else steps_of(row, spec), "episodes": row.episodes, "adapt": list(row.adapt)}
        if row.anew:
            asked |= {"tasks": row.test_tasks, "episode_steps": row.episode_steps}
        identity = {"method": row.title, "task": row.table, "seed": seed}
        with lock:
            known = any((identity | made | asked).items() <= each.items() for each in recorded(results / RUNS))
        if known and not anew:
            print(f"{row.table} has {row.title}, seed {seed}; --anew makes it again", file=sys.stderr)
            return
        storage = folder / (row.trained or row.title) / f"seed-{seed}"
        with lock:
            own = training[storage]
        with own:
            found = _anew(row, spec, storage, seed, made) if row.anew else _adapted(row, spec, storage, seed, made)
        with lock:
            results.mkdir(parents=True, exist_ok=True)
            keep(results / RUNS, [found | identity | made | asked])
            write_tables(results)

    work_off(rows, specs, run, jobs)


def _adapted(row: Row, spec: Experiment, storage: Path, seed: int, made: dict[str, Any]) -> dict[str, Any]:
    """Learn from many tasks, and meet the test tasks with the last checkpoint."""
    command = train(spec, storage, seed, steps_of(row, spec), made["settings"])
    [curve] = read_runs([f"{row.title}={storage}"])
    [trial] = find_trials(storage)
    checkpoint = max(trial.glob("checkpoint_*"))
    options = ["--episodes", str(row.episodes), "--seed", str(seed), "--method", row.title, *row.adapt]
    output, mark = storage / "adapted", storage / f"adapted {row.title}"
    asked = [checkpoint.name, options]
    done = json.loads(mark.read_text()) if mark.exists() else []
    if done[:2] != asked or len(done) < 3:
        resume = ["--resume"] if done == asked else []
        mark.write_text(json.dumps(asked))
        call("spirl", ["adapt", str(checkpoint), *options, "--output", str(output), *resume], storage)
        done = [*asked, commit()]
        mark.write_text(json.dumps(done))
    document = adaptation_curves.load(output / adaptation_curves.CURVES)
    return provenance(curve, command) | {
        "adaptation": shlex.join(["spirl", "adapt", checkpoint.name, *options]),
        "adapted_at": done[2],
        "meta_steps": int(curve.train_steps[-1]),
        "curves": {task: seeds[str(seed)] for task, seeds in document[row.title].items() if str(seed) in seeds},
    }


def _anew(row: Row, spec: Experiment, storage: Path, seed: int, made: dict[str, Any]) -> dict[str, Any]:
    """Train in each test task from nothing.

    An evaluation after n episodes tells how the next one goes, so that it is the curve's episode n + 1. Episodes are
    counted by their steps, so that there were more of them where they end early.
    """
    curves = {}
    for index, task in enumerate(row.test_tasks):
        settings = [*made["settings"], f"{row.anew}={json.dumps(task)}"]
        command = train(spec, storage / f"task-{index}", seed, row.episodes * row.episode_steps, settings)
        [curve] = read_runs([f"{row.title}={storage / f'task-{index}'}"])
        scores = curve.score(choose_metric([curve]))
        points = zip((1 + curve.env_steps / row.episode_steps).round(2).tolist(), scores.tolist(), strict=True)
        curves[task_name(task if isinstance(task, list) else float(task))] = [list(point) for point in points]
    return provenance(curve, command) | {"meta_steps": 0, "curves": curves}


def write_tables(results: Path) -> dict[str, Any]:
    """Write curves, table and figure of each table; the means at the last episode of each method."""
    documents: dict[str, adaptation_curves.Document] = {}
    steps: dict[str, dict[str, set[int]]] = {}
    for run in recorded(results / RUNS):
        tasks = documents.setdefault(run["task"], {}).setdefault(run["method"], {})
        for task, points in run["curves"].items():
            tasks.setdefault(task, {})[str(run["seed"])] = points
        steps.setdefault(run["task"], {}).setdefault(run["method"], set()).add(run["meta_steps"])
    last: dict[str, Any] = {}
    for name, document in documents.items():
        curves = adaptation_curves.aggregate(document)
        said = {
            method: " to ".join(f"{n:,}" for n in sorted({min(taken), max(taken)}))
            for method, taken in steps[name].items()
        }
        adaptation_curves.write(document, results / f"{name}.json")
        (results / f"{name}.md").write_text(score_table(curves, {"steps of meta-training": said}) + "\n")
        plots.adaptation(curves, results / f"{name}.png", SCORES.get(name, "return"))
        last[name] = {c.method: [float(c.episodes[-1]), round(float(c.mean[-1]), 3)] for c in curves}
    return last


if __name__ == "__main__":
    typer.run(main)
