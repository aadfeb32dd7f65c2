"""Import D4RL's HDF5 files: flat arrays of steps with flags where episodes end."""

from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rllib_spirl.data.episode import Trajectories, following_states
from rllib_spirl.data.importing import (
    ImportRecipe,
    Source,
    check_arrays,
    choose_columns,
    column,
    file_state,
    flags,
    floats,
)
from rllib_spirl.errors import UserError
from rllib_spirl.progress import tell


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
        terminals = flags(self.path, arrays, "terminals")
        columns = choose_columns(self.state_columns, observations.shape[1], "'observations'")
        ends = terminals.copy()
        if "timeouts" in arrays:
            ends |= flags(self.path, arrays, "timeouts")
        if "next_observations" in arrays:
            following = floats(arrays["next_observations"])
            ends[:-1] |= _others(following[:-1], observations[1:])
        ends[-1] = True
        starts = np.concatenate([[0], np.flatnonzero(ends) + 1])
        if len(ends) > 1 and len(starts) - 1 > len(ends) / 2:
            raise UserError(
                f"{self.path}: {len(starts) - 1} of {len(ends)} rows end an episode, by 'terminals' or 'timeouts', or "
                "as 'next_observations' are other numbers than the next row's 'observations'; mend these arrays"
            )
        if "next_observations" not in arrays:
            following = following_states(observations, starts)
            if "timeouts" not in arrays:
                tell(
                    f"warning: {self.path} has neither 'timeouts' nor 'next_observations': an episode that ran out of "
                    "time is joined with the one after it"
                )
        facts: dict[str, Any] = {"source": "d4rl", "file": self.path.name, "state_columns": self.state_columns}
        actions = self.rescaled(actions, facts)
        recorded = Trajectories(
            states=observations[:, columns],
            actions=actions,
            rewards=floats(column(self.path, arrays, "rewards")),
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


def _others(ours: np.ndarray, others: np.ndarray) -> np.ndarray:
    """(N,) bool: the rows in which states (N, S) differ, in the coarser of both types."""
    kind = min(ours.dtype, others.dtype, key=lambda each: each.itemsize)
    a, b = ours.astype(kind), others.astype(kind)
    different: np.ndarray = ((a != b) & ~(np.isnan(a) & np.isnan(b))).any(axis=1)
    return different


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
            arrays = {key: np.asarray(file[key][()]) for key in keys}
    except (OSError, TypeError) as error:
        raise UserError(f"{path}: not readable as HDF5 (truncated or another format); download it again") from error
    check_arrays(path, arrays, ("observations", "actions", "next_observations"))
    width = arrays["observations"].shape[1]
    following = arrays.get("next_observations", arrays["observations"]).shape[1]
    if following != width:
        raise UserError(f"{path}: 'next_observations' is {following} wide, 'observations' {width}")
    return arrays
