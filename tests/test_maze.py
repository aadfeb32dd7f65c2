"""Maze-v0: its mazes, walls, views and tasks, its demonstrator and recipe."""

from pathlib import Path

import gymnasium as gym
import imageio.v3 as imageio
import networkx as nx
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from rllib_spirl.data import recipe as recipes
from rllib_spirl.demos.maze import demonstrate
from rllib_spirl.demos.recipes import MazeRecipe
from rllib_spirl.envs.maze import (
    HALF_WIDTH,
    PICTURE,
    PIXEL,
    SPEED,
    MazeEnv,
    graph,
    pictures,
    relabel,
    walls,
    way,
)
from rllib_spirl.envs.tasks import check_split
from rllib_spirl.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
GOLDEN_MAZE = [
    "##########",
    "##########",
    "#.#.....##",
    "#.#.######",
    "#.......##",
    "#.#.###.##",
    "#.#.#...##",
    "#.#.######",
    "#.#.....##",
    "##########",
]
VIEWS = Path(__file__).parent / "golden" / "maze_views.png"


def in_walls(env: MazeEnv) -> bool:
    """Whether a part of the agent is in a wall."""
    x, y = env._position
    corners = [(x + dx, y + dy) for dx in (-HALF_WIDTH, HALF_WIDTH) for dy in (-HALF_WIDTH, HALF_WIDTH)]
    return any(env.walls[int(np.floor(a)), int(np.floor(b))] for a, b in corners)


class TestMazes:
    def test_the_same_numbers_give_the_same_maze(self) -> None:
        graph.cache_clear()
        walls.cache_clear()
        first = walls(20, 3)
        graph.cache_clear()
        walls.cache_clear()
        np.testing.assert_array_equal(first, walls(20, 3))
        assert not np.array_equal(first, walls(20, 4))
        # A maze is known by its number for good: results and demonstrations name it.
        rows = ["".join(".#"[solid] for solid in column) for column in walls(10, 0).T[::-1].tolist()]
        assert rows == GOLDEN_MAZE

    @pytest.mark.parametrize("size", [10, 11, 20, 40])
    def test_every_free_square_is_reached_from_every_other(self, size: int) -> None:
        for maze in range(3):
            solid = walls(size, maze)
            assert nx.is_connected(graph(size, maze))
            assert (~solid).sum() == len(graph(size, maze))
            assert solid[[0, -1]].all()
            assert solid[:, [0, -1]].all()
            cells = ((size - 1) // 2) ** 2
            loops = graph(size, maze).number_of_edges() - 2 * (cells - 1)
            assert loops > 0 if size >= 20 else loops >= 0
            last = 2 * ((size - 1) // 2) - 1
            path = way(size, maze, (1, 1), (last, last))
            assert not solid[tuple(np.array(path).T)].any()
            assert (np.abs(np.diff(path, axis=0)).sum(1) == 1).all()


class TestEnvironment:
    def test_check_env_and_registration(self) -> None:
        env = gym.make("rllib_spirl/Maze-v0", size=20).unwrapped
        check_env(env, skip_render_check=True)
        check_env(MazeEnv(size=10, images=True, render_mode="rgb_array"))

    def test_walls_are_solid_at_any_speed(self) -> None:
        rng = np.random.default_rng(0)
        env = MazeEnv(size=15, maze=1, max_episode_steps=10**6)
        env.reset(seed=0)
        for step in range(3000):
            if step % 3 == 0:
                env._velocity = tuple(rng.normal(0, 10, 2))
            env.step(rng.uniform(-1, 1, 2))
            assert not in_walls(env)

    def test_it_moves_with_momentum_and_slides_along_walls(self) -> None:
        env = MazeEnv(size=10, maze=0)
        env.reset(seed=0)
        along, across = (1, 0) if env.walls[2, 1] else (0, 1)
        action = np.full(2, -1.0)
        action[along] = 0.5
        speeds = []
        for _ in range(6):
            observation, *_ = env.step(action)
            speeds.append(float(observation[2 + along]))
        expected = [0.5 * SPEED * (1 - 0.7 ** (k + 1)) for k in range(6)]
        np.testing.assert_allclose(speeds, expected, rtol=1e-5)
        assert env._velocity[across] == 0
        assert env._position[across] == pytest.approx(1 + HALF_WIDTH, abs=1e-5)

    def test_a_seed_gives_the_same_episode_pictures_or_not(self) -> None:
        actions = np.random.default_rng(1).uniform(-1, 1, (60, 2))
        runs = []
        for images in (False, False, True):
            env = MazeEnv(size=20, maze=2, images=images, max_episode_steps=60)
            first, _ = env.reset(seed=5)
            steps = [env.step(action) for action in actions]
            observations = [first, *(step[0] for step in steps)]
            runs.append(np.array([o["state"] if images else o for o in observations]))
            assert [step[3] for step in steps] == [False] * 59 + [True]
        np.testing.assert_array_equal(runs[0], runs[1])
        np.testing.assert_array_equal(runs[0], runs[2])

    def test_the_goal_ends_the_episode_with_a_reward_that_states_tell(self) -> None:
        env = MazeEnv(size=10, maze=0, goal=[3, 3])
        path = way(10, 0, (1, 1), (3, 3))
        states, rewards, terminated = [env.reset(seed=0)[0]], [], False
        assert env.render_mode is None
        for square in path[1:]:
            while not terminated and np.abs(states[-1][:2] - square - 0.5).max() > 0.3:
                observation, reward, terminated, _, info = env.step(5 * (np.array(square) + 0.5 - states[-1][:2]))
                states.append(observation)
                rewards.append(reward)
        assert terminated
        assert info["measures"] == {"success": 1.0}
        assert rewards == [0.0] * (len(rewards) - 1) + [1.0]
        again, end = env.relabel(np.array([*states, states[-1]]))
        assert again.tolist() == [*rewards, 0.0]
        assert end == len(rewards) - 1
        assert relabel(np.array(states[:-1]), (3, 3))[1] is None

    def test_bad_arguments(self) -> None:
        for arguments, message in (
            ({"size": 9}, "size is 9; choose from 10 to 40"),
            ({"maze": -1}, "a number from 0 on"),
            ({"goal": [0, 0]}, r"a task is a free square \[x, y\], but \[0, 0\] is a wall of maze 0"),
            ({"goal": [99, 1]}, "or beyond it"),
            ({"goal": "far"}, "not 'far'"),
            ({"goal": "11"}, "not '11'"),
            ({"goal": [1.5, 1]}, r"not \[1.5, 1\]"),
            ({"images": "no"}, "images must be true or false, not 'no'"),
            ({"max_episode_steps": 0}, "at least 1"),
            ({"render_mode": "human"}, "choose 'rgb_array' or None"),
        ):
            with pytest.raises(UserError, match=message):
                MazeEnv(**arguments)
        with pytest.raises(UserError, match="the option 'start'"):
            MazeEnv(size=10).reset(options={"start": [0, 1]})
        with pytest.raises(UserError, match="4 numbers"):
            MazeEnv(size=10).render_state(np.zeros(5))

    def test_tasks_are_goals(self) -> None:
        env = MazeEnv(size=12, maze=1)
        env.reset(seed=0)
        tasks = env.sample_tasks(20)
        assert all(not env.walls[x, y] and (x, y) != (1, 1) for x, y in tasks)
        env.set_task(tasks[0])
        assert env.get_task() == tasks[0]
        assert env.goal != tuple(tasks[0]), "from the next reset on"
        env.reset()
        assert env.goal == tuple(tasks[0])
        with pytest.raises(UserError, match="tasks never trained on"):
            check_split(env, [[1, 3], [3, 1]], [[3, 1]])

    def test_states_of_another_maze_are_told(self) -> None:
        states = demonstrate(20, 1000, seed=0).episode.states
        assert MazeEnv(size=20, maze=1000).subtasks_along(states, "reach a square") == {}
        for other in (MazeEnv(), MazeEnv(size=20, maze=1001), MazeEnv(size=10)):
            with pytest.raises(UserError, match=f"in walls of maze {other.maze} .size {other.size}. or beyond it"):
                other.subtasks_along(states, "reach a square")

    def test_a_whole_picture_shows_agent_and_goal(self) -> None:
        env = MazeEnv(size=10, maze=0, goal=[7, 7], render_mode="rgb_array")
        env.reset(seed=0)
        picture = env.render()
        assert picture.shape == (480, 480, 3)
        agent = np.argwhere((picture == (214, 69, 65)).all(-1)).mean(0) / 48
        np.testing.assert_allclose([agent[1], 10 - agent[0]], env._position, atol=0.02)
        goal = np.argwhere((picture == (60, 160, 90)).all(-1)).mean(0) / 48
        np.testing.assert_allclose([goal[1], 10 - goal[0]], [7.5, 7.5], atol=0.02)


class TestViews:
    POSITIONS = np.array([[1.5, 1.5], [5.31, 5.2], [8.4, 3.77]])

    def test_a_pixel_takes_what_walls_cover_of_it(self) -> None:
        solid, fine = walls(10, 0), 50
        padded = np.pad(solid, 8, constant_values=True)
        for position, view in zip(self.POSITIONS, pictures(solid, self.POSITIONS), strict=True):
            points = (np.arange(PICTURE * fine) + 0.5) / fine * PIXEL - PICTURE * PIXEL / 2
            x, y = (np.floor(position[axis] + points).astype(int) + 8 for axis in (0, 1))
            inside = padded[x[None, :], y[::-1, None]].reshape(PICTURE, fine, PICTURE, fine).mean((1, 3))
            colours = np.array([0.96, 0.95, 0.92]) + inside[..., None] * np.array([-0.71, -0.65, -0.52])
            np.testing.assert_allclose(view, 255 * colours, atol=3)

    def test_they_are_as_they_were(self) -> None:
        drawn = np.concatenate(list(pictures(walls(10, 0), self.POSITIONS)), axis=1)
        np.testing.assert_array_equal(drawn, imageio.imread(VIEWS))

    @pytest.mark.parametrize("on_demand", [False, True])
    def test_the_environment_shows_the_previous_and_the_current_one(self, on_demand: bool) -> None:
        env = MazeEnv(size=10, maze=0, images=True)
        env.paint_on_demand = on_demand
        observation, _ = env.reset(seed=0)
        before = pictures(env.walls, observation["state"][:2])
        np.testing.assert_array_equal(env.paint() if on_demand else observation["images"], [before, before])
        for _ in range(4):
            observation, *_ = env.step(np.array([0.7, 0.4]))
            now = pictures(env.walls, observation["state"][:2])
            np.testing.assert_array_equal(env.paint() if on_demand else observation["images"], [before, now])
            before = now


class TestDemonstrations:
    def test_the_goal_is_reached(self) -> None:
        made = [demonstrate(20, 1000 + seed, seed, noise=0.2) for seed in range(100)]
        assert sum(each.success for each in made) >= 99
        for each in made:
            assert each.episode.rewards.sum() == each.success
            assert each.squares >= 10
            speed = np.hypot(*each.episode.states[:, 2:].T).max()
            assert speed < 1.5 * SPEED

    def test_the_same_arguments_give_the_same(self) -> None:
        one, two, other = (demonstrate(12, 5, seed, images=True).episode for seed in (1, 1, 2))
        np.testing.assert_array_equal(one.states, two.states)
        np.testing.assert_array_equal(one.images, two.images)
        assert not np.array_equal(one.states[0], other.states[0])
        np.testing.assert_array_equal(one.images, pictures(walls(12, 5), one.states[:-1, :2]))

    def test_the_recipe_records_many_mazes_and_none_that_is_left_for_tests(self, tmp_path: Path) -> None:
        few = {"demonstrations": 6, "mazes": 3, "size": 12}
        sets = [
            recipes.build(ROOT / "offline_data" / "maze.yaml", output=tmp_path / str(n), overrides=few, workers=n)
            for n in (1, 2)
        ]
        assert [len(list(data.episodes())) for data in sets] == [6, 6]
        files = [sorted((tmp_path / str(n)).rglob("*.parquet")) for n in (1, 2)]
        assert [file.read_bytes() for file in files[0]] == [file.read_bytes() for file in files[1]]
        recipe = MazeRecipe(source="scripted", environment="maze", demonstrations=6, mazes=3)
        assert [each["maze"] for each in recipe.variants()] == [1000, 1001, 1002]
