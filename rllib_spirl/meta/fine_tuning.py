"""Gradient steps in a new task."""

from dataclasses import dataclass

from rllib_spirl.algorithm.checked_config import is_finite
from rllib_spirl.errors import UserError


@dataclass(frozen=True)
class FineTuning:
    """Gradient steps in a new task, after its first episodes."""

    after: int
    """After so many episodes e stays as it is, the mean of the belief then. From there on the networks make gradient
    steps after each episode, on its transitions and all before."""
    updates_per_step: float = 1.0
    """These steps for each skill of an episode."""
    first_updates: int = 1000
    """So many more before the first episode after these."""
    explore_every: int = 0
    """In one of so many episodes skills are drawn from the policy, in the others they are chosen by value, see
    `Acquaintance`; with 0 they are in all."""
    batch_size: int = 256
    """Transitions in each of these steps, for each learner."""
    from_demonstrations: bool = True
    """Whether a share of them is from the demonstrations that the algorithm learned from, with the task's rewards."""

    def __post_init__(self) -> None:
        if not (is_finite(self.updates_per_step) and self.updates_per_step >= 0):
            raise UserError(f"--updates-per-step: must be a number from 0 on, got {self.updates_per_step}.")
        for name, least in (("after", 1), ("first_updates", 0), ("explore_every", 0), ("batch_size", 1)):
            if (value := getattr(self, name)) < least:
                raise UserError(f"fine_tuning: `{name}` must be at least {least}, got {value}.")

    def explores(self, episode: int) -> bool:
        """Whether skills are drawn in the episode of this number, the first being 1."""
        return self.explore_every > 0 and episode % self.explore_every == 1 % self.explore_every
