"""Corrective state noise: teach the decoder to steer back to the demonstrations.

A decoder trained on recorded windows alone never sees a state off the recorded paths, so its small errors compound.
Here each training state is moved by a small e, and the action it must answer with by the Δa that undoes e within one
step. What undoes e is read off the data: an inverse model
    a_t ≈ W₊ (s_{t+1} − s_t) + W₋ (s_t − s_{t−1}) + W₀ s_t + b,
fitted by ridge regression, says that reaching the same s_{t+1} from a path displaced by e takes Δa = (W₀ − W₊) e.
"""

import numpy as np
from numpy.typing import NDArray


def fit_correction(
    states: NDArray[np.float32],
    actions: NDArray[np.float32],
    episode_starts: NDArray[np.int64],
    state_std: NDArray[np.float32],
    ridge: float = 1e-3,
) -> NDArray[np.float32]:
    """The matrix C (A, S) for which Δa = C e undoes a displacement e of the state (environment units).

    Args:
        states: (N, S) frames of all episodes, one after the other.
        actions: (N, A).
        episode_starts: (E+1,) first frame of each episode, and N.
        state_std: (S,) the scale that normalises a state.
        ridge: Weight of ‖W‖² with every regressor scaled to unit variance, as a share of the number of samples.
    """
    inner = np.ones(len(states), bool)
    inner[episode_starts[:-1]] = False
    inner[episode_starts[1:] - 1] = False
    t = np.flatnonzero(inner)
    if len(t) == 0:
        return np.zeros((actions.shape[1], states.shape[1]), np.float32)
    s = states.astype(np.float64)
    regressors = np.concatenate([s[t + 1] - s[t], s[t] - s[t - 1], s[t]], axis=1)
    # A dimension that hardly moves (an object at rest) must not pass for one that the action moves: floor its scale.
    scale = np.maximum(regressors.std(0), np.concatenate([0.1 * state_std, 0.1 * state_std, state_std]))
    inputs = (regressors - regressors.mean(0)) / scale
    gram = inputs.T @ inputs + ridge * len(t) * np.eye(inputs.shape[1])
    targets = actions[t] - actions[t].mean(0, dtype=np.float64)
    weights = np.linalg.solve(gram, inputs.T @ targets).T / scale  # (A, 3·S)
    forward, _, here = np.split(weights, 3, axis=1)
    return (here - forward).astype(np.float32)
