"""Evaluation during training of what has learned from many tasks: the first episodes in each test task."""

from collections.abc import Sequence
from typing import Any

from rllib_spirl.algorithm.spirl import dealt_out, evaluated
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
    results = dealt_out(algorithm, env_runners, tasks, lambda share: _MeetTasks(config, share))
    by_episode = list(zip(*results, strict=True))
    alike = getattr(config, "adaptation_episodes", 1)
    last = by_episode[(len(by_episode) - 1) // alike * alike :]
    summary = summarize([result for episodes in last for result in episodes])
    summary |= {f"episode_{i}": summarize(episodes) for i, episodes in enumerate(by_episode, 1)}
    return evaluated(algorithm, summary, [result for episodes in results for result in episodes])


class _MeetTasks:
    """A picklable call: an env runner's first episodes in each of some tasks."""

    def __init__(self, config: Any, tasks: Sequence[Task]) -> None:
        self._tasks, self._episodes, self._seed = list(tasks), int(config.evaluation_duration), config.eval_seed

    def __call__(self, env_runner: Any) -> list[list[EpisodeResult]]:
        """What ``env_runner.meet`` comes to, see `rllib_spirl.meta.task_env_runner.TaskEnvRunner`."""
        return [list(env_runner.meet(task, self._episodes, episode_seeds(self._seed, task))) for task in self._tasks]
