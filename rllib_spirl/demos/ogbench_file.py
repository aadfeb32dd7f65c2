"""Import OGBench's published files: flat arrays of steps in NumPy's .npz format."""

import zipfile
import zlib
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field

from rllib_spirl.data.episode import Episode
from rllib_spirl.data.importing import ImportRecipe, Source, check_arrays, choose_columns, file_state, flags, floats
from rllib_spirl.envs.outside import FAMILIES, OGBENCH
from rllib_spirl.errors import UserError
from rllib_spirl.yaml_text import did_you_mean

_ARRAYS = ("observations", "actions", "terminals")


class OGBenchFile(ImportRecipe):
    """A file with ``observations``, ``actions`` and ``terminals``, such as ``scene-play-v0.npz``.

    Row i holds the state before action i. The last row of an episode, flagged in ``terminals``, is only there for its
    state: its action leads nowhere. Play has no rewards; they are 0 here. Files of the benchmark's environments that
    are not those of `rllib_spirl.envs.outside.FAMILIES` can be imported too.
    """

    source: Literal["ogbench"] = "ogbench"
    path: Path
    task: str = "play"
    env: str | None = Field(default=None, description="whose states these are; else what the file's name tells")
    fps: float = Field(default=20.0, gt=0, description="steps per second")

    def content(self) -> dict[str, Any]:
        return super().content() | file_state(self.path)

    def read(self) -> Source:
        """Open the file. Raises UserError when it is missing, damaged, or of another environment."""
        env = self._env()
        arrays = _arrays(self.path)
        observations, actions = floats(arrays["observations"]), floats(arrays["actions"])
        if env is not None:
            width = FAMILIES[OGBENCH[env.removeprefix("ogbench/")]].state_dim
            if (observations.shape[1], actions.shape[1]) != (width, 5):
                raise UserError(
                    f"{self.path} has states of {observations.shape[1]} and actions of {actions.shape[1]} numbers, "
                    f"{env} {width} and 5; name the environment of this file with --env"
                )
        observations = observations[:, choose_columns(self.state_columns, observations.shape[1], "'observations'")]
        facts: dict[str, Any] = {"source": "ogbench", "file": self.path.name, "state_columns": self.state_columns}
        actions = self.rescaled(actions, facts)
        ends = np.flatnonzero(np.append(flags(self.path, arrays, "terminals")[:-1], True)) + 1
        starts = np.concatenate([[0], ends[:-1]])

        def read(start: int, end: int) -> Episode:
            return Episode(
                states=observations[start:end],
                actions=actions[start : end - 1],
                rewards=np.zeros(end - 1 - start, np.float32),
                terminated=False,
                truncated=True,
                task=self.task,
            )

        readers = [
            (f"{self.path}, episode at row {start}", partial(read, start, end))
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True)
        ]
        robot = "ur5e" if env else "unknown"
        return Source(readers, count=len(readers), fps=self.fps, facts=facts, robot_type=robot, env=env)

    def _env(self) -> str | None:
        if self.env is None:
            family = self.path.stem.partition("-play-")[0].partition("-noisy-")[0]
            return f"ogbench/{family}-play-singletask-v0" if family in FAMILIES else None
        known = [f"ogbench/{task}" for task in OGBENCH]
        if self.env not in known:
            raise UserError(f"'{self.env}' is no environment of OGBench{did_you_mean(self.env, known)}")
        return self.env


def _arrays(path: Path) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise UserError(f"{path}: no such file; give the path of an .npz file of OGBench")
    try:
        with np.load(path, allow_pickle=False) as file:
            missing = [key for key in _ARRAYS if key not in file]
            if missing:
                raise UserError(f"{path}: no array '{missing[0]}' (there are: {', '.join(file)}); is it OGBench's?")
            arrays = {key: file[key] for key in _ARRAYS}
    except (OSError, EOFError, ValueError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        # A single array, which is no archive, and arrays of Python objects end here too.
        raise UserError(f"{path}: not readable as .npz (truncated or another format); download it again") from error
    check_arrays(path, arrays, ("observations", "actions"))
    return arrays
