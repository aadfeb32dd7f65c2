"""A run as reports see it."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Curve:
    """One trial. Arrays of E evaluations and of T training iterations; nan where a value was not reported."""

    method: str
    """The experiment, with what distinguishes its trials apart from seed and skill model: ``kitchen tau=0.01``."""
    trial: Path
    seed: int | None
    env: str
    task: str
    """Target subtasks, ``microwave, kettle``, or which maze; empty where the environment has but one task."""
    rule: str
    """"in this order", "in any order", "sparse reward" and the like, where the environment distinguishes them."""
    data: str
    skill_checkpoint: str
    target_divergence: float
    explores: bool
    """Whether its evaluations draw skills from the policy; else they are the deterministic policy's."""
    env_steps: Array
    """(E,) low-level steps at each evaluation, warm-up included."""
    seconds: Array
    """(E,) wall-clock seconds of the trial at each evaluation."""
    episodes: Array
    scores: dict[str, Array]
    """(E,) by metric: ``episode_return``, and what the environment measures at an episode's end."""
    subtask_rate: dict[str, Array]
    train_steps: Array
    """(T,) low-level steps at each training iteration."""
    kl: Array
    alpha: Array
    prior_alone: tuple[float, float] = (np.nan, np.nan)
    """What its skills achieved before any training: the prior's mean, and skills drawn from it."""
    notes: tuple[str, ...] = ()
    """What of the files was unreadable and left out."""

    def score(self, metric: str) -> Array:
        """(E,) what the run's evaluations say by a metric, nan where they do not know it."""
        return self.scores.get(metric, np.full(len(self.env_steps), np.nan))
