"""Curves of adaptation to new tasks: read, averaged over tasks, drawn, and reported beside trainings."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread

from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import adaptation_curves, plots
from rllib_spirl.evaluation.adaptation_curves import AdaptationCurve
from rllib_spirl.evaluation.report import write_report
from tests.commands import run

CURVES = {
    "ours": {
        "microwave, kettle": {"0": [[1, 1], [2, 2], [3, 3]], "1": [[1, 3], [2, 2], [3, 3]]},
        "kettle": {"0": [[1, 0], [2, 4], [3, 1.5]]},
    },
    "PEARL": {"kettle": {"0": [[1, 0], [2, 0]]}},
}


@pytest.fixture
def adapted(tmp_path: Path) -> Path:
    folder = tmp_path / "adapted"
    for method, tasks in CURVES.items():
        for task, seeds in tasks.items():
            for seed, points in seeds.items():
                adaptation_curves.add(folder, method, int(seed), {task: [(x, y) for x, y in points]})
    return folder


def test_what_is_added_is_in_the_layout_that_others_read(adapted: Path) -> None:
    assert json.loads((adapted / "adaptation.json").read_text()) == CURVES
    adaptation_curves.add(adapted, "PEARL", 0, {"kettle": [(1, 1.0)]})
    assert json.loads((adapted / "adaptation.json").read_text())["PEARL"] == {"kettle": {"0": [[1, 1.0]]}}


def test_curves_of_the_same_method_and_seed_are_told_before_they_are_replaced(adapted: Path, tmp_path: Path) -> None:
    adaptation_curves.add(adapted, "PEARL", 1, {"kettle": [(1, 1.0)], "switch": [(1, 2.0)]})
    assert adaptation_curves.present(adapted, "PEARL", 1) == {"kettle": [(1, 1.0)], "switch": [(1, 2.0)]}
    assert not adaptation_curves.present(adapted, "PEARL", 2)
    assert not adaptation_curves.present(tmp_path / "new", "PEARL", 1)
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        adaptation_curves.present(tmp_path / "file", "PEARL", 1)
    with pytest.raises(UserError, match="kettle, episode 2: the score is not finite"):
        adaptation_curves.add(adapted, "PEARL", 1, {"kettle": [(1, 1.0), (2, float("nan"))]})
    assert adaptation_curves.load(adapted / "adaptation.json")["PEARL"]["kettle"]["1"] == [(1, 1.0)]


def test_curves_that_are_replaced_are_gone_and_others_stay(adapted: Path) -> None:
    adaptation_curves.remove(adapted, "PEARL", 0, [])
    assert json.loads((adapted / "adaptation.json").read_text()) == CURVES
    for method, tasks in CURVES.items():
        for seed in {seed for seeds in tasks.values() for seed in seeds}:
            gone = [task for task, seeds in tasks.items() if seed in seeds]
            adaptation_curves.remove(adapted, method, int(seed), gone)
            assert not adaptation_curves.present(adapted, method, int(seed))
    assert not (adapted / "adaptation.json").exists()


def test_a_task_counts_once_whatever_its_seeds(adapted: Path) -> None:
    ours, pearl = adaptation_curves.aggregate(adaptation_curves.load(adapted / "adaptation.json"))
    assert (ours.method, ours.tasks, ours.seeds) == ("ours", 2, 2)
    assert ours.episodes.tolist() == [1, 2, 3]
    assert ours.mean.tolist() == [1, 3, 2.25]  # of tasks that have 2, 2, 3 and 0, 4, 1.5
    assert ours.low.tolist() == [0, 2, 1.5]
    assert ours.high.tolist() == [2, 4, 3]
    assert np.isnan(pearl.low).all(), "one task has no interval"
    assert (ours.at(3), ours.at(10), pearl.at(1)) == (2, None, 0)
    long = replace(ours, episodes=np.arange(1, 41))
    assert (long.at(40), long.at(50)) == (39, None)


def test_a_report_has_picture_table_and_the_curves_themselves(adapted: Path, tmp_path: Path, monkeypatch: Any) -> None:
    assert run(["spirl", "report", str(adapted), "--output", str(tmp_path / "report"), "--html"], monkeypatch) == 0
    text = (tmp_path / "report" / "report.md").read_text()
    assert "| ours | 2 | 2 | 1.00 [0.00, 2.00] | 3.00 [2.00, 4.00] |" in text
    assert "| PEARL | 1 | 1 | 0.00 | 0.00 |" in text
    assert imread(tmp_path / "report" / "adaptation.png").shape[:2] == (700, 1200)
    assert "data:image/png" in (tmp_path / "report" / "report.html").read_text()
    assert not (tmp_path / "report" / "curves.json").exists(), "nothing was trained"
    again = write_report([f"new={tmp_path / 'report'}"], tmp_path / "again").read_text()
    assert "| new ours | 2 |" in again, "a report can be reported"
    both = write_report([adapted, f"Other={adapted / 'adaptation.json'}"], tmp_path / "both").read_text()
    assert re.findall(r"^\| (\w+ ?\w*) \|", both, re.M) == ["method", "ours", "PEARL", "Other ours", "Other PEARL"]


def test_long_curves_are_drawn_on_a_logarithmic_axis(tmp_path: Path) -> None:
    points = [(episode, float(np.log(episode))) for episode in range(1, 201)]
    adaptation_curves.add(tmp_path, "ours", 0, {"a": points, "b": points[:150]})
    text = write_report([tmp_path], tmp_path / "report").read_text()
    assert "episode 200" in text
    (curve,) = adaptation_curves.aggregate(adaptation_curves.load(tmp_path / "adaptation.json"))
    assert len(curve.episodes) == 200
    assert np.isnan(curve.low[-1]), "one task is left"


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("{", "is no file of adaptation curves, .*Invalid JSON"),
        ('{"ours": {"a": [[1, 2]]}}', "is no file of adaptation curves, .*ours a: Input should be an object"),
        ('{"ours": {"a": {"0": []}}}', "is no file of adaptation curves, .*ours a 0: List should have at least 1"),
        ('{"ours": {"a": {"0": [[1, null]]}}}', "is no file of adaptation curves, .*ours a 0 0 1"),
        ("{}", "has no curve"),
        ('{"ours": {}}', "has no curve, or a method without one"),
    ],
)
def test_other_files_are_one_clear_line(document: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "adaptation.json").write_text(document)
    with pytest.raises(UserError, match=message) as caught:
        write_report([tmp_path], tmp_path / "report")
    assert "\n" not in str(caught.value)


def test_several_trainings_of_one_seed_count_each(adapted: Path, tmp_path: Path) -> None:
    adaptation_curves.add(tmp_path / "other", "PEARL", 0, {"kettle": [(1, 4), (2, 4)]})
    both = write_report([adapted, tmp_path / "other", adapted], tmp_path / "both").read_text()
    assert "| PEARL | 1 | 2 | 2.00 | 2.00 |" in both
    document = adaptation_curves.load(tmp_path / "both" / "adaptation.json")
    assert list(document["PEARL"]["kettle"]) == ["0", "0 (2)"]


def test_trainings_that_came_to_the_same_count_each(tmp_path: Path) -> None:
    folders = [tmp_path / str(training) for training in range(3)]
    for folder, last in zip(folders, (0, 0, 3), strict=True):
        adaptation_curves.add(folder, "PEARL", 0, {"kettle": [(1, 0), (2, last)]})
    report = write_report([f"ours={folder}" for folder in folders], tmp_path / "report").read_text()
    assert "| ours | 1 | 3 | 0.00 | 1.00 |" in report


def test_on_a_logarithmic_axis_neighbouring_episodes_are_one_point() -> None:
    episodes = np.arange(1.0, 201.0)
    even = (episodes % 2 == 0).astype(float)
    joined = plots._joined(AdaptationCurve("following", 10, 3, episodes, 3 + even, 2 + even, 4 + even))
    assert joined.episodes[:9].tolist() == [1, 2, 3, 4, 5, 6, 7, 8, 9]
    assert joined.mean[:4].tolist() == [3, 4, 3, 4]
    assert np.all(joined.episodes[10:] / joined.episodes[9:-1] > 1.04)
    last = episodes >= 10 ** (55 / 24)  # 2.2917 decades, of which 24 make one point
    assert joined.episodes[-1] == pytest.approx(episodes[last].mean())
    assert joined.mean[-1] == pytest.approx(3 + even[last].mean())
    assert (joined.mean - joined.low).tolist() == pytest.approx([1] * len(joined.mean))
