"""Small pictures of flat, coloured, rotated boxes: many at once, with NumPy alone."""

import numpy as np
from numpy.typing import NDArray

_CHUNK = 32  # pictures drawn at a time: what is computed for them stays in the processor's cache


def rasterise(
    boxes: NDArray[np.floating],
    colours: NDArray[np.floating],
    background: NDArray[np.floating],
    size: int,
    pixel: float,
) -> NDArray[np.uint8]:
    """Square pictures centred on the origin.

    The edges are smooth: a pixel takes of a box's colour what the box covers of it (exactly so for edges along the
    pixels), and so shows motions smaller than itself.

    Args:
        boxes: (..., K, 5): centre to the right and up, half the width and half the height, angle in radians. Later
            boxes cover earlier ones.
        colours: (K, 3), RGB from 0 to 1.
        background: (3,), likewise.
        size: Pixels along an edge.
        pixel: Edge of a pixel, in the boxes' unit of length.

    Returns:
        (..., size, size, 3) uint8; the first row is the uppermost.
    """
    leading, flat = boxes.shape[:-2], boxes.reshape(-1, *boxes.shape[-2:]).astype(np.float32)
    pictures = np.empty((len(flat), 3, size, size), np.uint8)
    along = ((np.arange(size) - (size - 1) / 2) * pixel).astype(np.float32)
    for first in range(0, len(flat), _CHUNK):
        chunk = flat[first : first + _CHUNK]
        painted = np.broadcast_to(background[:, None, None], (len(chunk), 3, size, size)).astype(np.float32)
        for box, colour in zip(chunk.swapaxes(0, 1), colours.astype(np.float32), strict=True):
            near = _in_view(box, along[-1] + pixel)
            if not near.any():
                continue
            share = _coverage(box[near], along, pixel)[:, None]
            painted[near] += share * (colour[:, None, None] - painted[near])
        pictures[first : first + _CHUNK] = np.rint(painted * 255)
    return np.moveaxis(pictures, 1, -1).reshape(*leading, size, size, 3)


def _in_view(box: NDArray[np.float32], edge: float) -> NDArray[np.bool_]:
    """Which of the boxes (B, 5) may reach into a picture that ends ``edge`` from its centre."""
    return (np.abs(box[:, :2]) < edge + box[:, 2:4].sum(-1, keepdims=True)).all(-1)


def _coverage(box: NDArray[np.float32], along: NDArray[np.float32], pixel: float) -> NDArray[np.float32]:
    """How much of each pixel the boxes (B, 5) cover: (B, size, size) from 0 to 1."""
    y, z, half_width, half_height, angle = (value[:, None, None] for value in box.T)
    right, up = along[None, None, :] - y, along[None, ::-1, None] - z
    cosine, sine = np.cos(angle), np.sin(angle)
    share = _overlap(cosine * right + sine * up, half_width, pixel)
    share *= _overlap(cosine * up - sine * right, half_height, pixel)
    return share


def _overlap(offset: NDArray[np.float32], half: NDArray[np.float32], pixel: float) -> NDArray[np.float32]:
    """How much of a pixel at ``offset`` from the middle of an interval of length 2 ``half`` lies in the interval."""
    near = np.maximum(offset - pixel / 2, -half)
    far = np.minimum(offset + pixel / 2, half)
    return np.clip((far - near) / pixel, 0, 1)
