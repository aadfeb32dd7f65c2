"""Meeting a new task with a trained `MetaSPiRL`: first by belief alone, then, if wanted, by what was found there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from rllib_spirl.algorithm.checked_config import is_finite
from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.data import DataSet
from rllib_spirl.envs.rollout import EpisodeResult, skill_random
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.envs.tasks import Task
from rllib_spirl.errors import UserError
from rllib_spirl.meta.adaptation import Acquaintance, episode_seeds
from rllib_spirl.meta.beliefs import most_likely
from rllib_spirl.meta.episodic_control import EpisodicControl
from rllib_spirl.meta.meta_spirl import MetaSPiRL
from rllib_spirl.meta.task_replay import TaskSamples, task_demonstrations
from rllib_spirl.skills.checkpoint import SkillFiles, load_skills

# Contexts of demonstrations whose beliefs are averaged to tell e.
TOLD_BY = 8


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

    def check(self, episodes: int) -> None:
        """Raise a UserError unless there are more than ``after`` of so many episodes."""
        check_after("--fine-tune-after", self.after, episodes)

    def explores(self, episode: int) -> bool:
        """Whether skills are drawn in the episode of this number, the first being 1."""
        return self.explore_every > 0 and episode % self.explore_every == 1 % self.explore_every


def check_after(option: str, after: int, episodes: int) -> None:
    """Raise a UserError unless there are more than ``after`` of so many episodes, as an option asks for."""
    if after >= episodes:
        raise UserError(f"{option} {after}: there are {episodes} episodes in all; ask for more --episodes.")


def meet(
    algorithm: MetaSPiRL,
    env: SkillEnv,
    task: Task,
    *,
    episodes: int,
    seed: int = 0,
    exploring_episodes: int | None = None,
    told_by_demonstrations: bool = False,
    fine_tuning: FineTuning | None = None,
    follow_after: int | None = None,
) -> Iterator[EpisodeResult]:
    """The first episodes in a task, one after the other.

    Args:
        algorithm: With local env runner and learner. Fine-tuning changes its networks.
        env: An environment of skills, whose task can be set.
        task: The task.
        episodes: How many.
        seed: Of all random numbers.
        exploring_episodes: Those with e ~ N(0, I), see `Acquaintance`; None for as many as the algorithm's evaluations.
        told_by_demonstrations: Whether e is told from the demonstrations that the algorithm learned from, with the
            rewards of this task, so that no episode explores: who knows these rewards need not find them out.
        fine_tuning: None for none.
        follow_after: After so many episodes the ones that earned most are followed, see `EpisodicControl`; None for
            never. It goes without ``fine_tuning``.

    Raises:
        UserError: If fine-tuning or following would begin after the last episode, or demonstrations are not where they
            were, or there are none to tell e from.
    """
    if fine_tuning is not None:
        fine_tuning.check(episodes)
    if follow_after is not None:
        check_after("--follow-after", follow_after, episodes)
    torch.manual_seed(seed)
    config, module = algorithm.config, algorithm.env_runner.module
    exploring = config.exploring_episodes if exploring_episodes is None else exploring_episodes
    acquaintance = Acquaintance(env, module, task, exploring, config.context_size)
    seeds = episode_seeds(seed, task)
    learns_from_them = fine_tuning is not None and fine_tuning.from_demonstrations
    offline = _relabelled(algorithm, env, task, seed) if told_by_demonstrations or learns_from_them else None
    if told_by_demonstrations:
        if offline is None:
            raise UserError("--told-by-demonstrations: the checkpoint has not learned from any; leave it out.")
        contexts = (offline.sample_run(config.context_size, config.context_size) for _ in range(TOLD_BY))
        acquaintance.known = np.mean([most_likely(module, context) for context in contexts], 0)
    if fine_tuning is None:
        for _ in range(episodes if follow_after is None else follow_after):
            yield acquaintance.run(next(seeds))
        if follow_after is not None:
            control = EpisodicControl(acquaintance, config.gamma)
            for _ in range(follow_after, episodes):
                yield control.run(next(seeds))
        return
    for _ in range(fine_tuning.after):
        yield acquaintance.run(next(seeds))
    e = acquaintance.most_likely()
    replay = SkillReplay(config.replay_capacity, algorithm.replay.state_dim, algorithm.replay.latent_dim, seed)
    demonstrations = offline if learns_from_them else None
    learned_from = 0
    for number in range(fine_tuning.after + 1, episodes + 1):
        updates = 0 if learned_from else fine_tuning.first_updates
        for transitions in acquaintance.episodes[learned_from:]:
            replay.add(transitions)
            updates += round(fine_tuning.updates_per_step * len(transitions["rewards"]))
        algorithm.fine_tune(replay, demonstrations, torch.from_numpy(e), updates=updates, rows=fine_tuning.batch_size)
        learned_from = len(acquaintance.episodes)
        chosen = next(seeds)
        yield acquaintance.run_with(e, chosen, skill_random(chosen), explore=fine_tuning.explores(number))


def _relabelled(algorithm: MetaSPiRL, env: SkillEnv, task: Task, seed: int) -> TaskSamples | None:
    """The demonstrations that the algorithm learned from, with the rewards of another task; None if it had none."""
    config = algorithm.config
    if not algorithm.uses_demonstrations:
        return None
    assert config.offline_data is not None
    assert isinstance(config.skill_checkpoint, SkillFiles)
    model, _ = load_skills(config.skill_checkpoint)
    data = DataSet.open(config.offline_data)
    kept = config._transitions_kept
    return task_demonstrations(data, model, env.env, [task], kept, seed, config.skill_bound).of_task(0)
