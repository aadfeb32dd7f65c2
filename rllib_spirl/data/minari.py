"""Import a Minari data set, by its id or from a local directory."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

import gymnasium as gym
import numpy as np

from rllib_spirl.data.episode import DamagedEpisode, Episode
from rllib_spirl.data.importing import (
    ImportRecipe,
    Source,
    action_range,
    choose_columns,
    file_state,
    floats,
    scale_actions,
)
from rllib_spirl.errors import UserError, one_line
from rllib_spirl.locking import sole
from rllib_spirl.progress import stage

NAMESPACE = "namespace_metadata.json"


class MinariRecipe(ImportRecipe):
    """A Minari data set. Minari records the state after the last action, so episodes stay whole.

    Actions are mapped to [-1, 1] from the bounds of the action space. Where it has none, they are taken as they are, or
    with ``rescale_actions`` mapped from their range in the data.

    Episodes are labelled by ``task``, by what ``task_key`` holds, or by the environment's ``tasks_to_complete``; the
    episodes of a combined data set by the part that they come from, if its parts are here too; else by the data set's
    id.
    """

    source: Literal["minari"] = "minari"
    dataset: str
    """An id such as ``D4RL/kitchen/complete-v2``, or the path of a data set's directory."""
    root: Path | None = None
    """Where Minari keeps its data sets; else ``$MINARI_DATASETS_PATH``, else Minari's own default."""
    download: bool = True
    """Whether to fetch the data set when it is not there."""
    observation_key: str = "observation"
    """Which entry of Dict observations is the state; ``a/b`` for nested ones."""
    task: str | None = None
    task_key: str | None = None
    """The info, or the entry of Dict observations, that tells what an episode does; ``a/b`` for nested ones."""

    def content(self) -> dict[str, Any]:
        if self.download and _local(self.dataset) is None:  # an id with a version, which is fetched when it is missing
            return super().content()
        place = self._place(self.dataset)
        state = file_state(place / "main_data.hdf5")
        if not state:  # Minari's other format has a folder for each episode
            state = {"files": [file_state(file) for file in sorted(place.rglob("*")) if file.is_file()]}
        return super().content() | {"place": str(place.resolve())} | state

    def read(self) -> Source:
        """Open the data set.

        Raises:
            UserError: When it is not there or damaged, or its observations or actions are no vectors.
        """
        data = self._open(self.dataset)
        space = data.action_space
        if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
            raise UserError(f"{self.dataset}: actions are {space}; only vectors of continuous actions can be imported")
        low, high = space.low.astype(np.float64), space.high.astype(np.float64)
        mapped = np.isfinite(low) & np.isfinite(high)
        if not mapped.all():  # dimensions without bounds have those of the data, or are taken as they are
            found = self._action_range(data) if self.rescale_actions else (-np.ones_like(low), np.ones_like(high))
            low, high = np.where(mapped, low, found[0]), np.where(mapped, high, found[1])
            mapped |= self.rescale_actions
        facts: dict[str, Any] = {
            "source": "minari",
            "dataset": data.spec.dataset_id,
            "state_columns": self.state_columns,
        }
        scaled = not (np.all(low == -1) and np.all(high == 1))
        if scaled:
            facts |= {"action_low": low.tolist(), "action_high": high.tolist()}
        labels = self._labels(data)

        def convert(index: int) -> Episode:
            name = f"{self.dataset}, episode {index}"
            recorded = self._episode(data, index)
            observations = floats(_state(recorded.observations, self.observation_key, name))
            columns = choose_columns(self.state_columns, observations.shape[1], f"'{self.observation_key}'")
            actions = floats(recorded.actions)
            bounded = scale_actions(actions, low, high) if scaled else np.clip(actions, low, high).astype(actions.dtype)
            return Episode(
                states=observations[:, columns],
                actions=np.where(mapped, bounded, actions),
                rewards=floats(recorded.rewards),
                terminated=bool(recorded.terminations[-1]),
                truncated=bool(recorded.truncations[-1]),
                task=labels[index] if self.task_key is None else _task(recorded, self.task_key, name),
            )

        spec = data.spec.env_spec
        return Source(
            readers=[(f"{self.dataset}, episode {i}", partial(convert, i)) for i in map(int, data.episode_indices)],
            count=int(data.total_episodes),
            fps=self.fps,
            facts=facts,
            robot_type=spec.id if spec else "unknown",
            env=spec.id if spec else None,
        )

    def _episode(self, data: Any, index: int) -> Any:
        try:
            return next(iter(data.iterate_episodes([index])))
        except (OSError, KeyError, AssertionError, ValueError) as error:
            reason = one_line(error)
            raise DamagedEpisode(
                f"{self.dataset}, episode {index}: it is damaged ({reason}); download the data set again"
            ) from error

    def _action_range(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        """Least and greatest number of each action dimension in the data, (A,)."""
        ranges = []
        for index in map(int, data.episode_indices):
            try:
                ranges.append(action_range(self._episode(data, index).actions))
            except DamagedEpisode:
                if not self.skip_damaged:
                    raise
        if not ranges:
            raise UserError(f"{self.dataset}: no episode is whole")
        return np.min([low for low, _ in ranges], axis=0), np.max([high for _, high in ranges], axis=0)

    def _labels(self, data: Any) -> dict[int, str]:
        """What the episodes do, by their index."""
        indices = list(map(int, data.episode_indices))
        if self.task is not None:
            return dict.fromkeys(indices, self.task)
        labels = [label for part in self._parts(data) for label in [_label(part)] * int(part.total_episodes)]
        return dict(zip(indices, labels if len(labels) == len(indices) else [_label(data)] * len(indices), strict=True))

    def _parts(self, data: Any) -> list[Any]:
        """The data sets that a combined one was made of, in its order. Empty where not all of them are here."""
        try:
            return [_dataset(self._place(name)) for name in data.combined_datasets]
        except UserError:
            return []

    def _place(self, dataset: str) -> Path:
        """The folder of a data set's files, which need not be there."""
        return _local(dataset) or _kept(self.root) / dataset / "data"

    def _open(self, dataset: str) -> Any:
        place = self._place(dataset)
        if not place.exists() and self.download:
            _download(dataset, self.root)
        if not place.exists():
            raise UserError(
                f"{dataset}: no such Minari data set at {place.parent}; set MINARI_DATASETS_PATH to where it is, "
                f"or get it with 'minari download {dataset}' or --download"
            )
        return _dataset(place)


def _local(dataset: str) -> Path | None:
    """The folder of a data set's files, if it is named by its path."""
    folder = Path(dataset).expanduser()
    return next((place for place in (folder / "data", folder) if (place / "metadata.json").exists()), None)


def _kept(root: Path | None) -> Path:
    """The folder of Minari's data sets."""
    from minari.storage.datasets_root_dir import get_dataset_path

    return (root or Path(get_dataset_path())).expanduser()


def _download(dataset: str, root: Path | None) -> None:
    """Fetch a data set, whole or not at all: Minari takes what is there in part for the whole."""
    import minari

    kept = _kept(root)
    try:
        kept.mkdir(parents=True, exist_ok=True)
        with sole(kept / ".downloading", "downloading"), TemporaryDirectory(dir=kept, prefix=".downloading-") as new:
            if (kept / dataset / "data").exists():  # another process has fetched it
                return
            with _datasets_path(new), stage(f"downloading {dataset}"):
                minari.download_dataset(dataset)
            (kept / dataset).parent.mkdir(parents=True, exist_ok=True)
            (Path(new) / dataset).rename(kept / dataset)
            for file in Path(new).rglob(NAMESPACE):
                if not (place := kept / file.relative_to(new)).exists():
                    file.rename(place)
    except Exception as error:  # whatever the network, the host or Minari's id parser may raise
        reason = one_line(error)[:200]
        raise UserError(
            f"{dataset}: the download failed ({type(error).__name__}: {reason}); check the id and the "
            "network, or point MINARI_DATASETS_PATH at a copy"
        ) from error


@contextmanager
def _datasets_path(folder: str) -> Iterator[None]:
    """Minari's data sets in this folder."""
    previous = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = folder
    try:
        yield
    finally:
        del os.environ["MINARI_DATASETS_PATH"]
        if previous is not None:
            os.environ["MINARI_DATASETS_PATH"] = previous


def _dataset(place: Path) -> Any:
    import minari

    try:
        missing = {"observation_space", "action_space"} - json.loads((place / "metadata.json").read_text()).keys()
        if missing:  # Minari would make the environment that the file names, which can run any code
            raise ValueError(f"metadata.json has no {' and no '.join(sorted(missing))}")
        return minari.MinariDataset(place)
    except Exception as error:  # a damaged HDF5 or metadata file raises whatever its reader does
        reason = one_line(error)[:200]
        raise UserError(f"{place}: not readable as a Minari data set ({reason}); download it again") from error


def _label(data: Any) -> str:
    """What the episodes of a data set do, as far as it tells."""
    tasks = (data.spec.env_spec.kwargs if data.spec.env_spec else {}).get("tasks_to_complete")
    return "; ".join(tasks) if tasks else str(data.spec.dataset_id)


def _task(recorded: Any, key: str, name: str) -> str:
    """What an episode's first info, or else its first observation, holds under ``key``; ``a/b`` for nested ones."""
    for entries in (recorded.infos, recorded.observations):
        found = _entry(entries, key)
        if found is not None and len(found):
            value = found[0]
            text = value.decode() if isinstance(value, bytes) else value
            return text if isinstance(text, str) else " ".join(map(str, np.ravel(text)))
    there = [*(recorded.infos or {}), *(recorded.observations if isinstance(recorded.observations, dict) else {})]
    raise UserError(f"{name}: no info or observation '{key}' (there are: {', '.join(there)}); choose with --task-key")


def _entry(entries: Any, key: str) -> Any:
    """What nested dicts hold under ``a/b``, or None."""
    for part in key.split("/"):
        entries = entries.get(part) if isinstance(entries, dict) else None
    return None if isinstance(entries, dict) else entries


def _state(observations: Any, key: str, name: str) -> np.ndarray:
    """The (T+1, S) array under ``key``; ``key`` does not matter when observations are plain vectors."""
    found = _entry(observations, key) if isinstance(observations, dict) else observations
    if found is None:
        there = ", ".join(observations)
        raise UserError(f"{name}: no observation '{key}' (there are: {there}); choose with --observation-key")
    if not isinstance(found, np.ndarray) or found.ndim != 2:
        raise UserError(f"{name}: observation '{key}' is no vector; choose another with --observation-key")
    return found
