"""The Parquet contract: written is read, the layout is LeRobot v3, and bad files give one clear line."""

import itertools
import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.data import columns as c
from rllib_spirl.data.windows import window_starts
from rllib_spirl.errors import UserError
from rllib_spirl.skills.dataset import split_episodes
from tests.sets import fingerprint, load, opened

S, A = 5, 2
FILE = "data/chunk-000/file-000.parquet"


def make_episode(
    steps: int, seed: int = 0, task: str = "push", dtype: type = np.float64, terminated: bool = True
) -> Episode:
    rng = np.random.default_rng(seed)
    return Episode(
        states=rng.normal(size=(steps + 1, S)).astype(dtype),
        actions=rng.uniform(-1, 1, size=(steps, A)).astype(dtype),
        rewards=rng.normal(size=steps).astype(dtype),
        terminated=terminated,
        truncated=not terminated,
        task=task,
    )


def write(path: Path, episodes: list[Episode], **options: object) -> Path:
    with TrajectoryWriter(path, fps=10, **options) as writer:  # type: ignore[arg-type]
        for episode in episodes:
            writer.add(episode)
    return path


@pytest.fixture
def episodes() -> list[Episode]:
    tasks = ["push", "pull", "push"]
    return [make_episode(4 + i, i, tasks[i], terminated=i != 1) for i in range(3)]


@pytest.fixture
def data(tmp_path: Path, episodes: list[Episode]) -> Path:
    return write(tmp_path / "set", episodes)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_exact(tmp_path: Path, dtype: type) -> None:
    episodes = [make_episode(3 + i, i, f"task {i % 2}", dtype, terminated=i % 2 == 0) for i in range(4)]
    read = load(write(tmp_path / "set", episodes), dtype=dtype)
    assert (read.num_episodes, read.num_frames, read.state_dim, read.action_dim) == (4, 3 + 4 + 5 + 6, S, A)
    for i, episode in enumerate(episodes):
        again = read.episode(i)
        assert again.states.dtype == dtype
        np.testing.assert_array_equal(again.states, episode.states)
        np.testing.assert_array_equal(again.actions, episode.actions)
        np.testing.assert_array_equal(again.rewards, episode.rewards)
        assert (again.terminated, again.truncated, again.task) == (
            episode.terminated,
            episode.truncated,
            episode.task,
        )


def test_default_load_is_float32(data: Path, episodes: list[Episode]) -> None:
    read = load(data)
    assert {read.states.dtype, read.actions.dtype, read.rewards.dtype} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(read.episode_starts, [0, 4, 9, 15])
    np.testing.assert_array_equal(read.task_index, [0] * 4 + [1] * 5 + [0] * 6)
    assert read.tasks == ["push", "pull"]
    assert read.terminated.nonzero()[0].tolist() == [3, 14]


def test_layout_is_lerobot_v3_field_by_field(data: Path, episodes: list[Episode]) -> None:
    info = json.loads((data / "meta/info.json").read_text())
    assert info["codebase_version"] == "v3.0"
    assert info["fps"] == 10
    assert isinstance(info["fps"], int)
    assert info["robot_type"] == "unknown"
    assert (info["total_episodes"], info["total_frames"], info["total_tasks"]) == (3, 15, 2)
    assert info["chunks_size"] == 1000
    assert info["data_files_size_in_mb"] == 100
    assert info["splits"] == {"train": "0:3"}
    assert info["data_path"].format(chunk_index=0, file_index=0) == FILE
    assert info["video_path"] is None
    assert info["features"]["observation.state"] == {"dtype": "float64", "shape": [S], "names": None}
    assert info["features"]["action"] == {"dtype": "float64", "shape": [A], "names": None}
    # LeRobot's own columns, with its own types.
    for name, dtype in (
        ("timestamp", "float32"),
        ("frame_index", "int64"),
        ("episode_index", "int64"),
        ("index", "int64"),
        ("task_index", "int64"),
    ):
        assert info["features"][name] == {"dtype": dtype, "shape": [1], "names": None}

    # Its loader casts the file to the declared features, so that columns and features must be the same.
    frames = pq.read_table(data / FILE)
    assert set(frames.column_names) == set(info["features"])
    for name, feature in info["features"].items():
        kind = frames.schema.field(name).type
        if feature["shape"] == [1]:
            assert kind == pa.from_numpy_dtype(np.dtype(feature["dtype"])), name
        else:
            assert pa.types.is_fixed_size_list(kind)
            assert kind.list_size == feature["shape"][0]
            assert kind.value_type == pa.from_numpy_dtype(np.dtype(feature["dtype"]))
    np.testing.assert_array_equal(frames["index"], np.arange(15))
    np.testing.assert_array_equal(frames["frame_index"], [*range(4), *range(5), *range(6)])
    np.testing.assert_allclose(frames["timestamp"], np.array(frames["frame_index"]) / 10, rtol=1e-6)

    tasks = pd.read_parquet(data / "meta/tasks.parquet")
    assert tasks.index.name == "task"
    assert tasks["task_index"].to_dict() == {"push": 0, "pull": 1}

    rows = pq.read_table(data / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["episode_index"] for row in rows] == [0, 1, 2]
    assert [row["tasks"] for row in rows] == [["push"], ["pull"], ["push"]]
    assert [row["length"] for row in rows] == [4, 5, 6]
    assert [(row["dataset_from_index"], row["dataset_to_index"]) for row in rows] == [(0, 4), (4, 9), (9, 15)]
    assert all(
        row[f"{kind}/{key}"] == 0
        for row in rows
        for kind in ("data", "meta/episodes")
        for key in ("chunk_index", "file_index")
    )
    np.testing.assert_allclose(rows[1]["stats/action/mean"], episodes[1].actions.mean(axis=0))

    stats = json.loads((data / "meta/stats.json").read_text())
    assert set(stats) == set(info["features"])
    states = np.concatenate([episode.states[:-1] for episode in episodes])
    for key in ("min", "max", "mean", "std"):
        np.testing.assert_allclose(stats["observation.state"][key], getattr(states, key)(axis=0))
    assert stats["action"]["count"] == [15]


def test_files_are_cut_between_episodes(tmp_path: Path, episodes: list[Episode], data: Path) -> None:
    small = write(tmp_path / "small", episodes, file_size_mb=1e-3)
    files = sorted((small / "data").glob("*/*.parquet"))
    assert [file.name for file in files] == ["file-000.parquet", "file-001.parquet", "file-002.parquet"]
    assert [pq.read_table(file)["episode_index"].unique().to_pylist() for file in files] == [[0], [1], [2]]
    rows = pq.read_table(small / "meta/episodes/chunk-000/file-000.parquet").to_pylist()
    assert [row["data/file_index"] for row in rows] == [0, 1, 2]
    np.testing.assert_array_equal(load(small).states, load(data).states)
    assert fingerprint(small) == fingerprint(data)


def test_fingerprint_follows_the_content(tmp_path: Path, episodes: list[Episode], data: Path) -> None:
    cached = fingerprint(data)
    info = json.loads((data / "meta/info.json").read_text())
    del info["rllib_spirl"]
    (data / "meta/info.json").write_text(json.dumps(info))
    assert fingerprint(data) == cached, "from the files it is what the writer kept"
    assert len(cached) == 16
    assert fingerprint(write(tmp_path / "b", episodes)) == cached
    assert fingerprint(write(tmp_path / "c", episodes[:2])) != cached
    episodes[0].actions[2, 1] *= 0.5
    assert fingerprint(write(tmp_path / "d", episodes)) != cached


def test_width_one_is_a_plain_column_and_is_read_back(tmp_path: Path) -> None:
    episode = make_episode(4)
    narrow = Episode(episode.states[:, :1], episode.actions[:, :1], episode.rewards, True, False, "x")
    path = write(tmp_path / "set", [narrow])
    assert pq.read_schema(path / FILE).field("action").type == pa.float64()
    read = load(path, dtype=np.float64)
    np.testing.assert_array_equal(read.episode(0).states, narrow.states)
    assert fingerprint(path) == json.loads((path / "meta/info.json").read_text())["rllib_spirl"]["fingerprint"]


def test_plain_lerobot_rows_load_without_our_extras(data: Path) -> None:
    table = pq.read_table(data / FILE).drop_columns([c.NEXT_STATE, c.REWARD, c.TERMINATED, c.TRUNCATED])
    lists = table[c.STATE].combine_chunks().cast(pa.list_(pa.float32()))
    pq.write_table(table.set_column(table.column_names.index(c.STATE), c.STATE, lists), data / FILE)
    info = json.loads((data / "meta/info.json").read_text())
    for name in (c.NEXT_STATE, c.REWARD, c.TERMINATED, c.TRUNCATED):
        del info["features"][name]
    (data / "meta/info.json").write_text(json.dumps(info))
    read = load(data)
    np.testing.assert_array_equal(read.next_states[:3], read.states[1:4])
    np.testing.assert_array_equal(read.next_states[3], read.states[3])  # what comes after the last action is unknown
    assert not read.rewards.any()
    np.testing.assert_array_equal(read.episode(0).states[-2:], read.states[[3, 3]])


# What can be wrong with a data set: (how it is damaged, words the one-line error must hold).


def _rewrite(path: Path, change: object) -> None:
    table = pq.read_table(path / FILE)
    columns = {name: table[name].to_pylist() for name in table.column_names}
    change(columns)  # type: ignore[operator]
    pq.write_table(pa.table(columns), path / FILE)


def _truncate(path: Path) -> None:
    file = path / FILE
    file.write_bytes(file.read_bytes()[:-200])


def _damage_pages(path: Path) -> None:
    content = bytearray((path / FILE).read_bytes())
    content[4:400] = bytes(396)
    (path / FILE).write_bytes(content)


def _set(name: str, row: int, value: object) -> object:
    def change(columns: dict) -> None:
        columns[name][row] = value

    return lambda path: _rewrite(path, change)


def _second_file(path: Path) -> None:
    table = pq.read_table(path / FILE)
    pq.write_table(table.slice(0, 6), path / FILE)
    pq.write_table(table.slice(6), path / "data/chunk-000/file-001.parquet")


def _change_numbers(path: Path) -> None:
    """In the middle of the actions: but for the checksum of their page, they read as well as before."""
    before = pq.read_table(path / FILE)
    group = pq.ParquetFile(path / FILE).metadata.row_group(0)
    (chunk,) = [c for i in range(group.num_columns) if (c := group.column(i)).path_in_schema.startswith("action")]
    middle = chunk.data_page_offset + chunk.total_compressed_size - 12
    content = bytearray((path / FILE).read_bytes())
    content[middle : middle + 4] = bytes(4)
    (path / FILE).write_bytes(content)
    after = pq.read_table(path / FILE)  # which does not look at checksums
    assert after.shape == before.shape
    assert after["action"] != before["action"]


BAD = {
    "changed numbers": (_change_numbers, ["file-000.parquet", "truncated or corrupt"]),
    "truncated": (_truncate, ["file-000.parquet", "truncated or corrupt"]),
    "corrupt pages": (_damage_pages, ["file-000.parquet", "truncated or corrupt"]),
    "not parquet": (
        lambda path: (path / FILE).write_text("hello"),
        ["file-000.parquet", "truncated or corrupt"],
    ),
    "missing column": (
        lambda path: _rewrite(path, lambda x: x.pop("action")),
        ["file-000.parquet", "column 'action' is missing"],
    ),
    "missing declared column": (
        lambda path: _rewrite(path, lambda x: x.pop("next.reward")),
        ["column 'next.reward' is missing"],
    ),
    "ragged": (_set("action", 6, [0.1]), ["file-000.parquet, row 6", "has 1 values", "same width"]),
    "empty vector": (_set("action", 6, None), ["row 6", "'action' is empty"]),
    "empty number": (_set("frame_index", 6, None), ["row 6", "'frame_index' is empty"]),
    "nan action": (
        _set("action", 5, [0.0, float("nan")]),
        ["row 5 (episode 1, frame 1)", "action[1] is nan", "drop"],
    ),
    "inf state": (
        _set("observation.state", 0, [float("inf")] * S),
        ["row 0 (episode 0", "observation.state[0] is inf"],
    ),
    "action too large": (
        _set("action", 14, [0.0, -1.5]),
        ["row 14 (episode 2, frame 5)", "action[1] = -1.5", "scale"],
    ),
    "text": (
        lambda path: _rewrite(path, lambda x: x.update(action=["a"] * 15)),
        ["column 'action' holds string"],
    ),
    "frames not consecutive": (_set("frame_index", 7, 9), ["row 7", "frame_index is 9, expected 3"]),
    "episodes out of order": (_set("episode_index", 14, 0), ["row 14", "episode_index 0 comes after 2"]),
    "episode in two files": (_second_file, ["file-001.parquet, row 0", "episode 1 began in the file before"]),
    "unknown task": (_set("task_index", 3, 7), ["tasks.parquet", "no task with task_index 7"]),
    "no data files": (
        lambda path: (path / FILE).unlink(),
        ["no data/chunk-*/file-*.parquet", "spirl data build"],
    ),
    "rows missing": (
        lambda path: pq.write_table(pq.read_table(path / FILE).slice(0, 9), path / FILE),
        ["15 frames", "hold 9"],
    ),
    "broken info": (
        lambda path: (path / "meta/info.json").write_text("{"),
        ["info.json", "not readable JSON"],
    ),
    "older version": (
        lambda path: (path / "meta/info.json").write_text('{"codebase_version": "v2.1"}'),
        ["v2.1", "v3.0 is needed"],
    ),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_data_gives_one_clear_line(data: Path, kind: str) -> None:
    damage, words = BAD[kind]
    damage(data)  # type: ignore[operator]
    with pytest.raises(UserError) as caught:
        load(data)
    message = str(caught.value)
    assert str(data) in message
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize("make", [True, False])
def test_empty_or_absent_directory(tmp_path: Path, make: bool) -> None:
    path = tmp_path / "nothing"
    if make:
        path.mkdir()
    with pytest.raises(UserError, match=r"no meta/info\.json here|no such directory"):
        load(path)
    with pytest.raises(UserError, match=str(path)):
        fingerprint(path)


def test_every_episode_too_short(data: Path) -> None:
    assert len(opened(data).windows(6)) == 1
    with pytest.raises(UserError, match=r"every episode is shorter than 7 steps \(the longest has 6 steps\)"):
        opened(data).windows(7)


# The writer: whole or not at all.


def _replace(episode: Episode, **changes: object) -> Episode:
    return Episode(**{**episode.__dict__, **changes})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda e: _replace(e, actions=e.actions * 3), "outside of"),
        (lambda e: _replace(e, states=np.full_like(e.states, np.nan)), "state is nan"),
        (lambda e: _replace(e, states=e.states[:-1]), "need 6 states"),
        (lambda e: _replace(e, states=e.states[:, 1:]), "4 wide, in episode 0 it is 5"),
        (lambda e: _replace(e, rewards=e.rewards[:, None]), "must be of shape"),
        (lambda e: _replace(e, rewards=e.rewards.tolist()), "rewards must be a NumPy array, got list"),
        (lambda e: _replace(e, rewards=np.full(len(e.rewards), 1e39)), "reward is 1e"),
        (lambda e: _replace(e, task=None), "task must be a text, got None"),
        (
            lambda e: _replace(e, states=e.states[:1], actions=e.actions[:0], rewards=e.rewards[:0]),
            "no steps",
        ),
    ],
)
def test_writer_refuses_and_leaves_nothing(tmp_path: Path, change: object, words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        write(tmp_path / "set", [make_episode(4), change(make_episode(5))])  # type: ignore[operator]
    assert "episode 1" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _interrupted_write(path: Path, episode: Episode) -> None:
    with TrajectoryWriter(path, fps=10, overwrite=True) as writer:
        writer.add(episode)
        raise KeyboardInterrupt


def test_writer_never_overwrites_unasked(data: Path, episodes: list[Episode]) -> None:
    before = fingerprint(data)
    with pytest.raises(UserError, match="exists"):
        write(data, episodes[:1])
    with pytest.raises(UserError, match="no episodes"):
        write(data, [], overwrite=True)
    with pytest.raises(UserError, match="outside of"):
        write(data, [episodes[0], _replace(episodes[0], actions=episodes[0].actions + 2)], overwrite=True)
    with pytest.raises(KeyboardInterrupt):
        _interrupted_write(data, episodes[0])
    assert fingerprint(data) == before
    assert load(data).num_episodes == 3
    write(data, episodes[:1], overwrite=True)
    assert load(data).num_episodes == 1
    assert [path.name for path in data.parent.iterdir()] == ["set"]


def test_writer_replaces_data_sets_only(tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/keep.txt").write_text("mine")
    with pytest.raises(UserError, match="not a data set"):
        write(tmp_path / "notes", [make_episode(3)], overwrite=True)
    assert (tmp_path / "notes/keep.txt").read_text() == "mine"


def test_writer_below_a_regular_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write there"):
        write(tmp_path / "file/set", [make_episode(3)])
    assert (tmp_path / "file").read_text() == "mine"


def test_names_and_source_are_kept(tmp_path: Path) -> None:
    names = [f"s{i}" for i in range(S)]
    path = write(tmp_path / "set", [make_episode(3)], state_names=names, source={"recipe": "x"}, robot_type="franka")
    info = opened(path).info
    assert info["features"]["observation.state"]["names"] == names
    assert (info["robot_type"], info["rllib_spirl"]["source"]) == ("franka", {"recipe": "x"})
    with pytest.raises(UserError, match="1 names for the 2 dimensions of action"):
        write(tmp_path / "other", [make_episode(3)], action_names=["a"])


# Windows.


def test_window_starts_against_a_plain_loop() -> None:
    rng = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(rng.integers(1, 20, size=50))])
    for horizon in (1, 7, 15):
        expected = [i for a, b in itertools.pairwise(starts) for i in range(a, b - horizon + 1)]
        np.testing.assert_array_equal(window_starts(starts, horizon), expected)


def test_window_starts_refuses_a_horizon_nothing_reaches() -> None:
    with pytest.raises(UserError, match=r"horizon = 10: .*the longest has 6 steps"):
        window_starts(np.array([0, 4, 10]), 10)
    with pytest.raises(UserError, match="at least one step"):
        window_starts(np.array([0, 4]), 0)


def test_split_is_by_episode_seeded_and_complete() -> None:
    train, validation = split_episodes(20, 0.25, seed=3)
    assert len(validation) == 5
    assert sorted([*train, *validation]) == list(range(20))
    np.testing.assert_array_equal(split_episodes(20, 0.25, seed=3)[1], validation)
    assert not np.array_equal(split_episodes(20, 0.25, seed=4)[1], validation)
    assert [len(x) for x in split_episodes(2, 0.1, 0)] == [1, 1]
    assert [len(x) for x in split_episodes(1, 0.1, 0)] == [1, 0]
    assert [len(x) for x in split_episodes(5, 0.0, 0)] == [5, 0]
    with pytest.raises(UserError, match="validation_fraction"):
        split_episodes(5, 1.0, 0)
