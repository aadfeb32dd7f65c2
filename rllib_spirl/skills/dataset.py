"""Windows of a data set for skill training: from memory where they fit, else streamed file by file."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from rllib_spirl.data import DataSet
from rllib_spirl.data import columns as c
from rllib_spirl.data.windows import picture_pairs, previous_frames, window_starts
from rllib_spirl.errors import UserError
from rllib_spirl.progress import track
from rllib_spirl.skills.correction import StateStatistics

VALIDATION_WINDOWS = 4096  # at most, evenly spaced over the held-out episodes


@dataclass(frozen=True)
class SkillData:
    """What training needs to know of a data set before its first batch. Small, whatever the size of the data.

    Episodes are counted over all files; E of them, S state and A action dimensions, V validation windows of H steps.
    """

    source: DataSet
    train: NDArray[np.int64]  # episodes that are not held out
    statistics: StateStatistics
    validation_states: NDArray[np.float32]  # (V, H, S)
    validation_actions: NDArray[np.float32]  # (V, H, A)
    validation_images: NDArray[np.uint8] | None = None  # (V, 2, 32, 32, 3) where windows start; None without pictures

    @classmethod
    def scan(
        cls,
        data: DataSet,
        horizon: int,
        validation_fraction: float,
        seed: int,
        *,
        images: bool = False,
    ) -> Self:
        """Read the data set once, check all of it, and keep its statistics and the validation windows.

        Args:
            data: What to train on.
            horizon: H.
            validation_fraction: Share of the episodes that is held out.
            seed: Of the choice of these.
            images: Whether to read the pictures, too.

        Raises:
            UserError: As `DataSet.parts` does, or when no episode has ``horizon`` steps.
        """
        train, held_out = split_episodes(data.num_episodes, validation_fraction, seed)
        windows = data.windows(horizon)
        windows = windows[np.isin(np.searchsorted(data.episode_starts, windows, side="right") - 1, held_out)]
        chosen = windows[np.linspace(0, len(windows) - 1, min(VALIDATION_WINDOWS, len(windows))).astype(np.int64)]
        states, actions, pictures = [], [], []
        statistics: StateStatistics | None = None
        offset = 0
        parts = data.parts((c.IMAGE,) if images else ())
        for part in track(parts, "reading data", total=len(data.files)):
            s, a = part.columns[c.STATE], part.columns[c.ACTION]
            statistics = statistics or StateStatistics(s.shape[1], a.shape[1])
            statistics.add(s, a, part.episode_starts)
            frames = chosen[(offset <= chosen) & (chosen < offset + len(s))] - offset
            frames = frames[:, None] + np.arange(horizon)
            states.append(s[frames].astype(np.float32))
            actions.append(a[frames].astype(np.float32))
            if images:
                pairs = picture_pairs(frames[:, 0], part.episode_starts)
                pictures.append(part.columns[c.IMAGE][pairs].reshape(*pairs.shape, *c.PICTURE))
            offset += len(s)
        assert statistics is not None
        return cls(
            data,
            train,
            statistics,
            np.concatenate(states),
            np.concatenate(actions),
            np.concatenate(pictures) if images else None,
        )

    @property
    def state_dim(self) -> int:
        return self.validation_states.shape[2]

    @property
    def action_dim(self) -> int:
        return self.validation_actions.shape[2]


class Windows:
    """All windows of H steps of some episodes, gathered on the training device: a batch is two index operations.

    Args:
        states, actions: (N, S) and (N, A) frames.
        starts: (W,) first frame of each window.
        images: (N, 32, 32, 3) frames, or None.
        previous: (W,) the frame before each window's first one, or that one itself where an episode begins.
    """

    def __init__(
        self,
        states: Tensor,
        actions: Tensor,
        starts: Tensor,
        horizon: int,
        images: Tensor | None = None,
        previous: Tensor | None = None,
    ) -> None:
        self.states, self.actions, self.starts = states, actions, starts
        self.images, self.previous = images, previous
        self._offsets = torch.arange(horizon, device=starts.device)

    def __len__(self) -> int:
        return len(self.starts)

    def gather(self, windows: Tensor) -> tuple[Tensor, ...]:
        """Windows by number (B,): states (B, H, S), actions (B, H, A) and, if there are, pictures (B, 2, 32, 32, 3)."""
        starts = self.starts[windows]
        frames = starts.unsqueeze(1) + self._offsets
        if self.images is None or self.previous is None:
            return self.states[frames], self.actions[frames]
        pairs = torch.stack([self.previous[windows], starts], 1)
        return self.states[frames], self.actions[frames], self.images[pairs]


class WindowStream:
    """One worker's training windows in random order for ever, each once per pass (but for a last part of a batch).

    Frames that fit in ``memory`` bytes are read once and stay. Else a pass takes the files in random order, as many at
    a time as fit in half of it, while a thread reads the next ones into the other half.

    Args:
        data: The scanned data set.
        episodes: Which of its episodes to use.
        horizon: H.
        memory: Bytes of frames to hold at most; a single file that is larger than half of it is held all the same.
        generator: Of the order.
    """

    def __init__(
        self,
        data: SkillData,
        episodes: NDArray[np.int64],
        horizon: int,
        memory: float,
        generator: torch.Generator,
        device: torch.device,
    ) -> None:
        """Raises UserError when none of the episodes has H steps."""
        self._horizon, self._generator, self._device = horizon, generator, device
        self._state_dim, self._action_dim = data.state_dim, data.action_dim
        self._images = data.validation_images is not None
        self._source = data.source
        # The number of each file, and of the episodes to use from it the first rows and the lengths.
        self._files: list[tuple[int, NDArray[np.int64], NDArray[np.int64]]] = []
        first = 0
        for file, starts in enumerate(data.source.file_starts):
            count = len(starts) - 1
            used = episodes[(first <= episodes) & (episodes < first + count)] - first
            lengths = np.diff(starts)[used]
            if (lengths >= horizon).any():
                self._files.append((file, starts[used], lengths))
            first += count
        if not self._files:
            raise UserError(
                f"none of the {len(episodes)} episodes that a worker trains on has {horizon} steps; give more or "
                "longer episodes, a smaller horizon or validation_fraction, or fewer workers"
            )
        frame = 4 * (data.state_dim + data.action_dim) + (c.PICTURE_BYTES if self._images else 0)
        self._sizes = [frame * int(lengths.sum()) for _, _, lengths in self._files]
        self._memory = memory
        self.streamed = sum(self._sizes) > memory

    def batches(self, batch_size: int) -> Iterator[tuple[Tensor, ...]]:
        """States (B, H, S), actions (B, H, A) and, if there are, pictures (B, 2, 32, 32, 3), as recorded."""
        for windows in self._groups():
            size = min(batch_size, len(windows))
            order = torch.randperm(len(windows), generator=self._generator).to(self._device)
            for first in range(0, len(windows) - size + 1, size):
                yield windows.gather(order[first : first + size])
            del windows, order  # before the next group comes

    def _groups(self) -> Iterator[Windows]:
        if not self.streamed:
            windows = self._read(range(len(self._files)))
            while True:
                yield windows
        plan = self._plan()
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._read, next(plan))
            while True:
                windows = coming.result()
                coming = reader.submit(self._read, next(plan))
                yield windows

    def _plan(self) -> Iterator[list[int]]:
        """Files to hold together, for ever."""
        while True:
            group: list[int] = []
            held = 0
            for index in torch.randperm(len(self._files), generator=self._generator).tolist():
                if group and held + self._sizes[index] > self._memory / 2:
                    yield group
                    group, held = [], 0
                group.append(index)
                held += self._sizes[index]
            yield group

    def _read(self, files: Sequence[int]) -> Windows:
        total = sum(int(self._files[index][2].sum()) for index in files)
        columns = {c.STATE: torch.empty(total, self._state_dim), c.ACTION: torch.empty(total, self._action_dim)}
        if self._images:
            columns[c.IMAGE] = torch.empty(total, c.PICTURE_BYTES, dtype=torch.uint8)
        window_frames, previous = [], []
        offset = 0
        for index in files:
            file, starts, lengths = self._files[index]
            kept = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
            rows = np.repeat(starts - kept[:-1], lengths) + np.arange(kept[-1])
            read = self._source.read_file(file, list(columns), use_threads=not self.streamed)
            for name, values in columns.items():
                values[offset : offset + len(rows)] = torch.from_numpy(read.pop(name)[rows])
            first_frames = window_starts(kept, self._horizon)
            window_frames.append(offset + first_frames)
            previous.append(offset + previous_frames(first_frames, kept))
            offset += len(rows)
        pa.default_memory_pool().release_unused()
        on_device = {name: values.to(self._device) for name, values in columns.items()}
        return Windows(
            on_device[c.STATE],
            on_device[c.ACTION],
            torch.from_numpy(np.concatenate(window_frames)).to(self._device),
            self._horizon,
            on_device[c.IMAGE].unflatten(1, c.PICTURE) if self._images else None,
            torch.from_numpy(np.concatenate(previous)).to(self._device),
        )


def split_episodes(num_episodes: int, validation_fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split by episode, so that no validation window overlaps a training window.

    Returns:
        (train, validation), ascending episode indices. Both have at least one episode where there are two or
        more and the fraction is above 0; a single episode goes to training.

    Raises:
        UserError: when the fraction is outside of [0, 1).
    """
    if not 0 <= validation_fraction < 1:
        raise UserError(f"validation_fraction = {validation_fraction}: give a fraction in [0, 1)")
    count = round(num_episodes * validation_fraction)
    if validation_fraction > 0:
        count = min(max(count, 1), num_episodes - 1)
    order = np.random.default_rng(seed).permutation(num_episodes)
    return np.sort(order[count:]), np.sort(order[:count])
