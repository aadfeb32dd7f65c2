"""Meeting a new task with a trained `MetaSPiRL`: first by belief alone, then, if wanted, by gradient steps too."""

from collections.abc import Iterator

import numpy as np
import torch

from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.data import DataSet
from rllib_spirl.envs.rollout import EpisodeResult
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.envs.tasks import Task
from rllib_spirl.meta.adaptation import Acquaintance, episode_seeds
from rllib_spirl.meta.meta_spirl import MetaSPiRL
from rllib_spirl.meta.task_replay import TaskDemonstrations, task_demonstrations
from rllib_spirl.skills.checkpoint import SkillFiles, load_skills


def meet(
    algorithm: MetaSPiRL,
    env: SkillEnv,
    task: Task,
    *,
    episodes: int,
    seed: int = 0,
    exploring_episodes: int = 1,
    fine_tune_after: int | None = None,
    demonstrations: TaskDemonstrations | None = None,
) -> Iterator[EpisodeResult]:
    """The first episodes in a task, one after the other.

    Args:
        algorithm: With local env runner and learner. Fine-tuning changes its networks.
        env: An environment of skills, whose task can be set.
        task: The task.
        episodes: How many.
        seed: Of all random numbers.
        exploring_episodes: Those with e ~ N(0, I), see `Acquaintance`.
        fine_tune_after: After so many episodes e stays as it is, the mean of the belief then. From there on the
            networks make ``fine_tuning_updates_per_step`` gradient steps for each skill of an episode after it; skills
            are drawn in every second episode, and the deterministic policy's in the others. None: never.
        demonstrations: With the task's rewards, see `relabelled`: a share of the transitions in these gradient steps.
    """
    torch.manual_seed(seed)
    config, shape = algorithm.config, algorithm.replay
    acquaintance = Acquaintance(env, algorithm.env_runner.module, task, exploring_episodes, config.context_size)
    seeds = episode_seeds(seed, task)
    for _ in range(episodes if fine_tune_after is None else min(episodes, fine_tune_after)):
        yield acquaintance.run(next(seeds))
    if fine_tune_after is None or fine_tune_after >= episodes:
        return
    e = acquaintance.most_likely()
    replay = SkillReplay(config.replay_capacity, shape.state_dim, shape.latent_dim, seed)
    offline = None if demonstrations is None else demonstrations.of_task(0)
    learned_from = 0
    for number in range(fine_tune_after + 1, episodes + 1):
        for transitions in acquaintance.episodes[learned_from:]:
            replay.add(transitions)
            updates = round(config.fine_tuning_updates_per_step * len(transitions["rewards"]))
            algorithm.fine_tune(replay, offline, torch.from_numpy(e), updates)
        learned_from = len(acquaintance.episodes)
        chosen = next(seeds)
        yield acquaintance.run_with(e, chosen, np.random.default_rng(chosen) if number % 2 else None)


def relabelled(algorithm: MetaSPiRL, env: SkillEnv, task: Task) -> TaskDemonstrations | None:
    """The demonstrations that the algorithm learned from, with the rewards of another task; None if it had none.

    Raises:
        UserError: If they are not where they were.
    """
    config = algorithm.config
    if not config.offline_data or config.offline_fraction == 0:
        return None
    assert isinstance(config.skill_checkpoint, SkillFiles)
    model, _ = load_skills(config.skill_checkpoint)
    data = DataSet.open(config.offline_data)
    return task_demonstrations(data, model, env.env, [task], config._transitions_kept, skill_bound=config.skill_bound)
