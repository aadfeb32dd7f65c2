"""What all importers share: an opened source, choice of columns, scaling of actions, writing."""

import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator
from rich.console import Console

from rllib_spirl.data.dataset import DataSet
from rllib_spirl.data.episode import DamagedEpisode, Episode
from rllib_spirl.data.writer import TrajectoryWriter, check_place
from rllib_spirl.errors import UserError
from rllib_spirl.progress import stage, tell, track

SKIP_DAMAGED = "or leave such episodes out with --skip-damaged (in a recipe: 'skip_damaged: true')"


@dataclass(frozen=True)
class Source:
    """Recorded data, opened and ready to be read episode by episode."""

    readers: Iterable[tuple[str, Callable[[], Episode]]]
    """For each episode what an error calls it, and a function that reads it or raises `DamagedEpisode`."""
    count: int | None  # episodes, where known before reading
    fps: float
    facts: dict[str, Any]  # where it is from, as JSON values; kept in meta/info.json
    robot_type: str = "unknown"
    state_names: list[str] | None = None
    action_names: list[str] | None = None
    env: str | None = None  # name of the environment whose states these are, where known


class Recipe(BaseModel):
    """How a data set is made. What each source needs besides is in the classes that derive from this one."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str | None = Field(default=None, description="of the built data set; else the recipe's file name")
    description: str = ""
    output: Path | None = Field(default=None, description="where to build; else below the package's home directory")
    fps: float = Field(default=10.0, gt=0, description="steps per second")

    def content(self) -> dict[str, Any]:
        """All that decides the data, as JSON values: the settings, and the state of the local files they name."""
        return self.model_dump(mode="json", exclude={"name", "description", "output"})

    def build(self, output: Path, facts: dict[str, Any], *, overwrite: bool, workers: int | None) -> DataSet:
        """Make the data set at ``output``, whole or not at all.

        Args:
            output: The directory to make.
            facts: Where the data comes from, as JSON values to be kept in ``meta/info.json``.
            overwrite: Whether to replace a data set that is there.
            workers: Processes for what can be made in parallel; None for one on each core.

        Raises:
            UserError: When the source is missing or invalid, or ``output`` cannot be written.
        """
        raise NotImplementedError


class ImportRecipe(Recipe):
    """Recorded data to import."""

    state_columns: str | None = Field(default=None, description="state dimensions to keep, e.g. 0:9,18:39")
    rescale_actions: bool = Field(default=False, description="map each action dimension's range in the data to [-1, 1]")
    skip_damaged: bool = Field(default=False, description="leave damaged episodes out instead of refusing the data")

    @field_validator("state_columns", mode="before")
    @classmethod
    def _one_column(cls, columns: Any) -> Any:
        return str(columns) if type(columns) is int else columns  # as YAML has a single column

    def rescaled(self, actions: np.ndarray, facts: dict[str, Any]) -> np.ndarray:
        """Actions (T, A), with `rescale_actions` mapped from their range to [-1, 1]; the range goes into ``facts``."""
        if not self.rescale_actions:
            return actions
        low, high = action_range(actions)
        least, most = (", ".join(f"{number:.3g}" for number in ends) for ends in (low, high))
        tell(f"actions of [-1, 1] stand for those from ({least}) to ({most})")
        facts |= {"action_low": low.tolist(), "action_high": high.tolist()}
        return scale_actions(actions, low, high)

    def read(self) -> Source:
        """Open the source. Raises UserError when it is missing, damaged or of another form."""
        raise NotImplementedError

    def build(self, output: Path, facts: dict[str, Any], *, overwrite: bool, workers: int | None) -> DataSet:
        check_place(output, overwrite=overwrite)  # before what may take long
        with stage("reading what is to be imported"):
            source = self.read()
        source.facts.update(facts)
        return write(source, output, overwrite=overwrite, skip_damaged=self.skip_damaged)


def check_arrays(path: Path, arrays: Mapping[str, np.ndarray], vectors: Collection[str]) -> None:
    """Refuse a file's arrays that are not numbers with a row for each step, (N, width) for the ``vectors``.

    Raises:
        UserError: On another form, on another length than that of 'observations', and when there are no steps.
    """
    for key, array in arrays.items():
        if array.ndim == 0 or array.dtype.kind not in "fiub":
            raise UserError(f"{path}: '{key}' holds no numbers, one for each step; download it again")
    rows = len(arrays["observations"])
    if rows == 0:
        raise UserError(f"{path}: no steps; download it again")
    for key, array in arrays.items():
        if len(array) != rows:
            raise UserError(f"{path}: '{key}' has {len(array)} rows, 'observations' {rows}; download it again")
        if key in vectors and array.ndim != 2:
            raise UserError(f"{path}: '{key}' is of shape {array.shape}, not (steps, width); import vectors only")


def column(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """A file's array with one number for each step, (N,) or (N, 1), as (N,). Raises UserError on another shape."""
    array = arrays[key]
    if array.shape not in ((len(array),), (len(array), 1)):
        raise UserError(f"{path}: '{key}' is of shape {array.shape}, not (steps,)")
    return array.reshape(-1)


def flags(path: Path, arrays: Mapping[str, np.ndarray], key: str) -> np.ndarray:
    """A file's array of flags, (N,) bool. Raises UserError on another shape, and on nan."""
    array = column(path, arrays, key)
    if np.issubdtype(array.dtype, np.floating) and np.isnan(array).any():
        raise UserError(f"{path}: '{key}' is nan at row {int(np.isnan(array).argmax())}, neither true nor false")
    return array.astype(bool)


def write(
    source: Source,
    output: str | Path,
    *,
    overwrite: bool = False,
    skip_damaged: bool = False,
) -> DataSet:
    """Write an opened source as a data set at ``output``, whole or not at all.

    Args:
        source: What to write.
        output: The directory to make.
        overwrite: Whether to replace a data set that is there.
        skip_damaged: Whether to leave damaged episodes out. They are listed on stderr and counted in
            ``meta/info.json``; else the first of them ends the import.

    Raises:
        UserError: On invalid data, or when ``output`` cannot be written.
    """
    facts, skipped = dict(source.facts), []
    with TrajectoryWriter(
        output,
        fps=source.fps,
        robot_type=source.robot_type,
        state_names=source.state_names,
        action_names=source.action_names,
        env=source.env,
        source=facts,
        overwrite=overwrite,
    ) as writer:
        for name, read in track(source.readers, "importing episodes", total=source.count):
            try:
                writer.add(read(), name)
            except DamagedEpisode as error:
                if not skip_damaged:
                    raise UserError(f"{error}, {SKIP_DAMAGED}") from None
                skipped.append(str(error))
        if skipped:
            facts["episodes_skipped"] = len(skipped)
            lines = [*(f"left out: {reason}" for reason in skipped), f"damaged episodes left out: {len(skipped)}"]
            Console(stderr=True).print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)
    return writer.data_set


def file_state(file: Path) -> dict[str, Any]:
    """What tells a file from what it will be once it is replaced. Empty where there is none."""
    if not file.exists():
        return {}
    stat = file.stat()
    return {"state": [stat.st_size, stat.st_mtime_ns]}


def choose_columns(spec: str | None, width: int, what: str) -> np.ndarray:
    """Column indices from a text such as ``0:9,18:39`` (half-open ranges and single columns); all for None.

    Raises:
        UserError: When the text is no such list, or asks for columns beyond ``width``.
    """
    if spec is None:
        return np.arange(width)
    chosen = columns_in(spec)
    if max(chosen) >= width:
        raise UserError(f"state_columns '{spec}': {what} is {width} wide; choose columns from 0 to {width - 1}")
    return np.array(chosen)


def columns_in(spec: str) -> list[int]:
    """The columns that such a text names, at least one. Raises UserError when it is no such list."""
    chosen: list[int] = []
    for part in spec.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d+)(?::(\d+))?", part)
        if match is None:
            raise UserError(f"state_columns '{spec}': '{part}' is not a column or a range; write e.g. 0:9,18:39")
        start = int(match[1])
        end = int(match[2]) if match[2] else start + 1
        if end <= start:
            raise UserError(f"state_columns '{spec}': '{part}' has no columns; choose columns as FIRST:END, e.g. 0:9")
        chosen.extend(range(start, end))
    return chosen


def action_range(actions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest finite number of each dimension, (A,), of actions (T, A)."""
    finite = np.isfinite(actions)
    return np.where(finite, actions, np.inf).min(axis=0), np.where(finite, actions, -np.inf).max(axis=0)


def scale_actions(actions: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """Map actions (T, A) from [low, high] (A,) to [-1, 1]; a dimension without range becomes 0.

    What is not finite stays as it is, to be found when the episode is checked.
    """
    span = high - low
    scaled = 2 * (actions - low) / np.where(span > 0, span, 1) - 1
    mapped = np.where(span > 0, np.clip(scaled, -1, 1), 0)
    return np.where(np.isfinite(actions), mapped, actions).astype(actions.dtype)


def floats(values: np.ndarray) -> np.ndarray:
    """float64 stays, everything else becomes float32: what the data set can hold."""
    return np.asarray(values, np.float64 if values.dtype == np.float64 else np.float32)
