"""Trajectories in memory: one episode, and many one after the other."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.data.columns import PICTURE
from rllib_spirl.errors import UserError, foreign

ACTION_TOLERANCE = 1e-4  # float32 recordings of clipped actions may lie a rounding error outside of [-1, 1]
SCALE_ACTIONS = "import the data with --scale-actions (in a recipe: 'rescale_actions: true')"
REPAIR = "repair or drop this episode"

Relabel = Callable[[NDArray[np.floating]], tuple[NDArray[np.floating], int | NDArray[np.integer] | None]]
"""Of an episode's states (T+1, S): what its steps earn in a task, (T,), and the step that completes it, or None.

A recording may go on as if the task had not been there, and complete it several times: then all these steps, ascending,
of each of which what was done before it is an attempt of its own."""


class DamagedEpisode(UserError):
    """An episode that cannot be used as it was recorded. An import may leave such episodes out."""


@dataclass(frozen=True)
class Episode:
    """A trajectory of T steps. Actions are as executed, scaled to [-1, 1]."""

    states: np.ndarray  # (T+1, S) float; the last row is the state after the last action
    actions: np.ndarray  # (T, A) float
    rewards: np.ndarray  # (T,) float, of each step
    terminated: bool  # the last step ended the task
    truncated: bool  # the last step hit a limit, or the recording just stops there
    task: str  # e.g. "microwave; kettle; bottom burner; light switch"
    images: np.ndarray | None = None  # (T, 32, 32, 3) uint8, of the states before each action

    def __len__(self) -> int:
        return len(self.actions)

    def validate(self, name: str = "episode") -> None:
        """Check shapes and values.

        Args:
            name: What an error calls this episode.

        Raises:
            DamagedEpisode: On wrong shapes, NaN or infinity.
            UserError: When an action lies outside of [-1, 1].
        """
        for label in ("states", "actions", "rewards"):
            if not isinstance(getattr(self, label), np.ndarray):
                raise DamagedEpisode(
                    f"{name}: {label} must be a NumPy array, got {type(getattr(self, label)).__name__}"
                )
        if not isinstance(self.task, str):
            raise DamagedEpisode(f"{name}: task must be a text, got {self.task!r}")
        if self.states.ndim != 2 or self.actions.ndim != 2 or self.rewards.ndim != 1:
            raise DamagedEpisode(
                f"{name}: states, actions, rewards must be of shape (T+1, S), (T, A), (T,), "
                f"got {self.states.shape}, {self.actions.shape}, {self.rewards.shape}"
            )
        steps = len(self.actions)
        if steps == 0:
            raise DamagedEpisode(f"{name}: no steps; leave empty episodes out")
        if len(self.states) != steps + 1 or len(self.rewards) != steps:
            raise DamagedEpisode(
                f"{name}: {steps} actions need {steps + 1} states (with the one after the last action) and "
                f"{steps} rewards, got {len(self.states)} and {len(self.rewards)}"
            )
        if self.images is not None and (self.images.dtype != np.uint8 or self.images.shape != (steps, *PICTURE)):
            raise DamagedEpisode(
                f"{name}: images must be uint8 of shape {(steps, *PICTURE)}, one for each action, "
                f"got {self.images.dtype} of {self.images.shape}"
            )
        for label, values in (("state", self.states), ("action", self.actions), ("reward", self.rewards)):
            if (place := first_unusable(values)) is not None:
                raise DamagedEpisode(f"{name}, step {place[0]}: {label} is {values[place]}; {REPAIR}")
        if (beyond := first_beyond(self.actions)) is not None:
            row, what = beyond
            raise UserError(f"{name}, step {row}: {what}")


def first_unusable(values: np.ndarray) -> tuple[int, ...] | None:
    """The place of the first number that float32, in which training computes, cannot hold; None where there is none."""
    with np.errstate(over="ignore"):
        unusable = ~np.isfinite(values.astype(np.float32, copy=False))
    return tuple(np.argwhere(unusable)[0].tolist()) if unusable.any() else None


def first_beyond(actions: np.ndarray) -> tuple[int, str] | None:
    """The row of the first action (T, A) outside of [-1, 1] and what is wrong with it; None where there is none."""
    beyond = np.abs(actions) > 1 + ACTION_TOLERANCE
    if not beyond.any():
        return None
    row, column = np.argwhere(beyond)[0].tolist()
    return row, f"action[{column}] = {actions[row, column]:g} is outside of [-1, 1]; {SCALE_ACTIONS}"


@dataclass(frozen=True)
class Trajectories:
    """The frames of E episodes, one after the other: N frames with states of S and actions of A numbers."""

    states: np.ndarray  # (N, S) float
    actions: np.ndarray  # (N, A) float
    rewards: np.ndarray  # (N,) float
    next_states: np.ndarray  # (N, S) float, the state after each action; see `following_states`
    terminated: np.ndarray  # (N,) bool, whether the step ended the task
    episode_starts: np.ndarray  # (E+1,) int64: episode e is the frames [starts[e], starts[e+1])
    task_index: np.ndarray  # (N,) int64, into tasks
    tasks: list[str]
    images: np.ndarray | None = None  # (N, 32, 32, 3) uint8; None unless asked for
    ends: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    """(N,) int64: for each frame the end (exclusive) of the attempt that it belongs to, which is one past the step that
    completes the task; by default its episode's end."""

    def __post_init__(self) -> None:
        if not len(self.ends):
            object.__setattr__(self, "ends", self.episode_ends)

    @property
    def state_dim(self) -> int:
        return self.states.shape[1]

    @property
    def action_dim(self) -> int:
        return self.actions.shape[1]

    @property
    def num_episodes(self) -> int:
        return len(self.episode_starts) - 1

    @property
    def episode_ends(self) -> np.ndarray:
        """(N,) int64: for each frame, the first one behind its episode."""
        return np.repeat(self.episode_starts[1:], np.diff(self.episode_starts))

    @property
    def num_frames(self) -> int:
        return len(self.states)

    def episode(self, index: int) -> Episode:
        """Episode ``index``, from 0 to E - 1."""
        start, stop = self.episode_starts[index], self.episode_starts[index + 1]
        terminated = bool(self.terminated[stop - 1])
        return Episode(
            states=np.concatenate([self.states[start:stop], self.next_states[stop - 1 : stop]]),
            actions=self.actions[start:stop],
            rewards=self.rewards[start:stop],
            terminated=terminated,
            truncated=not terminated,
            task=self.tasks[self.task_index[start]],
            images=None if self.images is None else self.images[start:stop],
        )

    def relabel(self, label: Relabel) -> "Trajectories":
        """The same frames with the rewards and the ends of another task, which ``label`` tells for each episode."""
        rewards, terminated, ends = self.rewards.copy(), np.zeros_like(self.terminated), self.ends.copy()
        for index, start in enumerate(self.episode_starts[:-1]):
            episode = self.episode(index)
            frames = slice(start, start + len(episode))
            rewards[frames], done_at = labelled(label, episode.states)
            if done_at is None:
                continue
            terminated[start + np.asarray(done_at)] = True
            if isinstance(done_at, np.ndarray):  # up to the next of these steps
                stops = np.append(start + done_at + 1, frames.stop)
                ends[frames] = stops[np.searchsorted(done_at, np.arange(len(episode)))]
            else:
                ends[frames] = start + done_at + 1
        return replace(self, rewards=rewards, terminated=terminated, ends=ends)


def labelled(label: Relabel, states: np.ndarray) -> tuple[np.ndarray, int | np.ndarray | None]:
    """What ``label`` says of an episode's states (T+1, S). Raises UserError where it is not what a `Relabel` says."""
    steps = len(states) - 1
    with foreign("relabel fails"):
        found = label(states)
    if not (isinstance(found, tuple) and len(found) == 2):
        raise UserError(
            f"relabel must return rewards and the step that completes the task, got {type(found).__name__}."
        )
    rewards, done_at = np.asarray(found[0]), found[1]
    if rewards.shape != (steps,):
        raise UserError(f"relabel: {steps + 1} states need rewards of shape ({steps},), got {rewards.shape}.")
    if not np.isfinite(rewards).all():
        raise UserError(f"relabel: the reward of step {int((~np.isfinite(rewards)).argmax())} is not finite.")
    if done_at is not None:
        at = np.atleast_1d(done_at)
        if at.dtype.kind not in "iu" or at.ndim > 1 or ((at < 0) | (at >= steps)).any() or (np.diff(at) <= 0).any():
            raise UserError(f"relabel: the task is completed at steps from 0 to {steps - 1}, ascending, got {done_at}.")
        return rewards, int(done_at) if np.ndim(done_at) == 0 else at
    return rewards, None


def following_states(states: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
    """The state after each action, (N, S), where only the states before them, (N, S), were recorded.

    That after an episode's last action is not known: the last one known stands in its place. Skills are learned from
    the states before actions alone, and no value is ever learned for a state in which a recording stops.
    """
    following = np.concatenate([states[1:], states[-1:]])
    last = episode_starts[1:] - 1
    following[last] = states[last]
    return following
