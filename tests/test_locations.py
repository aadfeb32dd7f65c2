"""Data sets and skills behind URIs, in file systems of pyarrow and of fsspec."""

from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from rllib_spirl.algorithm.offline import offline_replay
from rllib_spirl.cli.prepare import prepare_skills
from rllib_spirl.errors import UserError
from rllib_spirl.locations import Remote, addressed, joined, location
from rllib_spirl.paths import home
from rllib_spirl.skills.checkpoint import load_card, load_skills
from rllib_spirl.skills.pretrain import pretrain
from tests.conftest import TINY, scan
from tests.point import PointEnv
from tests.sets import fingerprint, load, opened

SHORT = TINY.model_copy(update={"updates": 20, "report_every": 20, "threads_per_worker": 1})


@pytest.fixture
def in_memory(point_data: Path, point_skills: str) -> Iterator[str]:
    """A folder of fsspec's memory file system with a data set and skills; this process alone sees it."""
    memory = fsspec.filesystem("memory")
    memory.put(str(point_data), "/bucket/data", recursive=True)
    memory.put(point_skills, "/bucket/skills", recursive=True)
    yield "memory://bucket"
    memory.rm("/bucket", recursive=True)


@pytest.fixture(params=["file", "local", "fsspec+file"])
def data_uri(request: pytest.FixtureRequest, point_data: Path) -> str:
    """The data set as a URI that becomes a path, that only fsspec knows, and that pyarrow hands to fsspec."""
    return f"{request.param}://{point_data}"


@pytest.mark.parametrize(
    ("path", "directory", "inner", "named"),
    [
        ("/home/me/runs/a", "/home/me/runs", "/home/me/runs", "/home/me/runs/a"),
        ("bucket/runs/a/checkpoint_000001", "s3://bucket/runs", "bucket/runs", "s3://bucket/runs/a/checkpoint_000001"),
        ("/runs/a", "hdfs://host:9000/runs/", "/runs/", "hdfs://host:9000/runs/a"),
        ("b/runs/a", "s3://b/runs?region=eu", "b/runs", "s3://b/runs/a?region=eu"),
    ],
)
def test_a_path_below_a_uri_is_named_with_it(path: str, directory: str, inner: str, named: str) -> None:
    assert addressed(path, directory, inner) == named


@pytest.mark.parametrize(
    ("folder", "whole"),
    [
        ("/a/runs/", "/a/runs/e"),
        ("/a/what?", "/a/what?/e"),
        ("s3://b/runs", "s3://b/runs/e"),
        ("s3://b/runs/?endpoint_override=localhost:9000", "s3://b/runs/e?endpoint_override=localhost:9000"),
    ],
)
def test_a_name_in_a_folder(folder: str, whole: str) -> None:
    assert joined(folder, "e") == whole


def test_the_home_of_data_and_skills_is_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    places = {
        "cache": tmp_path / "cache",
        "~/spirl": Path("/home/me/spirl"),
        "": Path("/home/me/.cache/rllib_spirl"),
    }
    for given, meant in places.items():
        monkeypatch.setenv("RLLIB_SPIRL_HOME", given)
        assert home() == meant


def test_a_data_set_is_the_same_behind_a_uri(in_memory: str, data_uri: str, point_data: Path) -> None:
    here = load(point_data)
    for uri in (f"{in_memory}/data", f"{in_memory}/data/", data_uri):
        there = load(uri)
        np.testing.assert_array_equal(there.states, here.states)
        assert there.tasks == here.tasks
        assert fingerprint(uri) == fingerprint(point_data)
        assert opened(uri).num_frames == here.num_frames
        found = scan(location(uri))
        np.testing.assert_array_equal(found.validation_actions, scan(point_data).validation_actions)


def test_only_uris_of_other_file_systems_leave_the_paths(tmp_path: Path) -> None:
    assert location(f"file://{tmp_path}/a%20b") == tmp_path / "a b"
    assert location("data/point") == Path("data/point")
    file = location("s3://bucket/data/?region=eu-west-1") / "meta" / "info.json"
    assert isinstance(file, Remote)
    assert str(file) == "s3://bucket/data/meta/info.json?region=eu-west-1"
    assert (file.name, file.suffix, file.stem) == ("info.json", ".json", "info")


def test_skills_and_demonstrations_behind_a_uri_serve_a_replay(in_memory: str, point_skills: str) -> None:
    model, card = load_skills(f"{in_memory}/skills")
    assert card == load_card(point_skills)
    replay = offline_replay(opened(f"{in_memory}/data"), model, PointEnv(), 1000)
    assert len(replay) > 100


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_a_worker_reads_its_data_from_a_uri(point_data: Path, tmp_path: Path) -> None:
    prepared = prepare_skills(
        {"data": f"local://{point_data}", "checkpoint": str(tmp_path / "skills"), "pretrain": SHORT.model_dump()},
        places=[tmp_path],
    )
    assert str(prepared.data) == f"local://{point_data}"
    assert load_card(prepared.checkpoint).data == fingerprint(point_data)
    assert load_card(f"file://{prepared.checkpoint}").training["data"] == str(prepared.data)


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("memory://nothing/here", "no such directory"),
        ("nosuch://bucket/data", "nosuch://bucket/data cannot be reached: .*nosuch"),
    ],
)
def test_a_uri_that_leads_nowhere_is_one_clear_error(uri: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(uri)


def test_damage_behind_a_uri_is_named(in_memory: str) -> None:
    file = f"{in_memory}/data/data/chunk-000/file-000.parquet"
    with fsspec.open(file, "wb") as stream:
        stream.write(b"PAR1 torn")
    with pytest.raises(UserError, match=rf"{file} is not a readable Parquet file"):
        load(f"{in_memory}/data")


def test_skills_are_not_written_to_a_uri_nor_recipes_read_from_one(point_data: Path) -> None:
    with pytest.raises(UserError, match="Cannot write skills to memory://skills"):
        pretrain(opened(point_data), SHORT, output="memory://skills")
    with pytest.raises(UserError, match="a recipe is a local file"):
        prepare_skills({"data": "memory://bucket/kitchen.yaml"}, places=[Path()])
