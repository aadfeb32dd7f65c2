"""OGBench: environments by name, play that is recorded, files that are imported, and what is said of bad input."""

import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.utils.env_checker import check_env

from rllib_spirl import SPiRLConfig, UserError
from rllib_spirl.cli.experiment import load as load_experiments
from rllib_spirl.data import recipe as recipes
from rllib_spirl.demos.ogbench_file import OGBenchFile
from rllib_spirl.demos.outside import OGBenchRecipe
from rllib_spirl.envs.outside import FAMILIES, OGBENCH
from tests.commands import run
from tests.sets import fingerprint, load, opened

ROOT = Path(__file__).resolve().parents[1]
SCENE = "ogbench/scene-play-singletask-task1-v0"
PLAY = {"source": "ogbench", "environment": "scene", "episodes": 2, "steps": 30}


def save(path: Path, values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


# Files. They are read without the package.


def arrays(width: int = 40, episodes: int = 3, rows: int = 6) -> dict[str, np.ndarray]:
    """As OGBench publishes them: the last row of an episode is flagged, and its action leads nowhere."""
    rng = np.random.default_rng(0)
    count = episodes * rows
    terminals = np.zeros(count, bool)
    terminals[rows - 1 :: rows] = True
    return {
        "observations": rng.normal(size=(count, width)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (count, 5)).astype(np.float32),
        "terminals": terminals,
        "qpos": rng.normal(size=(count, 25)),
        "qvel": rng.normal(size=(count, 24)),
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    np.savez_compressed(tmp_path / "scene-play-v0.npz", **arrays())
    return tmp_path / "scene-play-v0.npz"


def test_a_file_becomes_whole_episodes(file: Path, tmp_path: Path, spirl: Any) -> None:
    assert spirl("import-ogbench", file, "-o", tmp_path / "set").code == 0
    written, read = arrays(), load(tmp_path / "set")
    assert np.diff(read.episode_starts).tolist() == [5, 5, 5]
    for index in range(3):
        episode, rows = read.episode(index), slice(6 * index, 6 * index + 6)
        np.testing.assert_array_equal(episode.states, written["observations"][rows])
        np.testing.assert_array_equal(episode.actions, written["actions"][rows][:-1])
        assert (episode.terminated, episode.truncated, episode.rewards.any()) == (False, True, False)
    data = opened(tmp_path / "set")
    assert data.ours["env"] == "ogbench/scene-play-singletask-v0"
    assert (data.info["fps"], read.tasks) == (20, ["play"])


def test_a_file_as_a_recipe(file: Path, tmp_path: Path) -> None:
    path = save(tmp_path / "file.yaml", {"source": "ogbench", "path": file.name, "state_columns": "0:2"})
    built = recipes.build(path, output=tmp_path / "set")
    assert (built.state_dim, built.num_episodes) == (2, 3)
    with pytest.raises(UserError, match="unknown key 'episods'; did you mean"):
        recipes.read_recipe(save(path, {**PLAY, "episods": 3}))


@pytest.mark.parametrize(
    ("options", "change", "words"),
    [
        ([], {"observations": None}, "no array 'observations' (there are: actions"),
        ([], {"observations": np.zeros((18, 37), np.float32)}, "has states of 37 and actions of 5 numbers, ogbench"),
        ([], {"actions": np.zeros((18, 8), np.float32)}, "has states of 40 and actions of 8 numbers, ogbench"),
        ([], {"actions": np.zeros((17, 5), np.float32)}, "'actions' has 17 rows, 'observations' 18"),
        ([], {"observations": np.zeros((18, 8, 8, 3), np.uint8)}, "import vectors only"),
        ([], {"observations": np.array([None] * 18)}, "not readable as .npz"),
        ([], {"observations": np.float32(3)}, "'observations' holds no numbers, one for each step"),
        ([], {"terminals": np.float32(3)}, "'terminals' holds no numbers, one for each step"),
        ([], {"observations": np.full((18, 40), np.nan, np.float32)}, "episode at row 0, step 0: state is nan"),
        ([], {"terminals": np.ones((18, 2))}, "'terminals' is of shape (18, 2), not (steps,)"),
        ([], {"terminals": np.full(18, np.nan)}, "'terminals' is nan at row 0"),
        ([], {"terminals": np.ones(18)}, "episode at row 0: no steps"),
        ([], {"actions": np.full((18, 5), 3, np.float32)}, "--scale-actions"),
        (["--env", "ogbench/cube-double-play-singletask-v0"], {}, "cube-double-play-singletask-v0 37 and 5"),
        (["--env", "ogbench/scene-play-singletask-task9-v0"], {}, "did you mean 'ogbench/scene-play-singletask-task"),
    ],
)
def test_bad_files_give_one_line(
    options: list[str], change: dict[str, Any], words: str, file: Path, tmp_path: Path, spirl: Any
) -> None:
    kept = {key: value for key, value in (arrays() | change).items() if value is not None}
    np.savez(file, **kept)
    result = spirl("import-ogbench", file, "-o", tmp_path / "set", *options)
    (line,) = result.err.strip().splitlines()
    assert (result.code, words in line) == (1, True), line
    assert not (tmp_path / "set").exists()


def test_files_that_are_none(file: Path, tmp_path: Path) -> None:
    content = file.read_bytes()
    np.save(tmp_path / "single.npy", np.zeros(3))
    for damaged in (content[:300], content[:-300], b"", (tmp_path / "single.npy").read_bytes()):
        file.write_bytes(damaged)
        with pytest.raises(UserError, match=r"not readable as \.npz"):
            OGBenchFile(path=file).read()
    with pytest.raises(UserError, match="no such file"):
        OGBenchFile(path=tmp_path / "nothing.npz").read()


# What is said at the start.


def experiment(tmp_path: Path, **values: Any) -> Path:
    given = {"run": "SPiRL", "env": SCENE, "skills": {"data": str(save(tmp_path / "play.yaml", PLAY))}} | values
    return save(tmp_path / "x.yaml", {"x": given | {"storage_path": str(tmp_path / "results")}})


def refusal(path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> str:
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(path.parent / "home"))
    assert run(["rllib", "train", "file", str(path)], monkeypatch) == 1
    assert not (path.parent / "home").exists()
    (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
    return line


def test_misspelt_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    misspelt = experiment(tmp_path, env="ogbench/sceen-play-singletask-task1-v0")
    assert f"did you mean '{SCENE}'?" in refusal(misspelt, monkeypatch, capfd)
    short = experiment(tmp_path, env="scene-play-singletask-task1-v0")
    assert f"did you mean '{SCENE}'?" in refusal(short, monkeypatch, capfd)
    with pytest.raises(UserError, match=r"'sceen': .*did you mean 'scene'"):
        recipes.read_recipe(save(tmp_path / "sceen.yaml", PLAY | {"environment": "sceen"}))


def test_without_the_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ogbench", None)
    wanted = "ogbench is not installed: pip install 'rllib_spirl[ogbench]'"
    assert wanted in refusal(experiment(tmp_path), monkeypatch, capfd)
    assert run(["spirl", "data", "build", str(tmp_path / "play.yaml"), "-o", str(tmp_path / "set")], monkeypatch) == 1
    assert wanted in capfd.readouterr().err
    assert not (tmp_path / "set").exists()


@pytest.mark.parametrize("name", ["ogbench_scene", "ogbench_cube_double"])
def test_shipped_files(name: str) -> None:
    recipe = recipes.read_recipe(ROOT / "offline_data" / f"{name}.yaml")
    assert isinstance(recipe, OGBenchRecipe)
    experiments = load_experiments(ROOT / "tuned_examples" / f"{name}.yaml")
    assert len(experiments) == 5
    assert {OGBENCH[str(e.env).removeprefix("ogbench/")] for e in experiments} == {recipe.environment}


# Environments and play, with the package.


@pytest.fixture(scope="module")
def scene() -> Any:
    pytest.importorskip("ogbench")
    return gym.make(SCENE, disable_env_checker=True)


def test_names_limits_and_sizes_are_the_benchmarks() -> None:
    pytest.importorskip("ogbench")
    for task, family in OGBENCH.items():
        assert gym.spec(task.replace("-play", "")).max_episode_steps == FAMILIES[family].limit


def test_other_data_than_the_environments(
    scene: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    cubes = save(tmp_path / "cubes.yaml", PLAY | {"environment": "cube-single"})
    line = refusal(experiment(tmp_path, skills={"data": str(cubes)}), monkeypatch, capfd)
    assert "40-dimensional observations, but the data of the cube-single's demonstrations has 28" in line
    line = refusal(experiment(tmp_path, config={"env_config": {"reward": "dens"}}), monkeypatch, capfd)
    assert "config.env_config: OGBench: reward is 'dens'; choose 'dense' or 'sparse'." in line


def test_the_environment_is_one(scene: Any) -> None:
    check_env(scene.unwrapped, skip_render_check=True)
    assert scene.spec.max_episode_steps == 750
    assert scene.reset(seed=0)[1]["measures"] == {"success": 0.0}


def play_along(env: Any, actions: np.ndarray, seed: int = 3) -> tuple[np.ndarray, list[float], bool, dict[str, Any]]:
    """States, rewards, whether it ended, and the last info."""
    states, rewards = [env.reset(seed=seed)[0]], []
    terminated, info = False, {}
    for action in actions:
        state, reward, terminated, _, info = env.step(action)
        states.append(state)
        rewards.append(reward)
        if terminated:
            break
    return np.array(states), rewards, terminated, info


def test_the_seed_alone_decides_an_episode(scene: Any) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 5))
    first = play_along(scene, actions)[0]
    play_along(scene, actions[::-1], seed=4)
    np.testing.assert_array_equal(play_along(scene, actions)[0], first)


def test_goes_on_where_it_was(scene: Any) -> None:
    actions = np.random.default_rng(0).uniform(-1, 1, (20, 5))
    play_along(scene, actions[:10])
    state = scene.unwrapped.get_state()
    expected = [scene.step(action)[:2] for action in actions[10:]]
    play_along(scene, actions[:3], seed=5)
    scene.unwrapped.set_state(state)
    for action, (observation, reward) in zip(actions[10:], expected, strict=True):
        found = scene.step(action)
        np.testing.assert_array_equal(found[0], observation)
        assert found[1] == reward


@pytest.mark.parametrize("reward", ["dense", "sparse"])
def test_relabelled_states_earn_what_the_environment_gives(
    scene: Any, reward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The drawer and the window are pushed by hand, first one and then both, which solves the task."""
    env = scene.unwrapped
    monkeypatch.setattr(env, "reward", reward)
    states, rewards, terminated, success = [scene.reset(seed=1)[0]], [], False, []
    pushes = {5: ("drawer_slide", -0.11, -1.0), 10: ("window_slide", 0.15, 1.0)}  # from just too far away
    while not terminated and len(rewards) < 40:
        if len(rewards) in pushes:
            name, position, speed = pushes[len(rewards)]
            joint = env.benchmark.data.joint(name)
            joint.qpos[0], joint.qvel[0] = position, speed
        state, earned, terminated, _, info = scene.step(np.zeros(5))
        states.append(state)
        rewards.append(earned)
        success.append(info["measures"]["success"])
    assert terminated
    assert success == [0.0] * (len(success) - 1) + [1.0]
    assert sorted(set(rewards)) == ([-2, -1, 0] if reward == "dense" else [-1, 0])
    found, done_at = env.relabel(np.array(states))
    np.testing.assert_array_equal(found, rewards)
    solved = len(rewards) - 1
    assert done_at.tolist() == [solved]
    more = np.concatenate([states, states])  # the last state is still one in which the task is solved
    found, done_at = env.relabel(more)
    assert done_at.tolist() == [solved, solved + 1, 2 * solved + 2]
    assert found[solved + 2 : -1].max() < 0
    with pytest.raises(UserError, match="have 40 numbers; these have 37"):
        env.relabel(np.zeros((3, 37)))


@pytest.mark.parametrize("task", ["cube-double-play-singletask-v0", "puzzle-3x3-play-singletask-task1-v0"])
def test_other_scenes_are_relabelled_too(task: str) -> None:
    pytest.importorskip("ogbench")
    env = gym.make(f"ogbench/{task}", disable_env_checker=True)
    states, rewards, _, _ = play_along(env, np.random.default_rng(0).uniform(-1, 1, (5, 5)))
    assert env.observation_space.contains(states[0])
    assert env.unwrapped.relabel(states)[0].tolist() == rewards  # type: ignore[attr-defined]
    benchmark: Any = env.unwrapped.benchmark  # type: ignore[attr-defined]
    np.testing.assert_array_equal(benchmark.compute_observation().astype(np.float32), states[-1])


@pytest.mark.slow
def test_play_is_the_same_for_any_number_of_workers(scene: Any, tmp_path: Path) -> None:
    path, sets = save(tmp_path / "play.yaml", PLAY), []
    for workers in (1, 2):
        output = tmp_path / str(workers)
        sets.append(recipes.build(path, output=output, workers=workers))
    assert fingerprint(sets[0]) == fingerprint(sets[1])
    assert (sets[0].num_episodes, sets[0].num_frames, sets[0].state_dim) == (2, 60, 40)
    assert sets[0].ours["env"] == "ogbench/scene-play-singletask-v0"
    files = [sorted(p.relative_to(s.path) for p in Path(str(s)).rglob("*.parquet")) for s in sets]
    assert files[0] == files[1]
    for name in files[0]:
        assert (Path(str(sets[0])) / name).read_bytes() == (Path(str(sets[1])) / name).read_bytes()


def test_a_cube_out_of_sight_is_left_out() -> None:
    pytest.importorskip("ogbench")
    from rllib_spirl.demos.ogbench import _visible

    states = np.zeros((3, 40))
    assert _visible(states)
    states[1, 20] = 3.0  # 0.3 m to the right
    assert not _visible(states)
    states[1, 20:22] = -3.1, 0.7  # left, in the drawer
    assert _visible(states)
    states[1, 21] = 0.2  # beside it
    assert not _visible(states)


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_it_trains(scene: Any, tmp_path: Path) -> None:
    from rllib_spirl import PretrainConfig, pretrain

    data = recipes.build(save(tmp_path / "play.yaml", PLAY), output=tmp_path / "data", workers=1)
    small = PretrainConfig(hidden=16, layers=1, prior_layers=1, updates=20, report_every=20)
    skills = pretrain(data, small, output=tmp_path / "skills")
    config = (
        SPiRLConfig()
        .environment(SCENE, env_config={"reward": "sparse"})
        .training(skill_checkpoint=str(skills), offline_data=str(data), target_bounds=(-400, 0))
        .training(warmup_steps=10, offline_updates=5, policy_hidden=16, critic_hidden=16)
        .reporting(min_sample_timesteps_per_iteration=3)
    )
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
        while "updates" not in result:
            result = algorithm.train()
        assert result["env_steps"] > 0
        assert np.isfinite(result["learners"]["default_policy"]["critic_loss"])
    finally:
        algorithm.stop()
