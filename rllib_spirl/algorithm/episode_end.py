"""What an environment says of an episode's end, among the results of every algorithm."""

from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger


def log_end(metrics: MetricsLogger, info: dict[str, Any]) -> None:
    """Log an episode's last info: its completed subtasks (how many and which) and its measures, where it has them.

    A result holds their means over the episodes that ended since the result before it.
    """
    if "subtasks" in info:
        done = {name: float(completed) for name, completed in info["subtasks"].items()}
        metrics.log_value("completed_subtasks", sum(done.values()), reduce="mean")
        metrics.log_value("all_completed", float(all(done.values())), reduce="mean")
        metrics.log_dict(done, key="subtask_rate", reduce="mean")
    for name, value in info.get("measures", {}).items():
        metrics.log_value(name, value, reduce="mean")


class EpisodeEnd(RLlibCallback):
    """For RLlib's own algorithms, so that their curves can be compared with SPiRL's.

    The values are among the env runners' results: ``env_runners/completed_subtasks``, and in evaluations
    ``evaluation/env_runners/completed_subtasks``.
    """

    def on_episode_end(self, *, episode: SingleAgentEpisode, metrics_logger: MetricsLogger, **_: Any) -> None:
        """Log what its last info says."""
        log_end(metrics_logger, episode.get_infos(-1))
