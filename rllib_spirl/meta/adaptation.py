"""A task never seen: the belief about it is drawn anew after each episode."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from zlib import crc32

import numpy as np

from rllib_spirl.algorithm.acting import ActingPolicy
from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.envs.rollout import EpisodeResult, skill_random
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.envs.tasks import Task, canonical, task_name
from rllib_spirl.meta.beliefs import Act, Array, by_belief, draw, most_likely, recorded, together
from rllib_spirl.meta.task_rl_module import TaskRLModule


@dataclass
class Acquaintance:
    """What is known of a task from the episodes in it so far, and how the next ones go.

    The first ``exploring_episodes`` are with e ~ N(0, I) and drawn skills; later ones with e ~ q(e | context), and of
    skills near the policy's mean, drawn anew in each state, those that are valued most. The context is what the
    exploring episodes found, the kind that the encoder has learned from, and then the newest others; in all
    ``context_size`` transitions at most, which is as many as it has learned from. Where the exploring episodes have
    more than that, transitions evenly spaced among theirs stand for them.
    """

    env: SkillEnv
    module: TaskRLModule
    task: Task
    exploring_episodes: int
    context_size: int
    known: Array | None = None
    """e (E,), where it is known from elsewhere: no episode explores then."""
    episodes: list[Batch] = field(default_factory=list)
    """The transitions of each episode so far."""

    def __post_init__(self) -> None:
        self.policy = ActingPolicy(self.module)
        """For states with e at their end."""

    def explores(self, number: int) -> bool:
        """Whether the episode of this number, the first being 0, is one of the exploring ones."""
        return self.known is None and number < self.exploring_episodes

    def embedding(self, rng: np.random.Generator) -> Array:
        """e of the next episode, (E,)."""
        if self.known is not None:
            return self.known
        return draw(self.module, None if self.explores(len(self.episodes)) else self._context(), rng)

    def run(self, seed: int) -> EpisodeResult:
        """The next episode."""
        rng = skill_random(seed)
        e = self.embedding(rng)
        return self.run_with(e, seed, rng, explore=self.explores(len(self.episodes)))

    def run_with(self, e: Array, seed: int, rng: np.random.Generator, *, explore: bool) -> EpisodeResult:
        """The next episode, with a given e; ``rng`` and ``explore`` as in `by_belief`."""
        result, _ = self.run_by(by_belief(self.policy, e, rng, explore=explore), seed, tells=True)
        return result

    def run_by(self, act: Act, seed: int, *, tells: bool) -> tuple[EpisodeResult, Batch]:
        """An episode in which skills are chosen by ``act``; it tells the task from then on only if ``tells``."""
        canonical(self.env, self.task)
        result, transitions = recorded(self.env, act, seed)
        if tells:
            self.episodes.append(transitions)
        return result, transitions

    def _context(self) -> Batch | None:
        found = together(self.episodes)
        if found is None:
            return None
        total = len(found["rewards"])
        exploring = sum(len(each["rewards"]) for each in self.episodes[: self.exploring_episodes])
        share = min(exploring, self.context_size)
        evenly = np.linspace(0, exploring - 1, share).round().astype(int)
        newest = range(max(exploring, total - (self.context_size - share)), total)
        kept = [*evenly.tolist(), *newest]
        return {name: column[kept] for name, column in found.items()}

    def most_likely(self) -> Array:
        """The mean of q(e | context), (E,), unless e is known."""
        if self.known is not None:
            return self.known
        context = self._context()
        return np.zeros(self.module.context_dim, np.float32) if context is None else most_likely(self.module, context)


def episode_seeds(seed: int, task: Task) -> Iterator[int]:
    """Seeds of a task's episodes, one after the other; other ones for each task and each ``seed``."""
    rng = np.random.default_rng([seed, crc32(task_name(task).encode())])
    while True:
        yield int(rng.integers(2**31))


def score(result: EpisodeResult) -> float:
    """What an episode counts: completed subtasks where there are such, else its return."""
    return float(sum(result.subtasks.values())) if result.subtasks else result.episode_return
