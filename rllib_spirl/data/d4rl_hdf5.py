"""Import D4RL's HDF5 files: flat arrays of steps with flags where episodes end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rllib_spirl.data.episode import Episode
from rllib_spirl.data.importing import Source, choose_columns, floats, scale_actions
from rllib_spirl.errors import UserError


def read(
    path: str | Path,
    *,
    state_columns: str | None = None,
    task: str | None = None,
    fps: float = 10.0,
    rescale_actions: bool = False,
    env: str | None = None,
) -> Source:
    """Open a D4RL file with ``observations``, ``actions``, ``rewards``, ``terminals`` and, optionally,
    ``timeouts``.

    A step flagged in ``terminals`` or in ``timeouts`` is the last of its episode; what comes after the last
    flag is an unfinished, hence truncated, episode. Row i holds the state *before* action i. The state after
    an episode's last action is known only from ``next_observations``. Without that array the last action of
    each episode is dropped, since the first state of the next episode is not what it led to; such an episode
    is truncated, because the step that ended it is gone. With it, a row whose next state is not the
    following row's state also ends an episode.

    Args:
        path: the HDF5 file.
        state_columns: dimensions to keep, e.g. ``0:30`` of the kitchen's 60 (the other 30 are a constant
        goal).
        task: what the episodes do; else the file's name.
        fps: steps per second; D4RL does not record them.
        rescale_actions: map each action dimension's range in the file to [-1, 1].
        env: name of the environment whose states these are; D4RL does not record it.

    Raises:
        UserError: when the file is missing or damaged, an array is missing, or lengths differ.
    """
    path = Path(path)
    arrays = _arrays(path)
    observations, actions = floats(arrays["observations"]), floats(arrays["actions"])
    following = floats(arrays["next_observations"]) if "next_observations" in arrays else None
    terminals = arrays["terminals"].astype(bool).reshape(-1)
    columns = choose_columns(state_columns, observations.shape[1], "'observations'")
    ends = terminals.copy()
    if "timeouts" in arrays:
        ends |= arrays["timeouts"].astype(bool).reshape(-1)
    if following is not None:
        ends[:-1] |= (following[:-1] != observations[1:]).any(axis=1)
    ends[-1] = True
    stops = np.flatnonzero(ends) + 1
    starts = np.concatenate([[0], stops[:-1]])
    facts: dict[str, Any] = {"source": "d4rl", "file": path.name, "state_columns": state_columns}
    low, high = actions.min(axis=0), actions.max(axis=0)
    if rescale_actions:
        facts |= {"action_low": low.tolist(), "action_high": high.tolist()}
        actions = scale_actions(actions, low, high)
    rewards = floats(arrays["rewards"]).reshape(-1)

    def episodes() -> Iterator[Episode]:
        for start, stop in zip(starts, stops, strict=True):
            if following is None:
                states, last = observations[start:stop], stop - 1
                if last == start:
                    continue  # one step with an unknown outcome is no transition at all
            else:
                states, last = np.concatenate([observations[start:stop], following[stop - 1 : stop]]), stop
            terminated = following is not None and bool(terminals[stop - 1])
            episode = Episode(
                states=states[:, columns],
                actions=actions[start:last],
                rewards=rewards[start:last],
                terminated=terminated,
                truncated=not terminated,
                task=task or path.stem,
            )
            episode.validate(f"{path}, episode at row {start}")
            yield episode

    return Source(episodes=episodes(), count=len(stops), fps=fps, facts=facts, env=env)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    import h5py

    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of a D4RL HDF5 file")
    needed = ("observations", "actions", "rewards", "terminals")
    try:
        with h5py.File(path, "r") as file:
            missing = [key for key in needed if key not in file]
            if missing:
                raise UserError(f"{path}: no array '{missing[0]}' (there are: {', '.join(file)}); is it D4RL?")
            keys = [key for key in (*needed, "timeouts", "next_observations") if key in file]
            arrays = {key: file[key][()] for key in keys}
    except (OSError, TypeError) as error:
        raise UserError(f"{path}: not readable as HDF5 (truncated or another format); download it again") from error
    rows = len(arrays["observations"])
    if rows == 0:
        raise UserError(f"{path}: no steps; download it again")
    for key, array in arrays.items():
        if len(array) != rows:
            raise UserError(f"{path}: '{key}' has {len(array)} rows, 'observations' {rows}; download it again")
        if key in ("observations", "actions", "next_observations") and array.ndim != 2:
            raise UserError(f"{path}: '{key}' is of shape {array.shape}, not (steps, width); import vectors only")
    return arrays
