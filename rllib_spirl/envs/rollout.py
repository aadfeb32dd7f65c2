"""Seeded evaluation episodes and what is counted in them."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from pydantic import BaseModel
from ray.tune.result import AUTO_RESULT_KEYS, DONE, EXPERIMENT_TAG, SHOULD_CHECKPOINT, TRIAL_ID

from rllib_spirl.errors import UserError

# Of numbers and groups at the top of a result, ours, RLlib's and Tune's, and among those of an evaluation.
_TAKEN = frozenset(
    (
        *("env_steps", "updates", "episodes", "episode_return", "low_level_steps"),
        *("completed_subtasks", "all_completed", "subtask_rate", "seed"),
        *("evaluation", "env_runners", "learners", "timers", "fault_tolerance", "env_runner_group", "config", "perf"),
        *("num_env_steps_sampled_lifetime", "num_training_step_calls_per_iteration"),
        *AUTO_RESULT_KEYS,
        *(DONE, SHOULD_CHECKPOINT, TRIAL_ID, EXPERIMENT_TAG),
    )
)


class EpisodeResult(BaseModel):
    """What one evaluation episode came to."""

    seed: int
    episode_return: float
    low_level_steps: int
    subtasks: dict[str, bool] = {}
    """Which of the target's subtasks were completed, where the environment reports them."""
    measures: dict[str, float] = {}
    """What else the environment says of the episode's end, in ``info["measures"]``."""

    @classmethod
    def of(cls, seed: int, total: float, steps: int, info: Mapping[str, Any]) -> "EpisodeResult":
        """What an episode came to by its return, its low-level steps and its last info."""
        return cls(
            seed=seed,
            episode_return=total,
            low_level_steps=steps,
            subtasks=subtasks_in(info),
            measures=checked_measures(info),
        )


def run_episode(env: gym.Env, policy: Callable[[Any], Any], seed: int) -> EpisodeResult:
    """Run ``policy`` (observation to action) from ``env.reset(seed=seed)`` to the end of the episode."""
    observation, info = env.reset(seed=seed)
    total, steps, done = 0.0, 0, False
    while not done:
        observation, reward, terminated, truncated, info = env.step(policy(observation))
        total += float(reward)
        steps += info.get("low_level_steps", 1)
        done = terminated or truncated
    return EpisodeResult.of(seed, total, steps, info)


def skill_random(seed: int | None) -> np.random.Generator:
    """Of the skills that are drawn where an environment is reset with ``seed``: it draws from the seed itself, so that
    they would go with where its episode begins."""
    return np.random.default_rng(None if seed is None else [2, seed])


def subtasks_in(info: Mapping[str, Any]) -> dict[str, bool]:
    """Which of the target's subtasks are completed, by ``info["subtasks"]``.

    Here and in `measures_in`: what is something else is passed over, for environments that were not written for this
    package may mean something else by these names.
    """
    return {name: bool(value) for name, value in _numbers(info.get("subtasks")).items() if value in (0, 1)}


def measures_in(info: Mapping[str, Any]) -> dict[str, float]:
    """What else an environment says of an episode's end, by ``info["measures"]``."""
    return _numbers(info.get("measures"))


def checked_measures(info: Mapping[str, Any]) -> dict[str, float]:
    """The same, to stand beside other results.

    Raises:
        UserError: On a name that these have for something else.
    """
    measures = measures_in(info)
    for name in measures:
        if name in _TAKEN:
            raise UserError(f"info['measures']: '{name}' is the name of something else in results; choose another.")
    return measures


def _numbers(values: Any) -> dict[str, float]:
    if not isinstance(values, Mapping):
        return {}
    numbers = (bool, int, float, np.number, np.bool_)
    return {str(name): float(value) for name, value in values.items() if isinstance(value, numbers)}


def summarize(episodes: Sequence[EpisodeResult]) -> dict[str, Any]:
    """Means over episodes: return, length and, where they are known, subtasks (how many and which) and measures."""
    summary: dict[str, Any] = {
        "episodes": len(episodes),
        "episode_return": float(np.mean([e.episode_return for e in episodes])),
        "low_level_steps": float(np.mean([e.low_level_steps for e in episodes])),
    }
    if episodes[0].subtasks:
        summary["completed_subtasks"] = float(np.mean([sum(e.subtasks.values()) for e in episodes]))
        summary["all_completed"] = float(np.mean([all(e.subtasks.values()) for e in episodes]))
        names = dict.fromkeys(name for e in episodes for name in e.subtasks)  # episodes may be of several tasks
        summary["subtask_rate"] = {
            name: float(np.mean([e.subtasks[name] for e in episodes if name in e.subtasks])) for name in names
        }
    for name in dict.fromkeys(name for e in episodes for name in e.measures):
        summary[name] = float(np.mean([e.measures[name] for e in episodes if name in e.measures]))
    return summary
