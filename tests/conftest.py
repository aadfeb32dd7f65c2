"""Shared fixtures: a toy environment's data and skills, and a local Ray."""

import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
import torch
from ray.tune.registry import register_env, register_trainable

from rllib_spirl import SPiRL
from rllib_spirl.cli import data as cli
from rllib_spirl.cli.errors import run
from rllib_spirl.data import DataSet
from rllib_spirl.evaluation import plots
from rllib_spirl.locations import Location
from rllib_spirl.skills.checkpoint import SkillCard, save_skills
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer
from tests.point import PointEnv, write_demonstrations
from tests.sets import fingerprint, opened

torch.set_num_threads(1)  # networks this small only wait for a second thread
os.environ.setdefault(
    "RAY_worker_niceness", "0"
)  # by default Ray's workers wait for whatever else runs, other tests too

TINY = PretrainConfig(
    horizon=5, latent_dim=2, hidden=32, layers=2, prior_layers=2, updates=400, batch_size=64, report_every=200
)


def scan(data: DataSet | Location, config: PretrainConfig = TINY) -> SkillData:
    return SkillData.scan(opened(data), config.horizon, config.validation_fraction, config.seed)


def title(process: psutil.Process) -> str:
    """Ray's workers say here what they do."""
    try:
        return " ".join(process.cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.fixture(scope="session")
def point_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of point-mass demonstrations."""
    return write_demonstrations(tmp_path_factory.mktemp("data") / "point")


@pytest.fixture(scope="session")
def point_skills(point_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Skills trained on them."""
    trainer = SkillTrainer(scan(point_data), TINY)
    while trainer.updates < TINY.updates:
        trainer.step()
    card = SkillCard(model=trainer.model.config, data=fingerprint(point_data), metrics=trainer.validate())
    return str(save_skills(tmp_path_factory.mktemp("skills"), trainer.model, card))


@pytest.fixture
def point_settings(point_skills: str, point_data: Path) -> dict[str, Any]:
    """Training settings of a small SPiRL on them."""
    return {
        "skill_checkpoint": point_skills,
        "offline_data": str(point_data),
        "warmup_steps": 20,
        "offline_updates": 10,
        "replay_capacity": 2000,
        "train_batch_size_per_learner": 32,
        "policy_hidden": 32,
        "critic_hidden": 32,
    }


@pytest.fixture
def built() -> Iterator[Callable[[SPiRL], SPiRL]]:
    """Passes an algorithm on, and stops it after the test."""
    made: list[SPiRL] = []

    def keep(algorithm: SPiRL) -> SPiRL:
        made.append(algorithm)
        return algorithm

    yield keep
    for algorithm in made:
        algorithm.stop()


@dataclass(frozen=True)
class CommandResult:
    code: int
    out: str
    err: str


@pytest.fixture
def spirl(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., CommandResult]:
    """Calls ``spirl data`` with arguments."""

    def call(*arguments: object) -> CommandResult:
        monkeypatch.setattr(sys, "argv", ["spirl data", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            run(cli.app)
        captured = capsys.readouterr()
        return CommandResult(int(caught.value.code or 0), captured.out, captured.err)

    return call


@dataclass
class SharedRay:
    """The one local Ray of a test process, of which each start takes as long as many tests."""

    node: str | None = None

    def runs(self) -> bool:
        return ray.is_initialized() and ray.get_runtime_context().get_node_id() == self.node

    def start(self) -> None:
        """Unless it runs. It has two CPUs."""
        if not self.runs():
            ray.shutdown()
            options = {"include_dashboard": False, "logging_level": logging.ERROR, "log_to_driver": False}
            ray.init(address="local", num_cpus=2, **options)
            self.node = ray.get_runtime_context().get_node_id()

    def free(self) -> bool:
        """Whether nothing holds its CPUs any more, waiting two seconds for that."""
        for _ in range(20):
            if ray.available_resources().get("CPU") == 2:
                return True
            time.sleep(0.1)
        return False


SHARED_RAY = SharedRay()


@pytest.fixture(scope="module", autouse=True)
def other_rays_end_with_their_module() -> Iterator[None]:
    """Ends a Ray that a test's own work has started, and the shared one if a test has left something in it."""
    yield
    if ray.is_initialized() and not (SHARED_RAY.runs() and SHARED_RAY.free()):
        ray.shutdown()


@pytest.fixture(scope="module")
def ray_session() -> None:
    """The shared Ray, with the point mass registered as "point"."""
    SHARED_RAY.start()
    register_env("point", PointEnv)
    register_trainable("SPiRL", SPiRL)  # Tune forgets at the end of a session what was registered by name


@pytest.fixture
def blank_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports have all their pictures, but nothing is drawn: of all that they do that takes longest."""
    monkeypatch.setattr(plots, "_save", lambda figure, path: path.touch())


@pytest.fixture
def no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """No Ray seems to run, and none is to be started."""
    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray was started"))
