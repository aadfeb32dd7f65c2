"""Write a LeRobot v3 data set of states and actions, whole or not at all."""

import json
import os
import re
import secrets
import shutil
import socket
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rllib_spirl.data import columns as c
from rllib_spirl.data.content import add_to_digests, column_statistics, content_hash, pooled
from rllib_spirl.data.dataset import DataSet
from rllib_spirl.data.episode import DamagedEpisode, Episode
from rllib_spirl.errors import UserError
from rllib_spirl.files import check_writable, writing

DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
EPISODES_PATH = "meta/episodes/chunk-000/file-000.parquet"
CHUNKS_SIZE = 1000  # files per chunk directory
FILE_SIZE_MB = 100  # LeRobot's default, which keeps a file within what one reader task holds in memory
ROW_GROUP = 65_536

# What a fingerprint is of: the content and not its position, which ``index`` and ``timestamp`` repeat.
_HASHED = (*c.REQUIRED, *c.OPTIONAL, c.IMAGE)


def check_place(path: Path, *, overwrite: bool) -> None:
    """Raise UserError unless a data set can be made at a path: where there is nothing, or one to be overwritten."""
    if path.exists() and not overwrite:
        raise UserError(f"{path} exists; remove it, choose another output, or pass --overwrite")
    if path.exists() and not (path / "meta" / "info.json").exists():
        raise UserError(f"{path} exists and is not a data set, so it is not overwritten; choose another output")
    check_writable(path.parent, "choose another output")


# What tells the writers apart that this process has open.
_WRITING: set[str] = set()


class TrajectoryWriter:
    """Takes episodes, and leaves a data set at ``path`` when its ``with`` block ends without an error.

    Until then everything lies in a hidden directory beside ``path``. After an error that directory is removed, and what
    was at ``path`` is untouched. Floats keep the type of the first episode's states, float32 or float64.

    Args:
        path: The directory to make.
        fps: Steps per second.
        robot_type: LeRobot's name for the robot.
        state_names, action_names: A name for each dimension.
        env: The name of the environment whose states these are, e.g. ``rllib_spirl/Kitchen-v0``.
        source: Where the data comes from, as JSON values. Like ``env`` it is kept in ``meta/info.json``.
        overwrite: Whether to replace a data set that is there.
        file_size_mb: The size in memory at which the frames go on in a new file.

    Raises:
        UserError: When ``path`` exists and ``overwrite`` is false, or it cannot be written.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fps: float,
        robot_type: str = "unknown",
        state_names: list[str] | None = None,
        action_names: list[str] | None = None,
        env: str | None = None,
        source: dict[str, Any] | None = None,
        overwrite: bool = False,
        file_size_mb: float = FILE_SIZE_MB,
    ) -> None:
        self.path = Path(path).expanduser()
        check_place(self.path, overwrite=overwrite)
        if fps <= 0:
            raise UserError(f"fps = {fps}: give the recording's steps per second, a number above 0")
        self._fps = int(fps) if float(fps).is_integer() else float(fps)
        self._robot_type = robot_type
        self._names = {c.STATE: state_names, c.NEXT_STATE: state_names, c.ACTION: action_names}
        self._env, self._source, self._overwrite = env, source, overwrite
        self._file_bytes = file_size_mb * 2**20
        # Its own also beside another writer of the same path in this process.
        self._own = f"{os.getpid()}.{secrets.token_hex(4)}"
        self._temporary = self.path.parent / f".{self.path.name}.partial-{socket.gethostname()}-{self._own}"
        self._float: Any = None
        self._tasks: dict[str, int] = {}
        self._rows: list[dict[str, Any]] = []  # one row of meta/episodes each
        self._stats: list[dict[str, dict[str, np.ndarray]]] = []
        self._buffer: list[dict[str, np.ndarray]] = []
        self._buffered = 0
        self._files = 0
        self._frames = 0
        self._digests: dict[str, Any] = {}
        self._features: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> "TrajectoryWriter":
        with self._writing():
            self._remove_leftovers()
            _WRITING.add(self._own)
            self._temporary.mkdir(parents=True)
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if kind is None:
            self.close()
        else:
            self.discard()

    def close(self) -> None:
        """Put the data set in its place. Raises UserError when no episode was added, or it cannot be written there."""
        try:
            with self._writing():
                self._finish()
        finally:
            self.discard()

    def discard(self) -> None:
        """Remove what was written so far; ``path`` stays as it was."""
        shutil.rmtree(self._temporary, ignore_errors=True)
        _WRITING.discard(self._own)

    def _writing(self) -> AbstractContextManager[None]:
        return writing(f"{self.path}: cannot write there", "choose another output")

    def _remove_leftovers(self) -> None:
        """Remove what writers of this data set left that were killed: those of this host whose process has ended."""
        if not self.path.parent.is_dir():
            return
        name = re.compile(rf"\.{re.escape(self.path.name)}\.partial-(?:(.+)-)?(\d+)(\.\w+)?(-replaced)?")
        for place in self.path.parent.iterdir():
            match = name.fullmatch(place.name)
            # Without a host, or anything after the process: from a version that did not note it.
            if match is None or match[1] not in (None, socket.gethostname()):
                continue
            # In a container another process may have had this one's number.
            ours = int(match[2]) == os.getpid() and match[3] is not None
            if match[2] + match[3] in _WRITING if ours else _alive(int(match[2])):
                continue
            # Killed between its two renames, a writer left the data set that it was to replace in there only.
            if match[4] and not self.path.exists():
                continue
            shutil.rmtree(place, ignore_errors=True)

    @property
    def num_episodes(self) -> int:
        """How many were added so far."""
        return len(self._rows)

    @property
    def data_set(self) -> DataSet:
        """The data set that was written, opened. There is one when the ``with`` block has ended."""
        return DataSet.open(self.path)

    def add(self, episode: Episode, name: str | None = None) -> None:
        """Append an episode. One that neither terminated nor was truncated counts as truncated: its recording stops.

        Args:
            episode: What was recorded.
            name: What an error calls it; by default its number.

        Raises:
            UserError: On invalid values (see `Episode.validate`), widths other than the first episode's, or images
                where that one has none or the other way round.
        """
        number = len(self._rows)
        name = name or f"episode {number}"
        episode.validate(name)
        if self._float is None:
            self._float = np.dtype(np.float64 if episode.states.dtype == np.float64 else np.float32)
            self._features = self._describe(episode)
        for column, values in ((c.STATE, episode.states), (c.ACTION, episode.actions)):
            width = self._features[column]["shape"][0]
            if values.shape[1] != width:
                raise DamagedEpisode(
                    f"{name}: {column} is {values.shape[1]} wide, in episode 0 it is {width}; use one width"
                )
        if (episode.images is not None) != (c.IMAGE in self._features):
            has, had = ("images", "none") if episode.images is not None else ("no images", "some")
            raise UserError(f"{name} has {has}, episode 0 has {had}; give images with all episodes or none")
        frames = self._to_frames(episode, number)
        for column in _HASHED:
            if column in frames:
                add_to_digests(self._digests, column, frames[column])
        size = sum(array.nbytes for array in frames.values())
        if self._buffer and self._buffered + size > self._file_bytes:
            self._flush()
        self._buffer.append(frames)
        self._buffered += size
        self._stats.append({name: column_statistics(array) for name, array in frames.items() if name != c.IMAGE})
        self._rows.append(
            {
                "episode_index": number,
                "tasks": [episode.task],
                "length": len(episode),
                "data/chunk_index": self._files // CHUNKS_SIZE,
                "data/file_index": self._files % CHUNKS_SIZE,
                "dataset_from_index": self._frames,
                "dataset_to_index": self._frames + len(episode),
                **dict.fromkeys(("meta/episodes/chunk_index", "meta/episodes/file_index"), 0),
            }
        )
        self._frames += len(episode)

    def _describe(self, episode: Episode) -> dict[str, dict[str, Any]]:
        """LeRobot's ``features``: type, shape and names of every column."""
        kind = str(self._float)
        state, action = [episode.states.shape[1]], [episode.actions.shape[1]]
        features = {
            c.STATE: (kind, state),
            c.ACTION: (kind, action),
            c.NEXT_STATE: (kind, state),
            c.REWARD: (kind, [1]),
            c.TERMINATED: ("bool", [1]),
            c.TRUNCATED: ("bool", [1]),
            c.TIMESTAMP: ("float32", [1]),
            c.FRAME: ("int64", [1]),
            c.EPISODE: ("int64", [1]),
            c.INDEX: ("int64", [1]),
            c.TASK: ("int64", [1]),
        }
        if episode.images is not None:
            features[c.IMAGE] = ("uint8", [c.PICTURE_BYTES])
        for name, names in self._names.items():
            width = features[name][1][0]
            if names is not None and len(names) != width:
                raise UserError(f"{self.path}: {len(names)} names for the {width} dimensions of {name}; give one each")
        return {
            name: {"dtype": dtype, "shape": shape, "names": self._names.get(name)}
            for name, (dtype, shape) in features.items()
        }

    def _to_frames(self, episode: Episode, number: int) -> dict[str, np.ndarray]:
        steps = len(episode)
        states = np.ascontiguousarray(episode.states, self._float)
        last = np.arange(steps) == steps - 1
        frame = np.arange(steps, dtype=np.int64)
        frames = {
            c.STATE: states[:-1],
            c.ACTION: np.ascontiguousarray(episode.actions, self._float),
            c.NEXT_STATE: states[1:],
            c.REWARD: np.ascontiguousarray(episode.rewards, self._float),
            c.TERMINATED: last & episode.terminated,
            c.TRUNCATED: last & (episode.truncated or not episode.terminated),
            c.TIMESTAMP: (frame / self._fps).astype(np.float32),
            c.FRAME: frame,
            c.EPISODE: np.full(steps, number, np.int64),
            c.INDEX: self._frames + frame,
            c.TASK: np.full(steps, self._tasks.setdefault(episode.task, len(self._tasks)), np.int64),
        }
        if episode.images is not None:
            frames[c.IMAGE] = np.ascontiguousarray(episode.images.reshape(steps, -1))
        return frames

    def _flush(self) -> None:
        """Write the buffered episodes as one file."""
        arrays = {}
        for name, feature in self._features.items():
            flat = np.concatenate([frames[name] for frames in self._buffer])
            width = feature["shape"][0]
            # LeRobot keeps what is one wide as a plain column.
            arrays[name] = pa.array(flat.reshape(-1))
            if width > 1:
                arrays[name] = pa.FixedSizeListArray.from_arrays(arrays[name], width)
        file = self._temporary / DATA_PATH.format(
            chunk_index=self._files // CHUNKS_SIZE, file_index=self._files % CHUNKS_SIZE
        )
        file.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(
            pa.table(arrays),
            file,
            row_group_size=ROW_GROUP,
            compression="snappy",
            use_dictionary=[c.EPISODE, c.TASK],
            write_page_checksum=True,
        )
        self._files += 1
        self._buffer, self._buffered = [], 0

    def _finish(self) -> None:
        if not self._rows:
            raise UserError(f"{self.path}: no episodes to write; check the source")
        self._flush()
        meta = self._temporary / "meta"
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        tasks = list(self._tasks)
        pd.DataFrame({"task_index": range(len(tasks))}, index=pd.Index(tasks, name="task")).to_parquet(
            meta / "tasks.parquet"
        )
        episodes = {key: [row[key] for row in self._rows] for key in self._rows[0]}
        described = list(self._stats[0])  # all but the pictures, whose statistics would be as large as they are
        for name in described:
            for key in ("min", "max", "mean", "std", "count"):
                episodes[f"stats/{name}/{key}"] = [stats[name][key].tolist() for stats in self._stats]
        pq.write_table(pa.table(episodes), self._temporary / EPISODES_PATH, compression="snappy")
        statistics = {name: pooled([stats[name] for stats in self._stats]) for name in described}
        ours = {"fingerprint": content_hash(self._digests, tasks), "env": self._env, "source": self._source}
        info = {
            "codebase_version": "v3.0",
            "robot_type": self._robot_type,
            "total_episodes": len(self._rows),
            "total_frames": self._frames,
            "total_tasks": len(tasks),
            "chunks_size": CHUNKS_SIZE,
            "data_files_size_in_mb": FILE_SIZE_MB,
            "video_files_size_in_mb": 500,
            "fps": self._fps,
            "splits": {"train": f"0:{len(self._rows)}"},
            "data_path": DATA_PATH,
            "video_path": None,
            "features": self._features,
            "rllib_spirl": {key: value for key, value in ours.items() if value is not None},
        }
        for name, values in (("stats.json", statistics), ("info.json", info)):
            (meta / name).write_text(json.dumps(values, indent=2) + "\n")
        replaced = self._temporary.with_name(self._temporary.name + "-replaced")
        if self.path.exists() and not self._overwrite:
            kept = self.path.with_name(f"{self.path.name}-{self._own}")
            self._temporary.rename(kept)
            raise UserError(f"{self.path} exists by now, so what was written is in {kept}")
        if self.path.exists():
            self.path.rename(replaced)
        try:
            self._temporary.rename(self.path)
        except OSError:
            if replaced.exists():
                replaced.rename(self.path)
            raise
        shutil.rmtree(replaced, ignore_errors=True)


def _alive(pid: int) -> bool:
    """Whether a process of this host has this id; True where that cannot be told."""
    try:
        os.kill(pid, 0)  # no signal, only the check
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
