"""More than one node, and jobs that are submitted to a cluster with token authentication."""

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import yaml
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from rllib_spirl.cli.rllib import app

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
    deadline = time.monotonic() + 120
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
