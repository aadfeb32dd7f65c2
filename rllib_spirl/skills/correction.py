"""Corrective state noise: teach the decoder to steer back to the demonstrations.

A decoder trained on recorded windows alone never sees a state off the recorded paths, so its small errors compound.
Here each training state is moved by a small e, independent in every dimension or distributed as what one step changes,
and the action it must answer with by the Δa that undoes e within one step. What undoes e is read off the data: an
inverse model
    a_t ≈ W₊ (s_{t+1} − s_t) + W₋ (s_t − s_{t−1}) + W₀ s_t + b,
fitted by ridge regression, says that reaching the same s_{t+1} from a path displaced by e takes Δa = (W₀ − W₊) e.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ALIKE = 0.85  # least correlation of a velocity with the change of what it is the velocity of; positions have less
TOLD = 0.3  # share of the actions' variance from which on velocities tell them
SAME = 1 - 1e-9  # of what repeats another dimension


class StateStatistics:
    """Mean and deviation of the states, and the regression, from sums: a data set passes through once, in pieces."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        self._origin: NDArray[np.float64] | None = None  # of the states: large offsets would cancel in the sums
        self._frames = 0
        self._sum, self._squares = np.zeros(state_dim), np.zeros(state_dim)
        self._samples = 0
        inputs = 3 * state_dim
        self._x, self._y = np.zeros(inputs), np.zeros(action_dim)
        self._action_squares = np.zeros(action_dim)
        self._xx, self._xy = np.zeros((inputs, inputs)), np.zeros((inputs, action_dim))

    def add(self, states: NDArray[np.floating], actions: NDArray[np.floating], starts: NDArray[np.int64]) -> None:
        """Whole episodes: states (N, S), actions (N, A), and the first frame of each episode and N, (E+1,)."""
        if self._origin is None:
            self._origin = states.mean(0, dtype=np.float64)
        s = states.astype(np.float64) - self._origin
        self._frames += len(s)
        self._sum += s.sum(0)
        self._squares += np.square(s).sum(0)
        inner = np.ones(len(s), bool)
        inner[starts[:-1]] = False
        inner[starts[1:] - 1] = False
        for t in np.array_split(np.flatnonzero(inner), max(1, len(s) // 65_536)):
            x = np.concatenate([s[t + 1] - s[t], s[t] - s[t - 1], s[t]], axis=1)
            y = actions[t].astype(np.float64)
            self._samples += len(t)
            self._x += x.sum(0)
            self._y += y.sum(0)
            self._action_squares += np.square(y).sum(0)
            self._xx += x.T @ x
            self._xy += x.T @ y

    @property
    def mean(self) -> NDArray[np.float32]:
        """(S,)"""
        assert self._origin is not None
        return (self._origin + self._sum / self._frames).astype(np.float32)

    @property
    def std(self) -> NDArray[np.float32]:
        """(S,)"""
        variance = self._squares / self._frames - np.square(self._sum / self._frames)
        return np.sqrt(np.maximum(variance, 0)).astype(np.float32)

    @property
    def motion(self) -> NDArray[np.float32]:
        """L (S, S): L·ξ with ξ ~ N(0, I) is distributed, about 0, as the changes of a state within one step.

        What moves together there does so in L·ξ too: all that is seen from a gripper when the gripper moves.
        """
        n, dim = max(self._samples, 1), len(self._sum)
        mean = self._x[:dim] / n
        values, vectors = np.linalg.eigh(self._xx[:dim, :dim] / n - np.outer(mean, mean))
        return (vectors * np.sqrt(np.maximum(values, 0))).astype(np.float32)

    @property
    def velocities(self) -> dict[int, int]:
        """Which dimensions of a state are velocities of others, and of which.

        A velocity, in the mean of two states, is in proportion to the change of something else between them, which is
        no velocity itself. Where each of two seems to be the other's, as in oscillations, the later is the velocity.
        """
        change, both, now = self._covariances()
        # Of the changes s_t − s_{t−1}, in rows, with the means of both states, s_t less half the change.
        common = both - change / 2
        means = np.diag(now) - np.diag(both) + np.diag(change) / 4
        alike = _alike(common, np.diag(change), means, ALIKE)
        found = {j: i for j, i in alike.items() if not (j < i and alike.get(i) == j)}
        return {j: i for j, i in found.items() if i not in found}

    @property
    def repeats(self) -> dict[int, int]:
        """Which dimensions of a state are what others were a step before, and which."""
        change, both, now = self._covariances()
        before = np.diag(now) - 2 * np.diag(both) + np.diag(change)
        return _alike(now - both, before, np.diag(now), SAME)

    @property
    def giveaways(self) -> tuple[int, ...]:
        """The velocities and the repeated states, if they tell the action by themselves; else none.

        A decoder that sees them copies the action from what the robot does already, and z says little. They tell it
        where they explain a good part of the actions' variance, as they do if actions are velocities themselves. Where
        actions are forces, they do not, and a decoder needs them.
        """
        velocities, repeats = self.velocities, self.repeats
        dim, n = len(self._sum), self._samples
        # Of a repeated state, what has changed since.
        used = [2 * dim + j for j in velocities] + sorted({dim + i for i in repeats.values()})
        if not used:
            return ()
        covariance, with_actions = self._moments()
        covariance = covariance[np.ix_(used, used)]
        scale = np.sqrt(np.maximum(np.diag(covariance), np.finfo(float).tiny))
        common = with_actions[used] / scale[:, None]
        weights = np.linalg.solve(covariance / np.outer(scale, scale) + 1e-6 * np.eye(len(used)), common)
        variance = self._action_squares / n - np.square(self._y / n)
        told = (weights * common).sum() / max(variance.sum(), np.finfo(float).tiny)
        return tuple(sorted({*velocities, *repeats})) if told > TOLD else ()

    def _covariances(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """(S, S) each: of the changes s_t − s_{t−1}, of these, in rows, with s_t, and of s_t."""
        dim = len(self._sum)
        covariance, _ = self._moments()
        change, state = slice(dim, 2 * dim), slice(2 * dim, None)
        return covariance[change, change], covariance[change, state], covariance[state, state]

    def _moments(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Covariances of the regressors, (3 S, 3 S), and of these, in rows, with the actions, (3 S, A)."""
        n = max(self._samples, 1)
        mean = self._x / n
        return self._xx / n - np.outer(mean, mean), self._xy / n - np.outer(mean, self._y / n)

    def correction(
        self, state_std: NDArray[np.floating], blind: Sequence[int] = (), ridge: float = 1e-3
    ) -> NDArray[np.float32]:
        """The matrix C (A, S) for which Δa = C e undoes a displacement e of the state (environment units).

        Args:
            state_std: (S,) the scale that normalises a state.
            blind: Dimensions that are not displaced, nor looked at.
            ridge: Weight of ‖W‖² with every regressor scaled to unit variance, as a share of the number of samples.
        """
        dim = len(self._sum)
        found = np.zeros((len(self._y), dim))
        seen = np.setdiff1d(np.arange(dim), blind)
        if self._samples == 0:
            return found.astype(np.float32)
        covariance, with_actions = self._moments()
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
        # A dimension that hardly moves (an object at rest) must not pass for one that the action moves: floor its
        # scale.
        scale = np.maximum(deviation, np.concatenate([0.1 * state_std, 0.1 * state_std, state_std]))
        gram = covariance / np.outer(scale, scale) + ridge * np.eye(len(scale))
        moments = with_actions / scale[:, None]
        used = np.concatenate([seen, dim + seen, 2 * dim + seen])
        weights = np.linalg.solve(gram[np.ix_(used, used)], moments[used]).T / scale[used]  # (A, 3·S)
        forward, _, here = np.split(weights, 3, axis=1)
        found[:, seen] = here - forward
        return found.astype(np.float32)


def _alike(
    covariance: NDArray[np.float64], rows: NDArray[np.float64], columns: NDArray[np.float64], least: float
) -> dict[int, int]:
    """For each column that correlates more than ``least`` with a row of another number, the first row that does most.

    Args:
        covariance: (S, S).
        rows, columns: Variances (S,).
        least: Of the correlation's amount.
    """
    width = np.sqrt(np.maximum(np.outer(rows, columns), 0))
    likeness = np.abs(covariance) / np.where(width > 0, width, np.inf)
    best = (likeness >= likeness.max(0) - 1e-9).argmax(0)
    return {j: int(i) for j, i in enumerate(best) if likeness[i, j] > least and i != j}
