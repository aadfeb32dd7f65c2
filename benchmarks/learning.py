"""Learning curves over seeds: trains tuned examples and keeps every run's evaluations as data."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Lock
from typing import Any

import numpy as np
import typer
from common import report
from pydantic import BaseModel, ConfigDict

from rllib_spirl.cli.experiment import Experiment, load
from rllib_spirl.cli.storage import resumable
from rllib_spirl.evaluation.aggregate import aggregate, choose_metric, title
from rllib_spirl.evaluation.curve import Curve
from rllib_spirl.evaluation.records import CURVES
from rllib_spirl.evaluation.report import write_report
from rllib_spirl.evaluation.runs import find_trials, read_runs
from rllib_spirl.yaml_text import parse_file

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
MILESTONES = (10_000, 20_000, 50_000, 100_000, 150_000, 200_000, 600_000, 750_000)
COMMITS, VERSIONS = "commits", "versions"
# What of an experiment decides how it learns. It is kept with a run, and a test compares it with the example of today.
SETTINGS = ("run", "env", "skills", "config")
PACKAGES = ("rllib_spirl", "ray", "torch", "mujoco", "gymnasium")


class Method(BaseModel):
    """One row of a comparison: an experiment of tuned_examples with its changes, on several seeds."""

    model_config = ConfigDict(extra="forbid")

    example: str
    """Name of a file in tuned_examples."""
    experiment: str | None = None
    """Which of the file's experiments, if it is not called like the file."""
    name: str = ""
    """The method's, in reports and results; by default the experiment's."""
    seeds: list[int]
    steps: int | None = None
    """Low-level environment steps, instead of the example's."""
    settings: list[str] = []
    """``path.to.key=value``, as for ``rllib train file --set``."""
    method: str = ""
    """What its runs are called in ``results``, where several rows are one method on several tasks."""
    tables: list[str] = []
    """Names of the files in ``RESULTS`` that hold its curves beside those of others, see `write_tables`."""

    @property
    def title(self) -> str:
        return self.name or self.experiment or self.example


def learn(
    methods: Sequence[Method],
    folder: Path,
    jobs: int,
    *,
    record: Callable[[str, Curve], dict[str, Any]],
    results: Path,
    published: bool = False,
    anew: bool = False,
) -> None:
    """Train methods on their seeds, write a report of each to ``RESULTS/title`` and print JSON.

    Runs of the first seed of every method come first. A run's evaluations go into ``results`` as soon as it has ended.

    Args:
        methods: What to train.
        folder: Of runs; finished ones are not repeated, and interrupted ones go on.
        jobs: Runs at a time. Several have their env runner in their own process: on as many cores as jobs that takes
            less time in all, because no core waits for another.
        record: What to keep of a run of this title.
        results: JSON file to which the runs are added, in the place of those of the same method, task and seed.
        published: Whether the papers' kitchen curves belong into the pictures.
        anew: Whether to train what is in ``results`` with the same settings already.
    """
    specs = specifications(methods)
    lock = Lock()

    def run(method: Method, seed: int) -> None:
        storage = folder.expanduser() / method.title / f"seed-{seed}"
        made = making(method, specs[method.title], jobs)
        with lock:
            known = [run for run in recorded(results) if run["seed"] == seed and made.items() <= run.items()]
        steps = steps_of(method, specs[method.title])
        if any(run["steps"] >= steps for run in known) and not storage.exists() and not anew:
            print(f"{results.name} has {method.title}, seed {seed}; --anew trains it again", file=sys.stderr)
            return
        command = train(specs[method.title], storage, seed, steps, made["settings"])
        with lock:
            [curve] = read_runs([f"{method.title}={storage}"])
            evaluated = record(method.method or method.title, curve)
            keep(results, [evaluated | provenance(curve, command) | made | {"steps": steps, "tables": method.tables}])
            write_tables(results)

    work_off(methods, specs, run, jobs)
    places = {m.title: [folder.expanduser() / m.title / f"seed-{seed}" for seed in m.seeds] for m in methods}
    here = [method for method in methods if all(place.exists() for place in places[method.title])]
    summaries = [summarize(method, folder.expanduser() / method.title, published) for method in here]
    report(summaries[0] if len(summaries) == 1 else {"name": "methods", "methods": summaries})


def command(
    name_of_example: str,
    number_of_seeds: int,
    record: Callable[[str, Curve], dict[str, Any]],
    results: str,
    published: bool = False,
) -> Callable[..., None]:
    """A script's command line: one method by options, or many by a queue; by default this example on so many seeds."""

    def main(
        example: str = name_of_example,
        experiment: str | None = None,
        seeds: int = number_of_seeds,
        first: int = 0,
        steps: int | None = None,
        folder: Path = Path("~/rllib_spirl_runs"),
        settings: list[str] = typer.Option([], "--set", help="As for 'rllib train file'; for ablations, with --name."),
        name: str = "",
        jobs: int = typer.Option(1, help="Runs at a time, each in one process."),
        queue: Path | None = typer.Option(None, help="A YAML list of methods, see learning.Method, instead of one."),
        anew: bool = typer.Option(False, "--anew", help="Train what is among the recorded results already, too."),
    ) -> None:
        """Train, then aggregate."""
        if not name and not all(setting.startswith("config.evaluation_") for setting in settings):
            raise typer.BadParameter("--set makes it another method than the recorded one: give it a --name.")
        numbers_of_seeds = list(range(first, first + seeds))
        one = Method(
            example=example, experiment=experiment, name=name, seeds=numbers_of_seeds, steps=steps, settings=settings
        )
        methods = [Method.model_validate(values) for values in parse_file(queue)] if queue else [one]
        learn(methods, folder, jobs, record=record, results=RESULTS / results, published=published, anew=anew)

    return main


def specifications(methods: Sequence[Method]) -> dict[str, Experiment]:
    """The experiments behind methods, by the methods' titles."""
    return {
        m.title: load(ROOT / f"tuned_examples/{m.example}.yaml", only=[m.experiment or m.example])[0] for m in methods
    }


def making(method: Method, spec: Experiment, jobs: int) -> dict[str, Any]:
    """What decides how a method's runs learn, but for the seed; it is kept with their results."""
    one_process = ["config.num_env_runners=0"] if jobs > 1 else []
    experiment = {key: spec.given.get(key) for key in SETTINGS}
    made = {"example": method.example, "experiment": experiment, "settings": [*method.settings, *one_process]}
    as_recorded: dict[str, Any] = json.loads(json.dumps(made))  # keys that are numbers become texts
    return as_recorded


def steps_of(method: Method, spec: Experiment) -> int:
    """The steps that a method's runs are to make."""
    return method.steps or int(next(iter(spec.stop.values())))


def work_off(
    methods: Sequence[Method], specs: Mapping[str, Experiment], run: Callable[[Any, int], None], jobs: int
) -> None:
    """Call ``run`` for each seed of each method, so many at a time; the first seed of every method comes first."""
    if jobs > 1:  # data are made once, not by every run at the same time
        named = (spec.skills.get("data") for spec in specs.values() if spec.skills)
        for data in dict.fromkeys(filter(None, named)):
            subprocess.run([sys.executable, "-m", "rllib_spirl.cli.spirl", "data", "build", data], cwd=ROOT, check=True)
    tasks = [(place, seed, method) for method in methods for place, seed in enumerate(method.seeds)]
    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(lambda task: run(task[2], task[1]), sorted(tasks, key=lambda task: task[0])))


def summarize(method: Method, folder: Path, published: bool) -> dict[str, Any]:
    """Write the report of a method's runs below ``folder``; its figures."""
    found = [f"{method.title}={folder}/seed-{seed}" for seed in method.seeds]
    write_report(found, RESULTS / method.title, published=published)
    curves = read_runs(found)
    metric = choose_metric(curves)
    curve = aggregate(method.title, curves, metric)
    milestones = {str(step): curve.at(step) for step in MILESTONES}
    return {
        "name": f"{method.title}: {title(metric)}, IQM over seeds",
        "seeds": len(found),
        "skill_models": len({run.skill_checkpoint for run in curve.runs}),
        "env_steps": numbers(curve.steps),
        "iqm": numbers(curve.iqm),
        "ci_low": numbers(curve.low),
        "ci_high": numbers(curve.high),
        "lowest": numbers(np.nanmin(curve.values, axis=0)),
        "at": {step: round(float(curve.iqm[i]), 3) for step, i in milestones.items() if i is not None},
        "settings": method.settings,
    }


def numbers(values: np.ndarray) -> list[float | None]:
    """JSON has no NaN: a single run has no interval."""
    return [round(float(value), 3) if np.isfinite(value) else None for value in values]


def provenance(curve: Curve, command: list[str]) -> dict[str, Any]:
    """How a run was made, with the commits of this repository that it was begun and gone on at."""
    commits, versions = (curve.trial.parent.parent / name for name in (COMMITS, VERSIONS))
    return {
        "commits": commits.read_text().split() if commits.exists() else [],
        "episodes": next((int(episodes) for episodes in curve.episodes[::-1] if np.isfinite(episodes)), None),
        "command": shlex.join(command),
        "versions": json.loads(versions.read_text()) if versions.exists() else installed(),
        "date": datetime.fromtimestamp((curve.trial / "result.json").stat().st_mtime, UTC).date().isoformat(),
    }


def success(method: str, curve: Curve) -> dict[str, Any]:
    """What to keep of a run whose measure is success. A task without a name is called like its environment."""
    return {
        "method": method,
        "data": curve.data,
        "task": curve.task or curve.env.split("/")[-1],
        "seed": curve.seed,
        "env_steps": numbers(curve.env_steps),
        "success": numbers(curve.score("success")),
    }


def installed() -> dict[str, str]:
    """The versions of the packages that decide how a run learns."""
    return {package: version(package) for package in PACKAGES}


def keep(file: Path, records: list[dict[str, Any]]) -> None:
    """Put runs in the place of earlier ones of the same method, task, data and seed, and into the tables of these."""
    identity = ("method", "reward", "data", "task", "seed")

    def key(run: dict[str, Any]) -> tuple[str, ...]:
        return run["method"] != "spirl", *(str(run.get(name, "")) for name in identity)  # ours first

    runs = {key(run): run for run in recorded(file)}
    for run in records:
        tables = dict.fromkeys([*run.get("tables", []), *runs.get(key(run), {}).get("tables", [])])
        runs[key(run)] = run | ({"tables": list(tables)} if tables else {})
    lines = ",\n".join(json.dumps(runs[k]) for k in sorted(runs))
    file.write_text(f'{{"runs": [\n{lines}\n]}}\n')


def recorded(file: Path) -> list[dict[str, Any]]:
    """The runs in a file that `keep` wrote, or none."""
    runs: list[dict[str, Any]] = json.loads(file.read_text())["runs"] if file.exists() else []
    return runs


def write_tables(file: Path) -> None:
    """Write the curves of ``file`` that belong into tables: NAME.json, and a report in the folder NAME.

    NAME.json is {method: {task: {seed: [[env_steps, score], …]}}}. The report compares methods, or the tasks of one.
    """
    tables: dict[str, list[dict[str, Any]]] = {}
    for run in recorded(file):
        for name in run.get("tables", []):
            tables.setdefault(name, []).append(run)
    for name, runs in tables.items():
        methods: dict[str, Any] = {}
        reported: dict[str, Any] = {}
        several = len({run["method"] for run in runs}) > 1
        for run in runs:
            scores = next(run[name] for name in ("completed_subtasks", "success", "score") if name in run)
            curve = [[steps, score] for steps, score in zip(run["env_steps"], scores, strict=True)]
            task = run.get("task") or f"{run['reward']} reward"  # block stacking has one task, with two rewards
            methods.setdefault(run["method"], {}).setdefault(task, {})[str(run["seed"])] = curve
            reported.setdefault(run["method"] if several else task, {"runs": []})["runs"].append(_as_reported(run))
        lines = ",\n".join(f"{json.dumps(method)}: {json.dumps(tasks)}" for method, tasks in methods.items())
        (RESULTS / f"{name}.json").write_text(f"{{\n{lines}\n}}\n")
        if len(reported) > 1:
            with TemporaryDirectory() as folder:
                (Path(folder) / CURVES).write_text(json.dumps({"methods": reported}))
                write_report([folder], RESULTS / name)


def _as_reported(run: dict[str, Any]) -> dict[str, Any]:
    """What a report knows of a run, as far as it was recorded."""
    same = ("completed_subtasks", "success", "stacked_blocks", "tower_height")
    names = {name: name for name in same} | {"all_completed": "all_four"}
    return {
        "trial": f"{run['method']}-{run['seed']}",
        "env": run["experiment"]["env"],
        "explores": bool(run["experiment"]["config"].get("evaluation_config", {}).get("explore")),
        **{key: run[key] for key in ("seed", "task", "data", "env_steps") if key in run},
        "scores": {key: run[name] for key, name in names.items() if name in run},
        "episodes": [run["episodes"]] * len(run["env_steps"]),
    }


def commit() -> str:
    """The commit that the code is at, with a + behind it where files of the package differ from that."""
    head = subprocess.run(["git", "rev-parse", "--short=12", "HEAD"], cwd=ROOT, capture_output=True, text=True)
    changed = subprocess.run(["git", "diff", "--quiet", "HEAD", "--", "rllib_spirl", "tuned_examples"], cwd=ROOT)
    return f"{head.stdout.strip() or 'unknown'}{'+' if changed.returncode == 1 else ''}"


def train(spec: Experiment, storage: Path, seed: int, steps: int, settings: list[str]) -> list[str]:
    """One run, unless it is done; its output goes to ``log.txt``. Returns its command."""
    metric = next(iter(spec.stop))
    changes = [f"config.seed={seed}", *_of_skills(spec, seed), *settings]
    command = ["rllib", "train", "file", str(spec.source.relative_to(ROOT)), "--only", spec.name]
    command += [part for change in changes for part in ("--set", change)]
    command += ["--stop", f"{metric}={steps}"]
    made = json.loads(json.dumps({"experiment": {**spec.given, "stop": None}, "settings": settings}))
    held = json.loads((storage / "made").read_text()) if (storage / "made").exists() else made
    held["experiment"]["stop"] = None  # how long it was to go on
    if held != made:
        raise SystemExit(f"{storage} holds a run of other settings: remove it, or give another --name")
    if (storage / "done").exists() and int((storage / "done").read_text()) >= steps:
        return command
    storage.mkdir(parents=True, exist_ok=True)
    (storage / "made").write_text(json.dumps(made))
    (storage / VERSIONS).write_text(json.dumps(installed()))
    resume = ["--resume"] if resumable(str(storage / spec.name)) else []  # not where only skills were in training
    with (storage / COMMITS).open("a") as commits:
        commits.write(f"{commit()}\n")
    call("rllib", [*command[1:], "--set", f"storage_path={storage}", *resume], storage)
    for trial in find_trials(storage):
        last = (trial / "result.json").read_text().splitlines()[-1]
        if not json.loads(last)["done"]:
            raise SystemExit(f"{trial} ended before it was done: give the command again, and it goes on")
    (storage / "done").write_text(str(steps))
    return command


def _of_skills(spec: Experiment, seed: int) -> list[str]:
    """The setting that trains a run's skills from its own seed, if it trains any."""
    trains = spec.skills and "chunk" not in spec.skills
    return [f"skills.pretrain.seed={seed}"] if trains else []


def call(program: str, arguments: Sequence[str], storage: Path) -> None:
    """Call ``rllib`` or ``spirl``; what it prints goes to the ``log.txt`` of a run."""
    print(f"{storage}/log.txt", file=sys.stderr)
    # Ray's workers have a lower priority, and would wait for whatever else runs beside these trainings.
    environment = {"RAY_worker_niceness": "0"} | os.environ
    with (storage / "log.txt").open("a") as log:
        command = [sys.executable, "-m", f"rllib_spirl.cli.{program}", *arguments]
        subprocess.run(command, cwd=ROOT, env=environment, stdout=log, stderr=log, check=True)
