"""The env runner of many tasks: whole episodes, each in a task and with a belief about it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_spirl.algorithm.remote import Failure
from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.algorithm.skill_env_runner import SkillEnvRunner, Weights
from rllib_spirl.envs.rollout import EpisodeResult, skill_random
from rllib_spirl.envs.tasks import Task, settable
from rllib_spirl.meta.adaptation import Acquaintance
from rllib_spirl.meta.beliefs import draw
from rllib_spirl.meta.task_rl_module import TaskRLModule

TASK, EXPLORED = "task", "explored"
"""In an episode's custom data: the task's index, and whether e was drawn from the prior."""


@dataclass(frozen=True)
class Rollout:
    """An episode to be run. Its random numbers are its own, so that it does not matter who runs it."""

    index: int
    """The task's, among the training tasks."""
    task: Task
    seed: int
    context: Batch | None = None
    """Transitions from which e is told; None for e drawn from the prior."""


class TaskEnvRunner(SkillEnvRunner):
    """Runs the episodes that it is given, see `Rollout`."""

    _rollout: Rollout
    _e: NDArray[np.float32]

    def run(self, rollouts: Sequence[Rollout]) -> list[SingleAgentEpisode]:
        """Their episodes, in their order, with skills drawn from the policy."""
        episodes = []
        for rollout in rollouts:
            self._rollout, self._rng = rollout, skill_random(rollout.seed)
            assert isinstance(self.module, TaskRLModule)
            self._e = draw(self.module, rollout.context, self._rng)
            (episode,) = self.sample(num_episodes=1, explore=True)
            episode.custom_data.update({TASK: rollout.index, EXPLORED: rollout.context is None})
            episodes.append(episode)
        return episodes

    def run_with(
        self, rollouts: Sequence[Rollout], weights: Weights | None
    ) -> tuple[list[SingleAgentEpisode], Any] | Failure:
        """`take` the policy's weights, then `run`; its episodes and the metrics of them, in one call from afar."""
        return self._with(weights, lambda: self.run(rollouts))

    def meet(self, task: Task, episodes: int, seeds: Iterator[int]) -> Iterator[EpisodeResult]:
        """The first episodes in a task, see `Acquaintance`."""
        config = self.config
        met = Acquaintance(self._evaluation_env, self.module, task, config.exploring_episodes, config.context_size)
        for _, seed in zip(range(episodes), seeds, strict=False):
            yield met.run(seed)

    def _begin_episode(self, seed: int | None = None) -> None:
        settable(self._skill_env).set_task(self._rollout.task)
        super()._begin_episode(self._rollout.seed)

    def _act(self, state: NDArray[np.floating], explore: bool) -> NDArray[np.float32]:
        return super()._act(np.concatenate([state, self._e]), explore)
