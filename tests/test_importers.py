"""Importers: Minari, D4RL's HDF5 and LeRobot end up as the same rows, and nothing is invented on the way."""

import json
import math
import os
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import minari
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from minari.data_collector.episode_buffer import EpisodeBuffer
from minari.storage.remotes import get_cloud_storage

from rllib_spirl.algorithm.offline import offline_replay
from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.data.d4rl_hdf5 import D4RLRecipe
from rllib_spirl.data.importing import Source, choose_columns, scale_actions
from rllib_spirl.data.importing import write as write_source
from rllib_spirl.data.lerobot import LeRobotRecipe
from rllib_spirl.data.minari import MinariRecipe
from rllib_spirl.data.recipe import read_recipe, recipe_hash
from rllib_spirl.errors import UserError
from rllib_spirl.skills.model import SkillModel, SkillModelConfig
from rllib_spirl.yaml_text import parse
from tests.sets import episodes, fingerprint, load, opened

HUMAN = Path(__file__).resolve().parents[2] / "shared" / "data" / "minari"
HUMAN_ID = "D4RL/kitchen/complete-v2"


def write(source: Source, output: Path, **options: bool) -> Path:
    """The folder of an imported data set."""
    return Path(str(write_source(source, output, **options)))


def read_minari(dataset: str, **options: Any) -> Source:
    return MinariRecipe(dataset=dataset, **{"download": False} | options).read()


def read_d4rl(path: Path, **options: Any) -> Source:
    return D4RLRecipe(path=path, **options).read()


def read_lerobot(path: Path, **options: Any) -> Source:
    return LeRobotRecipe(path=str(path), **options).read()


# Minari.


@pytest.mark.skipif(not (HUMAN / HUMAN_ID).exists(), reason="the human kitchen demonstrations are not here")
def test_human_kitchen_set_round_trips_exactly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(HUMAN))
    whole = write(read_minari(HUMAN_ID, fps=12.5), tmp_path / "whole")
    positions = write(read_minari(HUMAN_ID, state_columns="0:9,18:39"), tmp_path / "positions")
    read, narrow = load(whole, dtype=np.float64), load(positions, dtype=np.float64)
    recorded = list(minari.load_dataset(HUMAN_ID).iterate_episodes())
    assert (read.num_episodes, read.num_frames, read.state_dim, read.action_dim) == (15, 3276, 59, 9)
    assert narrow.state_dim == 30
    assert read.tasks == ["microwave; kettle; light switch; slide cabinet"]
    for i, original in enumerate(recorded):
        episode = read.episode(i)
        states = original.observations["observation"]
        np.testing.assert_array_equal(episode.states, states)
        np.testing.assert_array_equal(episode.actions, original.actions)
        np.testing.assert_array_equal(episode.rewards, original.rewards)
        assert episode.terminated == original.terminations[-1]
        np.testing.assert_array_equal(
            narrow.episode(i).states, np.concatenate([states[:, :9], states[:, 18:39]], axis=1)
        )
    assert pq.read_schema(whole / "data/chunk-000/file-000.parquet").field("action").type.value_type == "double"
    assert fingerprint(whole) != fingerprint(positions)


STATES = gym.spaces.Box(-np.inf, np.inf, (4,), np.float64)


def add_minari(
    name: str,
    buffers: list[EpisodeBuffer],
    observations: gym.Space = STATES,
    largest_action: float = 1,
    actions: gym.Space | None = None,
) -> Any:
    """Write a Minari data set, by default of actions (3,)."""
    return minari.create_dataset_from_buffers(
        name,
        buffers,
        observation_space=observations,
        action_space=actions or gym.spaces.Box(-largest_action, largest_action, (3,), np.float64),
        author="x",
        author_email="x@example.com",
        code_permalink="https://example.com",
        algorithm_name="x",
        description="x",
    )


@pytest.fixture
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A local Minari root with a small data set of Dict observations and actions in [-2, 2]."""
    root = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    rng = np.random.default_rng(0)
    buffers = []
    for index, steps in enumerate((5, 7)):
        states = rng.normal(size=(steps + 1, 4))
        buffers.append(
            EpisodeBuffer(
                id=index,
                observations={"observation": states, "goal": states[:, :2]},
                actions=rng.uniform(-2, 2, size=(steps, 3)),
                rewards=list(rng.normal(size=steps)),
                terminations=[False] * (steps - 1) + [index == 0],
                truncations=[False] * (steps - 1) + [index == 1],
                infos=None,
            )
        )
    goal = gym.spaces.Box(-np.inf, np.inf, (2,), np.float64)
    add_minari("test/toy-v0", buffers, gym.spaces.Dict({"observation": STATES, "goal": goal}), largest_action=2)
    return root


def test_minari_scales_actions_and_keeps_flags(minari_root: Path, tmp_path: Path) -> None:
    read = load(write(read_minari("test/toy-v0"), tmp_path / "set"), dtype=np.float64)
    originals = list(minari.load_dataset("test/toy-v0").iterate_episodes())
    for i, original in enumerate(originals):
        np.testing.assert_allclose(read.episode(i).actions, original.actions / 2, atol=1e-12)
        np.testing.assert_array_equal(read.episode(i).states, original.observations["observation"])
    assert [read.episode(i).terminated for i in range(2)] == [True, False]
    assert opened(tmp_path / "set").ours["source"]["action_high"] == [2.0, 2.0, 2.0]
    assert read.tasks == ["test/toy-v0"]


def test_minari_observation_key_and_local_path(minari_root: Path, tmp_path: Path) -> None:
    source = read_minari(str(minari_root / "test/toy-v0"), observation_key="goal", task="reach")
    read = load(write(source, tmp_path / "set"))
    assert (read.state_dim, read.tasks) == (2, ["reach"])
    other = read_minari("test/toy-v0", root=minari_root, observation_key="goal")
    assert next(episodes(other)).states.shape == (6, 2)


def test_minari_a_root_below_the_home(minari_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MINARI_DATASETS_PATH")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert read_minari("test/toy-v0", root=Path("~/minari"), observation_key="goal").count == 2


def test_a_local_minari_data_set_that_is_replaced_is_imported_anew(minari_root: Path) -> None:
    folder = minari_root / "test/toy-v0"
    for recipe in (MinariRecipe(dataset=str(folder)), MinariRecipe(dataset="test/toy-v0", download=False)):
        before = recipe.content()
        assert recipe.content() == before
        os.utime(folder / "data/main_data.hdf5", ns=(1, 1 + before["state"][1]))
        assert recipe.content() != before
    assert MinariRecipe(dataset="D4RL/kitchen/complete-v2").content() == MinariRecipe(
        dataset="D4RL/kitchen/complete-v2"
    ).model_dump(mode="json", exclude={"name", "description", "output"})


def test_minari_sets_in_the_arrow_format_are_told_apart_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    minari.create_dataset_from_buffers(
        "test/arrow-v0",
        [_buffer(0)],
        observation_space=STATES,
        action_space=gym.spaces.Box(-1, 1, (3,), np.float64),
        data_format="arrow",
        author="x",
        author_email="x@example.com",
        code_permalink="https://example.com",
        algorithm_name="x",
        description="x",
    )
    recipe = MinariRecipe(dataset="test/arrow-v0", download=False)
    before = recipe.content()
    assert recipe.content() == before
    file = next((tmp_path / "test/arrow-v0/data").rglob("*.arrow"))
    os.utime(file, ns=(1, 1 + file.stat().st_mtime_ns))
    assert recipe.content() != before


def test_minari_actions_beyond_their_bounds_are_clipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for bound in (1, 2):
        buffer = _buffer(0)
        buffer.actions[:] = 0.3
        buffer.actions[0] = 1.2 * bound
        add_minari(f"test/beyond{bound}-v0", [buffer], largest_action=bound)
        (episode,) = episodes(read_minari(f"test/beyond{bound}-v0"))
        assert episode.actions[0].tolist() == [1, 1, 1]
        np.testing.assert_allclose(episode.actions[1:], buffer.actions[1:] / bound, atol=1e-12)


def test_minari_errors(minari_root: Path) -> None:
    with pytest.raises(UserError, match=r"no such Minari data set at .*MINARI_DATASETS_PATH"):
        read_minari("test/other-v0")
    with pytest.raises(UserError, match=r"no observation 'pixels' \(there are: .*observation"):
        next(episodes(read_minari("test/toy-v0", observation_key="pixels")))
    with pytest.raises(UserError, match="choose columns from 0 to 3"):
        next(episodes(read_minari("test/toy-v0", state_columns="0:9")))
    file = minari_root / "test/toy-v0/data/main_data.hdf5"
    file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="download"):
        list(episodes(read_minari("test/toy-v0")))


def _buffer(index: int, *, states: int = 6, infos: dict[str, Any] | None = None, seed: int = 0) -> EpisodeBuffer:
    rng, steps = np.random.default_rng(seed + index), 5
    return EpisodeBuffer(
        id=index,
        observations=rng.normal(size=(states, 4)),
        actions=rng.uniform(-1, 1, size=(steps, 3)),
        rewards=[0.0] * (steps - 1) + [1.0],
        terminations=[False] * (steps - 1) + [True],
        truncations=[False] * steps,
        infos=infos,
    )


def test_minari_damaged_episodes_are_left_out_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """An episode with as many observations as actions lacks the state after the last one."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    add_minari("test/short-v0", [_buffer(0), _buffer(1, states=5), _buffer(2)])
    damaged = r"test/short-v0, episode 1: 5 actions need 6 states .* got 5 and 5, or leave .* with --skip-damaged"
    with pytest.raises(UserError, match=damaged):
        write(read_minari("test/short-v0"), tmp_path / "set")
    assert not (tmp_path / "set").exists()
    read = load(write(read_minari("test/short-v0"), tmp_path / "set", skip_damaged=True))
    assert read.num_episodes == 2
    np.testing.assert_allclose(read.episode(1).states, _buffer(2).observations, atol=1e-6)
    told = capsys.readouterr().err
    assert "left out: test/short-v0, episode 1: 5 actions" in told
    assert "damaged episodes left out: 1" in told
    assert opened(tmp_path / "set").ours["source"]["episodes_skipped"] == 1


def test_minari_a_combined_set_keeps_the_labels_of_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    parts = [add_minari("test/open-v0", [_buffer(0)]), add_minari("test/close-v0", [_buffer(0, seed=1)])]
    minari.combine_datasets(parts, "test/both-v0")
    found = [episode.task for episode in episodes(read_minari("test/both-v0"))]
    assert found == ["test/open-v0", "test/close-v0"]
    assert {episode.task for episode in episodes(read_minari("test/both-v0", task="door"))} == {"door"}


def test_minari_labels_from_an_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    infos = [{"goal": {"name": np.full(6, number)}} for number in (4, 7)]
    add_minari("test/goals-v0", [_buffer(i, infos=info) for i, info in enumerate(infos)])
    assert [e.task for e in episodes(read_minari("test/goals-v0", task_key="goal/name"))] == ["4", "7"]
    with pytest.raises(UserError, match=r"no info or observation 'gaol' \(there are: goal\); choose with --task-key"):
        list(episodes(read_minari("test/goals-v0", task_key="gaol")))


def test_minari_download_failure_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> None:
        raise ConnectionError("no route")

    monkeypatch.setattr(minari, "download_dataset", refuse)
    with pytest.raises(UserError, match=r"download failed \(ConnectionError: no route\)"):
        read_minari("D4RL/kitchen/mixed-v2", root=tmp_path, download=True)


def test_a_minari_download_that_ends_early_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "elsewhere"))

    def fetch(name: str, whole: bool) -> None:
        folder = Path(os.environ["MINARI_DATASETS_PATH"])
        if not whole:
            (folder / name / "data").mkdir(parents=True)
            raise ConnectionError("cut off")
        add_minari(name, [_buffer(0)])
        (folder / "test" / "namespace_metadata.json").write_text("{}")

    monkeypatch.setattr(minari, "download_dataset", partial(fetch, whole=False))
    with pytest.raises(UserError, match=r"download failed \(ConnectionError: cut off\)"):
        read_minari("test/far-v0", root=tmp_path, download=True)
    assert [path for path in tmp_path.iterdir() if path.is_dir()] == []
    monkeypatch.setattr(minari, "download_dataset", partial(fetch, whole=True))
    assert len(list(episodes(read_minari("test/far-v0", root=tmp_path, download=True)))) == 1
    assert (tmp_path / "test" / "namespace_metadata.json").exists()
    assert os.environ["MINARI_DATASETS_PATH"] == str(tmp_path / "elsewhere")


def test_an_output_that_is_there_is_told_before_the_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MinariRecipe, "read", lambda self: pytest.fail("it was read"))
    recipe = MinariRecipe(dataset="test/far-v0")
    with pytest.raises(UserError, match="exists; remove it, choose another output"):
        recipe.build(tmp_path, {}, overwrite=False, workers=1)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write there"):
        recipe.build(tmp_path / "file" / "set", {}, overwrite=False, workers=1)


def test_downloads_have_what_they_need() -> None:
    assert type(get_cloud_storage()).__name__ == "HuggingFaceStorage"


def test_a_minari_data_set_cannot_name_an_environment_to_be_made(minari_root: Path, tmp_path: Path) -> None:
    file = minari_root / "test/toy-v0/data/metadata.json"
    metadata = json.loads(file.read_text())
    made = tmp_path / "made"
    arguments = {"args": ["touch", str(made)]}
    metadata["env_spec"] = gym.envs.registration.EnvSpec(
        "Bad-v0", entry_point="subprocess:check_output", kwargs=arguments
    ).to_json()
    del metadata["action_space"]
    file.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=r"not readable as a Minari data set \(metadata.json has no action_space"):
        read_minari("test/toy-v0")
    assert not made.exists()


# D4RL. Ten rows: an episode that terminates at row 3, one that times out at row 7, an unfinished tail of two.


@pytest.fixture
def d4rl() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    terminals, timeouts = np.zeros(10, bool), np.zeros(10, bool)
    terminals[3] = timeouts[7] = True
    return {
        "observations": rng.normal(size=(10, 4)).astype(np.float32),
        "actions": rng.uniform(-1, 1, size=(10, 2)).astype(np.float32),
        "rewards": rng.normal(size=10).astype(np.float32),
        "terminals": terminals,
        "timeouts": timeouts,
    }


def save(path: Path, arrays: dict[str, np.ndarray]) -> Path:
    with h5py.File(path, "w") as file:
        for key, array in arrays.items():
            file[key] = array
    return path


def test_d4rl_without_next_observations_keeps_every_step(tmp_path: Path, d4rl: dict[str, np.ndarray]) -> None:
    read = load(write(read_d4rl(save(tmp_path / "x.hdf5", d4rl)), tmp_path / "set"))
    assert np.diff(read.episode_starts).tolist() == [4, 4, 2]
    for i, (start, stop) in enumerate([(0, 4), (4, 8), (8, 10)]):
        episode = read.episode(i)
        np.testing.assert_array_equal(episode.states[:-1], d4rl["observations"][start:stop])
        np.testing.assert_array_equal(episode.states[-1], d4rl["observations"][stop - 1])  # the last one known
        np.testing.assert_array_equal(episode.actions, d4rl["actions"][start:stop])
        np.testing.assert_array_equal(episode.rewards, d4rl["rewards"][start:stop])
        assert (episode.terminated, episode.truncated) == (i == 0, i > 0)
    assert read.tasks == ["x"]


def test_d4rl_with_next_observations_keeps_every_step(tmp_path: Path, d4rl: dict[str, np.ndarray]) -> None:
    following = np.roll(d4rl["observations"], -1, axis=0)
    following[[3, 7, 9]] = 7
    d4rl["next_observations"] = following
    read = load(write(read_d4rl(save(tmp_path / "x.hdf5", d4rl)), tmp_path / "set"))
    assert np.diff(read.episode_starts).tolist() == [4, 4, 2]
    assert [read.episode(i).terminated for i in range(3)] == [True, False, False]
    assert [read.episode(i).truncated for i in range(3)] == [False, True, True]
    assert all((read.episode(i).states[-1] == 7).all() for i in range(3))
    np.testing.assert_array_equal(read.rewards, d4rl["rewards"])


def test_d4rl_unflagged_break_ends_an_episode(tmp_path: Path, d4rl: dict[str, np.ndarray]) -> None:
    """Files without timeouts: where the next state is not the next row's state, the scene was reset."""
    following = np.roll(d4rl["observations"], -1, axis=0)
    following[[3, 7, 9]] = 7
    d4rl["next_observations"] = following
    del d4rl["timeouts"]
    source = read_d4rl(save(tmp_path / "x.hdf5", d4rl))
    assert [len(episode) for episode in episodes(source)] == [4, 4, 2]


def test_d4rl_single_row_is_an_episode(tmp_path: Path, d4rl: dict[str, np.ndarray]) -> None:
    d4rl["terminals"][8] = True
    source = read_d4rl(save(tmp_path / "x.hdf5", d4rl))
    assert [len(episode) for episode in episodes(source)] == [4, 4, 1, 1]


def test_d4rl_columns_task_and_scaling(tmp_path: Path, d4rl: dict[str, np.ndarray]) -> None:
    d4rl["actions"] *= 5
    path = save(tmp_path / "x.hdf5", d4rl)
    with pytest.raises(UserError, match=r"action\[\d\] = .* outside of"):
        list(episodes(read_d4rl(path)))
    found = list(episodes(read_d4rl(path, state_columns="0:2", task="mixed", rescale_actions=True)))
    assert {(episode.states.shape[1], episode.task) for episode in found} == {(2, "mixed")}
    low, high = d4rl["actions"].min(axis=0), d4rl["actions"].max(axis=0)
    np.testing.assert_allclose(found[0].actions, (d4rl["actions"][:4] - low) / (high - low) * 2 - 1, atol=1e-5)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_d4rl_a_damaged_action_does_not_change_the_scale_of_others(
    value: float, tmp_path: Path, d4rl: dict[str, np.ndarray]
) -> None:
    d4rl["actions"] = d4rl["actions"] * 5
    kept = [0, 1, 2, 3, 8, 9]
    range_ = d4rl["actions"][kept].min(axis=0), d4rl["actions"][kept].max(axis=0)
    d4rl["actions"][4:8] = range_[0]
    d4rl["actions"][5, 1] = value
    path = save(tmp_path / "x.hdf5", d4rl)
    with pytest.raises(UserError, match=rf"episode at row 4, step 1: action is {value}"):
        write(read_d4rl(path, rescale_actions=True), tmp_path / "set")
    read = load(write(read_d4rl(path, rescale_actions=True), tmp_path / "set", skip_damaged=True))
    np.testing.assert_allclose(read.actions, scale_actions(d4rl["actions"][kept], *range_), atol=1e-5)


def test_minari_dimensions_without_bounds_are_taken_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = MinariRecipe(source="minari", dataset="test/half-v0")
    space = gym.spaces.Box(np.array([-2, -np.inf], np.float32), np.array([2, np.inf], np.float32))
    actions = np.array([[1.0, 0.5], [-2.0, -1.0]])
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    buffer = EpisodeBuffer(
        id=0,
        observations=np.zeros((3, 4)),
        actions=actions,
        rewards=[0.0, 0.0],
        terminations=[False, True],
        truncations=[False, False],
        infos=None,
    )
    add_minari("test/half-v0", [buffer], actions=space)
    (episode,) = episodes(recipe.read())
    np.testing.assert_allclose(episode.actions, [[0.5, 0.5], [-1, -1]])


def test_d4rl_damaged_episodes_are_left_out_when_asked(tmp_path: Path, d4rl: dict[str, np.ndarray]) -> None:
    d4rl["observations"][5, 1] = np.nan
    path = save(tmp_path / "x.hdf5", d4rl)
    with pytest.raises(UserError, match=r"episode at row 4, step 1: state is nan; .* --skip-damaged"):
        write(read_d4rl(path), tmp_path / "set")
    read = load(write(read_d4rl(path), tmp_path / "set", skip_damaged=True))
    assert np.diff(read.episode_starts).tolist() == [4, 2]
    np.testing.assert_array_equal(read.rewards, d4rl["rewards"][[0, 1, 2, 3, 8, 9]])


def test_actions_out_of_range_name_the_option(tmp_path: Path, d4rl: dict[str, np.ndarray], spirl: Any) -> None:
    d4rl["actions"] *= 5
    path = save(tmp_path / "x.hdf5", d4rl)
    result = spirl("import-d4rl", path, "-o", tmp_path / "set")
    assert result.code == 1
    assert "outside of [-1, 1]; import the data with --scale-actions" in result.err
    assert not (tmp_path / "set").exists()
    assert spirl("import-d4rl", path, "-o", tmp_path / "set", "--scale-actions").code == 0


def test_d4rl_errors(tmp_path: Path, d4rl: dict[str, np.ndarray]) -> None:
    with pytest.raises(UserError, match="no such file"):
        read_d4rl(tmp_path / "absent.hdf5")
    path = save(tmp_path / "x.hdf5", d4rl)
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(UserError, match="not readable as HDF5"):
        read_d4rl(path)
    with pytest.raises(UserError, match="'rewards' has 9 rows, 'observations' 10"):
        read_d4rl(save(tmp_path / "y.hdf5", {**d4rl, "rewards": d4rl["rewards"][:9]}))
    del d4rl["terminals"]
    with pytest.raises(UserError, match="no array 'terminals'"):
        read_d4rl(save(tmp_path / "z.hdf5", d4rl))
    d4rl["terminals"], d4rl["actions"][5, 1] = np.zeros(10, bool), np.nan
    with pytest.raises(UserError, match=r"z\.hdf5, episode at row 0, step 5: action is nan"):
        list(episodes(read_d4rl(save(tmp_path / "z.hdf5", d4rl))))


def test_d4rl_next_observations_of_another_type_are_the_same_numbers(
    tmp_path: Path, d4rl: dict[str, np.ndarray]
) -> None:
    states = np.random.default_rng(2).normal(size=(11, 4))
    d4rl |= {"observations": states[:-1], "next_observations": states[1:].astype(np.float32)}
    assert [len(e) for e in episodes(read_d4rl(save(tmp_path / "x.hdf5", d4rl)))] == [4, 4, 2]
    d4rl["next_observations"] = d4rl["next_observations"] + 1
    with pytest.raises(UserError, match=r"10 of 10 rows end an episode, .* 'next_observations' are other numbers"):
        read_d4rl(save(tmp_path / "y.hdf5", d4rl))
    with pytest.raises(UserError, match="'next_observations' is 3 wide, 'observations' 4"):
        read_d4rl(save(tmp_path / "z.hdf5", d4rl | {"next_observations": states[1:, :3]}))


@pytest.mark.parametrize(
    ("key", "array", "message"),
    [
        ("rewards", np.zeros((10, 2)), r"'rewards' is of shape \(10, 2\), not \(steps,\)"),
        ("timeouts", np.zeros((10, 3), bool), r"'timeouts' is of shape \(10, 3\), not \(steps,\)"),
        ("terminals", np.array([0, 0, np.nan, *[0] * 7]), "'terminals' is nan at row 2, neither true nor false"),
        ("rewards", np.float32(3), "'rewards' holds no numbers, one for each step"),
        ("actions", np.array([[b"x"]] * 10), "'actions' holds no numbers, one for each step"),
    ],
)
def test_d4rl_arrays_of_another_form_are_refused(
    key: str, array: np.ndarray, message: str, tmp_path: Path, d4rl: dict[str, np.ndarray]
) -> None:
    with pytest.raises(UserError, match=message):
        read_d4rl(save(tmp_path / "x.hdf5", d4rl | {key: array}))


def test_d4rl_episodes_that_may_be_joined_are_told(
    tmp_path: Path, d4rl: dict[str, np.ndarray], capsys: pytest.CaptureFixture[str]
) -> None:
    read_d4rl(save(tmp_path / "x.hdf5", d4rl))
    assert "joined" not in capsys.readouterr().err
    del d4rl["timeouts"]
    read_d4rl(save(tmp_path / "y.hdf5", d4rl))
    assert "has neither 'timeouts' nor 'next_observations': an episode that ran out of" in capsys.readouterr().err


# LeRobot.


def toy_episode(steps: int, seed: int) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        states=rng.normal(size=(steps + 1, 4)).astype(np.float32),
        actions=rng.uniform(-1, 1, size=(steps, 2)).astype(np.float32),
        rewards=rng.normal(size=steps).astype(np.float32),
        terminated=True,
        truncated=False,
        task=f"task {seed}",
    )


@pytest.fixture
def ours(tmp_path: Path) -> Path:
    with TrajectoryWriter(tmp_path / "ours", fps=30, robot_type="arm", state_names=list("abcd")) as writer:
        for i in range(3):
            writer.add(toy_episode(4 + i, i))
    return tmp_path / "ours"


def as_foreign(path: Path, rename: dict[str, str]) -> Path:
    """Turn our files into a recording of someone else: other column names, no columns of ours."""
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file).drop_columns(["next.observation.state", "next.terminated", "next.truncated"])
    pq.write_table(table.rename_columns([rename.get(name, name) for name in table.column_names]), file)
    info: dict[str, Any] = json.loads((path / "meta/info.json").read_text())
    info["features"] = {
        rename.get(name, name): feature for name, feature in info["features"].items() if name in table.column_names
    }
    del info["rllib_spirl"]
    (path / "meta/info.json").write_text(json.dumps(info))
    return path


def test_lerobot_import_of_our_own_set_loses_nothing(tmp_path: Path, ours: Path) -> None:
    again = write(read_lerobot(ours), tmp_path / "again")
    assert fingerprint(again) == fingerprint(ours)
    info = opened(again).info
    assert (info["fps"], info["robot_type"]) == (30, "arm")
    assert info["features"]["observation.state"]["names"] == list("abcd")


def test_lerobot_steps_per_second_can_be_told(ours: Path) -> None:
    assert read_lerobot(ours, fps=30).fps == 30
    assert read_lerobot(ours).fps == opened(ours).info["fps"]
    told, untold = LeRobotRecipe(path=str(ours), fps=10), LeRobotRecipe(path=str(ours))
    assert recipe_hash(told) != recipe_hash(untold), "10 is what is told, not what the data set says"


def test_lerobot_states_with_the_task(ours: Path, tmp_path: Path) -> None:
    as_foreign(ours, {})
    keys = ["observation.state", "task_index", "episode_index", "next.reward"]
    read = load(write(read_lerobot(ours, state_keys=keys), tmp_path / "set"))
    assert read.states[:, 4].tolist() == read.states[:, 5].tolist() == [0] * 4 + [1] * 5 + [2] * 6
    assert read.tasks == ["task 0", "task 1", "task 2"]
    np.testing.assert_array_equal(read.states[:, 6], read.rewards)


def test_lerobot_pictures_of_another_kind_are_left_out(ours: Path, tmp_path: Path) -> None:
    before = fingerprint(write(read_lerobot(ours), tmp_path / "before"))
    file = ours / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    picture = pa.array([{"bytes": b"png", "path": "a.png"}] * table.num_rows)
    pq.write_table(table.append_column("observation.image", picture), file)
    info = ours / "meta/info.json"
    facts = json.loads(info.read_text())
    del facts["rllib_spirl"]
    info.write_text(json.dumps(facts))
    assert fingerprint(ours) == before
    assert "observation.image" not in opened(ours).columns
    assert fingerprint(write(read_lerobot(ours), tmp_path / "after")) == before


def test_lerobot_foreign_set_keeps_every_step(tmp_path: Path, ours: Path) -> None:
    as_foreign(ours, {"observation.state": "observation.joints", "action": "control"})
    source = read_lerobot(ours, state_keys=["observation.joints"], action_key="control", state_columns="1:4")
    read = load(write(source, tmp_path / "set"))
    assert np.diff(read.episode_starts).tolist() == [4, 5, 6]
    for i in range(3):
        original, episode = toy_episode(4 + i, i), read.episode(i)
        np.testing.assert_array_equal(episode.states[:-1], original.states[:-1, 1:])
        np.testing.assert_array_equal(episode.states[-1], original.states[-2, 1:])  # the last one known
        np.testing.assert_array_equal(episode.actions, original.actions)
        np.testing.assert_array_equal(episode.rewards, original.rewards)
        assert (episode.task, episode.truncated) == (f"task {i}", True)
    assert opened(tmp_path / "set").features["observation.state"]["names"] == list("bcd")


@pytest.fixture
def rewarded(tmp_path: Path) -> Path:
    """Three episodes of another's recorder: next.done and, in two of them, reward 1 at the last frame."""
    with TrajectoryWriter(tmp_path / "rewarded", fps=30) as writer:
        for i in range(3):
            rewards = np.zeros(6 + i, np.float32)
            rewards[-1] = i < 2
            writer.add(replace(toy_episode(6 + i, i), rewards=rewards))
    path = as_foreign(tmp_path / "rewarded", {})
    file = path / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    last = np.diff(table["episode_index"].to_numpy(), append=-1) != 0
    pq.write_table(table.append_column("next.done", pa.array(last)), file)
    return path


@pytest.mark.parametrize(
    ("next_done", "terminated"),
    [("terminated", [True, True, True]), ("ended", [False] * 3), ("rewarded", [True, True, False])],
)
def test_lerobot_the_last_frame_brings_its_reward_and_its_end(
    rewarded: Path, tmp_path: Path, spirl: Any, next_done: str, terminated: list[bool]
) -> None:
    assert spirl("import-lerobot", rewarded, "-o", tmp_path / "set", "--next-done", next_done).code == 0
    read = load(tmp_path / "set")
    assert [read.episode(i).rewards.sum() for i in range(3)] == [1, 1, 0]
    assert [float(read.episode(i).rewards[-1]) for i in range(3)] == [1, 1, 0]
    assert [read.episode(i).terminated for i in range(3)] == terminated


def test_lerobot_the_last_transition_is_terminal_in_the_replay(rewarded: Path, tmp_path: Path) -> None:
    data = write_source(read_lerobot(rewarded), tmp_path / "set")
    env = gym.make("Pendulum-v1")
    env.observation_space = gym.spaces.Box(-np.inf, np.inf, (4,), np.float32)
    model = SkillModel(SkillModelConfig(state_dim=4, action_dim=2, horizon=3, latent_dim=2, hidden=16, layers=1))
    replay = offline_replay(data, model, env, capacity=1000)
    rows = {name: column[: len(replay)] for name, column in replay._columns.items()}
    # Of T frames there are T - 2 windows of three, and the last of them ends with the reward and the episode.
    assert len(replay) == 4 + 5 + 6
    assert float(rows["rewards"].sum()) == 2
    assert rows["terminated"][rows["rewards"] == 1].all()


def test_lerobot_damaged_episodes_are_left_out_when_asked(ours: Path, tmp_path: Path) -> None:
    file = ours / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter([i != 6 for i in range(table.num_rows)]), file)
    with pytest.raises(UserError, match=r"episode 1 has a gap .* frame_index 3; .* --skip-damaged"):
        write(read_lerobot(ours), tmp_path / "set")
    read = load(write(read_lerobot(ours), tmp_path / "set", skip_damaged=True))
    assert np.diff(read.episode_starts).tolist() == [4, 6]


def test_lerobot_joins_state_keys_and_scales(tmp_path: Path, ours: Path) -> None:
    as_foreign(ours, {})
    source = read_lerobot(ours, state_keys=["observation.state", "action"], rescale_actions=True)
    found = list(episodes(source))
    assert found[0].states.shape == (5, 6)
    assert max(np.abs(episode.actions).max() for episode in found) <= 1
    assert (
        source.facts["action_low"]
        == pq.read_table(ours / "data/chunk-000/file-000.parquet")["action"]
        .combine_chunks()
        .flatten()
        .to_numpy()
        .reshape(-1, 2)
        .min(axis=0)
        .tolist()
    )


def test_lerobot_names_of_some_columns_are_not_those_of_others(tmp_path: Path) -> None:
    with TrajectoryWriter(tmp_path / "set", fps=30, state_names=list("abcd")) as writer:
        writer.add(toy_episode(5, 0))
    keys = ["action", "observation.state"]  # the first has no names
    assert read_lerobot(tmp_path / "set", state_keys=keys, state_columns="2:4").state_names is None
    named = read_lerobot(tmp_path / "set", state_columns="2:4")
    assert named.state_names == list("cd")


def test_lerobot_data_that_were_changed_are_others(ours: Path) -> None:
    recipe = LeRobotRecipe(path=str(ours))
    before = recipe.content()
    assert recipe.content() == before
    file = ours / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(
        table.set_column(table.schema.get_field_index("next.reward"), "next.reward", pa.array([9.0] * 15)), file
    )
    changed = recipe.content()
    assert changed != before
    os.utime(ours / "meta/tasks.parquet", ns=(1, 1))
    assert recipe.content() != changed
    named = LeRobotRecipe(path=ours.as_uri())
    assert named.content()["files"] == recipe.content()["files"]


def test_lerobot_mends_what_load_refuses(tmp_path: Path, ours: Path) -> None:
    """Rows out of order, and an episode in two files, are put in order."""
    before = fingerprint(ours)
    file = ours / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.slice(6), file)
    pq.write_table(table.slice(0, 6), file.with_name("file-001.parquet"))
    with pytest.raises(UserError, match=r"import-lerobot|sort the rows"):
        load(ours)
    again = write(read_lerobot(ours), tmp_path / "again")
    assert fingerprint(again) == before


def test_lerobot_errors(ours: Path) -> None:
    with pytest.raises(UserError, match=r"column 'observation\.joints' is missing \(there are: action"):
        read_lerobot(ours, state_keys=["observation.joints"])
    file = ours / "data/chunk-000/file-000.parquet"
    table = pq.read_table(file)
    pq.write_table(table.filter([i != 2 for i in range(table.num_rows)]), file)
    with pytest.raises(UserError, match="episode 0 has a gap or a repeated row at frame_index 3"):
        list(episodes(read_lerobot(ours)))
    with pytest.raises(UserError, match="no such directory"):
        read_lerobot(ours / "absent")


def test_lerobot_facts_that_are_null_are_none(ours: Path) -> None:
    info = ours / "meta/info.json"
    facts = json.loads(info.read_text())
    facts["features"]["action"] = None
    info.write_text(json.dumps(facts | {"fps": None}))
    assert read_lerobot(ours).fps == 10


# Shared.


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("0:9,x", "'x' is not a column"),
        ("3:2", "choose columns"),
        ("0:9,39:18", "'39:18' has no columns"),
        ("", "not a column"),
    ],
)
def test_choose_columns_errors(spec: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        choose_columns(spec, 10, "'state'")


def test_columns_are_read_as_they_are_written(tmp_path: Path) -> None:
    """YAML 1.1 takes 9:39 for 9 times 60 and 39."""
    for text, columns in {"9:39": "9:39", "0:9,18:39": "0:9,18:39", "3": "3", "1:2:3": "1:2:3"}.items():
        recipe = tmp_path / "recipe.yaml"
        recipe.write_text(f"source: lerobot\npath: data\nstate_columns: {text}\n")
        parsed = read_recipe(recipe)
        assert isinstance(parsed, LeRobotRecipe)
        assert parsed.state_columns == columns
    assert parse("[10, -1, 1_000, 0x1f, 3e-4, 1.5, .inf, 12:30, yes]", "text") == [
        10, -1, 1000, 31, 3e-4, 1.5, math.inf, "12:30", True,
    ]  # fmt: skip


def test_choose_columns_and_scale_actions() -> None:
    assert choose_columns("0:2, 5,7:9", 10, "x").tolist() == [0, 1, 5, 7, 8]
    assert choose_columns(None, 3, "x").tolist() == [0, 1, 2]
    actions = np.array([[0.0, 3.0], [10.0, 3.0]])
    np.testing.assert_array_equal(
        scale_actions(actions, np.array([0.0, 3.0]), np.array([10.0, 3.0])), [[-1, 0], [1, 0]]
    )
