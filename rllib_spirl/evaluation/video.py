"""Pictures of evaluation episodes, with what is completed so far written below them."""

import importlib
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.progress import Progress

from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.restore import load_policy
from rllib_spirl.evaluation.rollout import EpisodeResult, run_episode

Picture = NDArray[np.uint8]
SUFFIXES = (".mp4", ".gif")
# Video codecs want sides that are multiples of 16.
_BLOCK = 16
# Colours of a GIF's pictures, to which its size is nearly proportional; the caption has its own.
_GIF_COLOURS = 56
_BACKGROUND, _DONE, _OPEN, _TEXT = (24, 24, 27), (74, 222, 128), (113, 113, 122), (228, 228, 231)


def record_video(
    checkpoint: str,
    output: str | Path,
    *,
    episodes: int = 1,
    seed: int = 0,
    every: int | None = None,
    speed: float = 2.0,
    width: int | None = None,
    show_progress: bool = True,
) -> list[EpisodeResult]:
    """Run deterministic episodes of a checkpoint's policy on seeds ``seed``, ``seed`` + 1, … and film them.

    Args:
        checkpoint: See `restore.load_policy`, whose warning holds here too.
        output: An .mp4 or .gif file; replaced when all is done.
        episodes: How many.
        seed: Of the first episode.
        every: Low-level steps per picture; by default 2 for .mp4 and 3 for .gif.
        speed: Of the video; 1 plays the environment's ``metadata["render_fps"]`` low-level steps per second.
        width: Of the video in pixels; by default what the environment renders for .mp4, and at most 320 for .gif.
        show_progress: Whether to show a progress bar.

    Raises:
        UserError: If the checkpoint cannot be restored, the environment has no pictures, ``rllib_spirl[video]`` is not
            installed, or the file cannot be written.
    """
    path = Path(output)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise UserError(f"{path}: the name must end in {' or '.join(SUFFIXES)}.")
    writer = _writer(suffix)
    is_gif = suffix == ".gif"
    every = every or (3 if is_gif else 2)
    restored = load_policy(checkpoint)
    low_level = restored.make_low_level_env(render_mode="rgb_array")
    rate = speed * float(low_level.metadata.get("render_fps") or 12) / every
    film = Film(low_level, every, width or (320 if is_gif else None), _GIF_COLOURS if is_gif else None)
    env = SkillEnv(film, restored.skill_checkpoint)
    results: list[EpisodeResult] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(dir=path.parent, prefix=".video-") as staging,
            Progress(transient=True, disable=not show_progress) as bar,
        ):
            task = bar.add_task("", total=episodes)
            file = Path(staging, f"video{suffix}")
            with writer(file, rate) as append:

                def add(picture: Picture) -> None:
                    append(picture)
                    bar.update(task, description=f"recording {film.title}, step {film.steps}")

                film.append = add
                for episode_seed in range(seed, seed + episodes):
                    film.title = f"seed {episode_seed}"
                    results.append(run_episode(env, restored.policy, episode_seed))
                    film.hold(round(rate))
                    bar.advance(task)
            os.replace(file, path)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None
    finally:
        env.close()
    return results


class Film(gym.Wrapper):
    """Hands every ``every``-th picture of an environment to ``append``, with a caption below it."""

    def __init__(self, env: gym.Env, every: int = 1, width: int | None = None, colours: int | None = None) -> None:
        super().__init__(env)
        self.every, self.width, self.colours = every, width, colours
        self.append: Callable[[Picture], Any] = lambda picture: None
        self.title = ""
        self.steps, self._return = 0, 0.0
        self._first: Picture | None = None
        self._last: Picture | None = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(**kwargs)
        self.steps, self._return = 0, 0.0
        # Captioned with the first step, when all environments tell the subtasks: every picture must have one size.
        self._first = self._picture()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        subtasks: dict[str, bool] = info.get("subtasks", {})
        if self._first is not None:
            self._add(self._first, dict.fromkeys(subtasks, False))
            self._first = None
        self.steps += 1
        self._return += float(reward)
        if self.steps % self.every == 0 or terminated or truncated:
            self._add(self._picture(), subtasks)
        return observation, reward, terminated, truncated, info

    def hold(self, pictures: int) -> None:
        """Repeat the last picture, so that the end of an episode can be seen."""
        for _ in range(pictures):
            if self._last is not None:
                self.append(self._last)

    def _picture(self) -> Picture:
        picture: Any = self.env.render()
        if not isinstance(picture, np.ndarray) or picture.ndim != 3:
            raise UserError(f"{self.env} has no pictures: its render() returns {type(picture).__name__}.")
        return picture

    def _add(self, picture: Picture, subtasks: Mapping[str, bool]) -> None:
        status = f"{self.title}   step {self.steps}" + ("" if subtasks else f"   return {self._return:.1f}")
        self._last = captioned(picture, subtasks, status.strip(), self.width, self.colours)
        self.append(self._last)


def captioned(
    picture: Picture, subtasks: Mapping[str, bool], status: str, width: int | None = None, colours: int | None = None
) -> Picture:
    """A picture (H, W, 3) with a strip below: a status line, and the subtasks with those completed in green.

    Args:
        picture: uint8.
        subtasks: Name to whether it is completed, in the order in which to show them.
        status: Shown in grey at the right of the count.
        width: Scales the picture to this width; sides come out as multiples of 16.
        colours: Reduces the picture to so many.

    Returns:
        (H', W', 3) uint8.
    """
    image = Image.fromarray(picture)
    wide = -(-(width or image.width) // _BLOCK) * _BLOCK
    image = image.resize((wide, round(image.height * wide / image.width)), Image.Resampling.LANCZOS)
    if colours:
        image = image.quantize(colours, dither=Image.Dither.NONE).convert("RGB")
    size = max(13, wide // 30)
    font = ImageFont.load_default(size)
    margin, line = size // 2, round(1.5 * size)
    rows = _rows(list(subtasks), font, wide - 2 * margin, size)
    high = -(-(image.height + line * (len(rows) + 1) + margin) // _BLOCK) * _BLOCK
    canvas = Image.new("RGB", (wide, high), _BACKGROUND)
    canvas.paste(image)
    draw = ImageDraw.Draw(canvas)
    y = image.height + margin
    if subtasks:
        draw.text((margin, y), f"{sum(subtasks.values())} of {len(subtasks)} subtasks", _TEXT, font)
    draw.text((wide - margin, y), status, _OPEN, font, anchor="ra")
    for row in rows:
        y, x = y + line, float(margin)
        for name in row:
            colour, radius = (_DONE if subtasks[name] else _OPEN), size * 0.3
            dot = (x, y + size * 0.55 - radius, x + 2 * radius, y + size * 0.55 + radius)
            draw.ellipse(dot, fill=colour if subtasks[name] else None, outline=colour)
            draw.text((x + size, y), name, colour, font)
            x += font.getlength(name) + 2 * size
    return np.asarray(canvas)


def _rows(names: list[str], font: Any, room: float, size: int) -> list[list[str]]:
    """Names broken into lines that fit into ``room`` pixels."""
    rows: list[list[str]] = []
    used = room
    for name in names:
        needed = font.getlength(name) + 2 * size
        if not rows or used + needed - size > room:
            rows.append([])
            used = 0.0
        rows[-1].append(name)
        used += needed
    return rows


def _writer(suffix: str) -> Callable[[Path, float], Any]:
    """Opens a file for pictures per second; used as a context manager it gives the function that appends one."""
    try:
        imageio = importlib.import_module("imageio.v2")
        if suffix == ".mp4":
            importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise UserError(f"Videos need {error.name}: pip install 'rllib_spirl[video]'") from None

    class Writer:
        def __init__(self, file: Path, rate: float) -> None:
            if suffix == ".gif":
                self.file = imageio.get_writer(file, duration=1000 / rate, loop=0, subrectangles=True)
            else:
                self.file = imageio.get_writer(file, fps=rate, codec="libx264", quality=7, pixelformat="yuv420p")

        def __enter__(self) -> Callable[[Picture], Any]:
            return self.file.append_data

        def __exit__(self, *_: Any) -> None:
            self.file.close()

    return Writer
