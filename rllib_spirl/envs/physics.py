"""The state of a MuJoCo simulation, which decides how it goes on."""

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.envs.rendering import mujoco

_STATE = mujoco.mjtState.mjSTATE_INTEGRATION


def physics_of(model: mujoco.MjModel, data: mujoco.MjData) -> NDArray[np.float64]:
    """All that the next steps depend on, for `set_physics`."""
    state = np.empty(mujoco.mj_stateSize(model, _STATE))
    mujoco.mj_getState(model, data, state, _STATE)
    return state


def set_physics(model: mujoco.MjModel, data: mujoco.MjData, state: NDArray[np.float64]) -> None:
    """Let a simulation of the same model go on where that of `physics_of` was."""
    mujoco.mj_setState(model, data, state, _STATE)
