"""Import a LeRobot v3 data set: choose its state and action columns, put its rows in order."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rllib_spirl.data import columns as c
from rllib_spirl.data.content import out_of_order
from rllib_spirl.data.dataset import DataSet
from rllib_spirl.data.episode import DamagedEpisode, Episode, Trajectories, following_states
from rllib_spirl.data.importing import ImportRecipe, Source, choose_columns, file_state, floats
from rllib_spirl.errors import UserError
from rllib_spirl.locations import location


class LeRobotRecipe(ImportRecipe):
    """A LeRobot v3 data set, a directory or a URI. Images and videos are left out.

    Rows are put in order of episode and frame. LeRobot does not store the state after an episode's last action: the
    state before it stands in its place, see `rllib_spirl.data.episode.following_states`, except where the files hold
    our own ``next.observation.state``.

    ``next_done`` says what ``next.done`` means where it is true, in files without our own ``next.terminated``:
    "terminated", the task has ended; "ended", only the recording has, so that no episode is known to terminate; or
    "rewarded", the task has ended where that frame is rewarded, else its time was up.
    """

    source: Literal["lerobot"] = "lerobot"
    path: str
    state_keys: list[str] = Field(default=[c.STATE], min_length=1, description="columns that make up the state, joined")
    action_key: str = c.ACTION
    next_done: Literal["terminated", "ended", "rewarded"] = "terminated"
    env: str | None = None
    """The name of the environment whose states these are; else what the data set says, if it is one of ours."""

    def content(self) -> dict[str, Any]:
        folder, files = location(self.path), list[Path]()
        if isinstance(folder, Path):
            meta = [folder / "meta" / name for name in ("info.json", "tasks.parquet")]
            files = [*meta, *sorted(folder.glob("data/**/*.parquet"))]
        # A rate that is not given is the data set's own.
        rate = self.fps if "fps" in self.model_fields_set else None
        return super().content() | {"files": [file_state(file) for file in files], "fps": rate}

    def read(self) -> Source:
        """Open the data set. Raises UserError when files or columns are missing or damaged."""
        data = DataSet.open(self.path)
        values = self._columns(data)
        number, frame = (_numbers(values, name).astype(np.int64) for name in (c.EPISODE, c.FRAME))
        starts = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1, [len(number)]])
        states = floats(np.concatenate([values[key] for key in self.state_keys], axis=1))
        columns = choose_columns(self.state_columns, states.shape[1], " + ".join(self.state_keys))
        actions = floats(values[self.action_key])
        facts: dict[str, Any] = {
            "source": "lerobot",
            "dataset": data.path.name,
            "state_keys": self.state_keys,
            "action_key": self.action_key,
            "state_columns": self.state_columns,
        }
        actions = self.rescaled(actions, facts)
        rewards = floats(_numbers(values, c.REWARD)) if c.REWARD in values else np.zeros(len(states), states.dtype)
        following = floats(values[c.NEXT_STATE]) if c.NEXT_STATE in values else following_states(states, starts)
        task_index = (_numbers(values, c.TASK) if c.TASK in values else np.zeros(len(states))).astype(np.int64)
        recorded = Trajectories(
            states=states[:, columns],
            actions=actions,
            rewards=rewards,
            next_states=following[:, columns],
            terminated=self._terminated(values, rewards),
            episode_starts=starts,
            task_index=task_index,
            tasks=data.tasks([int(i) for i in np.unique(task_index)]),
        )
        # The first gap or repeated row of each episode that has one.
        wrong = {int(number[row]): int(frame[row]) for row in out_of_order(frame, starts)[::-1]}
        if not wrong:  # else it is these that are told of
            data.check_whole()

        def reader(index: int, episode: int) -> tuple[str, Callable[[], Episode]]:
            name = f"{data}: episode {episode}"
            refused = partial(_refuse, name, wrong.get(episode, 0))
            return name, refused if episode in wrong else partial(recorded.episode, index)

        state_names = [name for key in self.state_keys for name in _dimensions(data, key, values[key].shape[1])]
        action_names = _dimensions(data, self.action_key, actions.shape[1])
        return Source(
            readers=[reader(index, int(number[start])) for index, start in enumerate(starts[:-1])],
            count=len(starts) - 1,
            fps=self.fps if "fps" in self.model_fields_set else float(data.info.get("fps") or 10),
            facts=facts,
            robot_type=str(data.info.get("robot_type") or "unknown"),
            state_names=[state_names[i] for i in columns] if len(state_names) == states.shape[1] else None,
            action_names=action_names or None,
            env=self.env or data.ours.get("env"),
        )

    def _columns(self, data: DataSet) -> dict[str, np.ndarray]:
        """The columns of all files, with rows in order of episode and frame."""
        vectors = dict.fromkeys([*self.state_keys, self.action_key])
        if self.state_keys == [c.STATE] and c.NEXT_STATE in data.columns:
            vectors[c.NEXT_STATE] = None
        optional = [name for name in (c.REWARD, c.TERMINATED, c.DONE, c.TASK) if name in data.columns]
        parts: dict[str, list[np.ndarray]] = {}
        for index in range(len(data.files)):
            names = [*vectors, c.EPISODE, c.FRAME, *optional]
            for name, array in data.read_file(index, names, vectors=frozenset(vectors)).items():
                parts.setdefault(name, []).append(array)
        try:
            values = {name: np.concatenate(arrays) for name, arrays in parts.items()}
        except ValueError as error:
            raise UserError(f"{data}: a column is not equally wide in all files; export the data set again") from error
        order = np.lexsort((_numbers(values, c.FRAME), _numbers(values, c.EPISODE)))
        return {name: array[order] for name, array in values.items()}

    def _terminated(self, values: dict[str, np.ndarray], rewards: np.ndarray) -> np.ndarray:
        """(N,) bool: the steps that ended a task."""
        if c.TERMINATED in values:
            return _numbers(values, c.TERMINATED).astype(bool)
        if c.DONE not in values or self.next_done == "ended":
            return np.zeros(len(rewards), bool)
        done = _numbers(values, c.DONE).astype(bool)
        return done & (rewards > 0) if self.next_done == "rewarded" else done


def _numbers(values: dict[str, np.ndarray], name: str) -> np.ndarray:
    """The column as one number a row, (N,), also where it is part of the state and so read as (N, 1)."""
    return values[name].reshape(-1)


def _refuse(name: str, frame: int) -> Episode:
    raise DamagedEpisode(
        f"{name} has a gap or a repeated row at frame_index {frame}; drop that episode or export the data set again"
    )


def _dimensions(data: DataSet, key: str, width: int) -> list[str]:
    """Names of a column's dimensions, empty where they are not known. LeRobot also writes {"motors": [...]}."""
    names = (data.features.get(key) or {}).get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return [str(name) for name in names] if isinstance(names, list) and len(names) == width else []
