"""Which H-step windows a data set has."""

import numpy as np

from rllib_spirl.errors import UserError


def window_starts(episode_starts: np.ndarray, horizon: int) -> np.ndarray:
    """All frames i such that the frames i .. i+H-1 lie in one episode, ascending.

    Args:
        episode_starts: (E+1,) as in ``Trajectories.episode_starts``.
        horizon: H, in steps.

    Returns:
        (W,) int64.

    Raises:
        UserError: when H < 1, or every episode is shorter than H.
    """
    if horizon < 1:
        raise UserError(f"horizon = {horizon}: a skill has at least one step; give a horizon of 1 or more")
    lengths = np.diff(episode_starts)
    counts = np.maximum(lengths - horizon + 1, 0)
    total = int(counts.sum())
    if total == 0:
        longest = int(lengths.max()) if len(lengths) else 0
        raise UserError(
            f"horizon = {horizon}: every episode is shorter than {horizon} steps (the longest has {longest} steps); "
            "choose a smaller horizon or longer episodes"
        )
    # Window w of an episode starts w frames after the episode does: a running count, restarted at each
    # episode.
    restart = np.cumsum(counts) - counts
    return np.arange(total, dtype=np.int64) + np.repeat(np.asarray(episode_starts[:-1], np.int64) - restart, counts)


def has_window(episode_starts: np.ndarray, horizon: int) -> bool:
    """Whether an episode has H steps, so that `window_starts` finds something."""
    return bool((np.diff(episode_starts) >= horizon).any())


def previous_frames(frames: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
    """The frame before each of ``frames``; where an episode begins, the frame itself. Any shape, int64."""
    return frames - ~np.isin(frames, episode_starts)


def picture_pairs(frames: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
    """(N, 2): the frames before ``frames`` (N,) and these, whose pictures a prior that sees is given."""
    return np.stack([previous_frames(frames, episode_starts), frames], 1)
