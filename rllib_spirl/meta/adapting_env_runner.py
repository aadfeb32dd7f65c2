"""MAML's env runner: it meets tasks, and takes the inner steps on what it has met."""

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass

import torch
from ray.rllib.env.single_agent_env_runner import SingleAgentEnvRunner
from ray.rllib.env.single_agent_episode import SingleAgentEpisode

from rllib_spirl.algorithm.any_state import TakesAnyState
from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.envs.rollout import EpisodeResult
from rllib_spirl.envs.tasks import Task, settable
from rllib_spirl.meta.advantages import transitions
from rllib_spirl.meta.gaussian_policy import AdaptableRLModule
from rllib_spirl.meta.inner_step import Parameters, adapted


@dataclass(frozen=True)
class Meeting:
    """A task to be met. Its random numbers are its own, so that it does not matter who meets it."""

    task: Task
    seeds: Sequence[int]
    """Of the episodes before each inner step, and of those after the last one."""


class AdaptingEnvRunner(TakesAnyState, SingleAgentEnvRunner):
    """RLlib's env runner, whose policy adapts to a task and is what it was before the next one."""

    module: AdaptableRLModule

    def run(self, meetings: Sequence[Meeting]) -> list[list[Batch]]:
        """Of each, the transitions before each inner step and after the last one."""
        found = []
        for meeting in meetings:
            with closing(self._adapting(meeting.task, iter(meeting.seeds))) as steps:
                found.append([batch for _, batch in steps])
        return found

    def meet(self, task: Task, episodes: int, seeds: Iterator[int]) -> Iterator[EpisodeResult]:
        """The first episodes in a task. All actions are drawn, for inner steps go on for as long as episodes do."""
        left = episodes
        with closing(self._adapting(task, seeds)) as steps:
            while left > 0:
                found, _ = next(steps)
                yield from found[:left]
                left -= len(found)
        self.get_metrics()  # these episodes are not those of training

    def _adapting(self, task: Task, seeds: Iterator[int]) -> Generator[tuple[list[EpisodeResult], Batch], None, None]:
        """What episodes in a task came to and their transitions, each time after one more inner step."""
        config, policy = self.config, self.module.policy
        start: Parameters = {name: weight.detach().clone() for name, weight in policy.named_parameters()}
        parameters = start
        try:
            batch: Batch | None = None
            for steps, seed in enumerate(seeds):
                if batch is not None:  # here, as nothing comes of a step after the last episodes
                    # Steps that it was not trained to take are half as long, as in Finn et al.'s own tests.
                    inner_lr = config.inner_lr if steps <= config.inner_steps else config.inner_lr / 2
                    parameters = adapted(policy, parameters, batch, inner_lr=inner_lr)
                    policy.load_state_dict(dict(parameters))
                episodes = self._episodes(task, seed)
                batch = transitions(episodes, gamma=config.gamma, lambda_=config.lambda_)
                results = [
                    EpisodeResult.of(seed, float(each.get_return()), len(each), each.get_infos(-1)) for each in episodes
                ]
                yield results, batch
        finally:
            policy.load_state_dict(dict(start))

    def _episodes(self, task: Task, seed: int) -> list[SingleAgentEpisode]:
        for env in self.env.unwrapped.envs:
            settable(env).set_task(task)
        self._seed, self._needs_initial_reset = seed, True  # RLlib seeds the environments of an initial reset
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.sample(num_episodes=self.config.adaptation_episodes, explore=True)
