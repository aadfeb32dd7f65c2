"""HalfCheetah with a velocity to be kept."""

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rllib_spirl.envs.half_cheetah_tasks import HalfCheetahVelocityEnv
from rllib_spirl.envs.tasks import check_split, settable
from rllib_spirl.errors import UserError

NAME = "rllib_spirl/HalfCheetahVelocity-v0"


def test_the_reward_is_that_of_the_wanted_velocity_and_the_rest_is_gymnasiums() -> None:
    env, plain = HalfCheetahVelocityEnv(task=2), gym.make("HalfCheetah-v5").unwrapped
    observation, _ = env.reset(seed=3)
    same, _ = plain.reset(seed=3)
    np.testing.assert_array_equal(observation, same)
    velocities = []
    for action in np.random.default_rng(0).uniform(-1, 1, (5, 6)):
        observation, reward, terminated, truncated, info = env.step(action)
        same, _, _, _, wanted = plain.step(action)
        np.testing.assert_array_equal(observation, same)
        velocities.append(wanted["x_velocity"])
        assert reward == pytest.approx(-abs(velocities[-1] - 2) - 0.05 * np.square(action).sum())
        assert info["measures"]["velocity"] == pytest.approx(np.mean(velocities))
        assert not terminated
        assert not truncated


def test_a_task_holds_from_the_next_reset_on() -> None:
    env = HalfCheetahVelocityEnv(task=0, max_episode_steps=2)
    env.reset(seed=0)
    env.set_task(3)
    first = env.step(np.zeros(6))
    assert first[1] == pytest.approx(-abs(first[4]["x_velocity"]))
    assert env.step(np.zeros(6))[3]
    env.reset(seed=0)
    first = env.step(np.zeros(6))
    assert first[1] == pytest.approx(-abs(first[4]["x_velocity"] - 3))
    tasks = env.sample_tasks(20)
    assert all(0 <= task <= 3 for task in tasks)
    assert len(set(tasks)) > 10
    assert copy.deepcopy(env).max_episode_steps == 2


def test_it_is_a_family_of_gymnasiums() -> None:
    env = gym.make(NAME)
    assert settable(env).get_task() == 1.5
    assert env.reset()[1]["measures"] == {"velocity": 0.0}, "so that metrics can be named by it"
    check_split(env, [0, 1.5], [3])
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": 4}, "a task is a velocity from 0 to 3, not 4"),
        ({"task": True}, "a task is a velocity from 0 to 3, not True"),
        ({"max_episode_steps": 0}, "max_episode_steps must be at least 1"),
        ({"max_episode_steps": 2.5}, "max_episode_steps must be a whole number, not 2.5"),
    ],
)
def test_bad_arguments_are_one_line(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HalfCheetahVelocityEnv(**arguments)
