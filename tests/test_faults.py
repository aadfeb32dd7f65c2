"""Processes killed for real while they work. Run with ``-m faults``."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rllib_spirl import SPiRL, SPiRLConfig
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.restore import load_policy
from rllib_spirl.skills.checkpoint import load_card, load_skills, save_skills
from tests.conftest import TINY, title
from tests.point import write_demonstrations
from tests.sets import fingerprint

pytestmark = pytest.mark.faults
POINT = "tests.point:Point-v0"
LEARNER = "_WrappedExecutable"  # what RLlib calls its actor
SHORT = TINY.model_copy(update={"threads_per_worker": 1})


def seed_of(algorithm: SPiRL) -> Any:
    """What the random numbers of the only remote env runner came from."""
    (seed,) = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner._rng.bit_generator.seed_seq.entropy, local_env_runner=False
    )
    return seed


@pytest.mark.usefixtures("ray_session")
def test_training_goes_on_without_a_killed_env_runner(point_settings: dict[str, Any]) -> None:
    config = (
        SPiRLConfig()
        .environment("point", env_config={"limit": 40})
        .training(**point_settings)
        .env_runners(num_env_runners=1, rollout_fragment_length=8)
        .reporting(min_sample_timesteps_per_iteration=24)
        .debugging(seed=3)
    )
    algorithm = config.build_algo()
    try:
        began = seed_of(algorithm)
        steps = [algorithm.train()["env_steps"] for _ in range(2)]
        (pid,) = algorithm.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
        os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + 120
        while len(steps) < 6 or not algorithm.env_runner_group.num_healthy_remote_env_runners():
            assert time.monotonic() < deadline
            steps.append(algorithm.train()["env_steps"])
        assert np.all(np.diff(steps) >= 0)
        assert steps[-1] > steps[1]
        (now,) = algorithm.env_runner_group.foreach_env_runner(lambda _: os.getpid(), local_env_runner=False)
        assert now != pid
        assert seed_of(algorithm)[0] == began[-1]  # and how far the run was then
        weights = algorithm.learner_group._learner.module["default_policy"].policy.state_dict()
        algorithm._sample()  # the latest policy goes with the next request
        (acting,) = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.module.policy.state_dict(), local_env_runner=False
        )
        assert all(np.array_equal(weights[name], acting[name]) for name in weights)
    finally:
        algorithm.stop()


def test_a_driver_killed_at_any_moment_leaves_a_whole_checkpoint(
    point_settings: dict[str, Any], tmp_path: Path
) -> None:
    """Killed 20 times while it writes one checkpoint after the other: the newest that is complete always loads."""
    command = _command(tmp_path, point_settings, checkpoint_config={"checkpoint_frequency": 1, "num_to_keep": 2})
    rng = np.random.default_rng(0)
    before = -1
    for kill in range(20):
        resume = ["--resume"] if kill else []
        with _start(command + resume) as run:
            assert run.stdout is not None
            line = ""
            # Until it has reported something new, then a moment more.
            for line in run.stdout:
                if (found := re.search(r"  iter (\d+)  ", line)) and int(found[1]) > before + 1:
                    break
            else:
                pytest.fail(f"ended by itself after {kill} kills: {line}")
            time.sleep(rng.uniform(0, 0.5))
        newest = _newest(tmp_path / "out")
        load_policy(str(newest))
        restored = SPiRL.from_checkpoint(str(newest))
        assert len(restored.replay) > 0
        assert restored.iteration > before
        before = restored.iteration
        restored.stop()
    assert len(list((tmp_path / "out" / "point").glob("*/result.json"))) == 1, "it went on, and did not begin anew"


def test_training_goes_on_after_its_learner_was_killed(point_settings: dict[str, Any], tmp_path: Path) -> None:
    command = _command(
        tmp_path,
        point_settings | {"num_learners": 1},
        stop={"training_iteration": 80},
        max_failures=1,
        storage=tmp_path,
    )
    with _start(command) as run:
        _wait_for_iteration(run, 2)
        os.kill(_ray_process(run, LEARNER).pid, signal.SIGKILL)
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    (file,) = tmp_path.glob("point/*/result.json")
    results = [json.loads(line) for line in file.read_text().splitlines()]
    again = [r["training_iteration"] for r in results if r["iterations_since_restore"] == 1]
    assert len(again) == 2
    assert again[1] > 1, "from a checkpoint, not from the beginning"
    assert results[-1]["training_iteration"] == 80


def test_without_another_try_a_killed_learner_is_one_clear_error(
    point_settings: dict[str, Any], tmp_path: Path
) -> None:
    with _start(_command(tmp_path, point_settings | {"num_learners": 1})) as run:
        _wait_for_iteration(run, 2)
        os.kill(_ray_process(run, LEARNER).pid, signal.SIGKILL)
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 1
    (failure,) = re.findall("failed: .*", output)
    assert re.search("ActorDiedError|actor died", failure)


def test_pretraining_goes_on_after_its_worker_was_killed(point_data: Path, tmp_path: Path) -> None:
    settings = SHORT.model_copy(update={"updates": 3000, "report_every": 100}).model_dump(exclude_defaults=True)
    command = [sys.executable, "-m", "rllib_spirl.cli.spirl", "pretrain", str(point_data), "--output", str(tmp_path)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    with _start(command) as run:
        deadline = time.monotonic() + 300
        while not any(
            "checkpoint_" in file.read_text() for file in tmp_path.glob("run-*/checkpoint_manager_snapshot.json")
        ):
            assert time.monotonic() < deadline
            assert run.poll() is None
            time.sleep(0.05)
        os.kill(_ray_process(run, "TrainWorker").pid, signal.SIGKILL)
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 0, output
    assert load_card(tmp_path).metrics["validation_reconstruction"] < 0.1
    first, second = sorted((tmp_path / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime)
    starts = [EventAccumulator(str(events)).Reload().Scalars("skills/loss")[0].step for events in (first, second)]
    assert starts[0] == 100
    assert starts[1] > 100


def test_a_full_disk_is_one_clear_error_and_the_checkpoint_before_it_stays(
    point_settings: dict[str, Any], small_disk: Path, tmp_path: Path
) -> None:
    command = _command(
        tmp_path, point_settings, storage=small_disk, checkpoint_config={"checkpoint_frequency": 1, "num_to_keep": 2}
    )
    with _start(command) as run:
        _wait_for_iteration(run, 3)
        _fill(small_disk)
        output, _ = run.communicate(timeout=300)
    assert run.returncode == 1, output
    (failure,) = re.findall("failed: .*", output)
    assert "No space left on device" in failure
    newest = _newest(small_disk)
    restored = SPiRL.from_checkpoint(str(newest))
    assert len(restored.replay) > 0
    reached = restored.iteration
    restored.stop()

    (small_disk / "filler").unlink()
    resumed = subprocess.run(
        [*command, "--resume", "--stop", f"training_iteration={reached + 5}"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    (file,) = small_disk.glob("point/*/result.json")
    assert json.loads(file.read_text().splitlines()[-1])["training_iteration"] == reached + 5


def test_a_full_disk_leaves_old_skills_and_data_as_they_were(
    point_skills: str, point_data: Path, small_disk: Path
) -> None:
    model, card = load_skills(point_skills)
    save_skills(small_disk / "skills", model, card)
    write_demonstrations(small_disk / "data")
    _fill(small_disk)
    with pytest.raises(UserError, match=r"Cannot write the skill checkpoint to .*No space left on device"):
        save_skills(small_disk / "skills", model, card.model_copy(update={"data": "x" * 100_000}))
    with pytest.raises(UserError, match=r"cannot write there \(.*No space left on device\)"):
        write_demonstrations(small_disk / "data", episodes=100, overwrite=True)
    assert load_skills(small_disk / "skills")[1] == card
    assert fingerprint(small_disk / "data") == fingerprint(point_data)
    assert {path.name for path in small_disk.iterdir()} == {"skills", "data", "filler"}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 64 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(place)], capture_output=True)
    if mounted.returncode:
        pytest.skip("a disk can only be mounted by root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def _fill(place: Path) -> None:
    with (place / "filler").open("wb", buffering=0) as file, contextlib.suppress(OSError):
        for size in (2**20, 2**10):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))


def _command(folder: Path, config: dict[str, Any], *, storage: Path | None = None, **settings: Any) -> list[str]:
    """A run of the point mass that does not end by itself, unless the settings say so."""
    experiment = {
        "run": "SPiRL",
        "env": POINT,
        "stop": {"training_iteration": 100_000},
        "storage_path": str(storage or folder / "out"),
        "checkpoint_config": {"checkpoint_frequency": 1},
        "config": config | {"min_sample_timesteps_per_iteration": 8},
        **settings,
    }
    file = folder / "point.yaml"
    file.write_text(yaml.safe_dump({"point": experiment}))
    return [sys.executable, "-m", "rllib_spirl.cli.rllib", "train", "file", str(file), "--ray-num-cpus", "2"]


@contextlib.contextmanager
def _start(command: list[str]) -> Iterator[subprocess.Popen[str]]:
    """A command in a process group of its own, of which nothing is left afterwards."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    ) as run:
        try:
            yield run
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(run.pid, signal.SIGKILL)


def _wait_for_iteration(run: subprocess.Popen[str], least: int) -> None:
    assert run.stdout is not None
    seen = ""
    for line in run.stdout:
        seen += line
        if (found := re.search(r"  iter (\d+)  ", line)) and int(found[1]) >= least:
            return
    pytest.fail(seen)


def _ray_process(run: subprocess.Popen[str], name: str) -> psutil.Process:
    """The process of the one actor of this kind that a command has started."""
    found = [p for p in psutil.Process(run.pid).children(recursive=True) if re.match(rf"ray::.*{name}", title(p))]
    assert len(found) == 1, found
    return found[0]


def _newest(storage: Path) -> Path:
    """The newest checkpoint that Tune knows of or that is whole."""
    found = sorted(storage.glob("*/*/checkpoint_*"))
    assert found
    for checkpoint in reversed(found):
        try:
            load_policy(str(checkpoint))
            return checkpoint
        except UserError:
            continue
    raise AssertionError("no checkpoint loads")
