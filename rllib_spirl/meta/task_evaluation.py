"""Evaluation during training of what has learned from many tasks: the first episodes in each test task."""

from collections.abc import Sequence
from typing import Any

from rllib_spirl.algorithm.evaluation import dealt_out, evaluated
from rllib_spirl.envs.rollout import EpisodeResult, summarize
from rllib_spirl.envs.tasks import Task
from rllib_spirl.meta.adaptation import episode_seeds


def evaluate_on_test_tasks(algorithm: Any, env_runners: Any) -> tuple[dict[str, Any], int, int]:
    """RLlib's `custom_evaluation_function`: the first `evaluation_duration` episodes in each test task.

    The numbers are means over the tasks, of the last of these episodes; those of the earlier ones are beside them, by
    the number of the episode. Where the policy stays the same for several episodes (`adaptation_episodes`), the numbers
    are of all the last ones that were with the same policy.
    """
    config = algorithm.config
    tasks = list(config.test_tasks or config.training_tasks)
    duration, seed = int(config.evaluation_duration), config.eval_seed

    def meet(env_runner: Any, share: Sequence[Task]) -> list[list[EpisodeResult]]:
        return [list(env_runner.meet(task, duration, episode_seeds(seed, task))) for task in share]

    results = dealt_out(algorithm, env_runners, tasks, meet)
    by_episode = list(zip(*results, strict=True))
    alike = getattr(config, "adaptation_episodes", 1)
    last = by_episode[(len(by_episode) - 1) // alike * alike :]
    summary = summarize([result for episodes in last for result in episodes])
    summary |= {f"episode_{i}": summarize(episodes) for i, episodes in enumerate(by_episode, 1)}
    return evaluated(algorithm, summary, [result for episodes in results for result in episodes])
