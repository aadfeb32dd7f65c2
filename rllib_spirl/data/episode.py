"""One trajectory in memory: what demonstrators and importers produce and the writer takes."""

from dataclasses import dataclass

import numpy as np

from rllib_spirl.data.columns import PICTURE
from rllib_spirl.errors import UserError

ACTION_TOLERANCE = 1e-4  # float32 recordings of clipped actions may lie a rounding error outside of [-1, 1]


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
        """Raises UserError, with ``name`` and step, on bad shapes, NaN/inf, actions outside of [-1, 1]."""
        if self.states.ndim != 2 or self.actions.ndim != 2 or self.rewards.ndim != 1:
            raise UserError(
                f"{name}: states, actions, rewards must be of shape (T+1, S), (T, A), (T,), "
                f"got {self.states.shape}, {self.actions.shape}, {self.rewards.shape}"
            )
        steps = len(self.actions)
        if steps == 0:
            raise UserError(f"{name}: no steps; leave empty episodes out")
        if len(self.states) != steps + 1 or len(self.rewards) != steps:
            raise UserError(
                f"{name}: {steps} actions need {steps + 1} states (with the one after the last action) and "
                f"{steps} rewards, got {len(self.states)} and {len(self.rewards)}"
            )
        if self.images is not None and (self.images.dtype != np.uint8 or self.images.shape != (steps, *PICTURE)):
            raise UserError(
                f"{name}: images must be uint8 of shape {(steps, *PICTURE)}, one for each action, "
                f"got {self.images.dtype} of {self.images.shape}"
            )
        for label, values in (("state", self.states), ("action", self.actions), ("reward", self.rewards)):
            finite = np.isfinite(values)
            if not finite.all():
                where = np.argwhere(~finite)[0]
                raise UserError(
                    f"{name}, step {where[0]}: {label} is {values[tuple(where)]}; repair or drop this episode"
                )
        outside = np.abs(self.actions) > 1 + ACTION_TOLERANCE
        if outside.any():
            row, column = np.argwhere(outside)[0]
            raise UserError(
                f"{name}, step {row}: action[{column}] = {self.actions[row, column]:g} is outside of [-1, "
                "1]; scale the actions to [-1, 1] first"
            )
