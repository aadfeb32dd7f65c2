"""What is told of a stage of work where the output is no terminal, from this process and from a Ray worker."""

import itertools
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import ray

from rllib_spirl import progress
from rllib_spirl.progress import Stage, stage, track, watch


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "EVERY_S", 0.2)


def test_a_line_says_what_how_far_and_how_long() -> None:
    current = Stage("recording demonstrations", 730, done=30)
    current.begun -= 60
    assert current.line() == "recording demonstrations: 30 of 730, 0:01:00 so far"
    current.set(100, detail="kettle")
    assert current.line() == "recording demonstrations (kettle): 100 of 730, 0:01:00 so far, 0:09:00 left"
    compiling = Stage("compiling")
    compiling.begun -= 3
    assert compiling.line() == "compiling, 0:00:03 so far"


def test_a_stage_tells_where_its_result_will_lie_and_then_how_far_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    with stage("reading", 10, into="data/x") as current:
        current.advance(4)
        time.sleep(0.6)
        with stage("unpacking", 2):
            time.sleep(0.6)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "reading, into data/x"
    assert lines[1].startswith("reading: 4 of 10, 0:00:0")
    assert any(line.startswith("unpacking: 0 of 2") for line in lines)


def test_nothing_is_told_of_what_is_quick_or_not_to_be_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(track("abc", "letters")) == ["a", "b", "c"]
    with stage("hidden", show=False), stage("inside somebody's program", watched_only=True):
        time.sleep(0.5)
    assert capsys.readouterr().err == ""


def test_the_driver_tells_of_the_stage_that_a_worker_is_in(
    ray_session: None, capsys: pytest.CaptureFixture[str]
) -> None:
    @ray.remote
    def work() -> None:
        time.sleep(0.6)
        with stage("learning", 5, watched_only=True) as current:
            time.sleep(0.6)  # it is posted twice a second
            current.advance(2)
            time.sleep(1.5)
            current.advance(2)
            time.sleep(1.0)

    with watch("waiting"):
        ray.get(work.remote())
    told = capsys.readouterr().err
    assert "waiting, 0:00:0" in told
    assert "learning: 2 of 5, 0:00:0" in told
    assert "learning: 4 of 5, 0:00:0" in told
    ray.get(work.remote())  # nobody watches any more
    assert capsys.readouterr().err == ""


@pytest.mark.long
def test_nothing_is_silent_for_half_a_minute(tmp_path: Path) -> None:
    """The whole pipeline with a pipe for its output."""
    file = Path(__file__).parents[1] / "tuned_examples/kitchen_smoke.yaml"
    command = [sys.executable, "-u", "-m", "rllib_spirl.cli.rllib", "train", "file", str(file)]
    environment = {"RLLIB_SPIRL_HOME": str(tmp_path / "home")}
    started = time.monotonic()
    process = subprocess.Popen(
        [*command, "--set", f"storage_path={tmp_path / 'results'}"],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    told = [(0.0, "started")]
    for line in process.stdout:
        told.append((time.monotonic() - started, line.strip()))
    assert process.wait() == 0, told
    told.append((time.monotonic() - started, "ended"))
    silences = [(after - before, line) for (before, line), (after, _) in itertools.pairwise(told)]
    assert max(silences)[0] < 30, max(silences)
    everything = "\n".join(line for _, line in told)
    for what in ("recording demonstrations, into", "training skills, into", "checkpoint"):
        assert what in everything
