"""The tutorial for one's own environment, as a reader follows it: its files, then its commands, in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[1] / "docs" / "your_environment.md"


@pytest.mark.long
def test_the_tutorial_runs_from_start_to_end(tmp_path: Path) -> None:
    text = PAGE.read_text()
    blocks: list[tuple[str, str]] = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    (tmp_path / "record.py").write_text(next(body for kind, body in blocks if kind == "python"))
    (tmp_path / "reacher.yaml").write_text(next(body for kind, body in blocks if kind == "yaml"))
    commands = [line for kind, body in blocks if kind == "" for line in body.splitlines()]
    assert len(commands) == 7
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RLLIB_SPIRL_HOME": str(tmp_path / "home"),
        "HOME": str(tmp_path),
    }
    told = {}
    for command in commands:
        run = subprocess.run(command, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, f"{command}\n{run.stdout}\n{run.stderr}"
        told[command] = run.stdout + run.stderr
    assert "200 episodes, 10000 steps" in told["python record.py"]
    assert "-11.5" in told["spirl data inspect reacher-data --horizon 5"]
    assert "learning_curve.png" in told["rllib train file reacher.yaml"]
    for made in ("reacher-skills/skill.json", "reacher.mp4", "report/report.md", "results/reacher/learning_curve.png"):
        assert (tmp_path / made).stat().st_size > 0
    evaluated = next(out for command, out in told.items() if command.startswith("rllib evaluate"))
    score = float(re.search(r"episode_return\s+(-?[\d.]+)", evaluated)[1])  # type: ignore[index]
    assert score > -9.0  # the script that was recorded earns -11.5, what skills from the prior earn is about -8.4
