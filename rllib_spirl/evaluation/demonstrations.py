"""Pictures of the demonstrations in a data set: recorded states drawn again, with what was completed so far."""

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rllib_spirl.data import DataSet, Episode
from rllib_spirl.envs import our_name
from rllib_spirl.envs.skill_env import try_env
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.pictures import (
    VIDEO_FORMATS,
    Picture,
    caption_lines,
    captioned,
    contact_sheet,
    output_file,
    suffix_of,
    video_writer,
)
from rllib_spirl.progress import Stage, stage

SUFFIXES = (".png", *VIDEO_FORMATS)
_COLUMNS = 8  # of a contact sheet
_TILE = 256  # width of its pictures, in pixels
_SPEED = 2.0  # of a video


@runtime_checkable
class DrawsStates(Protocol):
    """What an environment needs, besides being made with ``render_mode="rgb_array"``, for its data to be drawn."""

    def render_state(self, state: NDArray[np.floating]) -> Any:
        """A picture (H, W, 3) uint8 of a recorded state (S,)."""

    def subtasks_along(self, states: NDArray[np.floating], task: str) -> dict[str, NDArray[np.bool_]]:
        """For each subtask of ``task`` whether it was completed by the time of each state: (T, S) to (T,).

        Without subtasks the dict is empty. ``task`` is what the data set says of the episode, often
        ``"name; name; ..."``.
        """


@dataclass(frozen=True)
class Demonstration:
    """One episode, ready to be drawn."""

    index: int
    task: str
    states: NDArray[np.floating]  # (T, S)
    done: dict[str, NDArray[np.bool_]]  # for each subtask (T,)

    @property
    def title(self) -> str:
        return f"Episode {self.index}:  {self.task.replace(';', ' ›')}  ({len(self.states) - 1} steps)"

    def subtasks(self, step: int) -> dict[str, bool]:
        return {name: bool(done[step]) for name, done in self.done.items()}


def render_demonstrations(
    data: DataSet,
    output: str | Path,
    *,
    episodes: int = 3,
    first: int = 0,
    env: str | None = None,
    env_config: Mapping[str, Any] | None = None,
) -> list[Demonstration]:
    """Draw episodes of a data set from their recorded states; nothing is simulated again.

    Args:
        data: The opened data set.
        output: A .png file for a contact sheet, a row of evenly spaced steps for each episode; or an .mp4 or .gif
            video, at twice the recorded speed. Replaced when all is done.
        episodes: How many, or as many as there are.
        first: Index of the first.
        env: Name of the environment whose states these are, see `DrawsStates`; by default what the data set says.
        env_config: Its arguments.

    Returns:
        What was drawn.

    Raises:
        UserError: If the data set is invalid or has no such episode, its environment is not known or draws no states,
            the machine or the installation cannot make pictures or videos, or the file cannot be written.
    """
    output = Path(output)
    suffix = suffix_of(output, SUFFIXES)
    writer = video_writer(suffix) if suffix in VIDEO_FORMATS else None
    if first >= data.num_episodes:
        raise UserError(f"{data} has {data.num_episodes} episodes; choose the first from 0 to {data.num_episodes - 1}.")
    made, drawer = _drawer(data, env, env_config or {})
    try:
        chosen = itertools.islice(enumerate(data.episodes()), first, first + episodes)
        demonstrations = [_demonstration(data, index, episode, drawer) for index, episode in chosen]
        with output_file(output) as file, stage("drawing demonstrations", into=output) as progress:
            if writer is None:
                name = data.path.name
                rows = list(_rows(demonstrations, drawer, progress))
                title = f"{name}:  {len(rows)} of {data.num_episodes} demonstrations"
                Image.fromarray(contact_sheet(title, rows)).save(file)
            else:
                every = VIDEO_FORMATS[suffix].every
                rate = _SPEED * float(data.info.get("fps") or 10) / every
                with writer(file, rate) as append:
                    for picture in _film(demonstrations, drawer, suffix, round(rate), progress):
                        append(picture)
    finally:
        made.close()
    return demonstrations


def environment_of(info: dict[str, Any]) -> str | None:
    """The environment whose states a data set holds, as far as its ``meta/info.json`` tells."""
    return info.get("rllib_spirl", {}).get("env") or None


def _drawer(data: DataSet, name: str | None, env_config: Mapping[str, Any]) -> tuple[gym.Env, DrawsStates]:
    """The environment of a data set, and the same as what draws states."""
    name = name or environment_of(data.info)
    if name is None:
        raise UserError(
            f"{data.path}: meta/info.json does not tell of which environment these states are; "
            "name it, e.g. --env rllib_spirl/Kitchen-v0"
        )
    name = our_name(name) or name
    try:
        env = try_env(name, {"render_mode": "rgb_array", **env_config})
    except UserError as error:
        raise UserError(f"{data.path}: its environment {name} cannot be made here to draw it: {error}") from None
    drawer: Any = env.unwrapped
    if not isinstance(drawer, DrawsStates):
        env.close()
        raise UserError(
            f"{data.path}: its environment {name} cannot draw recorded states; give it the methods render_state and "
            "subtasks_along, or name another with --env, e.g. --env rllib_spirl/Kitchen-v0"
        )
    return env, drawer


def _demonstration(data: DataSet, index: int, episode: Episode, drawer: DrawsStates) -> Demonstration:
    try:
        done = drawer.subtasks_along(episode.states, episode.task)
        return Demonstration(index, episode.task, episode.states, done)
    except UserError as error:
        raise UserError(
            f"{data.path} cannot be drawn: {error} Import it again with other --state-columns, or name its environment "
            "with --env and --env-config."
        ) from None


def _rows(
    demonstrations: list[Demonstration], drawer: DrawsStates, progress: Stage
) -> Iterator[tuple[str, list[Picture]]]:
    """Title and pictures of each row of a contact sheet."""
    steps = [np.unique(np.linspace(0, len(d.states) - 1, _COLUMNS).round().astype(int)) for d in demonstrations]
    progress.total = sum(map(len, steps))
    for demonstration, chosen in zip(demonstrations, steps, strict=True):
        row = []
        for step in chosen:
            picture = drawer.render_state(demonstration.states[step])
            row.append(captioned(picture, demonstration.subtasks(step), f"step {step}", _TILE))
            progress.advance()
        yield demonstration.title, row


def _film(
    demonstrations: list[Demonstration], drawer: DrawsStates, suffix: str, hold: int, progress: Stage
) -> Iterator[Picture]:
    """The pictures of a video. ``hold``: how often the last of an episode comes again, so that it can be seen."""
    kind = VIDEO_FORMATS[suffix]
    steps = [[*range(0, len(d.states) - 1, kind.every), len(d.states) - 1] for d in demonstrations]
    progress.total = sum(map(len, steps))
    lines: int | None = None
    for demonstration, chosen in zip(demonstrations, steps, strict=True):
        for step in chosen:
            picture = drawer.render_state(demonstration.states[step])
            width = kind.width or picture.shape[1]
            if lines is None:
                lines = max(caption_lines(d.done, width) for d in demonstrations)
            status = f"episode {demonstration.index}   step {step}"
            shown = captioned(picture, demonstration.subtasks(step), status, width, kind.colours, lines)
            yield shown
            progress.advance()
        yield from [shown] * hold
