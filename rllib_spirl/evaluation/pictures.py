"""Pictures with captions, contact sheets, and the files that hold them."""

import contextlib
import functools
import importlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from rllib_spirl.errors import UserError
from rllib_spirl.files import replacing, writing

Picture = NDArray[np.uint8]
# Video codecs want sides that are multiples of 16.
_BLOCK = 16
_BACKGROUND, _DONE, _OPEN, _TEXT = (24, 24, 27), (74, 222, 128), (113, 113, 122), (228, 228, 231)


@dataclass(frozen=True)
class VideoFormat:
    """How a kind of video is made unless its user says otherwise."""

    every: int
    """Steps per picture."""
    width: int | None
    """Of the pictures in pixels; None for that of the environment's."""
    colours: int | None
    """Colours of a picture, to which a GIF's size is nearly proportional; the caption has its own."""


VIDEO_FORMATS = {".mp4": VideoFormat(2, None, None), ".gif": VideoFormat(3, 320, 56)}


def captioned(
    picture: Picture,
    subtasks: Mapping[str, bool],
    status: str,
    width: int | None = None,
    colours: int | None = None,
    lines: int = 0,
) -> Picture:
    """A picture (H, W, 3) with a strip below: a status line, and the subtasks with those completed in green.

    Args:
        picture: uint8.
        subtasks: Name to whether it is completed, in the order in which to show them.
        status: Shown in grey at the right of the count.
        width: Scales the picture to this width; sides come out as multiples of 16.
        colours: Reduces the picture to so many.
        lines: Room for at least so many lines of subtasks: pictures of different tasks then have one size.

    Returns:
        (H', W', 3) uint8.
    """
    image = Image.fromarray(picture)
    wide = _blocks(width or image.width)
    image = image.resize((wide, round(image.height * wide / image.width)), Image.Resampling.LANCZOS)
    if colours:
        image = image.quantize(colours, dither=Image.Dither.NONE).convert("RGB")
    font, size, margin = _text(wide)
    line = round(1.5 * size)
    rows = _rows(subtasks, wide)
    high = _blocks(image.height + line * (max(len(rows), lines) + 1) + margin)
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


def caption_lines(subtasks: Iterable[str], width: int) -> int:
    """How many lines `captioned` breaks these subtasks into below a picture of this width in pixels."""
    return len(_rows(subtasks, _blocks(width)))


def rendered(env: gym.Env) -> Picture:
    """The picture that an environment gives of its state. Raises UserError if it gives none."""
    try:
        picture: Any = env.render()
    except NotImplementedError:
        raise UserError(f"{env} has no pictures: it has no render().") from None
    if not isinstance(picture, np.ndarray) or picture.ndim != 3:
        raise UserError(f"{env} has no pictures: its render() returns {type(picture).__name__}.")
    return picture


def contact_sheet(title: str, rows: Sequence[tuple[str, Sequence[Picture]]]) -> Picture:
    """Rows of equally wide pictures, each row below its own title.

    Args:
        title: Shown above everything.
        rows: Title and pictures (H, W, 3) uint8 of each row; H may differ between rows.

    Returns:
        (H', W', 3) uint8. Titles that are too long for it are cut.
    """
    margin, gap, size = 24, 8, 22
    heading, font = ImageFont.load_default(size + 6), ImageFont.load_default(size)
    room = max(sum(p.shape[1] + gap for p in pictures) - gap for _, pictures in rows)
    line = 2 * size
    heights = [line + max(p.shape[0] for p in pictures) for _, pictures in rows]
    canvas = Image.new("RGB", (room + 2 * margin, 2 * margin + line + sum(h + margin for h in heights)), _BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    draw.text((margin, margin), _cut(title, heading, room), _TEXT, heading)
    y = 2 * margin + line // 2
    for (row_title, pictures), height in zip(rows, heights, strict=True):
        draw.text((margin, y + line / 2), _cut(row_title, font, room), _TEXT, font, anchor="lm")
        x = margin
        for picture in pictures:
            canvas.paste(Image.fromarray(picture), (x, y + line))
            x += picture.shape[1] + gap
        y += height + margin
    return np.asarray(canvas)


def video_writer(suffix: str) -> Callable[[Path, float], AbstractContextManager[Callable[[Picture], Any]]]:
    """Opens a file for pictures per second; used as a context manager it gives the function that appends one.

    Raises:
        UserError: If the packages that write ``suffix``, one of VIDEO_FORMATS, are not installed.
    """
    try:
        imageio = importlib.import_module("imageio.v2")
        if suffix == ".mp4":
            importlib.import_module("imageio_ffmpeg")
    except ImportError as error:
        raise UserError(f"Videos need {error.name}: pip install 'rllib_spirl[video]'") from None

    @contextlib.contextmanager
    def open_writer(file: Path, rate: float) -> Iterator[Callable[[Picture], Any]]:
        if suffix == ".gif":
            writer = imageio.get_writer(file, duration=1000 / rate, loop=0, subrectangles=True)
        else:
            writer = imageio.get_writer(file, fps=rate, codec="libx264", quality=7, pixelformat="yuv420p")
        try:
            yield writer.append_data
        finally:
            writer.close()

    return open_writer


def suffix_of(path: Path, suffixes: Iterable[str]) -> str:
    """The path's suffix in lower case. Raises UserError if it is not one of ``suffixes``."""
    suffix = path.suffix.lower()
    if suffix not in (known := list(suffixes)):
        raise UserError(f"{path}: the name must end in {', '.join(known[:-1])} or {known[-1]}.")
    return suffix


@contextlib.contextmanager
def output_file(path: Path) -> Iterator[Path]:
    """`rllib_spirl.files.replacing` for a file that a user asked for; makes its folder.

    Raises:
        UserError: If the file cannot be written.
    """
    with writing(f"{path} cannot be written", "choose another place"):
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file


def _blocks(pixels: int) -> int:
    return -(-pixels // _BLOCK) * _BLOCK


@functools.cache
def _text(wide: int) -> tuple[Any, int, int]:
    """Font, its size and the margin of a caption ``wide`` pixels wide."""
    size = max(13, wide // 30)
    return ImageFont.load_default(size), size, size // 2


def _rows(names: Iterable[str], wide: int) -> list[list[str]]:
    """Subtasks broken into lines that fit into a caption ``wide`` pixels wide."""
    font, size, margin = _text(wide)
    room = wide - 2 * margin
    rows: list[list[str]] = []
    used = float(room)
    for name in names:
        needed = font.getlength(name) + 2 * size
        if not rows or used + needed - size > room:
            rows.append([])
            used = 0.0
        rows[-1].append(name)
        used += needed
    return rows


def _cut(text: str, font: Any, room: float) -> str:
    """``text`` in one line, cut where it does not fit into ``room`` pixels."""
    text = " ".join(text.split())
    if font.getlength(text) <= room:
        return text
    while text and font.getlength(text + "…") > room:
        text = text[:-1]
    return text.rstrip() + "…"
