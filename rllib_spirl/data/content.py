"""What the rows of a data set must be like, their statistics, and the digest that tells two data sets apart."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data import columns as c
from rllib_spirl.data.episode import REPAIR, first_beyond, first_unusable
from rllib_spirl.errors import UserError
from rllib_spirl.locations import Location


def check_values(part: Mapping[str, np.ndarray], file: Location) -> None:
    """Check the values of one file. ``part`` maps the names of its columns to arrays."""

    def where(row: int) -> str:
        return f"{file}, row {row} (episode {part[c.EPISODE][row]}, frame {part[c.FRAME][row]})"

    for name, array in part.items():
        if name == c.IMAGE:
            continue  # bytes
        if (place := first_unusable(array)) is not None:
            label = name if len(place) == 1 else f"{name}[{place[1]}]"
            raise UserError(f"{where(place[0])}: {label} is {array[place]}; {REPAIR}")
    if c.NEXT_STATE in part and part[c.NEXT_STATE].shape[1] != part[c.STATE].shape[1]:
        raise UserError(
            f"{file}: '{c.NEXT_STATE}' is {part[c.NEXT_STATE].shape[1]} wide, '{c.STATE}' "
            f"{part[c.STATE].shape[1]}; both are states of the same environment: export the data again"
        )
    if (beyond := first_beyond(part[c.ACTION])) is not None:
        row, what = beyond
        raise UserError(f"{where(row)}: {what}")


def check_episodes(episode: np.ndarray, frame: np.ndarray, file: Location, before: int) -> NDArray[np.int64]:
    """Check that episodes are in order and in one file, and their frames consecutive; returns their starts, (E+1,).

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
    wrong = out_of_order(frame, starts)
    if len(wrong):
        row = int(wrong[0])
        expected = row - starts[np.searchsorted(starts, row, side="right") - 1]
        raise UserError(
            f"{file}, row {row}: frame_index is {frame[row]}, expected {expected} (episode {episode[row]} counts from "
            "0 without gaps); a row is missing or out of order: sort by index ('spirl data import-lerobot' does) or "
            "drop the episode"
        )
    return starts


def out_of_order(frame: np.ndarray, starts: np.ndarray) -> NDArray[np.int64]:
    """The rows whose frame index (N,) does not count from 0 within its episode; ``starts`` is (E+1,)."""
    return np.flatnonzero(frame != np.arange(len(frame)) - np.repeat(starts[:-1], np.diff(starts)))


def content_hash(digests: Mapping[str, Any], tasks: Sequence[str]) -> str:
    """The data set's fingerprint from the digest of each column."""
    parts = {name: digest.hexdigest() for name, digest in digests.items()}
    return hashlib.sha256(json.dumps([parts, tasks], sort_keys=True).encode()).hexdigest()[:16]


def add_to_digests(digests: dict[str, Any], name: str, array: np.ndarray) -> None:
    """Add the next rows of a column to its digest."""
    if not len(array):
        return
    array = np.ascontiguousarray(array.reshape(len(array), -1))
    digests.setdefault(name, hashlib.sha256(f"{array.dtype.str}{array.shape[1]}".encode())).update(array.data)


def column_statistics(array: np.ndarray) -> dict[str, np.ndarray]:
    """min, max, mean and std of a column's rows, each (width,), and their count, (1,)."""
    values = array.reshape(len(array), -1).astype(np.float64)
    return {
        "min": values.min(axis=0),
        "max": values.max(axis=0),
        "mean": values.mean(axis=0),
        "std": values.std(axis=0),
        "count": np.array([len(values)]),
    }


def pooled(statistics: Sequence[Mapping[str, np.ndarray]]) -> dict[str, list[float]]:
    """The `column_statistics` of all rows from those of its parts, as JSON values."""
    part = {key: np.stack([each[key] for each in statistics]) for key in statistics[0]}
    weights = part["count"] / part["count"].sum()
    mean = (weights * part["mean"]).sum(axis=0)
    variance = (weights * (part["std"] ** 2 + (part["mean"] - mean) ** 2)).sum(axis=0)
    return {
        "min": part["min"].min(axis=0).tolist(),
        "max": part["max"].max(axis=0).tolist(),
        "mean": mean.tolist(),
        "std": np.sqrt(variance).tolist(),
        "count": part["count"].sum(axis=0).tolist(),
    }
