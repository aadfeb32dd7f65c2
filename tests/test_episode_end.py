"""What other algorithms log of an episode's end, and what of it is none of ours."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from ray.rllib.utils.metrics.metrics_logger import MetricsLogger

from rllib_spirl.algorithm import results
from rllib_spirl.algorithm.episode_end import EpisodeEnd, log_end
from rllib_spirl.envs import rollout
from rllib_spirl.envs.rollout import run_episode
from rllib_spirl.errors import UserError


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


@pytest.mark.parametrize("name", ["env_steps", "timers", "episode_return", "training_iteration", "done"])
def test_a_measure_cannot_take_the_name_of_another_result(name: str) -> None:
    with pytest.raises(UserError, match=f"'{name}' is the name of something else in results; choose another"):
        logged({"measures": {name: 1.0}})
    with pytest.raises(UserError, match=f"'{name}' is the name of something else"):
        run_episode(_Ended({"measures": {name: 1.0}}), lambda _: 0, seed=0)


def test_rllibs_own_results_have_measures_elsewhere() -> None:
    metrics = MetricsLogger(root=True)
    episode = SingleAgentEpisode()
    episode.add_env_reset(np.zeros(1))
    episode.add_env_step(np.zeros(1), 0, 1.0, {"measures": {"episodes": 3}}, terminated=True)
    EpisodeEnd().on_episode_end(episode=episode, metrics_logger=metrics)
    assert metrics.reduce() == {"episodes": 3}


def test_all_names_of_results_are_taken() -> None:
    counted = {name.rpartition("/")[2] for name in results.EVALUATION}
    assert {*results.NUMBERS, *results.GROUPS, *counted} <= rollout._TAKEN


class _Ended(gym.Env):
    """An episode of one step, with an info of its own."""

    def __init__(self, info: dict[str, Any]) -> None:
        self.info = info

    def reset(self, **_: Any) -> Any:
        return np.zeros(1), {}

    def step(self, action: Any) -> Any:
        return np.zeros(1), 1.0, True, False, self.info


@pytest.mark.parametrize(
    ("info", "subtasks", "measures"),
    [
        ({}, {}, {}),
        ({"subtasks": ["a"], "measures": "far"}, {}, {}),
        (
            {"subtasks": {"a": 0.5, "b": np.True_, 3: 0}, "measures": {"x": None, "y": 2}},
            {"b": True, "3": False},
            {"y": 2},
        ),
    ],
)
def test_evaluations_understand_the_same(info: dict[str, Any], subtasks: Any, measures: Any) -> None:
    result = run_episode(_Ended(info), lambda _: 0, seed=0)
    assert (result.subtasks, result.measures) == (subtasks, measures)
    assert logged(info).get("completed_subtasks") == (sum(subtasks.values()) if subtasks else None)


def test_episodes_of_several_agents_are_left_alone() -> None:
    metrics = MetricsLogger(root=True)
    EpisodeEnd().on_episode_end(episode=object(), metrics_logger=metrics)
    assert metrics.reduce() == {}
