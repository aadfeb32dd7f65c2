"""BlockStacking-v0: its physics, rewards and pictures, its demonstrator and recipe."""

import json
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rllib_spirl.data import recipe as recipes
from rllib_spirl.demos.block_stacking import Demonstrator, demonstrate
from rllib_spirl.envs.block_stacking import (
    BLOCK,
    LOWEST,
    OPENING,
    REACH,
    SPACING,
    SPEED,
    STEP,
    BlockStackingEnv,
    colours,
    held,
    levels,
    pictures,
    potential,
    relabel,
    split,
)
from rllib_spirl.envs.raster import rasterise
from rllib_spirl.envs.skill_env import make_env
from rllib_spirl.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def arranged(env: BlockStackingEnv, centres: list[tuple[float, float]], gripper: tuple[float, float]) -> np.ndarray:
    """Put the blocks and the open gripper somewhere; returns the state."""
    env.reset(seed=0)
    qpos = env.data.qpos
    qpos[:4] = *gripper, OPENING, OPENING
    qpos[4::3], qpos[5::3] = np.array(centres).T
    mujoco.mj_forward(env.model, env.data)
    return env.state()


def tower(height: int, offsets: float = 0.0) -> list[tuple[float, float]]:
    return [((-1) ** i * offsets, BLOCK * (i + 0.5)) for i in range(height)]


def states_of(gripper: list[float], blocks: list[tuple[float, float, float]]) -> np.ndarray:
    """A state from y, z, left, right of the gripper and y, z, angle (absolute) of each block."""
    features = [(y - gripper[0], z - gripper[1], np.sin(4 * a), np.cos(4 * a), z, 0.1) for y, z, a in blocks]
    return np.array([*gripper, 0.0, 0.0, *np.ravel(features)], np.float32)


class TestEnvironment:
    def test_check_env_and_registration(self) -> None:
        env = gym.make("rllib_spirl/BlockStacking-v0").unwrapped
        check_env(env, skip_render_check=True)
        assert env.observation_space.shape == (6 + 6 * 11,)
        check_env(BlockStackingEnv(blocks=3, images=True), skip_render_check=True)
        made = make_env("rllib_spirl/BlockStacking-v0", {"blocks": 5, "reward": "sparse"})
        assert made.observation_space.shape == (6 + 6 * 5,)
        assert made.unwrapped.reward == "sparse"

    def test_a_seed_places_the_blocks_apart_on_the_floor(self) -> None:
        env = BlockStackingEnv(blocks=11)
        first, again, other = (env.reset(seed=seed)[0] for seed in (1, 1, 2))
        np.testing.assert_array_equal(first, again)
        assert not np.array_equal(first, other)
        for seed in range(20):
            state, info = env.reset(seed=seed)
            assert np.diff(np.sort(split(state)[1][:, 0])).min() > SPACING - 1e-6
            assert levels(state).tolist() == [0] * 11
            assert info["measures"] == {"tower_height": 1, "stacked_blocks": 0}

    def test_actions_are_velocities_and_an_opening(self) -> None:
        env = BlockStackingEnv(blocks=2)
        before = arranged(env, [(-0.7, 0.025), (0.7, 0.025)], (0.0, 0.3))
        for _ in range(10):
            after = env.step(np.array([0.5, -0.25, 0.0]))[0]
        np.testing.assert_allclose(after[:2] - before[:2], np.array([0.5, -0.25]) * SPEED * STEP * 10, atol=0.01)
        np.testing.assert_allclose(after[2:4], OPENING / 2, atol=1e-3)
        np.testing.assert_allclose(after[4:6], np.array([0.5, -0.25]) * SPEED, atol=0.01)
        np.testing.assert_allclose(split(after)[1][:, 0] + after[0], [-0.7, 0.7], atol=1e-3)

    def test_truncates_and_repeats_exactly_pictures_or_not(self) -> None:
        actions = np.random.default_rng(0).uniform(-1, 1, (30, 3))
        runs = []
        for images in (False, False, True):
            env = BlockStackingEnv(blocks=5, images=images, max_episode_steps=30)
            env.reset(seed=4)
            steps = [env.step(a) for a in actions]
            assert [s[3] for s in steps] == [False] * 29 + [True]
            runs.append([s[0]["state"] if images else s[0] for s in steps])
        np.testing.assert_array_equal(runs[0], runs[1])
        np.testing.assert_array_equal(runs[0], runs[2])

    def test_renders_recorded_states_of_any_number_of_blocks(self) -> None:
        env = BlockStackingEnv(blocks=3, render_mode="rgb_array", width=96, height=48)
        state, _ = env.reset(seed=0)
        try:
            picture = env.render()
        except UserError as error:
            pytest.skip(str(error))
        assert picture.shape == (48, 96, 3)
        assert picture.std() > 5
        np.testing.assert_array_equal(env.render_state(state), picture)
        other = BlockStackingEnv(blocks=5).reset(seed=0)[0]
        assert not np.array_equal(env.render_state(other), picture)
        np.testing.assert_array_equal(env.state(), state)
        assert env.subtasks_along(state[None], "stacks of two blocks") == {}
        env.close()

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"blocks": 1}, "from 2 to 12"),
            ({"reward": "none"}, "'dense' or 'sparse'"),
            ({"max_episode_steps": 0}, "max_episode_steps"),
            ({"render_mode": "human"}, "rgb_array"),
        ],
    )
    def test_bad_arguments(self, arguments: dict, message: str) -> None:
        with pytest.raises(UserError, match=message):
            BlockStackingEnv(**arguments)

    def test_rejects_states_of_something_else(self) -> None:
        with pytest.raises(UserError, match="these have 29"):
            relabel(np.zeros((3, 29)), "dense")
        with pytest.raises(UserError, match="these have 6"):
            pictures(np.zeros(6))


class TestPhysics:
    def test_a_block_knows_what_is_above_it(self) -> None:
        env = BlockStackingEnv(blocks=5)
        low, z = BLOCK / 2, BLOCK / 2 + BLOCK
        centres = [(0.0, low), (0.02, z), (0.3, low), (0.33, z + 0.03), (0.5, low)]
        _, blocks = split(arranged(env, centres, (-0.4, 0.3)))
        np.testing.assert_allclose(blocks[:, 5], [0.0, 0.1, 0.03, 0.1, 0.1], atol=1e-6)
        np.testing.assert_allclose(blocks[:, 4], [z for _, z in centres], atol=1e-6)

    @pytest.mark.parametrize(("height", "offset"), [(5, 0.0), (5, 0.008), (11, 0.006)])
    def test_a_tower_stands_still(self, height: int, offset: float) -> None:
        env = BlockStackingEnv(blocks=max(height, 6), max_episode_steps=1000)
        others = [(0.3 + 0.1 * i, BLOCK / 2) for i in range(6 - height)]
        before = arranged(env, tower(height, offset) + others, (-0.4, 0.3))
        for _ in range(200):
            state, _, _, _, info = env.step(np.array([0.0, 0.0, 1.0]))
        moved = np.abs((split(state)[1] - split(before)[1])[:, :2] + (state[:2] - before[:2])).max()
        assert moved < 0.004  # they sink a fraction of a millimetre into each other
        assert info["measures"]["tower_height"] == height

    def test_lifts_a_block_and_keeps_it(self) -> None:
        env = BlockStackingEnv(blocks=2)
        arranged(env, [(0.0, 0.025), (0.5, 0.025)], (0.003, 0.027))
        for action, steps in (([0, 0, -1], 5), ([0, 0.5, -1], 12), ([0.7, 0, -1], 15), ([-1, 0.3, -1], 15)):
            for _ in range(steps):
                state = env.step(np.array(action))[0]
        assert held(state).tolist() == [True, False]
        gripper, blocks = split(state)
        assert gripper[1] > 0.2
        assert np.abs(blocks[0, :2]).max() < 0.006
        assert blocks[0, 3] > 0.9
        for _ in range(20):
            state = env.step(np.array([0, 0, 1.0]))[0]
        assert not held(state).any()
        assert (split(state)[1][0, 1] + state[1]) < 0.04

    def test_no_action_leaves_the_arena_or_breaks_anything(self) -> None:
        env = BlockStackingEnv(blocks=11)
        env.reset(seed=0)
        rng = np.random.default_rng(0)
        for _ in range(60):
            action = rng.choice([-1.0, 1.0], 3)
            action[1] = rng.choice([-1.0, -1.0, 1.0])
            for _ in range(8):
                state = env.step(action)[0]
        gripper, blocks = split(state)
        assert np.isfinite(state).all()
        assert gripper[1] > LOWEST - 0.005
        assert (blocks[:, 1] + gripper[1]).min() > BLOCK / 2 - 0.003
        assert np.abs(blocks[:, 0] + gripper[0]).max() < 0.81


class TestRewards:
    open, shut = [0.5, 0.4, 0.04, 0.04], [0.0, 0.2, 0.025, 0.025]

    @pytest.mark.parametrize(
        ("gripper", "blocks", "level", "dense"),
        [
            (open, [(0, 0.025, 0), (0.2, 0.025, 0), (0.4, 0.025, 0)], [0, 0, 0], 1),
            (open, [(0, 0.025, 0), (0.01, 0.075, 0), (0.4, 0.025, 0)], [0, 1, 0], 2 + 2),
            (open, [(0, 0.025, 0), (0.01, 0.075, 0), (-0.01, 0.125, np.pi / 2)], [0, 1, 2], 3 + 4),
            (open, [(0, 0.025, 0), (0.01, 0.09, 0), (0.4, 0.025, 0)], [0, -1, 0], 1),  # falls
            (open, [(0, 0.025, 0), (0.01, 0.075, 0.3), (0.4, 0.025, 0)], [0, -1, 0], 1),  # tips over
            (open, [(0, 0.025, 0), (0.06, 0.075, 0), (0.4, 0.025, 0)], [0, -1, 0], 1),  # beside it
            (shut, [(0, 0.19, 0), (0.2, 0.025, 0), (0.4, 0.025, 0)], [-1, 0, 0], 1 + 1),  # lifted
            ([0, 0.04, 0.025, 0.025], [(0, 0.045, 0), (0.2, 0.025, 0), (0.4, 0.025, 0)], [-1, 0, 0], 1),  # not enough
            ([0, 0.08, 0.025, 0.025], [(0, 0.075, 0), (0, 0.025, 0), (0.4, 0.025, 0)], [-1, 0, 0], 1 + 1),  # not let go
            ([0, 0.08, 0.025, 0.025], [(0, 0.076, 0), (0, 0.025, 0), (0, 0.125, 0)], [-1, 0, -1], 1 + 2),  # two at once
            ([0, 0.08, 0.04, 0.04], [(0, 0.075, 0), (0, 0.025, 0), (0.4, 0.025, 0)], [1, 0, 0], 2 + 2),
        ],
    )
    def test_what_a_state_is_worth(self, gripper: list, blocks: list, level: list[int], dense: float) -> None:
        state = states_of(gripper, blocks)
        assert levels(state).tolist() == level
        assert potential(state, "dense") == dense
        assert potential(state, "sparse") == max(level) + 1

    @pytest.mark.parametrize("reward", ["dense", "sparse"])
    def test_relabel_gives_the_environments_rewards(self, reward: str) -> None:
        # Once with two blocks, which a stack completes, once with the demonstrations' five.
        for blocks, seed in ((2, 0), (5, 1)):
            env = BlockStackingEnv(blocks=blocks, reward=reward, max_episode_steps=10**6)
            states, rewards, done_at = [env.reset(seed=seed)[0]], [], None
            demonstrator = Demonstrator(env, np.random.default_rng(seed))
            for _ in range(2):
                for action in demonstrator.stack(*(demonstrator.choose() or (1, 0))):
                    state, earned, terminated, _, info = env.step(action)
                    states.append(state)
                    rewards.append(earned)
                    assert potential(state, "sparse") == info["measures"]["tower_height"]
                    if terminated:
                        done_at = len(rewards) - 1
                        break
                if done_at is not None:
                    break
            labels, done = env.relabel(np.array(states))
            assert labels.tolist() == rewards
            assert done == done_at
            assert (done is not None) == (blocks == 2)
            # An episode's return is what its end is worth more than its start.
            assert sum(rewards) == potential(states[-1], reward) - potential(states[0], reward) > 0
            # Recorded as float64, or going on after the end, the states say the same.
            longer = np.concatenate([states, states[:4]]).astype(np.float64)
            labels, done = env.relabel(longer)
            assert labels[: len(rewards)].tolist() == rewards
            assert done == done_at
            assert done is None or not labels[len(rewards) :].any()

    def test_lifting_again_and_again_earns_nothing(self) -> None:
        lifted = states_of(self.shut, [(0, 0.19, 0), (0.2, 0.025, 0)])
        down = states_of(self.open, [(0, 0.025, 0), (0.2, 0.025, 0)])
        rewards, _ = relabel(np.array([down, *[lifted, down] * 10]), "dense")
        assert rewards.sum() == 0
        assert rewards.max() == 1


class TestPictures:
    def test_boxes_cover_pixels_by_their_share(self) -> None:
        # Pixels of 1, 4 of them along an edge. A box over one and a half columns of the two upper rows.
        box = np.array([[-1.25, 1.0, 0.75, 1.0, 0.0]])
        picture = rasterise(box, np.array([[1.0, 0.0, 0.0]]), np.zeros(3), size=4, pixel=1.0)
        assert picture.shape == (4, 4, 3)
        assert picture.dtype == np.uint8
        assert picture[..., 0].tolist() == [[255, 128, 0, 0]] * 2 + [[0] * 4] * 2
        assert not picture[..., 1:].any()
        # A quarter turn swaps width and height; the later box covers the earlier one.
        boxes = np.array([[0.0, 0.0, 2.0, 2.0, 0.0], [0.0, 0.0, 2.0, 1.0, np.pi / 2]])
        picture = rasterise(boxes, np.array([[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]), np.ones(3), size=4, pixel=1.0)
        assert (picture[:, [0, 3]] == [0, 255, 0]).all()
        assert (picture[:, 1:3] == [0, 0, 255]).all()

    def test_a_rotated_box_keeps_its_area(self) -> None:
        turned = np.array([[[0.3, -0.2, 5.0, 3.0, angle]] for angle in np.linspace(0, np.pi, 7)])
        area = rasterise(turned, np.ones((1, 3)), np.zeros(3), size=32, pixel=1.0)[..., 0].sum((1, 2)) / 255
        np.testing.assert_allclose(area, 60, rtol=0.03)

    def test_shows_blocks_fingers_and_floor_around_the_gripper(self) -> None:
        # A pixel is 1.5 cm: the block, 9 cm to the right and 6 cm below, spans columns 20 to 23 and rows 18 to 21.
        state = states_of([0.1, 0.085, 0.04, 0.04], [(0.19, 0.025, 0.0), (-0.5, 0.025, 0.0)])
        picture = pictures(state)
        assert picture.shape == (32, 32, 3)
        own = np.rint(colours(2)[0] * 255)
        assert np.abs(picture[19:21, 21:23].astype(float) - own).max() <= 1
        assert (picture[25:, 5] == picture[31, 31]).all()  # the floor begins 8.5 cm below
        assert (picture[8, 5] == picture[0, 0]).all()  # sky
        assert picture[15, 12].max() < picture[15, 15].max()  # a finger, and the gap between the two
        np.testing.assert_array_equal(picture[:, :12][10:14], picture[:, 20:][10:14, ::-1])
        # The same scene 3 cm further right is the same picture but for the arena's edge.
        shifted = states_of([0.13, 0.085, 0.04, 0.04], [(0.22, 0.025, 0.0), (-0.47, 0.025, 0.0)])
        assert np.abs(pictures(shifted).astype(int) - picture).max() <= 1

    def test_one_at_a_time_or_together(self) -> None:
        states = demonstrate(blocks=3, stacks=1, seed=0).episode.states[:45]
        together = pictures(states.reshape(5, 9, -1))
        assert together.shape == (5, 9, 32, 32, 3)
        np.testing.assert_array_equal(together.reshape(45, 32, 32, 3), [pictures(state) for state in states])

    def test_the_environment_shows_the_previous_and_the_current_one(self) -> None:
        env = BlockStackingEnv(blocks=3, images=True)
        observation, _ = env.reset(seed=0)
        np.testing.assert_array_equal(observation["images"][0], observation["images"][1])
        before = observation
        for _ in range(3):
            observation = env.step(np.array([1.0, -1.0, 0.0]))[0]
            np.testing.assert_array_equal(observation["images"][0], before["images"][1])
            np.testing.assert_array_equal(observation["images"][1], pictures(observation["state"]))
            before = observation
        assert not np.array_equal(*observation["images"])

    @pytest.mark.parametrize("crowding", [0.0, 0.5, 1.0])
    def test_blocks_start_apart_and_as_crowded_as_asked_for(self, crowding: float) -> None:
        env = BlockStackingEnv(blocks=5)
        widths = []
        for seed in range(20):
            state, _ = env.reset(seed=seed, options={"crowding": crowding})
            y = np.sort(split(state)[1][:, 0] + state[0])
            assert np.diff(y).min() > SPACING - 1e-6
            assert np.abs(y).max() < REACH
            widths.append(y[-1] - y[0])
        assert max(widths) <= 4 * SPACING + (1 - crowding) * (2 * (REACH - 0.05) - 4 * SPACING) + 1e-6
        assert (max(widths) - min(widths) < 1e-6) == (crowding == 1)


class TestDemonstrations:
    def test_stacks_two_blocks_again_and_again(self) -> None:
        demos = [demonstrate(blocks=6, stacks=3, seed=seed) for seed in range(8)]
        assert sum(demo.success for demo in demos) >= 7
        for demo in demos:
            demo.episode.validate()
            assert demo.episode.states.dtype == np.float32
            assert levels(demo.episode.states).max() == 1
            assert relabel(demo.episode.states, "dense")[0].tolist() == demo.episode.rewards.tolist()
            assert len(demo.completed) == 3 or not demo.success

    def test_recorded_actions_replay_exactly(self) -> None:
        demo, again, other = (demonstrate(blocks=4, stacks=2, seed=seed) for seed in (3, 3, 4))
        np.testing.assert_array_equal(demo.episode.states, again.episode.states)
        np.testing.assert_array_equal(demo.episode.actions, again.episode.actions)
        assert demo.completed == again.completed
        assert len(other.episode) != len(demo.episode) or not np.allclose(other.episode.actions, demo.episode.actions)
        env = BlockStackingEnv(blocks=4, max_episode_steps=10**6)
        first, _ = env.reset(seed=3, options=demo.start)
        states = [first] + [env.step(action)[0] for action in demo.episode.actions]
        np.testing.assert_array_equal(states, demo.episode.states)

    def test_some_hands_start_closed(self) -> None:
        starts = [demonstrate(blocks=3, stacks=1, seed=seed) for seed in range(8)]
        closed = [demo for demo in starts if demo.start["opening"] < 1]
        assert 0 < len(closed) < 8
        for demo in starts:
            np.testing.assert_allclose(demo.episode.states[0, 2:4], OPENING * demo.start["opening"], rtol=1e-6)

    def test_recipe_builds_alike_for_any_number_of_workers(self, tmp_path: Path) -> None:
        few = {"demonstrations": 3, "stacks": 1, "blocks": 3}
        path = ROOT / "offline_data" / "block_stacking.yaml"
        places = [recipes.build(path, output=tmp_path / str(n), overrides=few, workers=n) for n in (1, 2)]
        data, other = (place.load() for place in places)
        assert (data.num_episodes, data.state_dim, data.action_dim) == (3, 6 + 6 * 3, 3)
        np.testing.assert_array_equal(data.states, other.states)
        assert places[0].ours["env"] == "rllib_spirl/BlockStacking-v0"
        assert places[0].info["fps"] == 1 / STEP
        env = BlockStackingEnv(blocks=3)
        for episode in map(data.episode, range(3)):
            assert env.relabel(episode.states)[0].tolist() == episode.rewards.tolist()

    def test_a_kitchen_key_is_unknown_to_the_recipe(self) -> None:
        with pytest.raises(UserError, match="unknown key 'order_length'"):
            recipes.read_recipe(ROOT / "offline_data" / "block_stacking.yaml", {"order_length": 2})

    @pytest.mark.slow
    @pytest.mark.parametrize(
        ("script", "arguments", "key"),
        [
            ("demos.py", ["block_stacking", "--episodes", "2", "--stacks", "1"], "success"),
            ("raster.py", ["--blocks", "3", "--states", "40", "--rounds", "1"], "pictures_per_second"),
        ],
    )
    def test_benchmarks_print_one_json_line(self, script: str, arguments: list[str], key: str) -> None:
        command = [sys.executable, str(ROOT / "benchmarks" / script), *arguments]
        run = subprocess.run(command, capture_output=True, text=True, check=True)
        assert json.loads(run.stdout.splitlines()[-1])[key] > 0
