"""The frozen decoder as an environment runs it: one state in, one action out, as fast as a CPU core goes."""

import numpy as np
import torch
from numpy.typing import NDArray

from rllib_spirl.skills.model import SkillModel


class SkillDecoder:
    """Runs skills one low-level step at a time.

    ``start(z)`` begins a skill; ``act(state)`` then gives its next action, (A,), not clipped. The open-loop decoder
    computes all H actions at the start and ignores the states.
    """

    def __init__(self, model: SkillModel) -> None:
        self._model = model
        self._z = torch.zeros(1, model.config.latent_dim)
        self._plan: NDArray[np.float32] | None = None
        self._step = 0

    @torch.inference_mode()
    def start(self, z: NDArray[np.float32]) -> None:
        """Begin the skill z, (Z,)."""
        self._z = torch.from_numpy(np.asarray(z, np.float32)).unsqueeze(0)
        self._step = 0
        if not self._model.closed_loop:
            self._plan = self._model.decode(self._z, torch.empty(0))[0].numpy()

    @torch.inference_mode()
    def act(self, state: NDArray[np.floating]) -> NDArray[np.float32]:
        """The skill's action (A,) in ``state`` (S,), environment units."""
        if self._plan is not None:
            action = self._plan[self._step]
        else:
            states = torch.from_numpy(np.asarray(state, np.float32)).view(1, 1, -1)
            action = self._model.decode(self._z, states)[0, 0].numpy()
        self._step += 1
        return action
