"""The tutorials that are followed as they are written: their files, then their commands, in an empty folder."""

import json
import re
from pathlib import Path

import pytest

from tests.documentation import ROOT, Reader, commands_as_written, reader

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]


def follow(page: str, folder: Path, *, until: str = "") -> dict[str, str]:
    """What each command of a page printed; ``until`` begins the first command that is left out."""
    file, told = ROOT / "docs" / page, {}
    reader(file, folder)
    here = Reader(folder)
    for command in commands_as_written(file):
        if until and command.startswith(until):
            break
        told[command] = here.run(command)
    return told


def test_ones_own_environment_from_recording_to_a_video(tmp_path: Path) -> None:
    told = follow("your_environment.md", tmp_path)
    assert len(told) == 7
    assert "200 episodes, 10000 steps" in told["python record.py"]
    assert "-11.5" in told["spirl data inspect reacher-data --horizon 5"]
    assert "learning_curve.png" in told["rllib train file reacher.yaml"]
    for made in ("reacher-skills/skill.json", "reacher.mp4", "report/report.md", "results/reacher/learning_curve.png"):
        assert (tmp_path / made).stat().st_size > 0
    evaluated = next(out for command, out in told.items() if command.startswith("rllib evaluate"))
    score = float(re.search(r"episode_return\s+(-?[\d.]+)", evaluated)[1])  # type: ignore[index]
    assert score > -9.0  # the script that was recorded earns -11.5, what skills from the prior earn is about -8.4


def test_new_tasks_are_met_within_a_few_episodes(tmp_path: Path) -> None:
    told = follow("new_tasks.md", tmp_path, until="rllib train file tuned_examples/kitchen_meta")
    assert len(told) == 3
    curves = json.loads((tmp_path / "adaptation" / "adaptation.json").read_text())["MetaSPiRL"]
    assert set(curves) == {"30.0", "150.0"}
    mean = [sum(curve["0"][episode][1] for curve in curves.values()) / 2 for episode in range(5)]
    # The first two episodes explore, which earns about -20; going straight to the goal earns about -5.5.
    assert min(mean[2:]) > max(mean[:2]) + 3
