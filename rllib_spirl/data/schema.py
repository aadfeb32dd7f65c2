"""The data contract: LeRobot v3 frame rows of states and actions, read and checked in one place.

``data/chunk-*/file-*.parquet`` hold one row per step, ``meta/`` says what they mean. Column names are in
``columns.py``.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from rllib_spirl.data import columns as c
from rllib_spirl.data.episode import ACTION_TOLERANCE, Episode
from rllib_spirl.data.writer import TrajectoryWriter, content_hash
from rllib_spirl.errors import UserError
from rllib_spirl.locations import Location, location

__all__ = [
    "Episode",
    "Part",
    "Trajectories",
    "TrajectoryWriter",
    "count_frames",
    "fingerprint",
    "load",
    "load_files",
    "read_parts",
]


@dataclass(frozen=True)
class Trajectories:
    """A data set in memory: the frames of all episodes, one after the other. N frames, E episodes."""

    path: Location
    states: np.ndarray  # (N, S) float32
    actions: np.ndarray  # (N, A) float32
    rewards: np.ndarray  # (N,) float32; zeros when the files have none
    next_states: np.ndarray | None  # (N, S) float32; None when the files have none
    terminated: np.ndarray  # (N,) bool
    episode_starts: np.ndarray  # (E+1,) int64: episode e is the frames [starts[e], starts[e+1])
    task_index: np.ndarray  # (N,) int64, into tasks
    tasks: list[str]
    info: dict[str, Any]  # meta/info.json
    images: np.ndarray | None = None  # (N, 32, 32, 3) uint8; None unless asked for

    @property
    def state_dim(self) -> int:
        return self.states.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def num_episodes(self) -> int:
        return len(self.episode_starts) - 1

    @property
    def num_frames(self) -> int:
        return len(self.states)

    def episode(self, index: int) -> Episode:
        """Episode ``index``. Raises UserError when the files do not hold the state after the last action."""
        if self.next_states is None:
            raise UserError(
                f"{self.path}: no column '{c.NEXT_STATE}', so the last state of an episode is unknown; "
                "import the data with 'spirl data import-lerobot'"
            )
        start, stop = self.episode_starts[index], self.episode_starts[index + 1]
        terminated = bool(self.terminated[stop - 1])
        return Episode(
            states=np.concatenate([self.states[start:stop], self.next_states[stop - 1 : stop]]),
            actions=self.actions[start:stop],
            rewards=self.rewards[start:stop],
            terminated=terminated,
            truncated=not terminated,
            task=self.tasks[self.task_index[start]],
            images=None if self.images is None else self.images[start:stop],
        )


def read_info(path: Location) -> dict[str, Any]:
    """``meta/info.json``. Raises UserError when it is missing, no JSON, or of another format version."""
    file = path / "meta" / "info.json"
    try:
        info = json.loads(file.read_text())
    except (FileNotFoundError, NotADirectoryError) as error:
        problem = "no meta/info.json here" if path.is_dir() else "no such directory"
        raise UserError(
            f"{path}: {problem}; give the directory of a data set, or make one with 'spirl data build'"
        ) from error
    except (ValueError, OSError) as error:
        raise UserError(f"{file} is not readable JSON ({error}); copy or build the data set again") from error
    version = str(info.get("codebase_version", "unknown")) if isinstance(info, dict) else "unknown"
    if not version.startswith("v3"):
        raise UserError(
            f"{file}: codebase_version is {version}, v3.0 is needed; convert the data set with LeRobot's own tool"
        )
    return info


def read_tasks(path: Location, indices: Iterable[int]) -> list[str]:
    """The task of each task index, from ``meta/tasks.parquet`` where there is one, else ``task <i>``."""
    count = max(indices, default=-1) + 1
    tasks = [f"task {i}" for i in range(count)]
    file = path / "meta" / "tasks.parquet"
    if file.exists():
        try:
            frame = c.open_parquet(file).read().to_pydict()
        except c.DAMAGE as error:
            raise UserError(f"{file} {c.CORRUPT}") from error
        # pandas stores a nameless index under __index_level_0__: older LeRobot writers did that.
        names = frame.get("task") or frame.get("__index_level_0__") or []
        known = dict(zip(frame.get("task_index", []), names, strict=False))
        missing = [i for i in set(indices) if i not in known]
        if missing:
            raise UserError(f"{file}: no task with task_index {missing[0]}, which data rows refer to; add it")
        tasks = [known.get(i, f"task {i}") for i in range(max(count, len(known)))]
    return tasks


@dataclass(frozen=True)
class Part:
    """The rows of one file, checked."""

    file: Location
    columns: dict[str, np.ndarray]  # column name -> (R,) or (R, width), of the stored type
    episode_starts: np.ndarray  # (E+1,) int64, rows of this file; episodes never straddle files


def read_parts(path: str | Location, columns: Iterable[str] = (*c.REQUIRED, *c.OPTIONAL)) -> Iterator[Part]:
    """Read a data set file by file and check all of it, with one file in memory at a time.

    Args:
        path: directory with ``meta/`` and ``data/``.
        columns: which to read; those of REQUIRED always are, the pictures must be there if asked for, and others are
            read where the data set has them.

    Raises:
        UserError: one line with file, row and remedy, for a missing column, rows of different width, NaN or
            infinity, an action outside of [-1, 1], a damaged file, a directory without data, frames that are
            not consecutive, or an episode in two files.
    """
    path = location(path)
    info = read_info(path)
    files = c.data_files(path)
    total = count_frames(path)
    if total == 0:
        raise UserError(f"{path}: the data files have no rows; build or import the data set again")
    expected = info.get("total_frames", total)
    if expected != total:
        raise UserError(
            f"{path}: meta/info.json tells of {expected} frames, the data files hold {total}; a file is "
            "missing or from another data set: copy or build it again"
        )
    known = set(c.open_parquet(files[0]).schema_arrow.names) | set(info.get("features", {}))
    wanted = [*c.REQUIRED, *(n for n in columns if (n in known or n == c.IMAGE) and n not in c.REQUIRED)]
    widths: dict[str, int] = {}
    episode_before = -1
    for file in files:
        part = _read_file(file, wanted)
        if not len(part[c.EPISODE]):
            continue
        for name in c.VECTORS & part.keys():
            width = part[name].shape[1]
            if widths.setdefault(name, width) != width:
                raise UserError(
                    f"{file}: '{name}' is {width} wide, in {files[0]} it is {widths[name]} wide; every file needs "
                    "the same width"
                )
        starts = _episode_starts(part[c.EPISODE], part[c.FRAME], file, episode_before)
        episode_before = int(part[c.EPISODE][-1])
        yield Part(file, part, starts)


def _read_file(file: Location, names: list[str]) -> dict[str, np.ndarray]:
    """Columns of one file as arrays, checked one by one."""
    table = c.read_columns(file, names)
    part = {name: c.values(table, name, file) for name in table.column_names}
    _check_part(part, file)
    return part


def _columns(images: bool) -> tuple[str, ...]:
    return (*c.REQUIRED, *c.OPTIONAL, *((c.IMAGE,) if images else ()))


def load(
    path: str | Location, *, min_episode_length: int = 1, dtype: Any = np.float32, images: bool = False
) -> Trajectories:
    """Read a whole data set into memory and check all of it.

    Args:
        path: directory with ``meta/`` and ``data/``.
        min_episode_length: in steps; at least one episode must have it. Shorter ones are kept.
        dtype: of states, actions and rewards: float32, or float64 to replay what was recorded exactly.
        images: whether to read the pictures.

    Raises:
        UserError: as `read_parts` does, and when no episode has the minimum length.
    """
    path = location(path)
    info = read_info(path)
    total = count_frames(path)
    values: dict[str, np.ndarray] = {}
    starts, offset = [0], 0
    for part in read_parts(path, _columns(images)):
        for name, array in part.columns.items():
            if name not in values:
                kind = dtype if name in (c.STATE, c.ACTION, c.NEXT_STATE, c.REWARD) else array.dtype
                values[name] = np.empty((total, *array.shape[1:]), kind)
            values[name][offset : offset + len(array)] = array
        starts.extend((offset + part.episode_starts[1:]).tolist())
        offset = starts[-1]
    episode_starts = np.array(starts, np.int64)
    check_episode_length(path, episode_starts, min_episode_length)
    return _trajectories(path, values, episode_starts, info, dtype)


def load_files(path: str | Location, *, dtype: Any = np.float32, images: bool = False) -> Iterator[Trajectories]:
    """The data set file by file, each as `load` would give it alone. Raises UserError as `read_parts` does."""
    path = location(path)
    info = read_info(path)
    for part in read_parts(path, _columns(images)):
        floats = (c.STATE, c.ACTION, c.NEXT_STATE, c.REWARD)
        values = {n: array.astype(dtype) if n in floats else array for n, array in part.columns.items()}
        yield _trajectories(path, values, part.episode_starts, info, dtype)


def _trajectories(
    path: Location, values: dict[str, np.ndarray], episode_starts: np.ndarray, info: dict[str, Any], dtype: Any
) -> Trajectories:
    total = len(values[c.STATE])
    task_index = values.get(c.TASK, np.zeros(total, np.int64)).astype(np.int64)
    return Trajectories(
        path=path,
        states=values[c.STATE],
        actions=values[c.ACTION],
        rewards=values.get(c.REWARD, np.zeros(total, dtype)),
        next_states=values.get(c.NEXT_STATE),
        terminated=values.get(c.TERMINATED, np.zeros(total, bool)).astype(bool),
        episode_starts=episode_starts,
        task_index=task_index,
        tasks=read_tasks(path, [int(i) for i in np.unique(task_index)]),
        info=info,
        images=values[c.IMAGE].reshape(-1, *c.PICTURE) if c.IMAGE in values else None,
    )


def count_frames(path: str | Location) -> int:
    """Steps in a data set, from its files' footers. Raises UserError when there are no files or one is damaged."""
    return sum(c.open_parquet(file).metadata.num_rows for file in c.data_files(location(path)))


def check_episode_length(path: Location, episode_starts: np.ndarray, least: int) -> None:
    """Raise UserError unless an episode has ``least`` steps; ``episode_starts`` is (E+1,)."""
    longest = int(np.diff(episode_starts).max())
    if longest < least:
        raise UserError(
            f"{path}: every episode is shorter than {least} steps (the longest has {longest}); "
            "choose a smaller horizon or longer episodes"
        )


_LARGEST = np.finfo(np.float32).max  # what training computes in


def _check_part(part: dict[str, np.ndarray], file: Location) -> None:
    """Check the values of one file; ``part`` maps column to array."""

    def where(row: int) -> str:
        return f"{file}, row {row} (episode {part[c.EPISODE][row]}, frame {part[c.FRAME][row]})"

    for name, array in part.items():
        if name == c.IMAGE:
            continue  # bytes
        finite = np.abs(array) <= _LARGEST  # not so for NaN either
        if not finite.all():
            place = tuple(np.argwhere(~finite)[0])
            label = name if len(place) == 1 else f"{name}[{place[1]}]"
            raise UserError(f"{where(int(place[0]))}: {label} is {array[place]}; repair or drop this episode")
    if c.NEXT_STATE in part and part[c.NEXT_STATE].shape[1] != part[c.STATE].shape[1]:
        raise UserError(
            f"{file}: '{c.NEXT_STATE}' is {part[c.NEXT_STATE].shape[1]} wide, '{c.STATE}' "
            f"{part[c.STATE].shape[1]}; both are states of the same environment: export the data again"
        )
    outside = np.abs(part[c.ACTION]) > 1 + ACTION_TOLERANCE
    if outside.any():
        row, column = np.argwhere(outside)[0]
        raise UserError(
            f"{where(int(row))}: action[{column}] = {part[c.ACTION][row, column]:g} is outside of [-1, 1]; "
            "scale the actions, e.g. with 'spirl data import-lerobot --scale-actions'"
        )


def _episode_starts(episode: np.ndarray, frame: np.ndarray, file: Location, before: int) -> np.ndarray:
    """(E+1,) int64; checks that episodes are in order and in one file, and their frames consecutive.

    Args:
        episode, frame: (R,), of one file.
        before: The last episode of the file before.
    """
    episode, frame = episode.astype(np.int64), frame.astype(np.int64)
    if episode[0] == before:
        raise UserError(
            f"{file}, row 0: episode {episode[0]} began in the file before; an episode must lie in one "
            "file: import the data with 'spirl data import-lerobot'"
        )
    change = np.flatnonzero(np.diff(episode, prepend=before))
    previous = np.append(before, episode)[change]
    backwards = change[episode[change] < previous]
    if len(backwards):
        row = int(backwards[0])
        raise UserError(
            f"{file}, row {row}: episode_index {episode[row]} comes after {episode[row - 1] if row else before}; the "
            "rows of an episode must be together and episodes in ascending order: sort the rows by index"
        )
    starts = np.append(change, len(episode)).astype(np.int64)
    expected = np.arange(len(episode)) - np.repeat(starts[:-1], np.diff(starts))
    wrong = np.flatnonzero(frame != expected)
    if len(wrong):
        row = int(wrong[0])
        raise UserError(
            f"{file}, row {row}: frame_index is {frame[row]}, expected {expected[row]} (episode {episode[row]} "
            "counts from 0 "
            "without gaps); a row is missing or out of order: sort by index ('spirl data import-lerobot' does) or drop "
            "the episode"
        )
    return starts


def fingerprint(path: str | Location) -> str:
    """sha256 (16 hex digits) over what the data set says: columns, values and tasks.

    The same on every machine, and for any cut into files. The writer keeps it in ``meta/info.json``; for a
    data set from elsewhere it is computed from the files. Raises UserError like ``load``.
    """
    path = location(path)
    info = read_info(path)
    cached = info.get("rllib_spirl", {}).get("fingerprint")
    if cached:
        return str(cached)
    digests: dict[str, Any] = {}
    indices: set[int] = set()
    for file in c.data_files(path):
        present = c.open_parquet(file).schema_arrow.names
        table = c.read_columns(file, [*c.REQUIRED, *(name for name in (*c.OPTIONAL, c.IMAGE) if name in present)])
        for name in table.column_names:
            array = c.values(table, name, file)
            array = array.reshape(len(array), -1)
            digests.setdefault(name, hashlib.sha256(f"{array.dtype.str}{array.shape[1]}".encode()))
            digests[name].update(np.ascontiguousarray(array).data)
            if name == c.TASK:
                indices.update(int(i) for i in np.unique(array))
    return content_hash(digests, read_tasks(path, indices))
