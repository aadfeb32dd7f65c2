"""The ``spirl data`` commands, as a user runs them; and our files as RLlib's offline API reads them."""

import gc
import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium as gym
import h5py
import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
import yaml

from rllib_spirl.data import Episode, TrajectoryWriter
from tests.sets import fingerprint, load

FILE = "data/chunk-000/file-000.parquet"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    with TrajectoryWriter(tmp_path / "set", fps=12.5, robot_type="franka") as writer:
        for i, steps in enumerate((12, 20, 8)):
            states = rng.normal(size=(steps + 1, 3))
            task = "kettle; microwave" if i < 2 else "kettle; light switch"
            writer.add(Episode(states, np.tanh(states[:-1, :2]), np.full(steps, 0.5), i == 0, i != 0, task))
    return tmp_path / "set"


def test_inspect_json(spirl, data: Path) -> None:  # type: ignore[no-untyped-def]
    result = spirl("inspect", data, "--horizon", 10, "--json")
    assert result.code == 0
    facts = json.loads(result.out)
    assert (facts["episodes"], facts["steps"], facts["state_dim"], facts["action_dim"]) == (3, 40, 3, 2)
    assert facts["windows"] == 3 + 11
    assert facts["episode_length"] == {"min": 8, "median": 12.0, "max": 20}
    assert facts["subtasks"] == {"kettle": 3, "microwave": 2, "light switch": 1}
    assert facts["tasks"] == {"kettle; microwave": 2, "kettle; light switch": 1}
    assert facts["terminated_episodes"] == 1
    assert facts["mean_return"] == pytest.approx(20 / 3)
    assert facts["fingerprint"] == fingerprint(data)
    actions = load(data, dtype=np.float64).actions
    assert facts["action_range"] == {"min": actions.min(axis=0).tolist(), "max": actions.max(axis=0).tolist()}


def test_inspect_shows_tasks_as_they_are_written(spirl, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with TrajectoryWriter(tmp_path / "set", fps=10) as writer:
        states = np.random.default_rng(0).normal(size=(13, 3))
        writer.add(Episode(states, np.tanh(states[:-1, :2]), np.zeros(12), True, False, "pick [red] cube [/x]"))
    result = spirl("inspect", tmp_path / "set")
    assert result.code == 0
    assert "pick [red] cube [/x]" in result.out


def test_inspect_table(spirl, data: Path) -> None:  # type: ignore[no-untyped-def]
    result = spirl("inspect", data)
    assert result.code == 0
    for words in (
        "8 to 20, median 12",
        "windows of 10",
        "14, in 2 episodes",
        "franka",
        "light switch",
        fingerprint(data),
    ):
        assert words in result.out


def test_errors_are_one_line_and_exit_1(spirl, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "file").write_text("mine")
    (tmp_path / "empty").mkdir()
    broken = tmp_path / "broken"
    subprocess.run(["cp", "-r", data, broken], check=True)
    (broken / FILE).write_bytes((data / FILE).read_bytes()[:-100])
    before = fingerprint(data)
    for arguments, words in (
        (("inspect", broken), "truncated or corrupt"),
        (("inspect", tmp_path / "empty"), "no meta/info.json"),
        (("inspect", data, "--horizon", 21), "every episode is shorter"),
        (("import-lerobot", data, "-o", data), "exists"),
        (("import-lerobot", data, "-o", tmp_path / "file" / "set"), "cannot write there"),
        (("import-lerobot", data, "-o", tmp_path / "x", "--state-key", "joints"), "column 'joints' is missing"),
        (("import-d4rl", tmp_path / "file", "-o", tmp_path / "x"), "not readable as HDF5"),
        (("import-minari", "a/b-v0", "-o", tmp_path / "x", "--root", tmp_path), "no such Minari data set"),
        (("build", tmp_path / "file"), "a recipe is a mapping"),
        (("build", tmp_path / "none.yaml"), "does not exist"),
        (("build", "x.yaml", "--set", "seed"), "write --set key=value"),
    ):
        result = spirl(*arguments)
        assert result.code == 1, arguments
        assert result.err.startswith("error: "), result.err
        assert result.err.count("\n") == 1
        assert words in result.err
        assert "Traceback" not in result.err
    assert fingerprint(data) == before
    assert not (tmp_path / "x").exists()


def test_wrong_options_exit_2(spirl, data: Path) -> None:  # type: ignore[no-untyped-def]
    assert spirl("inspect", data, "--horizon", 0).code == 2
    assert spirl("inspct", data).code == 2


def test_imports(spirl, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    again = spirl("import-lerobot", data, "-o", tmp_path / "again")
    assert (again.code, again.out.strip()) == (0, str(tmp_path / "again"))
    assert fingerprint(tmp_path / "again") == fingerprint(data)

    with h5py.File(tmp_path / "x.hdf5", "w") as file:
        file["observations"], file["actions"] = np.zeros((6, 4), np.float32), np.zeros((6, 2), np.float32)
        file["rewards"], file["terminals"] = np.zeros(6, np.float32), np.array([0, 0, 1, 0, 0, 0], bool)
    assert spirl("import-d4rl", tmp_path / "x.hdf5", "-o", tmp_path / "d4rl", "--state-columns", "0:3").code == 0
    assert load(tmp_path / "d4rl").states.shape == (6, 3)


def test_build_with_overrides(spirl, data: Path, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"source": "lerobot", "path": str(data)}))
    result = spirl(
        "build", recipe, "--set", "state_columns='0:2'", "--set", "rescale_actions=true", "-o", tmp_path / "x"
    )
    assert result.code == 0
    assert load(tmp_path / "x").state_dim == 2
    assert np.abs(load(tmp_path / "x").actions).max() == 1


@pytest.mark.long
def test_rllib_reads_our_files_and_clones_behaviour(data: Path) -> None:
    """The same Parquet files through RLlib's offline API: a behaviour cloning run on them learns their actions."""
    import ray
    import torch
    from ray.rllib.algorithms.bc import BCConfig

    trajectories = load(data)
    states = torch.as_tensor(trajectories.states, dtype=torch.float32)
    actions = np.asarray(trajectories.actions)

    def action_error(algorithm: Any) -> float:
        """RMS distance of the policy's mean action from the recorded one. (The log-likelihood is no measure here: the
        actions are a function of the state, so it has no bound and jumps as the policy's deviation shrinks.)"""
        module = algorithm.learner_group._learner.module["default_policy"]  # RLlib has no env runner here to ask
        output = module.forward_inference({"obs": states})["action_dist_inputs"]
        return float(np.sqrt(np.mean((output[:, :2].detach().numpy() - actions) ** 2)))

    assert pq.read_schema(data / FILE).field("observation.state").type.list_size == 3
    ray.shutdown()
    ray.init(address="local", num_cpus=4, include_dashboard=False, configure_logging=False, log_to_driver=False)
    try:
        config = (
            BCConfig()
            .environment(
                observation_space=gym.spaces.Box(-np.inf, np.inf, (3,), np.float64),
                action_space=gym.spaces.Box(-1, 1, (2,), np.float64),
            )
            .env_runners(num_env_runners=0)
            .learners(num_learners=0)
            .training(train_batch_size_per_learner=40, lr=1e-3)
            .debugging(seed=0)
            .offline_data(
                input_=[str(data / "data")],
                input_read_method="read_parquet",
                input_read_schema={
                    "eps_id": "episode_index",
                    "obs": "observation.state",
                    "actions": "action",
                    "rewards": "next.reward",
                    "new_obs": "next.observation.state",
                    "terminateds": "next.terminated",
                    "truncateds": "next.truncated",
                    "t": "frame_index",
                },
                dataset_num_iters_per_learner=20,
                map_batches_kwargs={"concurrency": 1, "num_cpus": 1},
            )
        )
        algorithm = config.build_algo()
        before = action_error(algorithm)
        for _ in range(3):
            algorithm.train()
        after = action_error(algorithm)
        algorithm.stop()
        # Ray Data's iterator asks Ray for its statistics when it is freed: now, not when Ray is gone.
        del algorithm
        gc.collect()
    finally:
        ray.shutdown()
    assert after < 0.5 * before, (before, after)


@pytest.mark.long
def test_a_build_that_is_terminated_ends_what_it_started(tmp_path: Path) -> None:
    recipe = Path("offline_data/kitchen_smoke.yaml").absolute()
    command = [sys.executable, "-m", "rllib_spirl.cli.spirl", "data", "build", recipe, "--output", tmp_path / "set"]
    build = subprocess.Popen([*command, "--workers", "2"], stderr=subprocess.DEVNULL)
    children: list[psutil.Process] = []
    while len(children) < 4:  # the fork server, what keeps its semaphores, and two that record
        assert build.poll() is None
        time.sleep(0.1)
        children = psutil.Process(build.pid).children(recursive=True)
    build.send_signal(signal.SIGTERM)
    assert build.wait(60) == 130
    assert psutil.wait_procs(children, timeout=30)[1] == []
    assert not (tmp_path / "set").exists()
