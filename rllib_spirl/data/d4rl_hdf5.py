"""Import D4RL's HDF5 files: flat arrays of steps with flags where episodes end."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rllib_spirl.data.episode import Trajectories, following_states
from rllib_spirl.data.importing import ImportRecipe, Source, choose_columns, file_state, floats
from rllib_spirl.errors import UserError


class D4RLRecipe(ImportRecipe):
    """A D4RL file with ``observations``, ``actions``, ``rewards``, ``terminals`` and, optionally, ``timeouts``.

    A step flagged in ``terminals`` or in ``timeouts`` is the last of its episode. What comes after the last flag is an
    unfinished, hence truncated, episode. Row i holds the state *before* action i. The state after an episode's last
    action is known from ``next_observations`` only; without that array the state before it stands in its place, see
    `rllib_spirl.data.episode.following_states`. With it, a row whose next state is not the following row's state also
    ends an episode.
    """

    source: Literal["d4rl"] = "d4rl"
    path: Path
    task: str | None = None
    """What the episodes do; else the file's name."""
    env: str | None = None
    """The name of the environment whose states these are. D4RL does not record it."""

    def content(self) -> dict[str, Any]:
        return super().content() | file_state(self.path)

    def read(self) -> Source:
        """Open the file. Raises UserError when it is missing or damaged, an array is missing, or lengths differ."""
        arrays = _arrays(self.path)
        observations, actions = floats(arrays["observations"]), floats(arrays["actions"])
        terminals = arrays["terminals"].astype(bool).reshape(-1)
        columns = choose_columns(self.state_columns, observations.shape[1], "'observations'")
        ends = terminals.copy()
        if "timeouts" in arrays:
            ends |= arrays["timeouts"].astype(bool).reshape(-1)
        if "next_observations" in arrays:
            following = floats(arrays["next_observations"])
            ends[:-1] |= (following[:-1] != observations[1:]).any(axis=1)
        ends[-1] = True
        starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
        if "next_observations" not in arrays:
            following = following_states(observations, starts)
        facts: dict[str, Any] = {"source": "d4rl", "file": self.path.name, "state_columns": self.state_columns}
        actions = self.rescaled(actions, facts)
        recorded = Trajectories(
            states=observations[:, columns],
            actions=actions,
            rewards=floats(arrays["rewards"]).reshape(-1),
            next_states=following[:, columns],
            terminated=terminals,
            episode_starts=starts,
            task_index=np.zeros(len(actions), np.int64),
            tasks=[self.task or self.path.stem],
        )
        readers = [
            (f"{self.path}, episode at row {start}", partial(recorded.episode, index))
            for index, start in enumerate(starts[:-1])
        ]
        return Source(readers, count=len(readers), fps=self.fps, facts=facts, env=self.env)


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
