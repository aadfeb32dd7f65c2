"""Environments of this package go on exactly where another one was, so that runs can be resumed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rllib_spirl.envs.block_stacking import BlockStackingEnv
from rllib_spirl.envs.half_cheetah_tasks import HalfCheetahVelocityEnv
from rllib_spirl.envs.kitchen import KitchenEnv
from rllib_spirl.envs.maze import MazeEnv
from rllib_spirl.envs.point_tasks import PointTasksEnv
from rllib_spirl.envs.seeing import SeeingEnv


def _state(observation: Any) -> Any:
    return observation["state"] if isinstance(observation, dict) else observation


@pytest.mark.parametrize(
    ("make", "on_demand"),
    [
        (lambda: MazeEnv(size=20, max_episode_steps=25), False),
        (lambda: MazeEnv(size=20, images=True), False),
        (lambda: MazeEnv(size=20, images=True), True),
        (lambda: BlockStackingEnv(blocks=3, max_episode_steps=25), False),
        (lambda: BlockStackingEnv(blocks=3, images=True), True),
        (lambda: HalfCheetahVelocityEnv(task=2.0, max_episode_steps=25), False),
        (lambda: KitchenEnv(max_episode_steps=25), False),
        (lambda: PointTasksEnv(max_episode_steps=25), False),
    ],
)
def test_an_episode_and_those_after_it_go_on_the_same(make: Callable[[], Any], on_demand: bool) -> None:
    env, other = make(), make()
    env.reset(seed=3)
    other.reset(seed=4)
    if isinstance(env, SeeingEnv):
        env.paint_on_demand = other.paint_on_demand = on_demand
    actions = np.random.default_rng(0).uniform(-1, 1, (30, *env.action_space.shape))
    for action in actions[:10]:
        env.step(action)
    if not isinstance(env, BlockStackingEnv):
        env.set_task(env.sample_tasks(1)[0])  # from the next episode on
    other.set_state(env.get_state())
    for action in actions[10:]:
        expected, result = env.step(action), other.step(action)
        np.testing.assert_array_equal(_state(expected[0]), _state(result[0]))
        assert expected[1:] == result[1:]
        if isinstance(env, SeeingEnv) and env.images:
            shown = env.paint(), other.paint()
            np.testing.assert_array_equal(*shown if on_demand else (expected[0]["images"], result[0]["images"]))
    np.testing.assert_array_equal(_state(env.reset()[0]), _state(other.reset()[0]))
    if not isinstance(env, BlockStackingEnv):
        assert env.get_task() == other.get_task()
        assert env.step(actions[0])[1] == other.step(actions[0])[1]
