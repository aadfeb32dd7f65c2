"""What an agent has done whose skills are chunks of actions: every window of H steps is a transition."""

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.envs.skill_env import LOW_LEVEL


def chunk_windows(episode: SingleAgentEpisode) -> Batch | None:
    """The columns of a `SkillReplay` for each window of H low-level steps in (a piece of) an episode, as in Q-chunking.

    Any H successive actions are a chunk that could have been chosen, so that T steps give T − H + 1 transitions instead
    of T / H. Windows do not reach from one piece of an episode into the next.

    Returns:
        None where there are no such windows: skills are no chunks, or the piece is shorter than one.
    """
    infos = episode.get_infos(slice(-len(episode), None))
    if not all(LOW_LEVEL in info for info in infos):
        return None
    steps = [info[LOW_LEVEL] for info in infos]
    actions = [
        chunk.reshape(each["horizon"], -1)[: len(each["rewards"])]
        for chunk, each in zip(episode.get_actions(), steps, strict=True)
    ]
    states = np.concatenate([episode.get_observations(0)[None], *[each["states"] for each in steps]])
    return windows(
        states,
        np.concatenate(actions),
        np.concatenate([each["rewards"] for each in steps]),
        episode.is_terminated,
        steps[0]["horizon"],
    )


def windows(
    states: NDArray[np.floating],
    actions: NDArray[np.float32],
    rewards: NDArray[np.floating],
    terminated: bool,
    horizon: int,
) -> Batch | None:
    """The transitions of states (T + 1, S), actions (T, A) and rewards (T,) that follow each other; None if T < H.

    Args:
        terminated: Whether the task ended with the last step.
    """
    count = len(rewards) - horizon + 1
    if count < 1:
        return None
    chunks = sliding_window_view(actions, horizon, axis=0).swapaxes(1, 2).reshape(count, -1)  # (T − H + 1, H·A)
    ends = np.zeros(count, np.float32)
    ends[-1] = float(terminated)
    columns = {
        "states": states[:count],
        "z": chunks,
        "rewards": sliding_window_view(rewards, horizon).sum(-1),
        "next_states": states[horizon:],
        "terminated": ends,
    }
    return {name: torch.from_numpy(np.array(column, np.float32)) for name, column in columns.items()}
