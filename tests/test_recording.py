"""Recording an environment with `RecordTrajectories`, and what is recorded serving as data to train on."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

from rllib_spirl import RecordTrajectories, SPiRLConfig, UserError
from rllib_spirl.data import DataSet
from rllib_spirl.envs.skill_env import ActionBounds
from rllib_spirl.skills.checkpoint import SkillCard, load_skills, save_skills
from rllib_spirl.skills.training import SkillTrainer
from tests.conftest import TINY, scan
from tests.point import PointEnv


def record(path: Path, episodes: int = 4, **options: Any) -> tuple[RecordTrajectories, list[Any]]:
    """Random episodes of Reacher-v5; what was seen and done in each step besides."""
    seen = []
    with RecordTrajectories(gym.make("Reacher-v5"), path, **options) as env:
        env.action_space.seed(0)
        for episode in range(episodes):
            observation, _ = env.reset(seed=episode)
            done = False
            while not done:
                action = env.action_space.sample()
                following, reward, terminated, truncated, _ = env.step(action)
                seen.append((observation, action, float(reward), following))
                observation, done = following, terminated or truncated
    return env, seen


def test_every_step_of_a_real_environment_is_in_the_data(tmp_path: Path) -> None:
    env, seen = record(tmp_path / "reacher", task="reach")
    data = env.data_set
    read = data.load(dtype=np.float64)
    assert (data.num_episodes, data.num_frames, data.ours["env"]) == (4, 200, "Reacher-v5")
    assert read.tasks == ["reach"]
    for index, values in enumerate((read.states, read.actions, read.rewards, read.next_states)):
        np.testing.assert_allclose(values, np.array([step[index] for step in seen]), atol=1e-6)
    episode = read.episode(0)
    assert (len(episode), episode.terminated, episode.truncated) == (50, False, True)
    assert [each.task for each in data.episodes()] == ["reach"] * 4
    assert list(data.windows(10)) == [start + first for start in range(0, 200, 50) for first in range(41)]


def test_it_is_trained_on(tmp_path: Path, ray_session: None) -> None:
    """Skills, then SPiRL with the recording as demonstrations, in the environment that was recorded."""
    data = record(tmp_path / "reacher")[0].data_set
    trainer = SkillTrainer(scan(data), TINY)
    while trainer.updates < 50:
        trainer.step()
    folder = str(save_skills(tmp_path / "skills", trainer.model, SkillCard(model=trainer.model.config)))
    assert load_skills(folder)[0].config.state_dim == data.state_dim == 10
    config = SPiRLConfig().environment("Reacher-v5").env_runners(num_env_runners=0)
    config.training(skill_checkpoint=folder, offline_data=str(data), warmup_steps=20, offline_updates=5)
    config.training(train_batch_size_per_learner=32, policy_hidden=32, critic_hidden=32)
    algorithm = config.build_algo()
    try:
        assert algorithm.offline is not None
        # Rewards are negative, and no episode ends by itself: nothing is known of what follows its last whole windows.
        left_out = data.num_episodes * TINY.horizon
        assert len(algorithm.offline) == len(data.windows(TINY.horizon)) - left_out
        while algorithm.train()["env_steps"] < 200:
            pass
        assert np.isfinite(algorithm.train()["learners"]["default_policy"]["critic_loss"])
    finally:
        algorithm.stop()


def test_actions_are_recorded_as_executed_and_scaled(tmp_path: Path) -> None:
    pendulum = gym.make("Pendulum-v1")  # torques in [-2, 2]
    with RecordTrajectories(pendulum, tmp_path / "pendulum") as env:
        env.reset(seed=0)
        for torque in (1.0, -2.0, 5.0):
            env.step(np.array([torque], np.float32))
    read = env.data_set.load()
    assert read.actions[:, 0].tolist() == [0.5, -1.0, 1.0]
    assert env.data_set.ours["source"]["action_high"] == [2.0]
    assert read.episode(0).truncated  # the recording stops there


def test_what_is_recorded_is_what_the_environment_did(tmp_path: Path) -> None:
    class Pushed(gym.Env):
        """Its state is its last action, which it then changes in place."""

        observation_space = gym.spaces.Box(-np.inf, np.inf, (1,), np.float64)
        action_space = gym.spaces.Box(0, 10, (1,), np.int64)

        def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
            return np.zeros(1), {}

        def step(self, action: Any) -> Any:
            state = np.array(action, np.float64)
            action *= 0
            return state, 0.0, False, False, {}

    with RecordTrajectories(Pushed(), tmp_path / "data") as env:
        env.reset()
        for action in (0, 3, 7, 10, 12):
            env.step(np.array([action]))
    read = env.data_set.load()
    np.testing.assert_allclose(read.next_states[:, 0], [0, 3, 7, 10, 10])
    np.testing.assert_allclose(read.actions[:, 0], [-1, -0.4, 0.4, 1, 1], atol=1e-6)
    np.testing.assert_allclose(ActionBounds(Pushed())(read.actions), read.next_states, atol=1e-5)


def test_an_episode_that_cannot_be_recorded_costs_no_other(tmp_path: Path) -> None:
    class Failing(PointEnv):
        """From its third episode on it observes NaN."""

        episodes = 0

        def reset(self, **kwargs: Any) -> Any:
            self.episodes += 1
            return super().reset(**kwargs)

        def step(self, action: Any) -> Any:
            observation, *rest = super().step(action)
            return observation + (np.nan if self.episodes == 3 else 0), *rest

    env = RecordTrajectories(Failing({"limit": 5}), tmp_path / "data")
    for episode in range(3):
        env.reset(seed=episode)
        for _ in range(5 - (episode == 2)):
            env.step(np.zeros(2))
    with pytest.raises(UserError, match="episode 2, step 1: state is nan"):
        env.close()
    env.close()
    assert DataSet.open(tmp_path / "data").num_episodes == 2
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_an_end_of_the_task_is_recorded_as_one(tmp_path: Path) -> None:
    env = RecordTrajectories(PointEnv(), tmp_path / "point", task="first")
    env.reset(seed=0)
    env.step(np.array([1.0, 0.0]))
    env.task = "second"
    env.reset(seed=1)  # cuts the first episode off
    done = False
    while not done:
        position = env.unwrapped.position
        target = [1.0, 0.0] if env.unwrapped.reached == 0 else [1.0, 1.0]
        _, _, done, _, _ = env.step(np.clip((np.array(target) - position) / 0.1, -1, 1))
    env.close()
    env.close()
    first, second = env.data_set.episodes()
    assert (first.terminated, second.terminated) == (False, True)
    assert second.rewards.sum() == 2
    assert [first.task, second.task] == ["first", "second"]


def test_nothing_is_left_of_an_environment_that_was_never_stepped(tmp_path: Path) -> None:
    env = RecordTrajectories(PointEnv(), tmp_path / "point")
    env.reset()
    env.close()
    assert list(tmp_path.iterdir()) == []


def test_a_step_before_a_reset_says_so(tmp_path: Path) -> None:
    with RecordTrajectories(PointEnv({"limit": 2}), tmp_path / "point") as env:
        with pytest.raises(UserError, match="no episode is going on; reset the environment first"):
            env.step(np.zeros(2))
        env.reset()
        for _ in range(2):
            env.step(np.zeros(2))
        with pytest.raises(UserError, match="no episode is going on"):
            env.step(np.zeros(2))
    assert env.data_set.num_frames == 2


def test_bad_input_is_one_line_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CartPole-v1: actions are Discrete\(2\), but only a flat Box .* wrap"):
        RecordTrajectories(gym.make("CartPole-v1"), tmp_path / "cart")
    unbounded = PointEnv()
    unbounded.action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    with pytest.raises(UserError, match=r"actions have no bounds .*TransformAction"):
        RecordTrajectories(unbounded, tmp_path / "point")
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="there"):
        RecordTrajectories(PointEnv(), tmp_path / "there")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
