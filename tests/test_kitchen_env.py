"""Kitchen-v0: FrankaKitchen-v1's physics, its own observation, reward and completion rule."""

import gymnasium as gym
import gymnasium_robotics
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium_robotics.envs.franka_kitchen.kitchen_env import OBS_ELEMENT_GOALS, OBS_ELEMENT_INDICES

from rllib_spirl.envs.kitchen import SUBTASKS, KitchenEnv, positions_of, relabel
from rllib_spirl.errors import UserError

gym.register_envs(gymnasium_robotics)


def busy_actions(steps: int, seed: int) -> np.ndarray:
    """Smooth random actions (steps, 9), some beyond the bounds, that move the arm into the furniture."""
    rng = np.random.default_rng(seed)
    return np.cumsum(rng.normal(0, 0.3, (steps, 9)), axis=0) * rng.choice([0.3, 1.0])


@pytest.fixture(scope="module")
def reference():
    env = gym.make("FrankaKitchen-v1", terminate_on_tasks_completed=False, max_episode_steps=10**6)
    yield env
    env.close()


def test_goals_are_franka_kitchens() -> None:
    assert set(SUBTASKS) == set(OBS_ELEMENT_GOALS)
    for name, subtask in SUBTASKS.items():
        assert subtask.indices == OBS_ELEMENT_INDICES[name].tolist()
        assert subtask.goal == OBS_ELEMENT_GOALS[name].tolist()


@pytest.mark.parametrize("velocities", [False, True])
def test_same_trajectory_as_franka_kitchen(reference: gym.Env, velocities: bool) -> None:
    env = KitchenEnv(velocities=velocities, max_episode_steps=10**6)
    pick = (lambda o: o) if velocities else positions_of
    # The second episode goes on with the noise of the first: no seed is given.
    for seed, actions in ((3, busy_actions(120, 0)), (None, busy_actions(120, 1))):
        theirs, _ = reference.reset(seed=seed)
        ours, _ = env.reset(seed=seed)
        np.testing.assert_allclose(ours, pick(theirs["observation"]), atol=1e-9, rtol=0)
        for action in actions:
            theirs = reference.step(action)[0]
            ours = env.step(action)[0]
            np.testing.assert_allclose(ours, pick(theirs["observation"]), atol=1e-9, rtol=0)
    assert np.abs(env.data.qpos[9:] - reference.unwrapped.data.qpos[9:]).max() < 1e-9


def test_check_env_and_spaces() -> None:
    env = gym.make("rllib_spirl/Kitchen-v0").unwrapped
    check_env(env, skip_render_check=True)
    assert env.observation_space.shape == (30,)
    assert KitchenEnv(velocities=True).observation_space.shape == (59,)


def place(env: KitchenEnv, *names: str) -> None:
    """Put the objects of the named subtasks at their goals."""
    for name in names:
        env.data.qpos[SUBTASKS[name].indices] = SUBTASKS[name].goal


def test_reward_follows_the_order_and_pays_what_is_already_done_at_once() -> None:
    env = KitchenEnv(tasks=["microwave", "slide cabinet", "kettle"])
    env.reset(seed=0)
    place(env, "slide cabinet")
    _, reward, terminated, _, info = env.step(np.zeros(9))
    assert (reward, terminated, info["completed"]) == (0.0, False, [])
    place(env, "microwave")
    _, reward, terminated, _, info = env.step(np.zeros(9))
    assert (reward, info["completed"]) == (2.0, ["microwave", "slide cabinet"])
    assert info["subtasks"] == {"microwave": True, "slide cabinet": True, "kettle": False}
    place(env, "kettle")
    _, reward, terminated, truncated, info = env.step(np.zeros(9))
    assert (reward, terminated, truncated, info["completed_subtasks"]) == (1.0, True, False, 3)


def test_unordered_counts_each_once_in_any_order() -> None:
    env = KitchenEnv(tasks=["microwave", "slide cabinet"], ordered=False)
    env.reset(seed=0)
    place(env, "slide cabinet")
    rewards = [env.step(np.zeros(9))[1] for _ in range(3)]
    env.data.qpos[19] = 0.0  # closed again: stays counted
    env.step(np.zeros(9))
    place(env, "slide cabinet")
    assert [*rewards, env.step(np.zeros(9))[1]] == [1.0, 0.0, 0.0, 0.0]
    place(env, "microwave")
    assert env.step(np.zeros(9))[1:3] == (1.0, True)


@pytest.mark.parametrize("velocities", [False, True])
@pytest.mark.parametrize("ordered", [False, True])
def test_relabel_gives_the_environments_rewards(ordered: bool, velocities: bool) -> None:
    tasks = ["kettle", "light switch", "top burner", "microwave"]
    rng = np.random.default_rng(0)
    env = KitchenEnv(tasks=tasks, ordered=ordered, velocities=velocities, object_noise_ratio=3.0)
    for episode in range(4):
        states, rewards, done_at = [env.reset(seed=episode)[0]], [], None
        for step in range(40):
            for name in tasks:  # close to the threshold, where noise decides
                toward = rng.uniform(-1, 1, len(SUBTASKS[name].goal))
                env.data.qpos[SUBTASKS[name].indices] = SUBTASKS[name].goal + toward * 0.6 * 0.96**step
            observation, reward, terminated, _, _ = env.step(rng.uniform(-1, 1, 9))
            states.append(observation)
            rewards.append(reward)
            if terminated and done_at is None:
                done_at = step
        labels, done = relabel(np.array(states), tasks, ordered)
        assert labels.tolist() == rewards
        assert done == done_at
        assert sum(rewards) == 4


def test_truncates_and_repeats_exactly() -> None:
    env = KitchenEnv(max_episode_steps=5)
    runs = []
    for _ in range(2):
        env.reset(seed=1)
        runs.append([env.step(a)[0:4] for a in busy_actions(5, 2)])
    assert [r[3] for r in runs[0]] == [False] * 4 + [True]
    assert all(np.array_equal(a[0], b[0]) for a, b in zip(*runs, strict=True))


def test_renders() -> None:
    env = KitchenEnv(render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    try:
        picture = env.render()
    except UserError as error:
        pytest.skip(str(error))
    assert picture is not None
    assert picture.shape == (48, 64, 3)
    assert picture.std() > 5
    env.close()


def test_names_the_package_that_rendering_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    env = KitchenEnv(render_mode="rgb_array")
    env.reset(seed=0)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(UserError, match=r"^[^\n]*apt-get install libegl1[^\n]*$"):
        env.render()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"tasks": ["microwve"]}, "did you mean 'microwave'"),
        ({"tasks": []}, "one or more"),
        ({"tasks": ["kettle", "kettle"]}, "each once"),
        ({"max_episode_steps": 0}, "max_episode_steps"),
        ({"ordered": "false"}, "ordered must be true or false, not 'false'"),
        ({"robot_noise_ratio": np.nan}, "noise ratios must be numbers from 0 on"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"render_mode": "human"}, "rgb_array"),
    ],
)
def test_bad_arguments(arguments: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        KitchenEnv(**arguments)


def test_relabel_rejects_other_states() -> None:
    with pytest.raises(UserError, match="these have 12"):
        relabel(np.zeros((3, 12)), ["kettle"], True)


def test_a_restored_state_goes_on_the_same() -> None:
    env, other = KitchenEnv(), KitchenEnv()
    env.reset(seed=3)
    actions = np.random.default_rng(0).uniform(-1, 1, (30, 9))
    for action in actions[:10]:
        env.step(action)
    state = env.get_state()
    other.reset(seed=4)
    other.set_state(state)
    for action in actions[10:]:
        expected, result = env.step(action), other.step(action)
        np.testing.assert_array_equal(expected[0], result[0])
        assert expected[1:] == result[1:]
