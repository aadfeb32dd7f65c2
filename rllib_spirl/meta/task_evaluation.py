"""Evaluation of `MetaSPiRL` during training: the first episodes in each test task."""

from collections.abc import Iterator, Sequence
from typing import Any

from rllib_spirl.algorithm.spirl import dealt_out, evaluated
from rllib_spirl.envs.rollout import EpisodeResult, summarize
from rllib_spirl.envs.tasks import Task
from rllib_spirl.meta.adaptation import Acquaintance, episode_seeds
from rllib_spirl.meta.task_env_runner import TaskEnvRunner


def evaluate_on_test_tasks(algorithm: Any, env_runners: Any) -> tuple[dict[str, Any], int, int]:
    """RLlib's `custom_evaluation_function`: the first `evaluation_duration` episodes in each test task.

    The numbers are means over the tasks, of the last of these episodes; those of the earlier ones are beside them, by
    the number of the episode.
    """
    config = algorithm.config
    tasks = list(config.test_tasks or config.training_tasks)
    results = dealt_out(algorithm, env_runners, tasks, lambda share: _MeetTasks(config, share))
    by_episode = [summarize(list(episodes)) for episodes in zip(*results, strict=True)]
    summary = by_episode[-1] | {f"episode_{i}": each for i, each in enumerate(by_episode, 1)}
    return evaluated(algorithm, summary, [result for episodes in results for result in episodes])


class _MeetTasks:
    """A picklable call: an env runner's first episodes in each of some tasks."""

    def __init__(self, config: Any, tasks: Sequence[Task]) -> None:
        self._all = list(config.test_tasks or config.training_tasks)
        self._tasks, self._episodes = list(tasks), int(config.evaluation_duration)
        self._seed, self._exploring = config.eval_seed, config.exploring_episodes

    def __call__(self, env_runner: TaskEnvRunner) -> list[list[EpisodeResult]]:
        return [list(self._meet(env_runner, task)) for task in self._tasks]

    def _meet(self, env_runner: TaskEnvRunner, task: Task) -> Iterator[EpisodeResult]:
        met = Acquaintance(env_runner._evaluation_env, env_runner.module, task, self._exploring)
        for _, seed in zip(range(self._episodes), episode_seeds(self._seed, task, self._all), strict=False):
            yield met.run(seed)
