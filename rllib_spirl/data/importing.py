"""What all importers share: an opened source, choice of columns, scaling of actions, writing."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from rllib_spirl.data.episode import Episode
from rllib_spirl.data.writer import TrajectoryWriter
from rllib_spirl.errors import UserError


@dataclass(frozen=True)
class Source:
    """Recorded data, opened and ready to be read episode by episode."""

    episodes: Iterator[Episode]
    count: int | None  # episodes, where known before reading
    fps: float
    facts: dict[str, Any]  # where it is from, as JSON values; kept in meta/info.json
    robot_type: str = "unknown"
    state_names: list[str] | None = None
    action_names: list[str] | None = None
    env: str | None = None  # name of the environment whose states these are, where known


def write(source: Source, output: str | Path, *, overwrite: bool = False, show_progress: bool = True) -> Path:
    """Write an opened source as a data set at ``output``, whole or not at all; UserError on bad data."""
    with TrajectoryWriter(
        output,
        fps=source.fps,
        robot_type=source.robot_type,
        state_names=source.state_names,
        action_names=source.action_names,
        env=source.env,
        source=source.facts,
        overwrite=overwrite,
    ) as writer:
        for episode in track(
            source.episodes,
            "importing episodes",
            total=source.count,
            console=Console(stderr=True),
            disable=not show_progress,
            transient=True,
        ):
            writer.add(episode)
    return Path(output)


def choose_columns(spec: str | None, width: int, what: str) -> np.ndarray:
    """Column indices from a text such as ``0:9,18:39`` (half-open ranges and single columns); all for None.

    Raises:
        UserError: when the text is no such list, or asks for columns beyond ``width``.
    """
    if spec is None:
        return np.arange(width)
    chosen: list[int] = []
    for part in spec.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d+)(?::(\d+))?", part)
        if match is None:
            raise UserError(f"state_columns '{spec}': '{part}' is not a column or a range; write e.g. 0:9,18:39")
        start = int(match[1])
        chosen.extend(range(start, int(match[2]) if match[2] else start + 1))
    if not chosen or max(chosen) >= width:
        raise UserError(f"state_columns '{spec}': {what} is {width} wide; choose columns from 0 to {width - 1}")
    return np.array(chosen)


def scale_actions(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Map actions (T, A) from [low, high] (A,) to [-1, 1]; a dimension without range becomes 0."""
    span = high - low
    scaled = 2 * (actions - low) / np.where(span > 0, span, 1) - 1
    return np.where(span > 0, np.clip(scaled, -1, 1), 0).astype(actions.dtype)


def floats(values: np.ndarray) -> np.ndarray:
    """float64 stays, everything else becomes float32: what the data set can hold."""
    return np.asarray(values, np.float64 if values.dtype == np.float64 else np.float32)
