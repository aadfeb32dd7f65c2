"""Import a Minari data set, by its id or from a local directory."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rllib_spirl.data.episode import Episode
from rllib_spirl.data.importing import Source, choose_columns, floats, scale_actions
from rllib_spirl.errors import UserError


def read(
    dataset: str,
    *,
    root: str | Path | None = None,
    download: bool = False,
    observation_key: str = "observation",
    state_columns: str | None = None,
    task: str | None = None,
    fps: float = 10.0,
) -> Source:
    """Open a Minari data set. Minari records the state after the last action, so episodes stay whole.

    Args:
        dataset: an id such as ``D4RL/kitchen/complete-v2``, or the path of a data set's directory.
        root: where Minari keeps its data sets; else ``$MINARI_DATASETS_PATH``, else Minari's own default.
        download: fetch the data set when it is not there.
        observation_key: which entry of Dict observations is the state; ``a/b`` for nested ones.
        state_columns: dimensions to keep, e.g. ``0:9,18:39`` for the positions of FrankaKitchen-v1.
        task: what the episodes do; else the environment's ``tasks_to_complete``, else the data set's id.
        fps: steps per second; Minari does not record them.

    Raises:
        UserError: when the data set is not there or damaged, or the observations or actions are not vectors.
    """
    import gymnasium as gym

    data = _open(dataset, root, download)
    space = data.action_space
    if not isinstance(space, gym.spaces.Box) or len(space.shape) != 1:
        raise UserError(f"{dataset}: actions are {space}; only vectors of continuous actions can be imported")
    low, high = space.low.astype(np.float64), space.high.astype(np.float64)
    # Unbounded spaces say nothing about the scale: those actions are taken as they are, and checked on
    # writing.
    bounded = bool(np.isfinite(low).all() and np.isfinite(high).all())
    scaled = bounded and not (np.all(low == -1) and np.all(high == 1))
    facts: dict[str, Any] = {"source": "minari", "dataset": data.spec.dataset_id, "state_columns": state_columns}
    if scaled:
        facts |= {"action_low": low.tolist(), "action_high": high.tolist()}
    spec = data.spec.env_spec
    tasks = (spec.kwargs if spec else {}).get("tasks_to_complete")
    label = task or ("; ".join(tasks) if tasks else data.spec.dataset_id)

    def convert(recorded: Any) -> Episode:
        name = f"{dataset}, episode {recorded.id}"
        observations = floats(_state(recorded.observations, observation_key, name))
        columns = choose_columns(state_columns, observations.shape[1], f"'{observation_key}'")
        actions = floats(recorded.actions)
        episode = Episode(
            states=observations[:, columns],
            actions=scale_actions(actions, low, high) if scaled else actions,
            rewards=floats(recorded.rewards),
            terminated=bool(recorded.terminations[-1]),
            truncated=bool(recorded.truncations[-1]),
            task=label,
        )
        episode.validate(name)
        return episode

    def episodes() -> Iterator[Episode]:
        try:
            yield from map(convert, data.iterate_episodes())
        except (OSError, KeyError) as error:
            raise UserError(f"{dataset}: an episode is damaged ({error}); download the data set again") from error

    return Source(
        episodes=episodes(),
        count=int(data.total_episodes),
        fps=fps,
        facts=facts,
        robot_type=spec.id if spec else "unknown",
        env=spec.id if spec else None,
    )


def _open(dataset: str, root: str | Path | None, download: bool) -> Any:
    import minari
    from minari.storage.datasets_root_dir import get_dataset_path

    local = Path(dataset)
    if (local / "data" / "metadata.json").exists():
        place = local / "data"
    elif (local / "metadata.json").exists():
        place = local
    else:
        place = (Path(root) / dataset if root is not None else Path(get_dataset_path(dataset))) / "data"
    if not place.exists() and download:
        previous = os.environ.get("MINARI_DATASETS_PATH")
        try:
            if root is not None:
                os.environ["MINARI_DATASETS_PATH"] = str(root)
            minari.download_dataset(dataset)
        except Exception as error:  # whatever the network, the host or Minari's id parser may raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(
                f"{dataset}: the download failed ({type(error).__name__}: {reason}); check the id and the "
                "network, or point MINARI_DATASETS_PATH at a copy"
            ) from error
        finally:
            if root is not None:
                os.environ.pop("MINARI_DATASETS_PATH", None)
                if previous is not None:
                    os.environ["MINARI_DATASETS_PATH"] = previous
    if not place.exists():
        raise UserError(
            f"{dataset}: no such Minari data set at {place.parent}; set MINARI_DATASETS_PATH to where it is, "
            f"or get it with 'minari download {dataset}' or --download"
        )
    try:
        return minari.MinariDataset(place)
    except Exception as error:  # a damaged HDF5 or metadata file raises whatever its reader does
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: not readable as a Minari data set ({reason}); download it again") from error


def _state(observations: Any, key: str, name: str) -> np.ndarray:
    """The (T+1, S) array under ``key``; ``key`` does not matter when observations are plain vectors."""
    if isinstance(observations, dict):
        for part in key.split("/"):
            if not isinstance(observations, dict) or part not in observations:
                there = ", ".join(observations) if isinstance(observations, dict) else "no more keys"
                raise UserError(f"{name}: no observation '{key}' (there are: {there}); choose with --observation-key")
            observations = observations[part]
    if not isinstance(observations, np.ndarray) or observations.ndim != 2:
        raise UserError(f"{name}: observation '{key}' is no vector; choose another with --observation-key")
    return observations
