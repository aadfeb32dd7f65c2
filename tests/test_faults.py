"""Processes killed for real while they work. Run with ``-m faults``."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from rllib_spirl import SPiRL, SPiRLConfig
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.restore import load_policy

pytestmark = pytest.mark.faults
POINT = "tests.point:Point-v0"


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
        weights = algorithm.learner_group._learner.module["default_policy"].policy.state_dict()
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
    file = tmp_path / "point.yaml"
    experiment = {
        "run": "SPiRL",
        "env": POINT,
        "stop": {"training_iteration": 10_000},
        "storage_path": str(tmp_path / "out"),
        "checkpoint_config": {"checkpoint_frequency": 1, "num_to_keep": 2},
        "config": point_settings | {"min_sample_timesteps_per_iteration": 8},
    }
    file.write_text(yaml.safe_dump({"point": experiment}))
    rng = np.random.default_rng(0)
    command = [sys.executable, "-m", "rllib_spirl.cli.rllib", "train", "file", str(file), "--ray-num-cpus", "2"]
    before = -1
    for kill in range(20):
        resume = ["--resume"] if kill else []
        with subprocess.Popen(
            command + resume, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        ) as run:
            assert run.stdout is not None
            # Until it has reported something new, then a moment more.
            for line in run.stdout:
                if (found := re.search(r"  iter (\d+)  ", line)) and int(found[1]) > before + 1:
                    break
            time.sleep(rng.uniform(0, 0.5))
            os.killpg(run.pid, signal.SIGKILL)
        newest = _newest(tmp_path / "out")
        load_policy(str(newest))
        restored = SPiRL.from_checkpoint(str(newest))
        assert len(restored.replay) > 0
        assert restored.iteration >= before
        before = restored.iteration
        restored.stop()
    assert before > 20


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
