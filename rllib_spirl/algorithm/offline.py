"""Demonstrations as skill transitions: what the agent could have seen, labelled for the task at hand."""

from collections.abc import Callable, Iterator

import gymnasium as gym
import numpy as np
import torch
from gymnasium.spaces import flatdim
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from rllib_spirl.algorithm.replay_buffer import Batch, SkillReplay
from rllib_spirl.data import DataSet, Trajectories
from rllib_spirl.data.windows import has_window, picture_pairs, window_starts
from rllib_spirl.envs.skill_env import state_space
from rllib_spirl.errors import UserError
from rllib_spirl.progress import track
from rllib_spirl.skills.model import SkillModel, SkillModelConfig

# Of a bounded z, so that u = artanh(z / bound) is finite.
_LARGEST = 0.99


def offline_replay(
    data: DataSet, model: SkillModel, env: gym.Env, capacity: int, seed: int = 0, skill_bound: float | None = None
) -> SkillReplay:
    """Every window of H steps in a data set as one transition (s, z ~ q(z|window), Σr, s', terminated).

    s and s' are as `rllib_spirl.envs.skill_env.SkillEnv` observes them, z as its actions: with a ``skill_bound``, u.
    Where states are sets, demonstrations may be of fewer items than the environment has: the others are NaN, see
    `rllib_spirl.nets.SetEncoder`.

    Of a data set with more than ``capacity`` steps, the same random share of every file, one file in memory at a time.

    Rewards are those of the environment's ``relabel(states) -> (rewards, done_at)`` where it has one, so that
    demonstrations of other tasks serve the task at hand; else the recorded ones.

    Raises:
        UserError: If the data set's dimensions are not the skill model's.
    """
    kept = list(read_transitions(data, model, env, capacity, seed, skill_bound, skill_transitions))
    total = sum(len(columns["rewards"]) for columns in kept)
    replay = SkillReplay(total, kept[0]["states"].shape[1], model.config.latent_dim, seed)
    while kept:
        replay.add(kept.pop(0))
    return replay


def read_transitions(
    data: DataSet,
    model: SkillModel,
    env: gym.Env,
    capacity: int,
    seed: int,
    skill_bound: float | None,
    make: Callable[[Trajectories, SkillModel, gym.Env, torch.Generator, int], Batch],
) -> Iterator[Batch]:
    """What `offline_replay` keeps, file by file: the columns that ``make`` (`skill_transitions`) makes of each.

    Raises:
        UserError: As `offline_replay`; or if there are no transitions at all.
    """
    config = model.config
    state_dim = flatdim(state_space(env, images=config.prior_images))
    share = min(1.0, capacity / data.num_frames)
    generator = torch.Generator().manual_seed(seed)
    total = 0
    parts = data.stream(images=config.prior_images)
    for part in track(parts, "reading demonstrations for the replay", total=len(data.files), watched_only=True):
        check_widths(str(data), part.state_dim, part.action_dim, config, state_dim)
        if not has_window(part.episode_starts, config.horizon):
            continue
        columns = make(part, model, env, generator, state_dim)
        if skill_bound is not None:
            columns["z"] = (columns["z"] / skill_bound).clamp(-_LARGEST, _LARGEST).atanh()
        if share < 1:
            count = len(columns["rewards"])
            rows = torch.randperm(count, generator=generator)[: int(share * count)]
            columns = {name: column[rows] for name, column in columns.items()}
        total += len(columns["rewards"])
        yield columns
    if total == 0:
        raise too_short(data, config.horizon)


def too_short(data: DataSet, horizon: int, where: str = "") -> UserError:
    """The error of data in which no window of ``horizon`` steps is learned from, see `counting`."""
    return UserError(
        f"{data}: no episode is long enough for skills of {horizon} steps to be replayed{where}. Set offline_fraction "
        "to 0, or use skills of fewer steps."
    )


def check_widths(data: str, state_dim: int, action_dim: int, config: SkillModelConfig, env_state_dim: int) -> None:
    """Raise a UserError unless data of these dimensions can be replayed in an environment with skills.

    Args:
        data: What to call the data in the error.
        state_dim, action_dim: Its dimensions.
        config: The skills'.
        env_state_dim: The dimension of the environment's states; as a set, they may have more items than the data's.
    """
    fewer = config.state_set is not None and config.fits(state_dim) and state_dim <= env_state_dim
    if action_dim != config.action_dim or not (state_dim == env_state_dim or fewer):
        raise UserError(
            f"{data} has states of {state_dim} and actions of {action_dim} dimensions, the environment "
            f"{env_state_dim} and {config.action_dim}. Set offline_data to demonstrations in this environment, or "
            "offline_fraction to 0."
        )


def skill_transitions(
    data: Trajectories, model: SkillModel, env: gym.Env, generator: torch.Generator, state_dim: int
) -> Batch:
    """The columns of `offline_replay`, z drawn with ``generator``: windows after the task is done are left out.

    States are filled up with NaN to ``state_dim``.
    """
    horizon = model.config.horizon
    relabel = getattr(env.unwrapped, "relabel", None)
    if relabel is not None:
        data = data.relabel(relabel)
    starts = window_starts(data.episode_starts, horizon)
    starts = starts[counting(data, starts, horizon)]
    last, labels = window_labels(data, starts, horizon)
    return skills_of(data, model, starts, last, generator, state_dim) | labels


def counting(data: Trajectories, starts: NDArray[np.int64], horizon: int) -> NDArray[np.bool_]:
    """Which of the windows (W,) are learned from: those that begin before their task is done.

    Of an episode in which a reward is negative, the last window before its end is left out as well, unless the task
    ended there: a value of 0 after it, see `window_labels`, would be the best possible one.
    """
    end, episode_end = data.ends, data.episode_ends
    begun: NDArray[np.bool_] = starts < end[starts]
    if len(starts) == 0:
        return begun
    negative = np.repeat(np.minimum.reduceat(data.rewards, data.episode_starts[:-1]) < 0, np.diff(data.episode_starts))
    last = np.minimum(starts + horizon, end[starts]) - 1
    followed: NDArray[np.bool_] = data.terminated[last] | (last + 1 + horizon <= episode_end[starts])
    return begun & (followed | ~negative[starts])


def window_labels(data: Trajectories, starts: NDArray[np.int64], horizon: int) -> tuple[NDArray[np.int64], Batch]:
    """Of windows (W,) that begin before their task is done: their last frames, rewards and whether they terminate."""
    end, episode_end = data.ends, data.episode_ends
    last = np.minimum(starts + horizon, end[starts]) - 1
    # Where a recording stops there is nothing to bootstrap from: values of states from which no window was ever learned
    # drift upwards and spread. A demonstration is taken to earn nothing after its last whole window.
    final = data.terminated[last] | (last + 1 + horizon > episode_end[starts])
    earned = np.concatenate([[0.0], np.cumsum(data.rewards, dtype=np.float64)])
    return last, {
        "rewards": torch.from_numpy((earned[last + 1] - earned[starts]).astype(np.float32)),
        "terminated": torch.from_numpy(final.astype(np.float32)),
    }


def skills_of(
    data: Trajectories,
    model: SkillModel,
    starts: NDArray[np.int64],
    last: NDArray[np.int64],
    generator: torch.Generator,
    state_dim: int,
) -> Batch:
    """What windows (W,), from their first to their last frames, are whatever the task: states, z and next states."""
    horizon = model.config.horizon
    z = []
    with torch.no_grad():
        for chunk in np.array_split(starts, max(1, len(starts) // 4096)):
            frames = chunk[:, None] + np.arange(horizon)
            q = model.posterior(torch.from_numpy(data.states[frames]), torch.from_numpy(data.actions[frames]))
            z.append(q.mean + q.stddev * torch.randn(q.mean.shape, generator=generator))
    observed, next_observed = (
        F.pad(torch.from_numpy(states), (0, state_dim - data.state_dim), value=torch.nan)
        for states in (data.states[starts], data.next_states[last])
    )
    if data.images is not None:
        # Of the state after an episode's last action there is no picture. No value is learned there: see above.
        arrived = np.minimum(last + 1, data.episode_ends[starts] - 1)
        observed = _observe(model, observed, data, starts)
        next_observed = _observe(model, next_observed, data, arrived)
    return {
        "states": observed,
        "z": torch.cat(z),
        "next_states": next_observed,
    }


def _observe(model: SkillModel, states: Tensor, data: Trajectories, frames: NDArray[np.int64]) -> Tensor:
    """States (W, S) with what the prior says of the pictures before and at ``frames`` (W,)."""
    assert data.images is not None
    pairs = picture_pairs(frames, data.episode_starts)
    chunks = zip(states.split(4096), np.split(pairs, range(4096, len(pairs), 4096)), strict=True)
    return torch.cat([model.prior.observe(s, torch.from_numpy(data.images[pair])) for s, pair in chunks])
