"""Results on the local disk: whole files, whole states, whole checkpoints."""

import resource
from pathlib import Path
from types import SimpleNamespace

import pytest
from pyarrow import fs
from ray.train._internal.session import _TrainingResult
from ray.tune import Checkpoint, CheckpointConfig

from rllib_spirl.cli.storage import FromNewestCheckpoint, check_state, resumable, storage_arguments
from rllib_spirl.errors import UserError


@pytest.fixture
def whole(tmp_path: Path) -> fs.FileSystem:
    return storage_arguments(str(tmp_path))["storage_filesystem"]


def test_a_file_appears_when_it_is_whole(whole: fs.FileSystem, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("old")
    with whole.open_output_stream(str(tmp_path / "state")) as stream:
        stream.write(b"new")
        assert (tmp_path / "state").read_text() == "old"
    assert (tmp_path / "state").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["state"]


def test_a_file_that_could_not_be_written_stays_as_it_was(whole: fs.FileSystem, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(bytes(100_000))
    (tmp_path / "state").write_text("old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            fs.copy_files(str(tmp_path / "new"), str(tmp_path / "state"), destination_filesystem=whole)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert (tmp_path / "state").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"state", "new"}


def test_folders_are_copied_and_deleted(whole: fs.FileSystem, tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_text("text")
    fs.copy_files(str(tmp_path / "a"), str(tmp_path / "copy"), destination_filesystem=whole)
    assert (tmp_path / "copy" / "b" / "file").read_text() == "text"
    whole.delete_dir(str(tmp_path / "copy"))
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_object_stores_are_left_alone() -> None:
    assert storage_arguments("mock://runs") == {"storage_path": "mock://runs"}


def test_a_torn_state_is_not_resumed(tmp_path: Path) -> None:
    assert not resumable(str(tmp_path / "nothing"))
    (tmp_path / "experiment_state-2026-01-01.json").write_text("{}")
    check_state(str(tmp_path))
    (tmp_path / "experiment_state-2026-01-02.json").touch()
    assert resumable(str(tmp_path))
    with pytest.raises(UserError, match=r"experiment_state-2026-01-02.json is not readable .* Remove it"):
        check_state(str(tmp_path))


@pytest.mark.parametrize(("there", "chosen"), [([4, 5], 4), ([3, 4, 5], 4), ([5], 5), ([1, 2], 2)])
def test_a_trial_goes_on_from_the_newest_checkpoint_that_is_surely_whole(
    whole: fs.FileSystem, tmp_path: Path, there: list[int], chosen: int
) -> None:
    """Tune's state knows of checkpoints 1 and 2."""
    for index in there:
        (tmp_path / f"checkpoint_{index:06d}").mkdir()
    (tmp_path / ".checkpoint_000000.deleted").mkdir()
    known = [_TrainingResult(Checkpoint(str(tmp_path / f"checkpoint_{i:06d}"), whole), {}) for i in (1, 2)]
    manager = SimpleNamespace(_latest_checkpoint_result=known[1], _checkpoint_results=list(known))
    storage = SimpleNamespace(storage_filesystem=whole, trial_fs_path=str(tmp_path), current_checkpoint_index=2)
    metadata = SimpleNamespace(checkpoint_manager=manager)
    trial = SimpleNamespace(run_metadata=metadata, storage=storage, max_failures=0)
    wanted = CheckpointConfig(num_to_keep=3)
    FromNewestCheckpoint(wanted, 5).on_step_begin(0, [trial])
    assert (trial.max_failures, manager._checkpoint_config) == (5, wanted)
    assert manager._latest_checkpoint_result.checkpoint.path.endswith(f"checkpoint_{chosen:06d}")
    assert manager._checkpoint_results[-1] is known[1]
    assert storage.current_checkpoint_index == chosen
    assert len(list(tmp_path.iterdir())) == len(there)
