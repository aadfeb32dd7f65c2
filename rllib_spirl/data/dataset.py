"""The data set of recorded trajectories: opened once, checked, and handed down as an object.

The layout is LeRobot's v3: ``data/chunk-*/file-*.parquet`` hold one row per step (the names of their columns are in
``columns.py``), and ``meta/`` says what they mean.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data import columns as c
from rllib_spirl.data.content import (
    add_to_digests,
    check_episodes,
    check_values,
    column_statistics,
    content_hash,
    pooled,
)
from rllib_spirl.data.episode import Episode, Trajectories, following_states
from rllib_spirl.data.windows import window_starts
from rllib_spirl.errors import UserError, at
from rllib_spirl.locations import Location, location

_FLOATS = frozenset({c.STATE, c.ACTION, c.NEXT_STATE, c.REWARD})


@dataclass(frozen=True)
class Part:
    """The rows of one file, checked. R rows, E episodes."""

    columns: dict[str, np.ndarray]  # column name -> (R,) or (R, width), of the stored type
    episode_starts: NDArray[np.int64]  # (E+1,) rows of this file: an episode never lies in two files


@dataclass(frozen=True)
class DataSet:
    """A data set, opened. Make one with `DataSet.open`, or with `TrajectoryWriter`.

    Opening reads ``meta/info.json`` and the files' footers. Frames are read, and checked, when they are asked for: all
    at once with `load`, or file by file with `stream`. An opened data set is small and can be pickled, so that a
    process elsewhere reads the same files.
    """

    path: Location
    info: dict[str, Any]
    """``meta/info.json``."""
    files: tuple[Location, ...]
    """The files of frames, in order."""
    rows: tuple[int, ...]
    """The number of frames in each of them."""
    columns: frozenset[str]
    """The names of the columns that the files have."""

    @classmethod
    def open(cls, path: str | Location) -> Self:
        """Open the data set in a directory, or at a URI (see `rllib_spirl.locations`).

        Raises:
            UserError: In one line, when there is none, its ``meta/info.json`` is damaged or of another format version,
                it has no frames, or one of its files is no Parquet file.
        """
        path = location(path).resolve()
        info = _read_info(path)
        files = tuple(c.data_files(path))
        footers = [c.open_parquet(file) for file in files]
        rows = tuple(footer.metadata.num_rows for footer in footers)
        if sum(rows) == 0:
            raise UserError(f"{path}: the data files have no rows; build or import the data set again")
        schema = footers[0].schema_arrow
        names = (name for name in schema.names if name != c.IMAGE or c.holds_pictures(schema.field(name).type))
        return cls(path, info, files, rows, frozenset(names))

    def __str__(self) -> str:
        return str(self.path)

    @property
    def features(self) -> dict[str, dict[str, Any]]:
        """What ``meta/info.json`` says of each column: ``dtype``, ``shape`` and ``names``."""
        features = self.info.get("features")
        return features if isinstance(features, dict) else {}

    @property
    def ours(self) -> dict[str, Any]:
        """What this package noted when it wrote the data set: fingerprint, environment, source. Empty for others'."""
        noted = self.info.get("rllib_spirl")
        return noted if isinstance(noted, dict) else {}

    @property
    def num_frames(self) -> int:
        return sum(self.rows)

    @property
    def num_episodes(self) -> int:
        return len(self.episode_starts) - 1

    @property
    def state_dim(self) -> int:
        return self._width(c.STATE)

    @property
    def action_dim(self) -> int:
        return self._width(c.ACTION)

    def _width(self, name: str) -> int:
        try:
            return int(self.features[name]["shape"][0])
        except (KeyError, IndexError, TypeError, ValueError):
            return int(self.read_file(0, [name])[name].shape[1])

    @cached_property
    def file_starts(self) -> list[NDArray[np.int64]]:
        """The episode table: for each file the first row of each of its episodes, and its number of rows, (E+1,)."""
        starts = []
        for index in range(len(self.files)):
            episode = self.read_file(index, [c.EPISODE])[c.EPISODE]
            changes = np.flatnonzero(np.diff(episode)) + 1
            starts.append(np.concatenate([[0], changes, [len(episode)]] if len(episode) else [[0]]).astype(np.int64))
        return starts

    @cached_property
    def episode_starts(self) -> NDArray[np.int64]:
        """(E+1,): where each episode begins among all frames, and the number of frames."""
        lengths = np.concatenate([np.diff(starts) for starts in self.file_starts])
        return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)

    @cached_property
    def fingerprint(self) -> str:
        """sha256 (16 hex digits) over what the data set says: columns, values and tasks.

        It is the same on every machine, and for any cut into files. The writer keeps it in ``meta/info.json``; for a
        data set from elsewhere it is computed from the files, with the errors of `load`.
        """
        if cached := self.ours.get("fingerprint"):
            return str(cached)
        digests: dict[str, Any] = {}
        indices: set[int] = set()
        names = [*c.REQUIRED, *(name for name in (*c.OPTIONAL, c.IMAGE) if name in self.columns)]
        for index in range(len(self.files)):
            for name, array in self.read_file(index, names).items():
                add_to_digests(digests, name, array)
                if name == c.TASK:
                    indices.update(int(i) for i in np.unique(array))
        return content_hash(digests, self.tasks(indices))

    @cached_property
    def statistics(self) -> dict[str, dict[str, list[float]]]:
        """For the columns of states and actions min, max, mean and std of each dimension, over all frames.

        Computed from the files, with the errors of `parts`.
        """
        names = (c.STATE, c.ACTION)
        parts = [{n: column_statistics(part.columns[n]) for n in names} for part in self.parts(names)]
        return {name: pooled([part[name] for part in parts]) for name in names}

    def tasks(self, indices: Iterable[int]) -> list[str]:
        """The task of each task index up to the largest of ``indices``: as ``meta/tasks.parquet`` has it, else ``task
        <i>``.

        Raises:
            UserError: When that file is damaged, or lacks one of the indices.
        """
        count = max(indices, default=-1) + 1
        file = self.path / "meta" / "tasks.parquet"
        if not file.exists():
            return [f"task {i}" for i in range(count)]
        try:
            frame = c.open_parquet(file).read().to_pydict()
        except c.DAMAGE as error:
            raise UserError(f"{file} {c.CORRUPT}") from error
        # pandas stores a nameless index under __index_level_0__, as older LeRobot writers did.
        names = frame.get("task") or frame.get("__index_level_0__") or []
        known = dict(zip(frame.get("task_index", []), names, strict=False))
        missing = [i for i in set(indices) if i not in known]
        if missing:
            raise UserError(f"{file}: no task with task_index {missing[0]}, which data rows refer to; add it")
        return [known.get(i, f"task {i}") for i in range(max(count, len(known)))]

    def read_file(
        self, index: int, names: Sequence[str], *, vectors: frozenset[str] = c.VECTORS, use_threads: bool = True
    ) -> dict[str, np.ndarray]:
        """Columns of one file as arrays of their stored type: (R, width) for the names in ``vectors``, else (R,).

        Raises:
            UserError: When a column is missing, its rows are empty or of different width, or the file is damaged.
        """
        file = self.files[index]
        table = c.read_columns(file, list(names), use_threads=use_threads)
        return {name: c.values(table, name, file, vectors) for name in table.column_names}

    def check_whole(self) -> None:
        """Raise UserError if there are not as many frames as ``meta/info.json`` tells."""
        expected = self.info.get("total_frames", self.num_frames)
        if expected != self.num_frames:
            raise UserError(
                f"{self.path}: meta/info.json tells of {expected} frames, the data files hold {self.num_frames}; a "
                "file is missing or from another data set: copy or build it again"
            )

    def parts(self, names: Iterable[str] = (*c.REQUIRED, *c.OPTIONAL, c.DONE)) -> Iterator[Part]:
        """Read the data set file by file, with one of them in memory at a time, and check all of it.

        Args:
            names: The columns to read. Those of ``columns.REQUIRED`` always are; pictures must be there when they are
                asked for, and other columns are read where the data set has them.

        Raises:
            UserError: One line with file, row and remedy, for a missing column, rows of different width, NaN or
                infinity, an action outside of [-1, 1], a damaged file, frames that are not consecutive, an episode in
                two files, or another number of frames than ``meta/info.json`` tells.
        """
        self.check_whole()
        known = self.columns | self.features.keys()
        wanted = [*c.REQUIRED, *(n for n in names if (n in known or n == c.IMAGE) and n not in c.REQUIRED)]
        widths: dict[str, int] = {}
        episode_before = -1
        for index, file in enumerate(self.files):
            part = self.read_file(index, wanted)
            check_values(part, file)
            if not len(part[c.EPISODE]):
                continue
            for name in c.VECTORS & part.keys():
                width = part[name].shape[1]
                if widths.setdefault(name, width) != width:
                    raise UserError(
                        f"{file}: '{name}' is {width} wide, in {self.files[0]} it is {widths[name]} wide; every file "
                        "needs the same width"
                    )
            starts = check_episodes(part[c.EPISODE], part[c.FRAME], file, episode_before)
            episode_before = int(part[c.EPISODE][-1])
            yield Part(part, starts)

    def stream(self, *, dtype: Any = np.float32, images: bool = False) -> Iterator[Trajectories]:
        """The data set file by file, checked, each as `load` would give it alone; with the errors of `parts`."""
        for part in self.parts(_names(images)):
            values = {n: a.astype(dtype) if n in _FLOATS else a for n, a in part.columns.items()}
            yield self._trajectories(values, part.episode_starts, dtype)

    def load(self, *, dtype: Any = np.float32, images: bool = False) -> Trajectories:
        """Read the whole data set into memory and check all of it.

        Args:
            dtype: Of states, actions and rewards: float32, or float64 to replay exactly what was recorded.
            images: Whether to read the pictures.

        Raises:
            UserError: As `parts` does.
        """
        values: dict[str, np.ndarray] = {}
        starts, offset = [0], 0
        for part in self.parts(_names(images)):
            for name, array in part.columns.items():
                if name not in values:
                    kind = dtype if name in _FLOATS else array.dtype
                    values[name] = np.empty((self.num_frames, *array.shape[1:]), kind)
                values[name][offset : offset + len(array)] = array
            starts.extend((offset + part.episode_starts[1:]).tolist())
            offset = starts[-1]
        return self._trajectories(values, np.array(starts, np.int64), dtype)

    def _trajectories(self, values: Mapping[str, np.ndarray], starts: NDArray[np.int64], dtype: Any) -> Trajectories:
        states = values[c.STATE]
        task_index = values.get(c.TASK, np.zeros(len(states), np.int64)).astype(np.int64)
        ended = next((values[name] for name in (c.TERMINATED, c.DONE) if name in values), np.zeros(len(states)))
        return Trajectories(
            states=states,
            actions=values[c.ACTION],
            rewards=values.get(c.REWARD, np.zeros(len(states), dtype)),
            next_states=values[c.NEXT_STATE] if c.NEXT_STATE in values else following_states(states, starts),
            terminated=ended.astype(bool),
            episode_starts=starts,
            task_index=task_index,
            tasks=self.tasks([int(i) for i in np.unique(task_index)]),
            images=values[c.IMAGE].reshape(-1, *c.PICTURE) if c.IMAGE in values else None,
        )

    def episodes(self, *, dtype: Any = np.float32, images: bool = False) -> Iterator[Episode]:
        """One episode after the other, with one file in memory at a time; with the errors of `parts`."""
        for trajectories in self.stream(dtype=dtype, images=images):
            yield from map(trajectories.episode, range(trajectories.num_episodes))

    def windows(self, horizon: int) -> NDArray[np.int64]:
        """(W,): the first frames, among all frames, of all windows of ``horizon`` steps in one episode.

        Raises:
            UserError: When no episode is that long.
        """
        with at(str(self.path)):
            return window_starts(self.episode_starts, horizon)


def _names(images: bool) -> tuple[str, ...]:
    return (*c.REQUIRED, *c.OPTIONAL, c.DONE, *((c.IMAGE,) if images else ()))


def _read_info(path: Location) -> dict[str, Any]:
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
