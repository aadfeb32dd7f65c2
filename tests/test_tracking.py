"""The tracker beside TensorBoard, against an offline run."""

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
    """Trains a point mass for two iterations with more options, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    experiment = {
        "run": "SPiRL",
        "env": "tests.point:Point-v0",
        "stop": {"training_iteration": 2},
        "storage_path": str(tmp_path / "results"),
        "config": point_settings | {"min_sample_timesteps_per_iteration": 24, "seed": 0},
    }
    (tmp_path / "point.yaml").write_text(yaml.safe_dump({"point": experiment}))

    def call(*options: str) -> str:
        outcome = CliRunner().invoke(app, ["train", "file", "point.yaml", "--no-plot", *options])
        assert outcome.exit_code == 0, outcome.output
        return outcome.output

    return call


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


def test_a_tracker_that_is_missing_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"^--mlflow needs mlflow: pip install 'rllib_spirl\[mlflow\]'$"):
        tracking.callbacks("points")
