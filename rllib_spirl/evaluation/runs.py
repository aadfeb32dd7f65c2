"""Read the learning curves of finished or still running Ray Tune runs, and of earlier reports.

Only JSON and YAML are read, never a pickle.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rllib_spirl.envs import BLOCK_STACKING, KITCHEN, MAZE, TRIALS
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import records
from rllib_spirl.evaluation.curve import Array, Curve
from rllib_spirl.evaluation.prior import prior_scores
from rllib_spirl.evaluation.settings import in_evaluation, merged
from rllib_spirl.skills.checkpoint import load_card

RESULTS = "result.json"
# The experiment's YAML beside it, see rllib_spirl.cli.training.
RECORD = "experiment.yaml"
# What tells runs of one method apart: trials that differ in these alone share a curve.
_RUN_KEYS = ("seed", "skill_checkpoint")
# What an evaluation holds beside what the environment measures: our own counts, and RLlib's.
_COUNTED = re.compile(
    r"(episodes|low_level_steps|sample|weights_seq_no|time_between_sampling|\w+_timer|\w+_this_iter)$"
    r"|episode_(return|len|duration)(_|$)"
    r"|num_(env|agent|module|episodes|healthy_workers|in_flight|remote_worker)"
    r"|(actor_manager|env_to_module|module_to_env)_"
)
_TUNE_NAME = re.compile(r"_\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d$")


def read_runs(runs: Sequence[str | Path]) -> list[Curve]:
    """The curves of every trial below the given directories, in their order.

    Args:
        runs: Trial directories, experiment directories, directories of experiments, or earlier reports, whose runs may
            be gone. ``NAME=DIR`` gives the method's name, so that experiments can be pooled or renamed. A trial that is
            named twice counts once.

    Raises:
        UserError: If a directory is missing or holds neither a Ray Tune trial nor a report, if that report is damaged,
            or if nothing has been reported in any trial.
    """
    curves: dict[Any, Curve] = {}
    recorded: dict[Any, Curve] = {}
    card_metrics = cache(_card_metrics)  # trials share skills
    by_experiment: dict[tuple[str | None, Path], list[Path]] = {}
    for run in runs:
        name, path = named(str(run))
        if (report := records.find(path)) is not None and not _trials(path):
            for reported in _renamed(records.load(report), name):
                recorded.setdefault(_identity(reported.trial, len(recorded)), reported)
            continue
        for trial in find_trials(path):
            by_experiment.setdefault((name, trial.parent), []).append(trial)
    # What varies within an experiment is seen where all of its trials are together, however they were named.
    for (name, experiment), members in by_experiment.items():
        data = _recorded_data(experiment)
        parameters = {trial: _parameters(trial) for trial in members}
        varied = _varied(list(parameters.values()))
        for trial in members:
            label = " ".join([name or experiment.name, *_labels(parameters[trial], varied)])
            curve = _read(trial, label, parameters[trial], data, card_metrics)
            if curve is not None:
                curves.setdefault(_identity(trial, str(trial.resolve())), curve)
    # Where a run is there itself, a report may know less of it.
    curves = {key: curve for key, curve in recorded.items() if key not in curves} | curves
    if not curves:
        raise UserError(f"{', '.join(map(str, runs))}: no trial has reported a result yet; try again later.")
    return list(curves.values())


def _identity(trial: Path, otherwise: Any) -> Any:
    """Tune's names of trial directories hold random numbers and the date: a copy is the same run."""
    return trial.name if _TUNE_NAME.search(trial.name) else otherwise


def _renamed(curves: list[Curve], name: str | None) -> list[Curve]:
    """A report's only method is NAME, several are NAME METHOD."""
    several = len({curve.method for curve in curves}) > 1
    return [replace(c, method=f"{name} {c.method}" if several else name) if name else c for c in curves]


def find_trials(path: Path) -> list[Path]:
    """Trial directories at ``path`` or up to two levels below it, sorted.

    Raises:
        UserError: If there is no such directory, or none of them holds a result.json.
    """
    if not path.exists():
        remote = "; copy the run to this machine first" if "://" in str(path) or ":/" in str(path) else ""
        raise UserError(f"{path} does not exist{remote}.")
    if not path.is_dir():
        raise UserError(f"{path} is a file; name the directory of an experiment, a trial or a report.")
    if found := _trials(path):
        return found
    raise UserError(f"{path} holds no Ray Tune run (no {RESULTS} in it or its subdirectories), and no report.")


def holds_runs(path: Path) -> bool:
    """Whether there are trials or an earlier report of some."""
    return (path.is_dir() and bool(_trials(path))) or records.find(path) is not None


def _trials(path: Path) -> list[Path]:
    for pattern in (RESULTS, f"*/{RESULTS}", f"*/*/{RESULTS}"):
        if found := sorted(file.parent for file in path.glob(pattern)):
            return found
    return []


def named(run: str) -> tuple[str | None, Path]:
    """NAME=PATH or PATH, either with more of "=" in it: a name ends where what follows exists, else at the first."""
    cuts = [i for i, letter in enumerate(run) if letter == "=" and i and "/" not in run[:i]]
    if not cuts or Path(run).exists():
        return None, Path(run).expanduser()
    cut = next((i for i in cuts if Path(run[i + 1 :]).expanduser().exists()), cuts[0])
    return run[:cut], Path(run[cut + 1 :]).expanduser()


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is unreadable: {error}. Restore it, or leave this run out.") from None


def _parameters(trial: Path) -> dict[str, Any]:
    return _mapping(_json(trial / "params.json"))


def _mapping(value: Any) -> dict[str, Any]:
    """The value, or an empty one in place of anything else: files may be damaged."""
    return value if isinstance(value, dict) else {}


def _recorded_data(experiment: Path) -> str | None:
    """The name of the recipe or data set in the experiment's ``skills:`` section, where it has one."""
    try:
        document = yaml.safe_load((experiment / RECORD).read_text())
    except (OSError, ValueError, yaml.YAMLError):
        return None
    spec = _mapping(next(iter(_mapping(document).values()), None))
    data = _mapping(spec.get("skills")).get("data")
    return Path(data).name.removesuffix(".yaml").removesuffix(".yml") if isinstance(data, str) else None


def _flat(parameters: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parameters.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _varied(parameters: Sequence[Mapping[str, Any]]) -> list[str]:
    """Keys, other than the seed's, whose values differ between trials."""
    flat = [_flat(p) for p in parameters]
    keys = {key: None for p in flat for key in p if key not in _RUN_KEYS}
    return [key for key in keys if len({json.dumps(p.get(key), sort_keys=True) for p in flat}) > 1]


def varied_number(trials: Sequence[Path]) -> tuple[str, list[float]] | None:
    """The one setting, seed and skill model aside, in which trials differ, and its value in each.

    None if there are several, or it is no number.
    """
    parameters = [_parameters(trial) for trial in trials]
    varied = _varied(parameters)
    if len(varied) != 1:
        return None
    values = [_flat(p).get(varied[0]) for p in parameters]
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return None
    return varied[0], [float(value) for value in values if value is not None]


def _labels(parameters: Mapping[str, Any], varied: Iterable[str]) -> list[str]:
    flat = _flat(parameters)
    names = {"target_divergence": "δ"}
    return [f"{names.get(key, key.rpartition('.')[2])}={_show(flat.get(key))}" for key in varied]


def _show(value: Any) -> str:
    if isinstance(value, list):
        return "+".join(map(_show, value))
    if isinstance(value, str):
        return value.rstrip("/").rpartition("/")[2]
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _lines(trial: Path) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """The results of a trial, without those that a restored trial reported again."""
    path = trial / RESULTS
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}.") from None
    results: list[dict[str, Any]] = []
    unreadable: list[int] = []
    lines = text.split("\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            result = json.loads(line)
        except ValueError:
            result = None
        if not isinstance(result, dict):
            # A running trial may be in the middle of its last line.
            if number < len(lines):
                unreadable.append(number)
            continue
        # A trial restored from a checkpoint repeats the iterations after it; from another trial's, steps may go back.
        while results and (
            _number(results[-1], "training_iteration") >= _number(result, "training_iteration")
            or _steps(results[-1]) > _steps(result)
        ):
            results.pop()
        results.append(result)
    if unreadable and not results:
        raise UserError(f"{path} holds no result that can be read (line {unreadable[0]} is not JSON).")
    shown = ", ".join(map(str, unreadable))
    return results, (f"{path}: not JSON and left out: line {shown}",) if unreadable else ()


def _number(result: Any, *path: str) -> float:
    """A number of a nested result; nan if it is absent, null or something else."""
    for key in path:
        result = result.get(key) if isinstance(result, Mapping) else None
    return float(result) if isinstance(result, int | float) else float("nan")


def _first(*values: float) -> float:
    return next((value for value in values if not np.isnan(value)), float("nan"))


def _steps(result: Mapping[str, Any]) -> float:
    # Algorithms other than SPiRL count low-level steps only, under RLlib's name.
    return _first(_number(result, "env_steps"), _number(result, "num_env_steps_sampled_lifetime"))


def _evaluation_due(result: Mapping[str, Any], config: Mapping[str, Any]) -> bool:
    interval, iteration = config.get("evaluation_interval"), _number(result, "training_iteration")
    return not interval or not isinstance(interval, int) or np.isnan(iteration) or iteration % interval == 0


def _evaluation(result: Mapping[str, Any], *path: str) -> float:
    # Algorithms other than SPiRL have what environments report among the env runners' results.
    return _first(*(_number(result, "evaluation", *place, *path) for place in ((), ("env_runners",))))


def _rates(evaluation: Mapping[str, Any]) -> Mapping[str, Any]:
    return _mapping(evaluation.get("subtask_rate")) or _mapping(
        _mapping(evaluation.get("env_runners")).get("subtask_rate")
    )


def _measures(results: Iterable[Mapping[str, Any]]) -> list[str]:
    """The names of what environments have measured in evaluations."""
    names: dict[str, None] = {}
    for result in results:
        evaluation = result["evaluation"]
        for place in (evaluation, _mapping(evaluation.get("env_runners"))):
            names |= {name: None for name in place if not np.isnan(_number(place, name))}
    return [name for name in names if not _COUNTED.match(name)]


def _episodes(evaluation: Any) -> float:
    return _first(_number(evaluation, "episodes"), _number(evaluation, "env_runners", "num_episodes"))


def _return(evaluation: Any) -> float:
    return _first(_number(evaluation, "episode_return"), _number(evaluation, "env_runners", "episode_return_mean"))


def _read(
    trial: Path,
    method: str,
    parameters: dict[str, Any],
    data: str | None,
    card_metrics: Callable[[str], dict[str, float]],
) -> Curve | None:
    """The trial's curve, or None if it has not reported yet."""
    results, notes = _lines(trial)
    results = [r for r in results if not np.isnan(_steps(r))]
    if not results:
        return None
    reported: dict[str, Any] = next((r["config"] for r in results if isinstance(r.get("config"), dict)), {})
    config = merged(reported, parameters)
    env_config = _mapping(in_evaluation(config).get("env_config"))  # of what is scored
    # RLlib repeats an evaluation, some of it as nan, in the results that follow.
    evaluated = [r for r in results if _evaluation_due(r, config) and not np.isnan(_return(r.get("evaluation")))]
    rates = [_rates(r["evaluation"]) for r in evaluated]
    names = list(dict.fromkeys(name for rate in rates for name in rate))
    given = env_config.get("tasks")
    tasks = given if given and isinstance(given, list | tuple) else names
    many = bool(config.get("training_tasks")) or config.get("env") == TRIALS  # of which none is the run's
    names.sort(key=lambda name: tasks.index(name) if name in tasks else len(tasks))

    def evaluations(*path: str) -> Array:
        return np.array([_evaluation(r, *path) for r in evaluated])

    def training(*path: str) -> Array:
        return np.array([_number(r, *path) for r in results])

    learner = ("learners", "default_policy")
    seed = config.get("seed")
    skill_checkpoint = str(config.get("skill_checkpoint") or "")
    alone = prior_scores(card_metrics(skill_checkpoint), str(config.get("env")), _mapping(config.get("env_config")))
    return Curve(
        method=method,
        trial=trial,
        seed=int(seed) if isinstance(seed, int | float) else None,
        env=str(config.get("env") or ""),
        task="" if many else _maze(env_config) if config.get("env") == MAZE else ", ".join(map(str, tasks)),
        rule="" if many else _rule(config.get("env"), env_config),
        data=_data(data, config),
        skill_checkpoint=skill_checkpoint,
        target_divergence=_number(config, "target_divergence"),
        explores=bool(in_evaluation(config).get("explore")),
        env_steps=np.array([_steps(r) for r in evaluated]),
        seconds=np.array([_number(r, "time_total_s") for r in evaluated]),
        episodes=np.array([_episodes(r["evaluation"]) for r in evaluated]),
        scores={name: evaluations(name) for name in _measures(evaluated)}
        | {"episode_return": np.array([_return(r["evaluation"]) for r in evaluated])},
        subtask_rate={name: evaluations("subtask_rate", name) for name in names},
        train_steps=np.array([_steps(r) for r in results]),
        kl=training(*learner, "kl"),
        alpha=training(*learner, "alpha"),
        prior_alone=alone or (np.nan, np.nan),
        notes=notes,
    )


def _card_metrics(skills: str) -> dict[str, float]:
    """Of the skills' card, which may be on another machine."""
    try:
        return load_card(skills).metrics if skills else {}
    except UserError:
        return {}


def _rule(env: Any, env_config: Mapping[str, Any]) -> str:
    if env == BLOCK_STACKING:
        return f"{env_config.get('reward', 'dense')} reward"
    ordered = env_config.get("ordered", True if env == KITCHEN else None)
    return "" if ordered is None else "in this order" if ordered else "in any order"


def _maze(env_config: Mapping[str, Any]) -> str:
    return f"maze {env_config.get('maze', 0)} of size {env_config.get('size', 40)}"


def _data(recorded: str | None, config: Mapping[str, Any]) -> str:
    """What the data are called: as in the experiment's record, if that is of this trial and not of a later run."""
    used = _base_name(config.get("offline_data"))
    ours = recorded if recorded and used.startswith(recorded) else None
    return ours or used or recorded or _base_name(config.get("skill_checkpoint"))


def _base_name(location: Any) -> str:
    return str(location).rstrip("/").rpartition("/")[2] if location else ""
