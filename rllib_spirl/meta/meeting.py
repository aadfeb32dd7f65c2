"""Meeting a new task with a trained `MetaSPiRL`: by belief alone at first, then, if wanted, in one of two other ways.

These are gradient steps (`FineTuning`) and following the best episodes so far (`EpisodicControl`).
"""

from collections.abc import Iterator

import numpy as np
import torch

from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.data import DataSet
from rllib_spirl.envs.rollout import EpisodeResult, skill_random
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.envs.tasks import Task
from rllib_spirl.errors import UserError
from rllib_spirl.meta.adaptation import Acquaintance, episode_seeds
from rllib_spirl.meta.beliefs import most_likely
from rllib_spirl.meta.episodic_control import EpisodicControl, check_rewards
from rllib_spirl.meta.fine_tuning import FineTuning
from rllib_spirl.meta.meta_spirl import MetaSPiRL, MetaSPiRLConfig
from rllib_spirl.meta.task_replay import TaskSamples, task_demonstrations
from rllib_spirl.skills.checkpoint import SkillFiles, load_skills

# Contexts of demonstrations whose beliefs are averaged to tell e.
TOLD_BY = 8


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
        follow_after: After so many episodes the best ones are followed, see `EpisodicControl`; None for never. It
            cannot be combined with ``fine_tuning``.

    Raises:
        UserError: As `check_ways` and `check_possible`; where episodes are to be followed and a reward is negative; or
            if demonstrations are not where they were.
    """
    check_ways(fine_tuning, follow_after, episodes)
    config, module = algorithm.config, algorithm.env_runner.module
    check_possible(config, exploring_episodes, told_by_demonstrations, follow_after)
    torch.manual_seed(seed)
    exploring = config.exploring_episodes if exploring_episodes is None else exploring_episodes
    acquaintance = Acquaintance(env, module, task, exploring, config.context_size)
    seeds = episode_seeds(seed, task)
    learns_from_them = fine_tuning is not None and fine_tuning.from_demonstrations
    offline = _relabelled(algorithm, env, task, seed) if told_by_demonstrations or learns_from_them else None
    if told_by_demonstrations:
        assert offline is not None
        contexts = (offline.sample_run(config.context_size, config.context_size) for _ in range(TOLD_BY))
        acquaintance.known = np.mean([most_likely(module, context) for context in contexts], 0)
    first = fine_tuning.after if fine_tuning is not None else follow_after or episodes
    for _ in range(first):
        result = acquaintance.run(next(seeds))
        if follow_after is not None:
            check_rewards(task, acquaintance.episodes[-1])
        yield result
    if follow_after is not None:
        control = EpisodicControl(acquaintance, config.gamma)
        for number in range(first + 1, episodes + 1):
            yield control.run(next(seeds), last=number == episodes)
    if fine_tuning is None:
        return
    e = acquaintance.most_likely()
    replay = SkillReplay(config.replay_capacity, algorithm.replay.state_dim, algorithm.replay.latent_dim, seed)
    demonstrations = offline if learns_from_them else None
    learned_from = 0
    for number in range(first + 1, episodes + 1):
        updates = 0 if learned_from else fine_tuning.first_updates
        for transitions in acquaintance.episodes[learned_from:]:
            replay.add(transitions)
            updates += round(fine_tuning.updates_per_step * len(transitions["rewards"]))
        algorithm.fine_tune(replay, demonstrations, torch.from_numpy(e), updates=updates, rows=fine_tuning.batch_size)
        learned_from = len(acquaintance.episodes)
        chosen = next(seeds)
        yield acquaintance.run_with(e, chosen, skill_random(chosen), explore=fine_tuning.explores(number))


def check_ways(fine_tuning: FineTuning | None, follow_after: int | None, episodes: int) -> None:
    """Raise a UserError unless one way at most is to be gone after the first of so many episodes, and soon enough."""
    if fine_tuning is not None and follow_after is not None:
        raise UserError("--follow-after: there are no gradient steps where episodes are followed; leave one way out.")
    if follow_after is not None and follow_after < 1:
        raise UserError(f"--follow-after {follow_after}: must be at least 1.")
    ways = {"--fine-tune-after": None if fine_tuning is None else fine_tuning.after, "--follow-after": follow_after}
    for option, after in ways.items():
        if after is not None and after >= episodes:
            raise UserError(f"{option} {after}: there are {episodes} episodes in all; ask for more --episodes.")


def check_possible(
    config: MetaSPiRLConfig, exploring_episodes: int | None, told_by_demonstrations: bool, follow_after: int | None
) -> None:
    """Raise a UserError unless an algorithm of this configuration can do what is asked for, see `meet`."""
    exploring = config.exploring_episodes if exploring_episodes is None else exploring_episodes
    if follow_after is not None and follow_after <= exploring and not told_by_demonstrations:
        raise UserError(
            f"--follow-after {follow_after}: the first {exploring} episodes explore, and one more at least shows what "
            "the policy does; follow after more episodes, or choose fewer with --exploring."
        )
    if told_by_demonstrations and not config.uses_demonstrations:
        raise UserError("--told-by-demonstrations: the checkpoint has not learned from any; leave it out.")
    if told_by_demonstrations and not config.context_dim:
        raise UserError(
            "--told-by-demonstrations: the checkpoint's `context_dim` is 0, so nothing is told; leave it out."
        )


def _relabelled(algorithm: MetaSPiRL, env: SkillEnv, task: Task, seed: int) -> TaskSamples | None:
    """The demonstrations that the algorithm learned from, with the rewards of another task; None if it had none."""
    config = algorithm.config
    if not config.uses_demonstrations:
        return None
    assert config.offline_data is not None
    assert isinstance(config.skill_checkpoint, SkillFiles)
    model, _ = load_skills(config.skill_checkpoint)
    data = DataSet.open(config.offline_data)
    kept = config.transitions_kept
    return task_demonstrations(data, model, env.env, [task], kept, seed, config.skill_bound).of_task(0)
