"""Replay of skill transitions: one preallocated ring of tensors, sampled by one gather per column."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from rllib_spirl.errors import UserError, one_line
from rllib_spirl.files import replacing

Batch = dict[str, Tensor]
# Of `_repeated`: the lags that are tried, on the first so many rows.
MAX_LAG, SAMPLED_ROWS = 50, 2000
COLUMNS = ("states", "z", "rewards", "next_states", "terminated")


def successive(states: Tensor, z: Tensor, rewards: Tensor, terminated: bool) -> Batch:
    """The columns of n transitions that follow on each other, of states (n + 1, S), z (n, Z) and rewards (n,).

    Args:
        terminated: Whether the task ended with the last one.
    """
    ends = torch.zeros(len(z))
    ends[-1] = float(terminated)
    return {"states": states[:-1], "z": z, "rewards": rewards, "next_states": states[1:], "terminated": ends}


class SkillReplay:
    """The last ``capacity`` skill transitions (s, z, Σr, s', terminated), float32.

    ``terminated`` is 1 where the task ended: there is no value after it. A truncated skill is stored as not terminated,
    so that it bootstraps. Memory is taken by the operating system as the ring fills.

    Args:
        capacity: Transitions kept.
        state_dim, latent_dim: S and Z.
        seed: Of the sampling; the generator's state is saved with the contents.
    """

    source = ""
    """Where transitions that are not the agent's own come from; saved too."""
    labelled_for = ""
    """The task whose rewards they have, where it may have been another; saved too."""
    sized_by = "replay_capacity"
    """The setting that is its capacity."""

    def __init__(self, capacity: int, state_dim: int, latent_dim: int, seed: int = 0) -> None:
        self.capacity = capacity
        self.state_dim, self.latent_dim = state_dim, latent_dim
        self.size = 0
        self._next = 0
        self._columns = {
            "states": torch.empty(capacity, state_dim),
            "z": torch.empty(capacity, latent_dim),
            "rewards": torch.empty(capacity),
            "next_states": torch.empty(capacity, state_dim),
            "terminated": torch.empty(capacity),
        }
        self.generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return self.size

    def add(self, transitions: Mapping[str, Tensor]) -> None:
        """Append n transitions, given as columns with n rows each; the oldest make room."""
        count = len(transitions["rewards"])
        kept = min(count, self.capacity)
        rows = (self._next + torch.arange(count - kept, count)) % self.capacity
        for name, column in self._columns.items():
            column[rows] = torch.as_tensor(transitions[name], dtype=torch.float32)[count - kept :]
        self._next = (self._next + count) % self.capacity
        self.size = min(self.size + count, self.capacity)

    def sample(self, count: int) -> Batch:
        """``count`` transitions drawn uniformly with replacement."""
        rows = torch.randint(self.size, (count,), generator=self.generator)
        return {name: column[rows] for name, column in self._columns.items()}

    def sample_run(self, length: int, rows: int) -> Batch:
        """``length`` transitions that were added one after the other, from a place drawn uniformly.

        So many, or all if there are fewer, are the first of ``rows`` rows; the others do not matter.
        """
        oldest = self._next if self.size == self.capacity else 0
        start = torch.randint(max(1, self.size - length + 1), (1,), generator=self.generator)
        chosen = (oldest + (start + torch.arange(rows)) % self.size) % self.capacity
        return {name: column[chosen] for name, column in self._columns.items()}

    def save(self, path: Path) -> None:
        """Write contents and random state as safetensors; a state of several transitions once, where they overlap."""
        tensors = {name: column[: self.size].contiguous() for name, column in self._columns.items()}
        lag, repeated = _repeated(tensors["states"], tensors["next_states"])
        tensors["next_states"] = tensors["next_states"][~repeated]
        tensors["repeated"] = repeated
        tensors["rng"] = self.generator.get_state()
        facts: dict[str, int | str] = {"next": self._next, "size": self.size, "capacity": self.capacity, "lag": lag}
        facts |= {"source": self.source, "labelled_for": self.labelled_for}
        with replacing(path) as file:
            save_file(tensors, file, {name: str(fact) for name, fact in facts.items()})

    @classmethod
    def load(cls, path: Path, state_dim: int, latent_dim: int) -> "SkillReplay":
        """A buffer that is just large enough for what `save` wrote, and holds it.

        Raises:
            UserError: If the file is corrupt or has other dimensions.
        """
        saved = _Saved.read(path)
        replay = cls(saved.columns["rewards"].numel(), state_dim, latent_dim)
        replay.source, replay.labelled_for = saved.source, saved.labelled_for
        replay._fill(saved)
        return replay

    def restore(self, path: Path) -> None:
        """Read `save`'s file; after an error this buffer is as it was.

        Raises:
            UserError: If the file is corrupt, has other dimensions, is of another task, or holds more than this
                ring's capacity.
        """
        saved = _Saved.read(path)
        if saved.labelled_for != self.labelled_for:
            raise UserError(
                f"The replay buffer in {saved.path} is of the task '{saved.labelled_for}', this run's of "
                f"'{self.labelled_for}'. Use a checkpoint of the same training tasks in the same order."
            )
        self._fill(saved)

    def _fill(self, saved: "_Saved") -> None:
        size, same_ring = saved.size, saved.capacity == self.capacity
        if size > self.capacity:
            raise UserError(
                f"The replay buffer in {saved.path} holds {size} transitions, this one only {self.capacity}. "
                f"Set {self.sized_by} to at least {size}."
            )
        for name, column in self._columns.items():
            shape = tuple(saved.columns[name].shape)
            if shape != (size, *column.shape[1:]):
                raise UserError(
                    f"The replay buffer in {saved.path} has {name} of shape {shape}, this run's would be "
                    f"{(size, *column.shape[1:])}. Use a checkpoint of the same environment and skills."
                )
        order = torch.arange(size) if same_ring else saved.by_age()
        for name, column in self._columns.items():
            column[:size] = saved.columns[name][order]
        self.generator = saved.generator
        self.size = size
        self._next = saved.next if same_ring else size % self.capacity


@dataclass(frozen=True)
class _Saved:
    """What a file of `SkillReplay.save` holds."""

    path: Path
    size: int
    next: int
    capacity: int
    source: str
    labelled_for: str
    columns: Batch
    generator: torch.Generator

    def by_age(self) -> Tensor:
        """The rows (n,), the oldest first: a ring that is not full has been filled from its beginning."""
        return (self.next + torch.arange(self.size)) % max(self.size, 1)

    @classmethod
    def read(cls, path: Path) -> "_Saved":
        generator = torch.Generator()
        try:
            with safe_open(path, framework="pt") as file:
                facts = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
            size, start, capacity = (int(facts[name]) for name in ("size", "next", "capacity"))
            generator.set_state(tensors["rng"])
            columns = {name: tensors[name] for name in COLUMNS}
            repeated, states = tensors["repeated"], tensors["states"]
            columns["next_states"] = torch.empty_like(states)
            columns["next_states"][~repeated] = tensors["next_states"]
            columns["next_states"][repeated] = states[repeated.nonzero()[:, 0] + int(facts["lag"])]
            source, labelled_for = facts["source"], facts["labelled_for"]
        except (OSError, SafetensorError, KeyError, ValueError, RuntimeError, TypeError, IndexError) as error:
            reason = one_line(error)
            raise UserError(f"The replay buffer in {path} cannot be read ({reason}). Use another checkpoint.") from None
        return cls(path, size, start, capacity, source, labelled_for, columns, generator)


def saved_skills(path: Path) -> Tensor:
    """The z (n, Z) of the transitions in a file of `SkillReplay.save`, the oldest first.

    Raises:
        UserError: If the file is corrupt.
    """
    saved = _Saved.read(path)
    return saved.columns["z"][saved.by_age()]


def _repeated(states: Tensor, next_states: Tensor) -> tuple[int, Tensor]:
    """The lag l and the rows i, as a mask (n,), for which next_states[i] is states[i + l] bit for bit.

    The agent's own transitions follow each other (l = 1), and those of demonstrations, one for every window of H steps,
    follow those H rows before (l = H).
    """

    def equal(lag: int, count: int) -> Tensor:
        after, arrived = states[lag : lag + count].view(torch.int32), next_states[:count].view(torch.int32)
        return (after == arrived[: len(after)]).all(1)

    lags = range(1, min(MAX_LAG, len(states) - 1) + 1)
    lag = max(lags, key=lambda lag: int(equal(lag, SAMPLED_ROWS).sum()), default=0)
    repeated = torch.zeros(len(states), dtype=torch.bool)
    if lag:
        repeated[:-lag] = equal(lag, len(states) - lag)
    return lag, repeated


class Samples(Protocol):
    """What transitions can be drawn from."""

    def sample(self, count: int) -> Batch: ...

    def __len__(self) -> int: ...


def mixed_batch(
    replay: SkillReplay, offline: Samples | None, count: int, batch_size: int, fraction: float | None
) -> Batch:
    """``count`` batches in one: in each, ``fraction`` of the rows come from demonstrations, the rest from replay.

    Without a fraction, as many as demonstrations are of all transitions.
    """
    if offline is None or fraction == 0:
        return replay.sample(count * batch_size)
    if fraction is None:
        fraction = len(offline) / (len(offline) + len(replay))
    from_offline = batch_size if len(replay) == 0 else round(fraction * batch_size)
    if from_offline == batch_size:
        return offline.sample(count * batch_size)
    parts = (offline.sample(count * from_offline), replay.sample(count * (batch_size - from_offline)))
    return {
        name: torch.cat([part[name].unflatten(0, (count, -1)) for part in parts], dim=1).flatten(0, 1)
        for name in parts[0]
    }
