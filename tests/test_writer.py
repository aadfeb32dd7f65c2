"""What a killed writer leaves behind, and that the next one removes only that."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.errors import UserError
from tests.sets import load, opened


def write(path: Path, **options: object) -> None:
    with TrajectoryWriter(path, fps=10, **options) as writer:  # type: ignore[arg-type]
        writer.add(Episode(np.zeros((3, 2)), np.zeros((2, 1)), np.zeros(2), True, False, "push"))


def hidden(folder: Path) -> set[str]:
    return {place.name for place in folder.iterdir() if place.name.startswith(".")}


@pytest.fixture
def dead() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_a_new_writer_removes_what_a_killed_one_left(tmp_path: Path) -> None:
    child = os.fork()
    if child == 0:
        try:
            TrajectoryWriter(tmp_path / "set", fps=10).__enter__()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    assert len(hidden(tmp_path)) == 1
    write(tmp_path / "other")
    assert len(hidden(tmp_path)) == 1, "what another data set's writer left is its own"
    write(tmp_path / "set")
    assert hidden(tmp_path) == set()
    assert load(tmp_path / "set").num_episodes == 1


def test_what_came_to_be_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    first, second = (TrajectoryWriter(tmp_path / "set", fps=10) for _ in range(2))
    for writer, reward in ((first, 1.0), (second, 2.0)):
        writer.__enter__()
        writer.add(Episode(np.zeros((3, 2)), np.zeros((2, 1)), np.full(2, reward), True, False, "t"))
    first.close()
    with pytest.raises(UserError, match="exists by now, so what was written is in"):
        second.close()
    assert load(tmp_path / "set").rewards.tolist() == [1, 1]
    (kept,) = tmp_path.glob("set-*")
    assert load(kept).rewards.tolist() == [2, 2]


def test_writers_of_one_path_do_not_mix(tmp_path: Path) -> None:
    """As environments side by side in one process have."""
    writers = [TrajectoryWriter(tmp_path / "set", fps=10, file_size_mb=1e-6) for _ in range(3)]
    for writer in writers:
        writer.__enter__()
    for reward in (1.0, 2.0, 3.0, 1.0, 2.0, 3.0):
        writers[int(reward) - 1].add(Episode(np.zeros((3, 2)), np.zeros((2, 1)), np.full(2, reward), True, False, "t"))
    writers[0].close()
    for writer in writers[1:]:
        with pytest.raises(UserError, match="exists by now"):
            writer.close()
    assert load(tmp_path / "set").rewards.tolist() == [1] * 4
    assert sorted(load(kept).rewards.tolist() for kept in tmp_path.glob("set-*")) == [[2] * 4, [3] * 4]


def test_nothing_else_is_removed(tmp_path: Path, dead: int) -> None:
    host = socket.gethostname()
    removed = {
        f".set.partial-{dead}",
        f".set.partial-{host}-{dead}",
        f".set.partial-{host}-{dead}.0a1b2c3d",
        f".set.partial-{host}-{os.getpid()}.0a1b2c3d",  # of another process with this one's number
        f".set.partial-{host}-{dead}-replaced",
    }
    kept = {
        f".set.partial-{host}-{os.getppid()}",  # of a live process
        f".set.partial-{host}-{os.getppid()}.0a1b2c3d",
        f".set.partial-{os.getppid()}",
        f".set.partial-{os.getppid()}-replaced",
        f".set.partial-elsewhere-{dead}",  # of another host, where the process may live
        f".set.partial-{2**70}",  # of nobody
        f".set.parts-{dead}",
        f".settled.partial-{dead}",
    }
    for name in removed | kept:
        (tmp_path / name / "data").mkdir(parents=True)
    write(tmp_path / "new" / "set")
    write(tmp_path / "set")
    assert hidden(tmp_path) == kept | {f".set.partial-{host}-{dead}-replaced"}, "it may be the only copy of the old one"
    write(tmp_path / "set", overwrite=True)
    assert hidden(tmp_path) == kept


def test_the_environment_is_kept(tmp_path: Path) -> None:
    write(tmp_path / "set", env="rllib_spirl/Kitchen-v0")
    assert opened(tmp_path / "set").ours["env"] == "rllib_spirl/Kitchen-v0"
    write(tmp_path / "unknown")
    assert "env" not in opened(tmp_path / "unknown").ours
