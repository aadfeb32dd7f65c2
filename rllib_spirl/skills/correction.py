"""Corrective state noise: teach the decoder to steer back to the demonstrations.

A decoder trained on recorded windows alone never sees a state off the recorded paths, so its small errors compound.
Here each training state is moved by a small e, independent in every dimension or distributed as what one step changes,
and the action it must answer with by the Δa that undoes e within one step. What undoes e is read off the data: an
inverse model
    a_t ≈ W₊ (s_{t+1} − s_t) + W₋ (s_t − s_{t−1}) + W₀ s_t + b,
fitted by ridge regression, says that reaching the same s_{t+1} from a path displaced by e takes Δa = (W₀ − W₊) e.
"""

import numpy as np
from numpy.typing import NDArray


class StateStatistics:
    """Mean and deviation of the states, and the regression, from sums: a data set passes through once, in pieces."""

    def __init__(self, state_dim: int, action_dim: int) -> None:
        self._origin: NDArray[np.float64] | None = None  # of the states: large offsets would cancel in the sums
        self._frames = 0
        self._sum, self._squares = np.zeros(state_dim), np.zeros(state_dim)
        self._samples = 0
        inputs = 3 * state_dim
        self._x, self._y = np.zeros(inputs), np.zeros(action_dim)
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

    def correction(self, state_std: NDArray[np.floating], ridge: float = 1e-3) -> NDArray[np.float32]:
        """The matrix C (A, S) for which Δa = C e undoes a displacement e of the state (environment units).

        Args:
            state_std: (S,) the scale that normalises a state.
            ridge: Weight of ‖W‖² with every regressor scaled to unit variance, as a share of the number of samples.
        """
        n = self._samples
        if n == 0:
            return np.zeros((len(self._y), len(self._sum)), np.float32)
        mean = self._x / n
        covariance = self._xx / n - np.outer(mean, mean)
        deviation = np.sqrt(np.maximum(np.diag(covariance), 0))
        # A dimension that hardly moves (an object at rest) must not pass for one that the action moves: floor its
        # scale.
        scale = np.maximum(deviation, np.concatenate([0.1 * state_std, 0.1 * state_std, state_std]))
        gram = covariance / np.outer(scale, scale) + ridge * np.eye(len(scale))
        moments = (self._xy / n - np.outer(mean, self._y / n)) / scale[:, None]
        weights = np.linalg.solve(gram, moments).T / scale  # (A, 3·S)
        forward, _, here = np.split(weights, 3, axis=1)
        return (here - forward).astype(np.float32)
