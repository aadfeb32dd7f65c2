"""A task never seen: the belief about it is drawn anew after each episode; then, if wanted, networks learn on."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from rllib_spirl.algorithm.acting import ActingPolicy
from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.envs.rollout import EpisodeResult
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.envs.tasks import Task, canonical
from rllib_spirl.meta.beliefs import draw, run_with, together
from rllib_spirl.meta.task_rl_module import TaskRLModule


@dataclass
class Acquaintance:
    """What is known of a task from the episodes in it so far, and how the next ones go.

    The first ``exploring_episodes`` are with e ~ N(0, I) and drawn skills; later ones with e ~ q(e | all transitions so
    far), and the deterministic policy's skills.
    """

    env: SkillEnv
    module: TaskRLModule
    task: Task
    exploring_episodes: int = 1
    transitions: list[Batch] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._policy = ActingPolicy(self.module)

    @property
    def context(self) -> Batch | None:
        return together(self.transitions)

    def run(self, seed: int) -> EpisodeResult:
        """The next episode."""
        exploring = len(self.transitions) < self.exploring_episodes
        e = draw(self.module, None if exploring else self.context, np.random.default_rng(seed))
        return self.run_with(e, seed, explore=exploring)

    def run_with(self, e: Any, seed: int, *, explore: bool) -> EpisodeResult:
        """The next episode, with a given e."""
        canonical(self.env, self.task)
        result, transitions = run_with(self.env, self._policy, e, seed, explore=explore)
        self.transitions.append(transitions)
        return result


def episode_seeds(seed: int, task: Task, tasks: Sequence[Task]) -> Iterator[int]:
    """Seeds of a task's episodes, one after the other; other ones for each task and each seed."""
    rng = np.random.default_rng([seed, list(tasks).index(task)])
    while True:
        yield int(rng.integers(2**31))


def score(result: EpisodeResult) -> float:
    """What an episode counts: completed subtasks where there are such, else its return."""
    return float(sum(result.subtasks.values())) if result.subtasks else result.episode_return


def fixed(e: torch.Tensor, updates: int) -> dict[str, torch.Tensor]:
    """What a batch of the learner has in place of contexts: one task with the embedding e (E,) in each minibatch."""
    return {"e": e.expand(updates, 1, -1), "kind": torch.ones(updates, 1, dtype=torch.long)}
