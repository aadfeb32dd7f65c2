"""Fifteen kinds of bad input through the real commands: one line, a non-zero exit code, nothing overwritten."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.torch import load_file, save_file

from rllib_spirl.errors import UserError
from tests.commands import run
from tests.test_replay_buffer import filled

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def workspace(tmp_path: Path, point_data: Path, point_skills: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a data set, skills and an experiment file, all of them good."""
    shutil.copytree(point_data, tmp_path / "data")
    shutil.copytree(point_skills, tmp_path / "skills")
    (tmp_path / "experiment.yaml").write_text(
        "point:\n"
        "  run: SPiRL\n"
        "  env: point\n"
        f"  storage_path: {tmp_path}/results\n"
        "  stop: {env_steps: 150}\n"
        "  config:\n"
        f"    skill_checkpoint: {tmp_path}/skills\n"
        "    warmup_steps: 10\n"
        "    replay_capacity: 100\n"
        "    train_batch_size_per_learner: 16\n"
        "    min_sample_timesteps_per_iteration: 16\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path / "home"))
    return tmp_path


def edit_table(directory: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    file = directory / "data" / "chunk-000" / "file-000.parquet"
    pq.write_table(change(pq.read_table(file)), file)


def actions_with(table: pa.Table, value: float) -> pa.Table:
    actions = np.stack(table["action"].to_numpy())
    actions[3, 1] = value
    column = pa.FixedSizeListArray.from_arrays(pa.array(actions.ravel()), actions.shape[1])
    return table.set_column(table.schema.get_field_index("action"), "action", column)


def ragged(table: pa.Table) -> pa.Table:
    actions = [row.tolist() for row in np.stack(table["action"].to_numpy())]
    actions[3] = actions[3][:1]
    return table.set_column(table.schema.get_field_index("action"), "action", pa.array(actions))


def truncated(w: Path) -> None:
    file = w / "data" / "data" / "chunk-000" / "file-000.parquet"
    file.write_bytes(file.read_bytes()[:-200])


def emptied(w: Path) -> None:
    shutil.rmtree(w / "data")
    (w / "data").mkdir()


def corrupted(w: Path) -> None:
    file = w / "skills" / "skill.safetensors"
    file.write_bytes(b"\x00" * 64 + file.read_bytes()[64:])


def other_width(w: Path) -> None:
    import json

    card = json.loads((w / "skills" / "skill.json").read_text())
    card["model"]["state_dim"] = 4
    (w / "skills" / "skill.json").write_text(json.dumps(card))
    weights = load_file(w / "skills" / "skill.safetensors")
    grown = dict(weights)
    from rllib_spirl.skills.model import SkillModel, SkillModelConfig

    shapes = SkillModel(SkillModelConfig.model_validate(card["model"])).state_dict()
    save_file({name: shapes[name] for name in grown}, w / "skills" / "skill.safetensors")


INSPECT = ["spirl", "data", "inspect", "data"]
PRETRAIN = ["spirl", "pretrain", "data", "--output", "new-skills", "--set", "horizon=5"]
TRAIN = ["rllib", "train", "file", "experiment.yaml"]

TABLE = {
    "truncated Parquet": (truncated, INSPECT, "file-000.parquet"),
    "NaN action": (lambda w: edit_table(w / "data", lambda t: actions_with(t, np.nan)), PRETRAIN, "row 3"),
    "action out of range": (lambda w: edit_table(w / "data", lambda t: actions_with(t, 7)), PRETRAIN, "row 3"),
    "wrong width": (lambda w: edit_table(w / "data", ragged), PRETRAIN, "action"),
    "missing column": (lambda w: edit_table(w / "data", lambda t: t.drop_columns(["action"])), INSPECT, "action"),
    "empty directory": (emptied, PRETRAIN, "info.json"),
    "skills of other dimensions": (other_width, TRAIN, "trained on 4"),
    "corrupted safetensors": (corrupted, TRAIN, "skill.safetensors"),
    "YAML typo": (None, [*TRAIN, "--set", "config.target_divergnce=3"], "target_divergence"),
    "unknown algorithm": (None, [*TRAIN, "--set", "run=SPRL"], "SPiRL"),
    "unknown environment": (None, [*TRAIN, "--set", "env=rllib_spirl/Kichen-v0"], "Kitchen-v0"),
    "H longer than every episode": (None, [*PRETRAIN[:-1], "horizon=500"], "shorter than 500"),
    "unwritable output": (None, [*PRETRAIN[:4], "experiment.yaml/skills", *PRETRAIN[5:]], "experiment.yaml/skills"),
    "negative divergence": (None, [*TRAIN, "--set", "config.target_divergence=-1"], "target_divergence"),
    "env_steps as text": (None, [*TRAIN, "--set", "stop.env_steps=lots"], "env_steps"),
    "missing file": (None, ["rllib", "train", "file", "nowhere.yaml"], "nowhere.yaml"),
    "no checkpoint": (None, ["rllib", "evaluate", "data"], "data"),
}


def contents(folder: Path) -> dict[str, bytes]:
    kept = ("data", "skills", "experiment.yaml")
    files = (f for name in kept for f in sorted((folder / name).rglob("*")) or [folder / name] if f.is_file())
    return {os.fspath(f): f.read_bytes() for f in files}


@pytest.mark.parametrize("kind", TABLE)
def test_bad_input(
    kind: str, workspace: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    damage, command, names = TABLE[kind]
    if damage is not None:
        damage(workspace)
    before = contents(workspace)
    assert run(command, monkeypatch) != 0
    output = capfd.readouterr()
    lines = [line for line in (output.err + output.out).splitlines() if "error" in line.lower()]
    assert any(names in line for line in lines), output
    assert "Traceback" not in output.err + output.out
    assert contents(workspace) == before
    assert not (workspace / "new-skills" / "skill.json").exists()


def test_a_full_replay_is_not_restored_into_a_smaller_one(tmp_path: Path) -> None:
    filled(10, 10).save(tmp_path / "replay")
    before = (tmp_path / "replay").read_bytes()
    with pytest.raises(UserError, match="replay_capacity"):
        filled(5, 1).restore(tmp_path / "replay")
    assert (tmp_path / "replay").read_bytes() == before
