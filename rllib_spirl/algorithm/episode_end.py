"""What an environment says of an episode's end, among the results of every algorithm."""

from collections.abc import Mapping
from typing import Any

from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_spirl.envs.rollout import checked_measures, measures_in, subtasks_in

COMPLETED_SUBTASKS, ALL_COMPLETED, SUBTASK_RATE = "completed_subtasks", "all_completed", "subtask_rate"


def log_end(metrics: MetricsLogger, info: Mapping[str, Any]) -> None:
    """Log an episode's last info: its completed subtasks (how many and which) and its measures, where it has them.

    They are at the top of a result, which holds their means over the episodes that ended since the result before it; of
    several env runners, the mean of theirs.

    Raises:
        UserError: On a measure with the name of another result.
    """
    _log(metrics, info, checked_measures(info))


def _log(metrics: MetricsLogger, info: Mapping[str, Any], measures: Mapping[str, float]) -> None:
    if done := subtasks_in(info):
        metrics.log_value(COMPLETED_SUBTASKS, sum(done.values()), reduce="mean")
        metrics.log_value(ALL_COMPLETED, float(all(done.values())), reduce="mean")
        metrics.log_dict(done, key=SUBTASK_RATE, reduce="mean")
    for name, value in measures.items():
        metrics.log_value(name, value, reduce="mean")


class EpisodeEnd(RLlibCallback):
    """For RLlib's own algorithms, so that their curves can be compared with SPiRL's. Not for several agents.

    The values are among the env runners' results: ``env_runners/completed_subtasks``, and in evaluations
    ``evaluation/env_runners/completed_subtasks``.
    """

    def on_episode_end(self, *, episode: Any, metrics_logger: MetricsLogger, **_: Any) -> None:
        """Log what its last info says."""
        if isinstance(episode, SingleAgentEpisode):
            info = episode.get_infos(-1)
            _log(metrics_logger, info, measures_in(info))
