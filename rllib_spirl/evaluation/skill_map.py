"""Skills as points of a plane: the two directions of z in which skills differ most."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from rllib_spirl.algorithm.checkpoint_files import DEMONSTRATIONS_FILE, REPLAY_FILE
from rllib_spirl.algorithm.replay_buffer import saved_skills

Points = NDArray[np.floating]
_SHOWN = 4000  # points of each kind


class Kind(NamedTuple):
    """Skills of one origin."""

    name: str
    z: Points
    """(n, Z)."""


def plane(z: Points) -> tuple[Points, Points]:
    """The mean (Z,) of skills z (n, Z) and their first two principal directions, (Z, 2); of one dimension, (Z, 1)."""
    mean = z.mean(0)
    _, _, directions = np.linalg.svd(z - mean, full_matrices=False)
    return mean, directions[:2].T


def draw_map(kinds: Sequence[Kind], file: Path) -> None:
    """Draw skills of several origins into one plane, that of the first, as a PNG file.

    Args:
        kinds: Of each as many as can be seen are drawn, evenly spaced in their order.
        file: To write.
    """
    mean, directions = plane(kinds[0].z)
    figure = Figure(figsize=(5 * len(kinds), 5), dpi=100, layout="constrained")
    rows = figure.subplots(1, len(kinds), sharex=True, sharey=True, squeeze=False)
    behind = _shown((kinds[0].z - mean) @ directions)
    for index, (axes, kind) in enumerate(zip(rows[0], kinds, strict=True)):
        points = _shown((kind.z - mean) @ directions)
        if index:
            axes.plot(*behind, ".", color="0.85", markersize=2)
        axes.plot(*points, ".", color=f"C{index}", markersize=3, alpha=0.5)
        axes.set_title(kind.name)
        axes.set_xlabel("first principal direction of z")
    rows[0][0].set_ylabel("second")
    figure.savefig(file, format="png")


def skills_used(checkpoint: Path) -> list[Kind]:
    """The skills in a checkpoint's replay: those in demonstrations, and the agent's first and last fifth.

    Nothing where the checkpoint holds no demonstrations or the agent has hardly begun.

    Raises:
        UserError: If a file is corrupt.
    """
    files = checkpoint / DEMONSTRATIONS_FILE, checkpoint / REPLAY_FILE
    if not all(file.exists() for file in files):
        return []
    demonstrations, own = (saved_skills(file).numpy() for file in files)
    fifth = len(own) // 5
    if fifth == 0 or not len(demonstrations):
        return []
    return [
        Kind("in demonstrations", demonstrations),
        Kind("the agent's first fifth", own[:fifth]),
        Kind("the agent's last fifth", own[-fifth:]),
    ]


def _shown(points: Points) -> Points:
    """(n, 2), or (n, 1), to at most `_SHOWN` of them as (2, n)."""
    points = points[:: max(1, len(points) // _SHOWN)]
    return np.concatenate([points, np.zeros((len(points), 2 - points.shape[1]))], 1).T
