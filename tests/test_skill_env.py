"""The temporal abstraction: rewards, steps, endings and observations of one skill."""

from contextlib import closing
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rllib_spirl.data.importing import scale_actions
from rllib_spirl.envs.skill_env import ActionBounds, SkillEnv, env_state, make_env, set_env_state, try_env
from rllib_spirl.envs.skill_vector_env import SkillVectorEnv, make_vector_env
from rllib_spirl.errors import UserError
from rllib_spirl.skills.checkpoint import load_skills, save_skills
from rllib_spirl.skills.decoder import SkillDecoder
from tests.point import PointEnv


class Counting(gym.Env):
    """Rewards 1, 2, 4, 8, … a step, so that a sum tells which steps it is made of; ends after ``length`` steps."""

    def __init__(self, length: int, terminates: bool, state_dim: int = 2) -> None:
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (state_dim,), np.float32)
        self.action_space = gym.spaces.Box(-1, 1, (2,), np.float32)
        self.length, self.terminates = length, terminates

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> Any:
        assert self.action_space.contains(action.astype(np.float32))
        self.last_action = action
        self.steps += 1
        done = self.steps == self.length
        observation = np.full(2, self.steps, np.float32)
        return (
            observation,
            2.0 ** (self.steps - 1),
            done and self.terminates,
            done and not self.terminates,
            {"n": self.steps},
        )


def test_a_skill_sums_the_rewards_of_its_steps(point_skills: str) -> None:
    env = SkillEnv(Counting(length=100, terminates=True), point_skills)
    observation, _ = env.reset()
    assert observation.tolist() == [0, 0]
    observation, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert (observation.tolist(), reward, terminated, truncated) == ([5, 5], 1 + 2 + 4 + 8 + 16, False, False)
    assert info == {"n": 5, "low_level_steps": 5}
    assert env.step(np.zeros(2, np.float32))[1] == 32 + 64 + 128 + 256 + 512


@pytest.mark.parametrize("terminates", [True, False])
def test_the_end_of_the_episode_ends_the_skill_and_keeps_the_last_reward(point_skills: str, terminates: bool) -> None:
    env = SkillEnv(Counting(length=7, terminates=terminates), point_skills)
    env.reset()
    env.step(np.zeros(2, np.float32))
    observation, reward, terminated, truncated, info = env.step(np.zeros(2, np.float32))
    assert (observation.tolist(), reward) == ([7, 7], 32 + 64)
    assert (terminated, truncated, info["low_level_steps"]) == (terminates, not terminates, 2)


def test_large_actions_are_clipped_to_the_environments_bounds(point_skills: str) -> None:
    env = SkillEnv(Counting(length=100, terminates=True), point_skills)
    env.reset()
    *_, info = env.step(np.full(2, 50, np.float32))  # Counting asserts that each action is within its space
    assert info["low_level_steps"] == env.horizon


def test_actions_of_skills_are_mapped_to_the_environments_bounds() -> None:
    env = gym.Env()
    low, high = np.array([0, -2, -1, -np.inf, 0]), np.array([10, 2, 1, np.inf, np.inf])
    env.action_space = gym.spaces.Box(low.astype(np.float32), high.astype(np.float32))
    executed = ActionBounds(env)(np.array([[-1, 0.5, 0.3, 7, -1], [0.2, 3, -4, -7, 5]], np.float32))
    np.testing.assert_allclose(executed, [[0, 1, 0.3, 7, 0], [6, 2, -1, -7, 5]], rtol=1e-6)
    np.testing.assert_allclose(scale_actions(executed, low, high)[:, :3], [[-1, 0.5, 0.3], [0.2, 1, -1]], atol=1e-6)
    env.action_space = gym.spaces.Box(-1, 1, (3,), np.int64)
    assert ActionBounds(env)(np.array([-0.6, 0.4, 0.6], np.float32)).tolist() == [-1, 0, 1]


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_rounding_leads_to_no_action_outside_of_the_space(kind: Any) -> None:
    rng, env = np.random.default_rng(0), gym.Env()
    for _ in range(200):
        low, high = np.sort(rng.uniform(-3, 3, (2, 4)).round(2), axis=0).astype(kind)
        env.action_space = gym.spaces.Box(low, high, dtype=kind)
        executed = ActionBounds(env)
        for actions in (np.ones(4, np.float32), -np.ones(4, np.float32), rng.uniform(-1, 1, 4).astype(np.float32)):
            assert env.action_space.contains(executed(actions))


class Failing(Counting):
    """What it observes or earns from the fifth step on is nan, or its observations are too long."""

    def __init__(self, what: str) -> None:
        super().__init__(length=100, terminates=True)
        self.what = what

    def reset(self, **options: Any) -> Any:
        observation, info = super().reset(**options)
        return np.zeros(3, np.float32) if self.what == "shape" else observation, info

    def step(self, action: Any) -> Any:
        observation, reward, *others = super().step(action)
        if self.steps >= 5 and self.what == "reward":
            reward = np.nan
        if self.steps >= 5 and self.what == "observation":
            observation[0] = np.nan
        return observation, reward, *others


@pytest.mark.parametrize("what", ["reward", "observation"])
def test_what_no_network_can_learn_from_is_told_at_once(what: str, point_skills: str) -> None:
    env = SkillEnv(Failing(what), point_skills)
    env.reset()
    with pytest.raises(UserError, match=f"Failing: the environment's {what} is not finite: .*nan"):
        env.step(np.zeros(2, np.float32))
    many = SkillVectorEnv(gym.vector.SyncVectorEnv([lambda: Failing(what)] * 2), point_skills)
    many.reset()
    with pytest.raises(UserError, match=f"{what} is not finite"):
        many.step(np.zeros((2, 2), np.float32))


def test_observations_of_another_shape_than_the_space_says(point_skills: str) -> None:
    with pytest.raises(UserError, match=r"an observation is of shape \(3,\), but the observation space says \(2,\)"):
        SkillEnv(Failing("shape"), point_skills).reset()


def test_bounded_skills(point_skills: str) -> None:
    free = SkillEnv(Counting(length=100, terminates=True), point_skills)
    bounded = SkillEnv(Counting(length=100, terminates=True), point_skills, skill_bound=2.0)
    played = []
    for env, action in ((free, 2 * np.tanh(np.array([0.5, -3.0], np.float32))), (bounded, np.array([0.5, -3.0]))):
        env.reset()
        env.step(action.astype(np.float32))
        played.append(env.unwrapped.last_action)
    np.testing.assert_allclose(*played, atol=1e-6)


@pytest.fixture
def noisy_skills(point_skills: str, tmp_path: Path) -> str:
    """The same, whose actions have a deviation of 0.2."""
    model, card = load_skills(point_skills)
    shape = card.model.model_copy(update={"action_std": 0.2})
    return str(save_skills(tmp_path / "noisy", model, card.model_copy(update={"model": shape})))


def test_actions_are_samples_around_the_decoders_mean(point_skills: str, noisy_skills: str) -> None:
    plain, noisy = (SkillDecoder(load_skills(skills)[0]) for skills in (point_skills, noisy_skills))
    states, z = np.zeros((4000, 2), np.float32), np.zeros((4000, 2), np.float32)
    plain.start(z)
    noisy.start(z)
    differences = noisy.act(states) - plain.act(states)
    assert differences.dtype == np.float32
    np.testing.assert_allclose(differences.mean(0), 0, atol=0.015)
    np.testing.assert_allclose(differences.std(0), 0.2, rtol=0.05)
    np.testing.assert_allclose(np.corrcoef(differences.T)[0, 1], 0, atol=0.06)


def test_the_noise_of_an_episode_is_that_of_its_seed(noisy_skills: str) -> None:
    env = SkillEnv(PointEnv(), noisy_skills)

    def positions(of: SkillEnv) -> list[list[float]]:
        return [of.step(np.zeros(2, np.float32))[0].tolist() for _ in range(3)]

    episodes = []
    for seed in (3, 3, 4):
        env.reset(seed=seed)
        episodes.append(positions(env))
    assert episodes[0] == episodes[1] != episodes[2]
    other = SkillEnv(PointEnv(), noisy_skills)
    other.reset(seed=5)
    state = env.get_state()
    assert state is not None
    other.set_state(state)
    assert positions(other) == positions(env)


def test_the_noise_of_copies_side_by_side_is_that_of_their_seeds(noisy_skills: str) -> None:
    def positions(seed: int | list[int]) -> list[Any]:
        copies = SkillVectorEnv(make_vector_env(PointEnv, {}, 2, batched=False), noisy_skills)
        copies.reset(seed=seed)
        return [copies.step(np.zeros((2, 2), np.float32))[0].tolist() for _ in range(3)]

    assert positions(3) == positions(3) != positions(4)
    assert positions([3, 9]) == positions([3, 9]) != positions([3, 8])


def test_gymnasium_accepts_it(point_skills: str) -> None:
    check_env(SkillEnv(PointEnv(), point_skills), skip_render_check=True)


def test_other_dimensions_are_a_clear_error(point_skills: str) -> None:
    with pytest.raises(
        UserError, match=r"Counting has 3-dimensional observations, but the skills in .* were trained on 2"
    ):
        SkillEnv(Counting(5, True, state_dim=3), point_skills)
    with pytest.raises(UserError, match="need a flat Box"):
        SkillEnv(gym.make("FrozenLake-v1"), point_skills)


@pytest.mark.parametrize("env", ["tests.point:Point-v0", "tests.point.PointEnv", PointEnv])
def test_environments_by_name_and_class(env: Any) -> None:
    made = make_env(env, {"limit": 3})
    assert isinstance(made.unwrapped, PointEnv)
    assert made.unwrapped.limit == 3


@pytest.mark.parametrize(
    ("name", "limit"),
    [("PointTasks-v0", 25), ("PointTasks-v0", 5), ("HalfCheetahVelocity-v0", 203), ("Kitchen-v0", 283)],
)
def test_episodes_last_as_long_as_is_asked_for(name: str, limit: int) -> None:
    """Longer than by default, too."""
    env = make_env(f"rllib_spirl/{name}", {"max_episode_steps": limit})
    env.reset(seed=0)
    still = np.zeros(env.action_space.shape)
    steps = 1
    while not env.step(still)[3]:
        steps += 1
    assert steps == limit
    env.close()


@pytest.mark.parametrize(
    ("limit", "message"),
    [(-1, "at least 1, not -1"), (2.5, "a whole number, not 2.5"), (True, "a whole number, not True")],
)
def test_episodes_last_a_number_of_steps(limit: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"max_episode_steps must be {message}"):
        try_env("rllib_spirl/PointTasks-v0", {"max_episode_steps": limit})


def test_without_a_limit_it_is_the_environments_own() -> None:
    with closing(make_env("rllib_spirl/PointTasks-v0", {"max_episode_steps": np.int64(3)})) as env:
        assert env.unwrapped.max_episode_steps == 3
    env = make_env("rllib_spirl/PointTasks-v0", {"max_episode_steps": None})
    env.reset(seed=0)
    assert [env.step(np.zeros(2))[3] for _ in range(20)] == [False] * 19 + [True]


def test_a_state_that_cannot_be_set_is_none() -> None:
    class Half(Counting):
        """It tells a state, of something else."""

        def get_state(self) -> str:
            return "fine"

    class Other(Half):
        """Its states are set in another form, as those of Gymnasium's MuJoCo environments."""

        def set_state(self, positions: Any, velocities: Any) -> None:
            raise AssertionError

    assert env_state(Half(5, terminates=True)) is None
    env = Other(5, terminates=True)
    state = env_state(env)
    assert state is not None
    with pytest.raises(UserError, match="Other: set_state of what get_state returned: TypeError"):
        set_env_state(env, state)


@pytest.mark.parametrize("name", ["BlockStacking-v0", "Maze-v0"])
def test_long_episodes_can_be_longer(name: str) -> None:
    env = make_env(f"rllib_spirl/{name}", {"max_episode_steps": 3000})
    assert env.unwrapped.max_episode_steps == 3000
    env.close()
