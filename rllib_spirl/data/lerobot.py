"""Import a local LeRobot v3 data set: choose its state and action columns."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from rllib_spirl.data import columns as c
from rllib_spirl.data.episode import Episode
from rllib_spirl.data.importing import Source, choose_columns, floats, scale_actions
from rllib_spirl.data.schema import read_info, read_tasks
from rllib_spirl.errors import UserError
from rllib_spirl.locations import Location, location


def read(
    path: str | Location,
    *,
    state_keys: Sequence[str] = (c.STATE,),
    action_key: str = c.ACTION,
    state_columns: str | None = None,
    rescale_actions: bool = False,
    env: str | None = None,
) -> Source:
    """Open a LeRobot v3 directory (``meta/`` and ``data/``; videos are left out).

    Rows are put in order of episode and frame. LeRobot does not store the state after an episode's last
    action, so the last action is dropped (and with it the step that may have ended the task: those episodes
    count as truncated), except when the files hold ``next.observation.state`` and the state is
    ``observation.state``.

    Args:
        path: the data set's directory, or its URI.
        state_keys: columns that make up the state, joined in this order.
        action_key: the column of actions.
        state_columns: dimensions of the joined state to keep, e.g. ``0:7``.
        rescale_actions: map each action dimension's range in the data to [-1, 1] (robots record joint
        angles).
        env: name of the environment whose states these are; else what the data set says, if it is one of ours.

    Raises:
        UserError: when files or columns are missing or damaged, or frames of an episode are missing.
    """
    path = location(path)
    info = read_info(path)
    files = c.data_files(path)
    present = set(c.open_parquet(files[0]).schema_arrow.names)
    whole = tuple(state_keys) == (c.STATE,) and c.NEXT_STATE in present
    optional = [name for name in (c.REWARD, c.TERMINATED, c.TASK) if name in present]
    vectors = [*state_keys, action_key, *([c.NEXT_STATE] if whole else [])]
    parts: dict[str, list[np.ndarray]] = {}
    for file in files:
        table: pa.Table = c.read_columns(file, [*dict.fromkeys(vectors), c.EPISODE, c.FRAME, *optional])
        for name in table.column_names:
            array = c.matrix(table, name, file) if name in vectors else c.scalars(table, name, file)
            parts.setdefault(name, []).append(array)
    try:
        values = {name: np.concatenate(arrays) for name, arrays in parts.items()}
    except ValueError as error:
        raise UserError(f"{path}: a column is not equally wide in all files; export the data set again") from error
    order = np.lexsort((values[c.FRAME], values[c.EPISODE]))
    values = {name: array[order] for name, array in values.items()}

    number, frame = values[c.EPISODE].astype(np.int64), values[c.FRAME].astype(np.int64)
    starts = np.concatenate([[0], np.flatnonzero(np.diff(number)) + 1, [len(number)]])
    gaps = np.flatnonzero(frame != np.arange(len(frame)) - np.repeat(starts[:-1], np.diff(starts)))
    if len(gaps):
        raise UserError(
            f"{path}: episode {number[gaps[0]]} has a gap or a repeated row at frame_index {frame[gaps[0]]}; "
            "drop that episode or export the data set again"
        )
    states = floats(np.concatenate([values[key] for key in state_keys], axis=1))
    columns = choose_columns(state_columns, states.shape[1], " + ".join(state_keys))
    states = states[:, columns]
    actions = floats(values[action_key])
    facts: dict[str, Any] = {
        "source": "lerobot",
        "dataset": path.name,
        "state_keys": list(state_keys),
        "action_key": action_key,
        "state_columns": state_columns,
    }
    if rescale_actions:
        low, high = actions.min(axis=0), actions.max(axis=0)
        facts |= {"action_low": low.tolist(), "action_high": high.tolist()}
        actions = scale_actions(actions, low, high)
    rewards = floats(values[c.REWARD]) if c.REWARD in values else np.zeros(len(states), states.dtype)
    task_index = values.get(c.TASK, np.zeros(len(states))).astype(np.int64)
    tasks = read_tasks(path, [int(i) for i in np.unique(task_index)])

    state_names = [name for key in state_keys for name in _names(info, key)]
    action_names = _names(info, action_key)

    def episodes() -> Iterator[Episode]:
        for start, stop in itertools.pairwise(starts):
            last = stop if whole else stop - 1
            if last == start:
                continue  # one frame without a next state is no transition
            run = states[start:stop]
            if whole:
                run = np.concatenate([run, floats(values[c.NEXT_STATE][stop - 1 : stop])[:, columns]])
            terminated = whole and c.TERMINATED in values and bool(values[c.TERMINATED][stop - 1])
            episode = Episode(
                states=run,
                actions=actions[start:last],
                rewards=rewards[start:last],
                terminated=terminated,
                truncated=not terminated,
                task=tasks[task_index[start]],
            )
            episode.validate(f"{path}, episode {number[start]}")
            yield episode

    return Source(
        episodes=episodes(),
        count=len(starts) - 1,
        fps=float(info.get("fps", 10)),
        facts=facts,
        robot_type=str(info.get("robot_type") or "unknown"),
        state_names=[state_names[i] for i in columns] if len(state_names) > columns.max() else None,
        env=env or info.get("rllib_spirl", {}).get("env"),
        action_names=action_names if len(action_names) == actions.shape[1] else None,
    )


def _names(info: dict[str, Any], key: str) -> list[str]:
    """Names of a feature's dimensions, empty where there are none. LeRobot also writes {"motors": [...]}."""
    names = info.get("features", {}).get(key, {}).get("names")
    if isinstance(names, dict):
        names = next(iter(names.values()), None)
    return [str(name) for name in names] if isinstance(names, list) else []
