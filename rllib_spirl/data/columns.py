"""Names of the Parquet columns and their conversion to NumPy, with errors that name the file and the row."""

import math
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from rllib_spirl.errors import UserError
from rllib_spirl.locations import Location

STATE = "observation.state"
ACTION = "action"
NEXT_STATE = "next.observation.state"  # ours: LeRobot has no place for the state after the last action
IMAGE = "observation.image"  # flat, as LeRobot reads any vector; in the shape PICTURE
REWARD = "next.reward"
TERMINATED = "next.terminated"
TRUNCATED = "next.truncated"
EPISODE = "episode_index"
FRAME = "frame_index"
INDEX = "index"
TIMESTAMP = "timestamp"
TASK = "task_index"
DONE = "next.done"  # LeRobot's; read in place of ``TERMINATED`` where that is missing

REQUIRED = (STATE, ACTION, EPISODE, FRAME)
OPTIONAL = (NEXT_STATE, REWARD, TERMINATED, TRUNCATED, TASK)
"""Read where a data set has them. ``IMAGE`` is not one of them: it is large, and read only when asked for."""
VECTORS = frozenset({STATE, ACTION, NEXT_STATE, IMAGE})

PICTURE = (32, 32, 3)
"""Rows, columns and RGB of a frame's picture, uint8."""
PICTURE_BYTES = math.prod(PICTURE)

# What reading a damaged Parquet file raises.
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
CORRUPT = "is not a readable Parquet file (truncated or corrupt); copy or build it again"


def data_files(path: Location) -> list[Location]:
    """The frame files of a data set, in order. Raises UserError when there are none."""
    try:
        files: list[Location] = sorted((path / "data").glob("chunk-*/file-*.parquet"), key=str)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error}); check the access to it") from None
    if not files:
        raise UserError(
            f"{path}: no data/chunk-*/file-*.parquet here; give the directory of a LeRobot v3 data set, or "
            "make one with 'spirl data build' or 'spirl data import-...'"
        )
    return files


def open_parquet(file: Location) -> pq.ParquetFile:
    """Raises UserError when the file is truncated, corrupt or no Parquet at all."""
    try:
        source, buffered = (file, False) if isinstance(file, Path) else (file.open(), True)
        parquet = pq.ParquetFile(source, pre_buffer=buffered, page_checksum_verification=True)
        _ = parquet.schema_arrow.names  # decoded here, not when first asked for
        return parquet
    except DAMAGE as error:
        raise UserError(f"{file} {CORRUPT}") from error


def holds_pictures(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold pictures as `PICTURE` says; LeRobot's are encoded ones, with a path."""
    return _is_list(kind) and pa.types.is_integer(kind.value_type)


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def read_columns(file: Location, names: list[str], *, use_threads: bool = True) -> pa.Table:
    """The columns ``names`` of a file. Raises UserError when one is missing or the file is damaged."""
    parquet = open_parquet(file)
    present = set(parquet.schema_arrow.names)
    missing = [name for name in names if name not in present]
    if missing:
        remedy = (
            "build the data with 'images: true' in the recipe, or write episodes with images"
            if missing[0] == IMAGE
            else "add it, or import the data with 'spirl data import-lerobot --state-key ... --action-key ...'"
        )
        raise UserError(f"{file}: column '{missing[0]}' is missing (there are: {', '.join(sorted(present))}); {remedy}")
    try:
        return parquet.read(columns=names, use_threads=use_threads)
    except DAMAGE as error:
        raise UserError(f"{file} {CORRUPT}") from error


def matrix(table: pa.Table, name: str, file: Location) -> np.ndarray:
    """A column of lists (or of scalars, for width 1) as an array (N, width) of the stored number type.

    Raises UserError when the rows differ in width, are empty, or hold no numbers.
    """
    column = table.column(name).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], column.type)
    kind = column.type
    if not _is_list(kind):
        return scalars(table, name, file)[:, None]
    if not (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)):
        raise UserError(f"{file}: column '{name}' holds {kind.value_type}, not numbers; choose another column")
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy(zero_copy_only=False))[0])
        raise UserError(f"{file}, row {row}: '{name}' is empty; fill it in or drop the episode")
    widths = pc.list_value_length(column).to_numpy(zero_copy_only=False)
    if len(widths) and (widths != widths[0]).any():
        row = int(np.flatnonzero(widths != widths[0])[0])
        raise UserError(
            f"{file}, row {row}: '{name}' has {widths[row]} values, the rows before have {widths[0]}; "
            "every row needs the same width"
        )
    width = int(widths[0]) if len(widths) else 0
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), width)


def values(table: pa.Table, name: str, file: Location, vectors: frozenset[str] = VECTORS) -> np.ndarray:
    """A column as an array of the stored number type: (N, width) if it is one of ``vectors``, else (N,).

    Raises UserError as `matrix` or `scalars` does, and on pictures of another size.
    """
    if name not in vectors:
        return scalars(table, name, file)
    array = matrix(table, name, file)
    if name == IMAGE and len(array) and (array.dtype, array.shape[1]) != (np.uint8, PICTURE_BYTES):
        raise UserError(
            f"{file}: '{name}' holds {array.shape[1]} {array.dtype} values a row; pictures are {PICTURE_BYTES} uint8 "
            f"(of shape {PICTURE}, row by row): write them anew"
        )
    return array


def scalars(table: pa.Table, name: str, file: Location) -> np.ndarray:
    """A column of numbers or booleans as an array (N,). Raises UserError on empty rows and on other types."""
    column = table.column(name)
    if column.null_count:
        row = int(np.flatnonzero(column.is_null().to_numpy())[0])
        raise UserError(f"{file}, row {row}: '{name}' is empty; fill it in or drop the episode")
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        raise UserError(f"{file}: column '{name}' holds {kind}, not numbers; choose another column")
    return column.to_numpy()
