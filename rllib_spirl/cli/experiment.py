"""Experiment files: YAML in, checked ``Experiment`` objects out. Nothing here starts Ray or writes a file."""

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rllib_spirl import examples
from rllib_spirl.cli.levels import hint
from rllib_spirl.errors import UserError
from rllib_spirl.locations import absolute, address
from rllib_spirl.yaml_text import did_you_mean, parse, parse_assignment, parse_file

CHECKPOINT_KEYS = (
    "num_to_keep",
    "checkpoint_score_attribute",
    "checkpoint_score_order",
    "checkpoint_frequency",
    "checkpoint_at_end",
)
# {form: number of numbers it takes}, or None for a list of any length.
SPACES: dict[str, int | None] = {
    "grid_search": None,
    "choice": None,
    "uniform": 2,
    "quniform": 3,
    "loguniform": 2,
    "qloguniform": 3,
    "randint": 2,
    "qrandint": 3,
    "lograndint": 2,
    "randn": 2,
}


@dataclass(frozen=True)
class Experiment:
    """One experiment of a file, as ``rllib train file`` runs it.

    ``config`` holds keys of the algorithm's ``AlgorithmConfig`` with Tune search spaces already in place of their YAML
    form; ``stop`` maps metric names to the value at which a trial ends; ``storage_path`` is an absolute path or a URI.
    """

    name: str
    run: str
    source: Path
    env: Any = None
    stop: dict[str, float] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    skills: dict[str, Any] | None = None
    tasks: dict[str, Any] | str | None = None
    num_samples: int = 1
    storage_path: str = ""
    checkpoint_config: dict[str, Any] = field(default_factory=dict)
    max_failures: int = 0
    time_budget_s: float | None = None
    resources_per_trial: dict[str, float] | None = None
    max_concurrent_trials: int | None = None
    scheduler: str | None = None
    scheduler_config: dict[str, Any] = field(default_factory=dict)
    metric: str | None = None
    mode: str | None = None
    log_to_file: bool = False
    given: dict[str, Any] = field(default_factory=dict)
    """What the file says after overrides, as plain YAML values: enough to run the experiment again."""

    @property
    def where(self) -> str:
        """How an error message names this experiment: file and experiment."""
        return f"{self.source}: {self.name}"

    @property
    def base(self) -> Path:
        """The repository the file belongs to (the nearest parent with a .git or pyproject.toml), else its directory.

        Of a packaged example, where the packaged recipes are.
        """
        folder = self.source.resolve().parent
        if folder.parent == examples.root():
            return folder.parent
        for parent in (folder, *folder.parents):
            if (parent / ".git").exists() or (parent / "pyproject.toml").exists():
                return parent
        return folder

    @property
    def places(self) -> tuple[Path, ...]:
        """Where relative paths in the file are looked for: beside it, in the working directory, in its repository."""
        return self.source.parent, Path(), self.base

    def found(self, value: Any) -> Any:
        """A path in the file as an absolute one, for trials have working directories of their own.

        What is a URI or is nowhere stays as it is, and so does what is no text; of a grid search or a choice it is
        each value.
        """
        from ray import tune

        if isinstance(value, tune.search.sample.Categorical):
            return tune.choice([self.found(each) for each in value.categories])
        if isinstance(value, dict) and set(value) == {"grid_search"}:
            return {"grid_search": [self.found(each) for each in value["grid_search"]]}
        return absolute(value, self.places) if isinstance(value, str) else value


def load(
    path: str | Path, *, overrides: Sequence[str] = (), stops: Sequence[str] = (), only: Sequence[str] = ()
) -> list[Experiment]:
    """Read an experiment file and check everything that can be checked without the algorithm.

    Args:
        path: the YAML file, ``{experiment name: {run, env, stop, config, ...}}``, or a packaged example's name.
        overrides: ``"path.to.key=value"``; the path starts inside each experiment, the value is YAML.
        stops: ``"metric=number"``; when given, they replace the ``stop:`` of every experiment.
        only: names of experiments; when given, the others are left out.

    Raises:
        UserError: one line that names file, experiment, key and the nearest valid key.
    """
    path = examples.find(path, examples.EXPERIMENTS)
    if str(path.parent) == "." and not path.exists():
        known = [*(file.name for file in sorted(Path().glob("*.y*ml"))), *examples.names()]
        raise UserError(f"{path} does not exist, and no example is called so{did_you_mean(path, known)}")
    document = parse_file(path)
    if not isinstance(document, dict) or not document:
        raise UserError(f"{path} holds no experiment; expected 'name: {{run: ..., env: ..., config: ...}}'")
    for name in only:
        if name not in document:
            raise UserError(f"{path} has no experiment '{name}'{did_you_mean(name, [str(key) for key in document])}")
    criteria = dict(_parse_stop(text) for text in stops)
    changes = [_parse_override(text) for text in overrides]
    experiments = []
    for name, spec in document.items():
        if only and name not in only:
            continue
        if not isinstance(spec, dict):
            raise UserError(f"{path}: '{name}' is not an experiment (a mapping with 'run', 'env', 'config', ...)")
        spec = copy.deepcopy(spec)  # YAML aliases share objects between experiments
        for keys, value in changes:
            _set(spec, keys, copy.deepcopy(value))
        if criteria:
            spec["stop"] = criteria
        experiments.append(_experiment(path, str(name), spec))
    return experiments


def _parse_override(text: str) -> tuple[list[str], Any]:
    key, value = parse_assignment(text, "config.policy_lr=1e-4", "path.to.key=value")
    return [part.strip() for part in key.split(".")], value


def _parse_stop(text: str) -> tuple[str, float]:
    name, equals, value = text.rpartition("=")
    if not equals or not name.strip():
        raise UserError(f"--stop {text}: expected metric=number, e.g. --stop env_steps=200000")
    number = parse(value.replace("_", "").replace(",", ""), "--stop")
    if not _is_number(number):
        raise UserError(f"--stop {text}: '{value}' is not a number")
    return name.strip(), number


def _set(spec: dict, keys: list[str], value: Any) -> None:
    node = spec
    for depth, key in enumerate(keys[:-1]):
        if node.get(key) is None:
            node[key] = {}
        node = node[key]
        if not isinstance(node, dict):
            raise UserError(f"--set {'.'.join(keys)}: '{'.'.join(keys[: depth + 1])}' is a value, not a section")
    node[keys[-1]] = value


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and math.isfinite(value) and value == int(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)


def _is_env(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, dict) and set(value) == {"grid_search"})


# key -> (check, what to say it must be). `null` is always allowed and means: not given.
KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "run": (_is_text, "the name of an algorithm"),
    "env": (_is_env, "the id of an environment (or a grid_search of some)"),
    "stop": (_is_dict, "a mapping of metrics to numbers"),
    "config": (_is_dict, "a mapping of the algorithm's settings"),
    "skills": (_is_dict, "a mapping with 'data', 'checkpoint' and 'pretrain'"),
    "tasks": (lambda v: _is_dict(v) or _is_text(v), "a mapping with 'training' and 'test', or a file of one"),
    "num_samples": (lambda v: _is_count(v) and (v >= 1 or v == -1), "a whole number, 1 or more"),
    "storage_path": (_is_text, "a directory or a URI"),
    "local_dir": (_is_text, "a directory"),
    "checkpoint_config": (_is_dict, "a mapping"),
    "max_failures": (lambda v: _is_count(v) and v >= -1, "a whole number (-1: no limit)"),
    "time_budget_s": (lambda v: _is_number(v) and v > 0, "a positive number of seconds"),
    "resources_per_trial": (
        lambda v: isinstance(v, dict) and all(_is_number(n) and n >= 0 for n in v.values()),
        "a mapping such as {cpu: 2, gpu: 0}",
    ),
    "max_concurrent_trials": (lambda v: _is_count(v) and v >= 0, "a whole number"),
    "scheduler": (_is_text, "the name of a Tune scheduler such as fifo, asha or pbt"),
    "scheduler_config": (_is_dict, "a mapping of the scheduler's arguments"),
    "metric": (_is_text, "the name of a metric"),
    "mode": (lambda v: v in ("min", "max"), "'min' or 'max'"),
    "log_to_file": (lambda v: isinstance(v, bool), "true or false"),
}


def _experiment(path: Path, name: str, spec: dict[str, Any]) -> Experiment:
    where = f"{path}: {name}"
    if not name.strip() or "/" in name or name.startswith("."):
        raise UserError(f"{path}: '{name}' cannot name an experiment; use letters, digits, - and _")
    for key, value in spec.items():
        if key not in KEYS:
            raise UserError(f"{where}: unknown key '{key}'{hint(str(key), '', str(spec.get('run')))}")
        check, wanted = KEYS[key]
        if value is not None and not check(value):
            raise UserError(f"{where}: '{key}' must be {wanted}, not {_show(value)}")
    spec = {key: value for key, value in spec.items() if value is not None}
    if "run" not in spec:
        raise UserError(f"{where}: 'run' is missing (the algorithm, e.g. run: SPiRL)")
    if "local_dir" in spec:
        if "storage_path" in spec:
            raise UserError(f"{where}: 'local_dir' is the old name of 'storage_path'; give only one of them")
        spec["storage_path"] = spec.pop("local_dir")
    given = copy.deepcopy(spec)
    _check_stop(where, spec.get("stop", {}))
    if "skills" in spec and _has_space(spec["skills"]):
        raise UserError(f"{where}: search spaces belong in 'config'; trials share one skill model")
    for key in ("num_samples", "max_failures", "max_concurrent_trials"):
        if key in spec:
            spec[key] = int(spec[key])
    spec["env"] = spaces(spec.get("env"), f"{where}: env")
    spec["config"] = spaces(spec.get("config", {}), f"{where}: config")
    spec["scheduler_config"] = spaces(spec.get("scheduler_config", {}), f"{where}: scheduler_config")
    spec["storage_path"] = address(spec.get("storage_path", "~/ray_results"))
    spec["checkpoint_config"] = checkpoint_config(spec.get("checkpoint_config", {}), f"{where}: checkpoint_config")
    return Experiment(name=name, source=path, given=given, **spec)


def _check_stop(where: str, stop: Mapping) -> None:
    for metric, value in stop.items():
        if not _is_text(metric):
            raise UserError(f"{where}: stop: '{metric}' must be the name of a metric")
        if not _is_number(value):
            raise UserError(f"{where}: stop: '{metric}' must be a number, not {_show(value)}")
        if value != value:
            raise UserError(f"{where}: stop: '{metric}' is not a number (nan): no result ever reaches it")


def checkpoint_config(given: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The checked arguments of ``tune.CheckpointConfig``; a checkpoint at the end is the default.

    Raises:
        UserError: unknown key or impossible value.
    """
    from ray.tune import CheckpointConfig

    for key in given:
        if key not in CHECKPOINT_KEYS:
            raise UserError(f"{where}: unknown key '{key}'{did_you_mean(key, CHECKPOINT_KEYS)}")
    arguments = {"checkpoint_at_end": True} | {k: v for k, v in given.items() if v is not None}
    for key in ("num_to_keep", "checkpoint_frequency"):
        if key in arguments:
            if not _is_count(arguments[key]):
                raise UserError(f"{where}: '{key}' must be a whole number, not {_show(arguments[key])}")
            arguments[key] = int(arguments[key])
    if not isinstance(arguments["checkpoint_at_end"], bool):
        raise UserError(f"{where}: 'checkpoint_at_end' must be true or false")
    try:
        CheckpointConfig(**arguments)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    return arguments


def is_space(value: Any) -> bool:
    """Whether a YAML value is a search space such as ``{grid_search: [1, 2]}`` or ``{uniform: [0, 1]}``."""
    return isinstance(value, dict) and len(value) == 1 and next(iter(value)) in SPACES


def _has_space(value: Any) -> bool:
    if isinstance(value, dict):
        return is_space(value) or any(_has_space(v) for v in value.values())
    return isinstance(value, list) and any(_has_space(v) for v in value)


def spaces(value: Any, where: str) -> Any:
    """The value with every search space in YAML form replaced by Tune's own object; ``grid_search`` stays a mapping.

    Raises:
        UserError: a space with arguments that Tune cannot sample from.
    """
    from ray import tune

    if isinstance(value, list):
        return [spaces(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if not isinstance(value, dict):
        return value
    if not is_space(value):
        return {key: spaces(v, f"{where}.{key}") for key, v in value.items()}
    form, arguments = next(iter(value.items()))
    count = SPACES[form]
    if not isinstance(arguments, list) or not arguments:
        raise UserError(f"{where}: '{form}' takes a list, not {_show(arguments)}")
    if count is None:
        return {form: arguments} if form == "grid_search" else tune.choice(arguments)
    if len(arguments) != count or not all(_is_number(a) and math.isfinite(a) for a in arguments):
        raise UserError(f"{where}: '{form}' takes {count} numbers, not {_show(arguments)}")
    if form == "randn":
        return tune.randn(*arguments)
    if arguments[0] >= arguments[1] or (form.startswith(("log", "qlog")) and arguments[0] <= 0):
        positive = " and above 0" if "log" in form else ""
        raise UserError(f"{where}: '{form}' needs lower < upper bound{positive}, not {_show(arguments)}")
    if count == 3 and arguments[2] <= 0:
        raise UserError(f"{where}: '{form}' rounds to a step above 0, not {_show(arguments[2])}")
    if "randint" in form:
        arguments = [int(a) for a in arguments]
    return getattr(tune, form)(*arguments)


def _show(value: Any) -> str:
    text = f"'{value}'" if isinstance(value, str) else str(value)
    return text if len(text) <= 80 else text[:77] + "..."
