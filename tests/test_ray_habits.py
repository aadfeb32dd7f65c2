"""What users of RLlib do with any of its algorithms works with this one, once the package is imported."""

from typing import Any

import gymnasium as gym
import pytest
from ray import tune
from ray.rllib.algorithms import Algorithm
from ray.tune.registry import get_trainable_cls

import rllib_spirl
from rllib_spirl import SPiRL, SPiRLConfig
from tests.point import PointEnv

pytestmark = pytest.mark.usefixtures("ray_session")


def config(settings: dict[str, Any], env: Any = "point") -> SPiRLConfig:
    return (
        SPiRLConfig()
        .environment(env, env_config={"limit": 40})
        .training(**settings)
        .reporting(min_sample_timesteps_per_iteration=24)
        .debugging(seed=3, log_level="ERROR")
    )


@pytest.mark.slow
def test_tune_knows_the_algorithm_by_name(point_settings: dict[str, Any], tmp_path: Any) -> None:
    assert get_trainable_cls("SPiRL") is rllib_spirl.SPiRL
    space = config(point_settings).training(target_divergence=tune.grid_search([0.5, 2.0]))
    results = tune.Tuner(
        "SPiRL",
        param_space=space,
        run_config=tune.RunConfig(storage_path=str(tmp_path), stop={"training_iteration": 2}, verbose=0),
    ).fit()
    assert len(results) == 2
    assert results.num_errors == 0
    used = [result.metrics["learners"]["default_policy"]["target_divergence"] for result in results]
    assert sorted(used) == [0.5, 2.0]


def test_a_config_is_made_again_from_its_dict(point_settings: dict[str, Any]) -> None:
    made = config(point_settings | {"target_bounds": (0.0, 2.0), "kl_in_target": True, "policy_lr": 1e-4})
    again = SPiRLConfig.from_dict(made.to_dict())
    assert again.to_dict() == made.to_dict()
    assert (again.policy_lr, again.kl_in_target, again.algo_class) == (1e-4, True, SPiRL)
    algorithm = again.build_algo()
    try:
        assert algorithm.train()["env_steps"] > 0
    finally:
        algorithm.stop()


@pytest.mark.parametrize("env", ["point", "tests.point:Point-v0", "tests.point.PointEnv", PointEnv])
def test_an_environment_is_a_class_a_path_or_a_registered_name(
    point_settings: dict[str, Any], env: Any, tmp_path: Any
) -> None:
    algorithm = config(point_settings, env).build_algo()
    try:
        assert isinstance(algorithm.env_runner.env.unwrapped.envs[0].unwrapped, gym.Env)
        first = algorithm.train()
        restored = Algorithm.from_checkpoint(algorithm.save_to_path(tmp_path / "checkpoint"))
        assert restored.train()["env_steps"] > first["env_steps"]
        restored.stop()
    finally:
        algorithm.stop()
