"""Damaged files end in one clear error, never in another exception or a crash. Run with ``-m slow``."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_spirl.algorithm.replay_buffer import SkillReplay
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.runs import read_runs
from rllib_spirl.skills.checkpoint import load_skills
from tests.sets import load

pytestmark = pytest.mark.slow
INPUTS = 1500  # for each of nine files


def mutated(content: bytes, rng: np.random.Generator) -> bytes:
    """The content cut off, or with bytes overwritten, removed, repeated or inserted."""
    data = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(len(data) + 1))
        some = int(rng.integers(1, 20))
        match rng.integers(5):
            case 0:
                del data[at:]
            case 1:
                data[at : at + some] = rng.bytes(min(some, len(data) - at))
            case 2:
                del data[at : at + some]
            case 3:
                data[at:at] = data[at : at + some]
            case _:
                data[at:at] = rng.bytes(some)
    return bytes(data)


def survive(file: Path, read: Callable[[], object], seed: int) -> int:
    """Read mutations of a file; returns how many were refused."""
    original, rng, refused = file.read_bytes(), np.random.default_rng(seed), 0
    for number in range(INPUTS):
        file.write_bytes(mutated(original, rng))
        try:
            read()
        except UserError as error:
            refused += 1
            lines = str(error).splitlines()
        except Exception as error:
            kept = file.with_name(f"failed-{number}")
            shutil.copy(file, kept)
            raise AssertionError(f"input {number} ({kept}): {type(error).__name__}: {error}") from error
        else:
            lines = []
        assert len(lines) <= 1, lines
    return refused


@pytest.mark.parametrize("name", ["data/chunk-000/file-000.parquet", "meta/info.json", "meta/tasks.parquet"])
def test_data_sets(point_data: Path, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(point_data, tmp_path / "data"))
    assert survive(path / name, lambda: load(path), 0) > INPUTS / 2


@pytest.mark.parametrize("name", ["skill.json", "skill.safetensors"])
def test_skill_checkpoints(point_skills: str, tmp_path: Path, name: str) -> None:
    path = Path(shutil.copytree(point_skills, tmp_path / "skills"))
    assert survive(path / name, lambda: load_skills(str(path)), 1) > INPUTS / 20


def test_replay_buffers(tmp_path: Path) -> None:
    replay, file = SkillReplay(50, 2, 2), tmp_path / "replay.safetensors"
    columns = {"states": (2,), "z": (2,), "rewards": (), "next_states": (2,), "terminated": ()}
    replay.add({name: torch.rand(20, *shape) for name, shape in columns.items()})
    replay.save(file)
    assert survive(file, lambda: SkillReplay(50, 2, 2).restore(file), 2) > INPUTS / 20


def test_runs(tmp_path: Path) -> None:
    trial = tmp_path / "experiment" / "trial"
    trial.mkdir(parents=True)
    (trial / "params.json").write_text('{"env": "x", "seed": 0}')
    evaluation = {"episode_return": 1.5, "episodes": 2}
    results = [{"env_steps": 10.0 * i, "training_iteration": i, "evaluation": evaluation} for i in range(1, 6)]
    (trial / "result.json").write_text("\n".join(map(json.dumps, results)) + "\n")
    assert len(read_runs([tmp_path])[0].env_steps) == 5
    for name in ("result.json", "params.json"):
        survive(trial / name, lambda: read_runs([tmp_path]), 3)


def test_reports(tmp_path: Path) -> None:
    file = tmp_path / "curves.json"
    run = {"trial": "a", "seed": 0, "env_steps": [10.0, 20.0], "completed_subtasks": [1.5, None], "subtask_rate": {}}
    file.write_text(json.dumps({"methods": {"ours": {"env": "x", "data": "y", "runs": [run]}}}))
    assert survive(file, lambda: read_runs([tmp_path]), 4) > INPUTS / 2
