"""More than one node, and jobs that are submitted to a cluster with token authentication."""

import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
import yaml
from ray.cluster_utils import Cluster
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from typer.testing import CliRunner

from rllib_spirl import SPiRLConfig
from rllib_spirl.cli.rllib import app
from rllib_spirl.data import DataSet
from rllib_spirl.skills.checkpoint import load_card
from rllib_spirl.skills.pretrain import pretrain
from tests.conftest import TINY, title
from tests.point import PointEnv

pytestmark = pytest.mark.slow
REPOSITORY = Path(__file__).parent.parent
POINT = "tests.point:Point-v0"


def write_experiment(folder: Path, settings: dict[str, Any]) -> Path:
    experiment = {
        "run": "SPiRL",
        "env": POINT,
        "stop": {"training_iteration": 3},
        "storage_path": str(folder / "out"),
        "config": settings | {"min_sample_timesteps_per_iteration": 20, "rollout_fragment_length": 4},
    }
    file = folder / "point.yaml"
    file.write_text(yaml.safe_dump({"point": experiment}))
    return file


def results(folder: Path) -> list[dict[str, Any]]:
    (file,) = (folder / "out" / "point").glob("*/result.json")
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def two_nodes(tmp_path: Path) -> Iterator[list[str]]:
    """A cluster of two raylets, with this process connected to it; their node ids."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield [node["NodeID"] for node in ray.nodes()]
    finally:
        ray.shutdown()
        cluster.shutdown()


def test_env_runners_on_two_nodes(two_nodes: list[str], point_settings: dict[str, Any], tmp_path: Path) -> None:
    """The algorithm and the environment are found on a node that never saw the command; paths are ``file://`` URIs."""
    settings = point_settings | {"num_env_runners": 2}
    for key in ("skill_checkpoint", "offline_data"):
        settings[key] = f"file://{settings[key]}"
    outcome = CliRunner().invoke(app, ["train", "file", str(write_experiment(tmp_path, settings))])
    assert outcome.exit_code == 0, outcome.output
    actors = ray._private.state.actors().values()
    nodes = {actor["Address"]["NodeID"] for actor in actors if actor["ActorClassName"] == "SkillEnvRunner"}
    assert nodes == set(two_nodes)
    last = results(tmp_path)[-1]
    assert last["training_iteration"] == 3
    assert last["fault_tolerance"]["num_healthy_workers"] == 2
    assert last["learners"]["default_policy"]["critic_loss"] > 0


@pytest.fixture
def four_nodes() -> Iterator[Cluster]:
    """A cluster of four raylets with one processor each, with this process connected to it."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        yield cluster
    finally:
        ray.shutdown()
        cluster.shutdown()


def _node(_: Any) -> str:
    return ray.get_runtime_context().get_node_id()


@pytest.mark.long
def test_training_goes_on_without_a_node_that_is_lost(four_nodes: Cluster, point_settings: dict[str, Any]) -> None:
    config = (
        SPiRLConfig()
        .environment(PointEnv, env_config={"limit": 40})
        .training(**point_settings)
        .env_runners(num_env_runners=3, rollout_fragment_length=4)
        .reporting(min_sample_timesteps_per_iteration=60)
        .debugging(seed=3)
    )
    algorithm = config.build_algo()
    try:
        group = algorithm.env_runner_group
        results = [algorithm.train() for _ in range(2)]
        nodes = group.foreach_env_runner(_node, local_env_runner=False)
        assert len(set(nodes)) == 3  # spread over the cluster
        lost = next(node for node in four_nodes.worker_nodes if node.node_id in nodes)
        four_nodes.remove_node(lost)
        deadline = time.monotonic() + 120
        while len(results) < 5 or group.num_healthy_remote_env_runners() < 3:
            assert time.monotonic() < deadline
            results.append(algorithm.train())
        assert lost.node_id not in group.foreach_env_runner(_node, local_env_runner=False)
        for counter in ("env_steps", "updates", "training_iteration"):
            counts = [result[counter] for result in results]
            assert all(after > before for before, after in itertools.pairwise(counts)), counter
        count = len(algorithm.replay)
        assert len(torch.unique(algorithm.replay._columns["z"][:count], dim=0)) == count  # none came twice
        assert 4 * count < results[-1]["env_steps"] <= TINY.horizon * count
    finally:
        algorithm.stop()


@pytest.mark.long
def test_pretraining_on_four_nodes_goes_on_after_a_worker_was_killed(
    four_nodes: Cluster, point_data: Path, tmp_path: Path
) -> None:
    settings = {"num_workers": 4, "threads_per_worker": 1, "updates": 600, "report_every": 100}
    config = TINY.model_copy(update=settings)
    with ThreadPoolExecutor() as pool:
        training = pool.submit(pretrain, DataSet.open(point_data), config, output=tmp_path / "skills")
        deadline = time.monotonic() + 300
        while not any(
            "checkpoint_" in file.read_text() for file in tmp_path.glob("skills/run-*/checkpoint_manager_snapshot.json")
        ):
            assert time.monotonic() < deadline
            assert not training.done(), training.exception()
            time.sleep(0.05)
        workers = [process for process in psutil.process_iter() if "TrainWorker" in title(process)]
        mine = [process for process in workers if os.getpid() in {parent.pid for parent in process.parents()}]
        assert len(mine) == 4
        mine[0].kill()
        folder = training.result(timeout=300)
    assert load_card(folder).metrics["validation_reconstruction"] < 0.1
    logs = sorted((folder / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime)
    starts = [EventAccumulator(str(events)).Reload().Scalars("skills/loss")[0].step for events in logs]
    assert starts[0] == 100 < starts[1]  # the second attempt begins where the checkpoint was


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def head(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """``ray start --head`` with a token of its own; the environment of who may talk to it."""
    pytest.importorskip("aiohttp_cors", reason="the job server needs ray[default]: pip install -e '.[cluster]'")
    folder = tmp_path_factory.mktemp("r")
    (folder / "token").write_text(secrets.token_hex(32))
    dashboard = free_port()
    environment = os.environ | {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(folder / "token"),
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}",
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("RAY_ADDRESS", None)
    command = ["start", "--head", "--block", "--num-cpus=2", "--disable-usage-stats", f"--temp-dir={folder / 't'}"]
    command += [f"--port={free_port()}", f"--dashboard-port={dashboard}", f"--ray-client-server-port={free_port()}"]
    command += [f"--dashboard-agent-listen-port={free_port()}", "--min-worker-port=0", "--max-worker-port=0"]
    with subprocess.Popen(
        [sys.executable, "-m", "ray.scripts.scripts", *command],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    ) as process:
        try:
            yield environment
        finally:
            process.send_signal(signal.SIGTERM)  # to --block, which then ends what it started, and nothing else
            process.wait(60)


def submit(environment: dict[str, str], *command: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "ray.scripts.scripts", "job", "submit", "--working-dir", str(REPOSITORY), "--"]
    return subprocess.run([*line, *command], env=environment, capture_output=True, text=True, timeout=300)


def test_a_job_is_submitted_with_a_token(head: dict[str, str], point_settings: dict[str, Any], tmp_path: Path) -> None:
    file = write_experiment(tmp_path, point_settings)
    command = [sys.executable, "-m", "rllib_spirl.cli.rllib", "train", "file", str(file)]
    deadline = time.monotonic() + 480
    while "Connection refused" in (probe := submit(head, "true")).stderr + probe.stdout or probe.returncode:
        assert time.monotonic() < deadline, probe.stdout + probe.stderr
        time.sleep(1)
    (tmp_path / "wrong").write_text(secrets.token_hex(32))
    refused = submit(head | {"RAY_AUTH_TOKEN_PATH": str(tmp_path / "wrong")}, *command)
    assert refused.returncode != 0
    assert "authentication" in (refused.stdout + refused.stderr).lower()
    assert not (tmp_path / "out").exists()

    job = submit(head, *command)
    assert job.returncode == 0, job.stdout + job.stderr
    assert "succeeded" in job.stdout
    assert results(tmp_path)[-1]["training_iteration"] == 3
