"""The documentation's notebook, and its site."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.long
def test_the_notebook_runs_from_data_to_a_film(tmp_path: Path) -> None:
    cells = json.loads((ROOT / "docs" / "notebook.ipynb").read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert len(code) == 5
    assert not any(cell.get("outputs") for cell in cells), "what it prints is not kept"
    (tmp_path / "notebook.py").write_text("\n".join(code))
    environment = os.environ | {"HOME": str(tmp_path), "RLLIB_SPIRL_HOME": str(tmp_path / "home")}
    command = [sys.executable, "notebook.py"]
    run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert "100 episodes of the script, return -11." in run.stdout
    evaluations = [float(line.rpartition(" ")[2]) for line in run.stdout.splitlines() if " steps: return " in line]
    assert len(evaluations) == 2
    assert evaluations[-1] > -9.0  # the script earns -11.5, what skills from the prior earn is about -8.4
    assert (tmp_path / "reacher.gif").stat().st_size > 10_000


@pytest.mark.slow
def test_the_site_is_built_without_a_broken_link(tmp_path: Path) -> None:
    pytest.importorskip("mkdocstrings", reason="needs the extra docs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    settings = (tmp_path / "site" / "settings.html").read_text()
    for name in ("target_divergence", "rollouts", "state_noise", "order_length", "state_keys", "max_concurrent_trials"):
        assert name in settings
    commands = (tmp_path / "site" / "commands.html").read_text()
    for name in ("rllib train file", "rllib example get", "spirl data import-lerobot", "spirl skills show", "--resume"):
        assert name in commands
