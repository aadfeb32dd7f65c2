"""Scores by the number of the episode in a new task: one curve per method out of one per task and seed."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field, TypeAdapter, ValidationError

from rllib_spirl.errors import UserError, unreadable
from rllib_spirl.evaluation.aggregate import BOOTSTRAP_SEED, align
from rllib_spirl.evaluation.curve import Array
from rllib_spirl.evaluation.statistics import bootstrap_interval, mean
from rllib_spirl.files import replacing, writing
from rllib_spirl.locking import sole_writer

CURVES = "adaptation.json"
Points = list[tuple[int | float, float]]
"""The number of an episode in a task, from 1 on, and its score: completed subtasks, or its return."""
EPISODES = (1, 2, 3, 5, 10, 20, 50, 100, 200)
Finite = Annotated[float, Field(allow_inf_nan=False)]
Document = dict[str, dict[str, dict[str, Annotated[list[tuple[int | Finite, Finite]], Field(min_length=1)]]]]
"""``{method: {task: {seed: [[episode, score], …]}}}``."""
_DOCUMENT: TypeAdapter[Document] = TypeAdapter(Document)


@dataclass(frozen=True)
class AdaptationCurve:
    """A method's mean score over tasks, at K episodes."""

    method: str
    tasks: int
    seeds: int
    """The most that any task has."""
    episodes: Array
    """(K,) the number of the episode in the task."""
    mean: Array
    low: Array
    high: Array
    """(K,) ends of the 95 % bootstrap interval over tasks; nan where there is one task."""

    def at(self, episode: float) -> int | None:
        """Index of the point nearest to an episode; None if there is none near it.

        Near is within a quarter of it, and from the tenth on within two episodes or a tenth.
        """
        index = int(np.abs(self.episodes - episode).argmin())
        return index if abs(self.episodes[index] - episode) <= min(episode / 4, max(2, episode / 10)) else None


def present(directory: Path, method: str, seed: int) -> dict[str, Points]:
    """The curves of this method and seed in the adaptation.json of a folder, which is made, by their tasks.

    Raises:
        UserError: If the folder cannot be made, or the file is another one.
    """
    file = directory / CURVES
    with _writing(file):
        directory.mkdir(parents=True, exist_ok=True)
    tasks = load(file).get(method, {}) if file.exists() else {}
    return {task: seeds[str(seed)] for task, seeds in tasks.items() if str(seed) in seeds}


def remove(directory: Path, method: str, seed: int, tasks: Collection[str]) -> None:
    """Take the curves of these tasks out of the adaptation.json of a folder, as others are to replace them.

    A file without any other curve is removed.

    Raises:
        UserError: As `add`.
    """
    file = directory / CURVES
    if not tasks:
        return
    with sole_writer(file, "removing curves"), _writing(file):
        document: Document = load(file) if file.exists() else {}  # another command may have removed them meanwhile
        for task in tasks:
            document.get(method, {}).get(task, {}).pop(str(seed), None)
        left = {name: {task: seeds for task, seeds in found.items() if seeds} for name, found in document.items()}
        left = {name: found for name, found in left.items() if found}
        if left:
            write(left, file)
        else:
            file.unlink(missing_ok=True)


def add(directory: Path, method: str, seed: int, curves: Mapping[str, Points]) -> Path:
    """Add the curves of a method in some tasks to the adaptation.json of a folder, in the place of those `present`.

    Raises:
        UserError: If the file cannot be written, or is another one; or if a score is no number.
    """
    file = directory / CURVES
    for task, points in curves.items():
        wrong = next((episode for episode, score in points if not np.isfinite(score)), None)
        if wrong is not None:
            raise UserError(f"{task}, episode {wrong}: the score is not finite; look at the environment's rewards.")
    with sole_writer(file, "adding curves"), _writing(file):
        document: Document = load(file) if file.exists() else {}
        for task, points in curves.items():
            document.setdefault(method, {}).setdefault(task, {})[str(seed)] = points
        directory.mkdir(parents=True, exist_ok=True)
        write(document, file)
    return file


def _writing(file: Path) -> AbstractContextManager[None]:
    return writing(f"{file} cannot be written", "name another folder")


def write(document: Document, file: Path) -> None:
    """Write a document, a line for each method's task. Raises OSError where that cannot be done."""
    methods = (
        f"{json.dumps(method, ensure_ascii=False)}: {{\n"
        + ",\n".join(f" {json.dumps(task)}: {json.dumps(seeds)}" for task, seeds in tasks.items())
        + "\n}"
        for method, tasks in document.items()
    )
    with replacing(file) as new:
        new.write_text("{\n" + ",\n".join(methods) + "\n}\n")


def find(path: Path) -> Path | None:
    """The adaptation.json that a path is or holds; a file in this layout may have another name."""
    if path.is_file() and path.suffix == ".json" and path.name != "curves.json":
        return path
    return path / CURVES if (path / CURVES).is_file() else None


def load(file: Path) -> Document:
    """What is in a file.

    Raises:
        UserError: It is in another layout.
    """
    try:
        document = _DOCUMENT.validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        raise UserError(
            f"{file} is no file of adaptation curves, {{method: {{task: {{seed: [[episode, score], …]}}}}}}: "
            f"{unreadable(error)}."
        ) from None
    if not document or not all(tasks and all(tasks.values()) for tasks in document.values()):
        raise UserError(f"{file} has no curve, or a method without one.")
    return document


def merged(documents: Iterable[tuple[str | None, Document]]) -> Document:
    """Several documents as one. With a name, a document's only method is called so, and several NAME METHOD.

    Curves of the same method, task and seed in several documents are of several trainings, which may have come to
    the same scores: they are ``0``, ``0 (2)`` and so on.
    """
    together: Document = {}
    for name, document in documents:
        for method, tasks in document.items():
            title = method if name is None else name if len(document) == 1 else f"{name} {method}"
            for task, seeds in tasks.items():
                curves = together.setdefault(title, {}).setdefault(task, {})
                for seed, points in seeds.items():
                    names = (seed, *(f"{seed} ({number})" for number in range(2, len(curves) + 2)))
                    curves[next(name for name in names if name not in curves)] = points
    return together


def aggregate(document: Document) -> list[AdaptationCurve]:
    """A curve for each method: a task counts once, with the mean over its seeds."""
    return [_curve(method, tasks) for method, tasks in document.items()]


def _curve(method: str, tasks: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> AdaptationCurve:
    names = [task for task, seeds in tasks.items() for _ in seeds]
    runs = [np.array(sorted(curve), float).T for seeds in tasks.values() for curve in seeds.values()]
    episodes, values = align([run[0] for run in runs], [run[1] for run in runs])
    # (tasks, K): a run that has no point near an episode does not count there, nor does a task without one.
    by_task = np.array([_mean_of_known(values[[name == task for name in names]]) for task in tasks])
    points = []
    for column in by_task.T:
        known = column[np.isfinite(column)]
        points.append((float(mean(known)), *bootstrap_interval([known], mean, seed=BOOTSTRAP_SEED)))
    averages, low, high = np.array(points).T
    return AdaptationCurve(method, len(tasks), max(map(len, tasks.values())), episodes, averages, low, high)


def _mean_of_known(values: Array) -> Array:
    """(N, K) to (K,), nan where no row has a number."""
    known = np.isfinite(values)
    count = known.sum(0)
    return np.where(count > 0, np.where(known, values, 0).sum(0) / np.maximum(count, 1), np.nan)
