"""What other algorithms log of an episode's end, and what of it is none of ours."""

from typing import Any

import numpy as np
import pytest
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_spirl.algorithm.episode_end import EpisodeEnd, log_end


def logged(*infos: dict[str, Any]) -> dict[str, Any]:
    metrics = MetricsLogger(root=True)
    for info in infos:
        log_end(metrics, info)
    return metrics.reduce()


def test_means_over_the_episodes_since_the_last_result() -> None:
    metrics = MetricsLogger(root=True)
    log_end(metrics, {"subtasks": {"a": True, "b": True}, "measures": {"height": 3}})
    log_end(metrics, {"subtasks": {"a": True, "b": False}, "measures": {"height": np.float32(4)}})
    first = metrics.reduce()
    assert (first["completed_subtasks"], first["all_completed"], first["height"]) == (1.5, 0.5, 3.5)
    assert first["subtask_rate"] == {"a": 1.0, "b": 0.5}
    log_end(metrics, {"measures": {"height": 9}})
    assert metrics.reduce()["height"] == 9


@pytest.mark.parametrize(
    "info",
    [{}, {"subtasks": 3, "measures": None}, {"subtasks": {"a": "done"}, "measures": {"where": "left", "xy": [1, 2]}}],
)
def test_what_environments_mean_otherwise_is_left_alone(info: dict[str, Any]) -> None:
    assert logged(info) == {}


def test_episodes_of_several_agents_are_left_alone() -> None:
    metrics = MetricsLogger(root=True)
    EpisodeEnd().on_episode_end(episode=object(), metrics_logger=metrics)
    assert metrics.reduce() == {}
