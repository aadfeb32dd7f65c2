"""Short names for what many tests do with a data set."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rllib_spirl.data import DataSet, Episode, Trajectories
from rllib_spirl.data.importing import Source
from rllib_spirl.locations import Location


def opened(data: DataSet | Location | str) -> DataSet:
    return data if isinstance(data, DataSet) else DataSet.open(data)


def load(data: DataSet | Location | str, **options: Any) -> Trajectories:
    return opened(data).load(**options)


def fingerprint(data: DataSet | Path | str) -> str:
    return opened(data).fingerprint


def episodes(source: Source) -> Iterator[Episode]:
    """All episodes of an opened source, checked."""
    for name, read in source.readers:
        episode = read()
        episode.validate(name)
        yield episode
