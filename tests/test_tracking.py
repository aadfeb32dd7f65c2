"""Trackers beside TensorBoard, each against an offline run."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from rllib_spirl.cli import tracking
from rllib_spirl.cli.rllib import app
from rllib_spirl.errors import UserError


@pytest.fixture
def train(point_settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Trains a point mass for two iterations with more options; trackers keep their files in an empty folder."""
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    experiment = {
        "run": "SPiRL",
        "env": "tests.point:Point-v0",
        "stop": {"training_iteration": 2},
        "storage_path": str(tmp_path / "results"),
        "config": point_settings | {"min_sample_timesteps_per_iteration": 24, "seed": 0},
    }
    file = tmp_path / "point.yaml"
    file.write_text(yaml.safe_dump({"point": experiment}))

    def call(*options: str) -> str:
        outcome = CliRunner().invoke(app, ["train", "file", str(file), "--no-plot", *options])
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    return call


@pytest.mark.slow
def test_results_go_to_mlflow(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mlflow = pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    train("--mlflow", "points")
    client = mlflow.tracking.MlflowClient(f"file://{tmp_path / 'mlruns'}")
    (run,) = client.search_runs([client.get_experiment_by_name("points").experiment_id])
    assert run.info.status == "FINISHED"
    history = client.get_metric_history(run.info.run_id, "env_steps")
    assert len(history) == 2
    assert all(metric.step == metric.value > 0 for metric in history), "the x-axis is low-level environment steps"
    assert run.data.params["warmup_steps"] == "20"


def wandb_records(file: Path) -> Iterator[Any]:
    """What an offline run's file holds: a header of 7 bytes, then blocks of 32 KiB of whole records or parts of one."""
    from wandb.proto.wandb_internal_pb2 import Record

    content, position, record = file.read_bytes(), 7, b""
    assert content.startswith(b":W&B")
    while position < len(content):
        left = 32768 - position % 32768
        if left < 7:
            position += left  # no place for a part's header
            continue
        _, length, kind = struct.unpack_from("<IHB", content, position)
        record += content[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield Record.FromString(record)
            record = b""


@pytest.mark.long
def test_results_go_to_weights_and_biases(train: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    train("--wandb", "points")
    (file,) = (tmp_path / "wandb").glob("offline-run-*/run-*.wandb")
    records = list(wandb_records(file))
    (run,) = (record.run for record in records if record.HasField("run"))
    assert run.project == "points"
    configured = {update.key: json.loads(update.value_json) for update in run.config.update}
    assert configured["warmup_steps"] == 20
    history = [
        {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in record.history.item}
        for record in records
        if record.HasField("history")
    ]
    assert [row["training_iteration"] for row in history] == [1, 2]
    assert 0 < history[0]["env_steps"] < history[1]["env_steps"]
    assert any(record.HasField("exit") for record in records), "the run has been ended, not cut off"


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_weights_and_biases_refuses_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("wandb")
    from rllib_spirl.cli.wandb_runs import WeightsAndBiases

    class Trial:
        trial_id, config, local_path, experiment_dir_name = "1", {"gamma": 0.9}, str(tmp_path), "points"

        def __str__(self) -> str:
            return "SPiRL_point_1"

    callback, trial = WeightsAndBiases("no/name"), Trial()
    callback.log_trial_start(trial)
    callback.log_trial_end(trial)
    callback.on_experiment_end([trial])
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: Weights & Biases has not all results of SPiRL_point_1: Invalid project name")


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_trial_that_fails_before_it_has_begun_is_no_error_of_the_tracker(
    tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(tracker)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path / 'mlruns'}")
    monkeypatch.setenv("WANDB_MODE", "offline")
    (callback,) = tracking.callbacks(**{"mlflow": None, "wandb": None} | {tracker: "points"})
    callback.on_trial_error(1, [], "a trial that has not begun")
    assert not list(tmp_path.rglob("*.log")), "nothing is written of it"


def test_a_tracker_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--mlflow needs mlflow: pip install 'rllib_spirl\[mlflow\]'$"):
        tracking.callbacks(None, "points")


def test_a_tracker_that_does_not_know_the_user_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(UserError, match=r"^--wandb: .*API key") as caught:
        tracking.callbacks("points", None)
    assert "\n" not in str(caught.value)
