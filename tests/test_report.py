import base64
import csv
import html
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from matplotlib.image import imread
from PIL import Image
from typer.testing import CliRunner

from rllib_spirl.cli import report as cli
from rllib_spirl.cli.spirl import app as spirl
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import plots
from rllib_spirl.evaluation.aggregate import aggregate, align, by_method
from rllib_spirl.evaluation.report import improvements, write_report
from rllib_spirl.evaluation.run_pictures import draw_run
from rllib_spirl.evaluation.runs import read_runs, varied_number

TASKS = ["microwave", "kettle"]


def result(iteration: int, steps: int, completed: float | None = None, **more: Any) -> dict[str, Any]:
    """A line of result.json as SPiRL's runs write it."""
    line: dict[str, Any] = {
        "training_iteration": iteration,
        "env_steps": float(steps),
        "time_total_s": steps / 100,
        "completed_subtasks": math.nan,
        "learners": {"default_policy": {"kl": 4.0 + iteration, "alpha": 0.1, "q": 1.0, "critic_loss": 0.2}},
        "config": {"target_divergence": 5.0},
    }
    if completed is not None:
        line["evaluation"] = {
            "episodes": 20,
            "completed_subtasks": completed,
            "all_completed": completed / 2,
            "episode_return": completed,
            # Not in the task's order: the reader puts them into it.
            "subtask_rate": {"kettle": completed / 2, "microwave": 1.0},
        }
    return line | more


def write_trial(experiment: Path, seed: int, lines: list[Any], **parameters: Any) -> Path:
    trial = experiment / f"SPiRL_{len(list(experiment.glob('SPiRL_*')))}"
    trial.mkdir(parents=True)
    config = {"env": "rllib_spirl/Kitchen-v0", "env_config": {"tasks": TASKS, "ordered": True}, "seed": seed}
    (trial / "params.json").write_text(json.dumps(config | parameters))
    (trial / "result.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return trial


def write_experiment(path: Path, scores: list[list[float]], data: str = "offline_data/kitchen_mixed.yaml") -> Path:
    """An experiment with a trial per row; its evaluations are 1,000 steps apart, each seed's a few steps later."""
    for seed, row in enumerate(scores):
        lines = []
        for k, score in enumerate(row):
            lines.append(result(2 * k + 1, 1000 * k + 500))
            lines.append(result(2 * k + 2, 1000 * (k + 1) + seed, score))
        write_trial(path, seed, lines)
    (path / "experiment.yaml").write_text(yaml.safe_dump({path.name: {"skills": {"data": data}}}))
    return path


def test_reads_what_a_run_reported(tmp_path: Path) -> None:
    (curve,) = read_runs([write_experiment(tmp_path / "kitchen", [[0.5, 1.5]])])
    assert (curve.method, curve.seed, curve.data) == ("kitchen", 0, "kitchen_mixed")
    assert (curve.task, curve.rule, curve.target_divergence) == ("microwave, kettle", "in this order", 5.0)
    np.testing.assert_array_equal(curve.env_steps, [1000, 2000])
    np.testing.assert_array_equal(curve.score("completed_subtasks"), [0.5, 1.5])
    np.testing.assert_array_equal(curve.seconds, [10, 20])
    assert list(curve.subtask_rate) == TASKS
    np.testing.assert_array_equal(curve.subtask_rate["kettle"], [0.25, 0.75])
    np.testing.assert_array_equal(curve.train_steps, [500, 1000, 1500, 2000])
    np.testing.assert_array_equal(curve.kl, [5, 6, 7, 8])


def test_trials_of_a_search_are_methods_of_their_own(tmp_path: Path) -> None:
    for divergence in (1.0, 5.0):
        for seed in (0, 1):
            write_trial(tmp_path / "sweep", seed, [result(1, 10, 1.0)], target_divergence=divergence)
    groups = by_method(read_runs([tmp_path]))
    assert {name: [run.seed for run in runs] for name, runs in groups.items()} == {
        "sweep δ=1": [0, 1],
        "sweep δ=5": [0, 1],
    }


def test_trials_that_are_named_one_by_one_differ_in_as_much(tmp_path: Path) -> None:
    trials = [write_trial(tmp_path / "sweep", 0, [result(1, 10, 1.0)], target_divergence=d) for d in (1.0, 5.0)]
    assert [curve.method for curve in read_runs(trials)] == ["sweep δ=1", "sweep δ=5"]


def test_a_trial_that_goes_on_from_another_with_fewer_steps_can_be_reported(tmp_path: Path) -> None:
    lines = [result(i, 1000 * i, 1.0) for i in range(1, 11)] + [result(i, 700 * i, 2.0) for i in range(11, 13)]
    trial = write_trial(tmp_path / "pbt", 0, lines)
    (curve,) = read_runs([trial])
    assert curve.train_steps.tolist() == [*(1000.0 * i for i in range(1, 8)), 7700.0, 8400.0]
    write_report([trial], tmp_path / "report")
    write_report([tmp_path / "report"], tmp_path / "again")


def test_the_task_is_that_of_the_evaluations(tmp_path: Path) -> None:
    other = {"env_config": {"tasks": ["hinge cabinet"]}}
    trial = write_trial(tmp_path / "run", 0, [result(1, 10, 1.0)], evaluation_config=other)
    (curve,) = read_runs([trial])
    assert curve.task == "hinge cabinet"


def test_data_are_those_of_the_trial_and_not_of_a_later_one(tmp_path: Path) -> None:
    run = write_experiment(tmp_path / "kitchen", [[1.0]], data="offline_data/kitchen_human.yaml")
    write_trial(run, 1, [result(1, 10, 1.0)], offline_data="/cache/data/kitchen_mixed-1")
    write_trial(run, 1, [result(1, 10, 1.0)], offline_data="/cache/data/kitchen_human-2")
    assert [curve.data for curve in read_runs([run])] == ["kitchen_human", "kitchen_mixed-1", "kitchen_human"]


def test_named_directories_are_pooled(tmp_path: Path) -> None:
    a, b = (write_experiment(tmp_path / name, [[1.0]]) for name in "ab")
    assert [curve.method for curve in read_runs([f"ours={a}", f"ours={b}", a])] == ["ours", "ours"]


def test_names_and_paths_may_hold_the_sign_between_them(tmp_path: Path) -> None:
    run = write_experiment(tmp_path / "delta=5", [[1.0]])
    assert {curve.method for curve in read_runs([f"z = 2·tanh(u)={run}"])} == {"z = 2·tanh(u)"}
    assert {curve.method for curve in read_runs([str(run)])} == {"delta=5"}


def test_torn_last_line_of_a_running_trial_is_skipped(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "kitchen", 0, [result(1, 1000, 1.0), result(2, 2000, 2.0)])
    file = trial / "result.json"
    file.write_text(file.read_text()[:-30])
    (curve,) = read_runs([trial])
    assert curve.env_steps.tolist() == [1000]
    assert curve.notes == ()


@pytest.mark.usefixtures("blank_pictures")
def test_other_unreadable_lines_are_reported(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "kitchen", 0, [result(1, 1000, 1.0), ["odd"], result(3, 3000, 2.0)])
    (curve,) = read_runs([trial])
    assert curve.env_steps.tolist() == [1000, 3000]
    assert "left out: line 2" in curve.notes[0]
    text = write_report([trial], tmp_path / "out").read_text()
    assert "left out: line 2" in text


def test_iterations_that_a_restored_trial_repeats_count_once(tmp_path: Path) -> None:
    lines = [result(1, 1000, 0.0), result(2, 2000, 1.0), result(3, 3000, 2.0), result(2, 2005, 1.5)]
    (curve,) = read_runs([write_trial(tmp_path / "kitchen", 0, lines)])
    assert curve.env_steps.tolist() == [1000, 2005]
    assert curve.score("completed_subtasks").tolist() == [0.0, 1.5]


def test_repeated_nan_evaluations_and_missing_metrics_are_left_out(tmp_path: Path) -> None:
    lines = [
        {"training_iteration": 1, "env_steps": 500},
        result(2, 1000, 1.0, learners={}),
        result(3, 2000, evaluation={"completed_subtasks": math.nan, "subtask_rate": None}),
        result(4, 3000, evaluation=None),
    ]
    (curve,) = read_runs([write_trial(tmp_path / "kitchen", 0, lines)])
    assert curve.env_steps.tolist() == [1000]
    assert curve.train_steps.tolist() == [500, 1000, 2000, 3000]
    np.testing.assert_array_equal(curve.kl, [np.nan, np.nan, 7.0, 8.0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.write_text(""), "is a file"),
        (lambda path: path.mkdir(), "holds no Ray Tune run"),
        (lambda path: write_trial(path, 0, []), "no trial has reported"),
        (lambda path: write_trial(path, 0, ["x", "y"]), "holds no result that can be read"),
        (lambda path: write_trial(path, 0, [result(1, 10)]), "evaluation_interval"),
    ],
)
def test_directories_without_results_are_one_line_errors(tmp_path: Path, make: Any, message: str) -> None:
    make(tmp_path / "run")
    with pytest.raises(UserError, match=message) as caught:
        write_report([tmp_path / "run"], tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_alignment_takes_the_nearest_evaluation_and_invents_none() -> None:
    steps = [np.array([10.0, 20.0, 30.0]), np.array([11.0, 29.0]), np.array([13.0, 24.0])]
    common, table = align(steps, [np.array([1.0, 2.0, 3.0]), np.array([4.0, 5.0]), np.array([6.0, 7.0])])
    assert common.tolist() == [10, 20, 30]
    np.testing.assert_array_equal(table, [[1, 2, 3], [4, np.nan, 5], [6, 7, np.nan]])


def test_aggregate_counts_runs_and_takes_the_middle_half(tmp_path: Path) -> None:
    scores = [[0.0, 2.0], [1.0, 2.0], [1.0, 2.0], [2.0, 2.0], [0.5]]
    runs = read_runs([write_experiment(tmp_path / "kitchen", scores)])
    curve = aggregate("kitchen", runs, "completed_subtasks")
    np.testing.assert_allclose(curve.mean, [0.9, 2.0])
    np.testing.assert_allclose(curve.iqm, [(0.5 + 1 + 1) / 3, 2.0])
    assert curve.count.tolist() == [5, 4]
    assert curve.low[0] < curve.iqm[0] < curve.high[0]
    assert (curve.low[1], curve.high[1]) == (2.0, 2.0)
    assert curve.at(1400) == 0
    assert curve.at(5000) is None


def test_improvement_compares_at_the_last_common_step(tmp_path: Path) -> None:
    long = write_experiment(tmp_path / "long", [[1.0, 0.0, 2.0], [1.0, 1.0, 2.0]])
    short = write_experiment(tmp_path / "short", [[0.0, 1.0], [0.0, 2.0]])
    groups = by_method(read_runs([long, short]))
    methods = [aggregate(name, runs, "completed_subtasks") for name, runs in groups.items()]
    ((better, worse, step, probability, interval),) = improvements(methods)
    # At 2,000 steps: 0, 1 against 1, 2, of whose pairs three are won and one is a tie.
    assert (better, worse, step, probability) == ("short", "long", 2000.0, 3.5 / 4)
    assert interval.low <= probability <= interval.high


def test_improvement_is_not_told_of_evaluations_far_apart(tmp_path: Path) -> None:
    early = write_trial(tmp_path / "x", 0, [result(1, 5_000, 1.0), result(2, 10_000, 1.0)])
    late = write_trial(tmp_path / "y", 0, [result(1, 50_000, 2.0), result(2, 100_000, 2.0)])
    groups = by_method(read_runs([early, late]))
    assert improvements([aggregate(name, runs, "completed_subtasks") for name, runs in groups.items()]) == []


@pytest.mark.parametrize("published", [False, True])
def test_report_of_two_methods(tmp_path: Path, published: bool) -> None:
    a = write_experiment(tmp_path / "runs" / "ours", [[0.5, 2.0], [1.0, 1.5], [1.0, 2.0]])
    b = write_experiment(tmp_path / "runs" / "theirs", [[0.5, 1.0]], data="offline_data/kitchen_human.yaml")
    flag = ["--published"] if published else []
    app = cli.typer.Typer()
    app.command()(cli.report)
    outcome = CliRunner().invoke(app, [str(a), str(b), "--output", str(tmp_path / "out"), *flag])
    assert outcome.exit_code == 0, outcome.output
    names = {"report.md", "curves.csv", "curves.json", "learning_curve.png", "subtask_rates.png", "divergence.png"}
    assert {file.name for file in (tmp_path / "out").iterdir()} == names
    for name in names:
        if name.endswith(".png"):
            assert imread(tmp_path / "out" / name).shape[:2] == (700, 1200)
    text = (tmp_path / "out" / "report.md").read_text()
    for expected in ("Kitchen-v0", "in this order", "kitchen_mixed", "kitchen_human", "| ours | theirs |"):
        assert expected in text
    content = json.loads((tmp_path / "out" / "curves.json").read_text())
    ours = content["methods"]["ours"]["metrics"]["completed_subtasks"]
    assert ours["env_steps"] == [1002, 2002]
    assert ours["n"] == [3, 3]
    assert ours["iqm"][1] == pytest.approx(5.5 / 3, abs=1e-5)
    assert content["methods"]["theirs"]["metrics"]["completed_subtasks"]["ci_low"] == [None, None]
    rows = list(csv.DictReader((tmp_path / "out" / "curves.csv").open()))
    last = [r for r in rows if (r["method"], r["metric"]) == ("ours", "completed_subtasks")][-1]
    assert float(last["ci_low"]) == ours["ci_low"][1]
    assert [r["ci_low"] for r in rows if r["method"] == "theirs"] == [""] * 6


@pytest.mark.parametrize("explore", [False, True])
@pytest.mark.usefixtures("blank_pictures")
def test_report_says_who_acted_in_evaluations(tmp_path: Path, explore: bool) -> None:
    lines = [result(1, 1000, 1.0)]
    trial = write_trial(tmp_path / "ours", 0, lines, evaluation_config={"explore": explore})
    text = write_report([trial], tmp_path / "out").read_text()
    assert ("with draws from the policy" in text) == explore
    assert ("the deterministic policy" in text) != explore


def test_evaluations_explore_as_training_does_unless_told_otherwise(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "ppo", 0, [result(1, 1000, 1.0)], explore=True, evaluation_config=None)
    assert read_runs([trial])[0].explores


def test_evaluations_do_not_explore_where_the_default_says_so(tmp_path: Path) -> None:
    """Parameters hold what the experiment gave of `evaluation_config`, results all of it."""
    line = result(1, 1000, 1.0)
    line["config"] |= {"explore": True, "evaluation_config": {"explore": False}}
    given = {"env_config": {"max_episode_steps": 100}}
    assert not read_runs([write_trial(tmp_path / "ours", 0, [line], evaluation_config=given)])[0].explores


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_over_many_tasks_has_no_task(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "meta", 0, [result(1, 1000, 1.0)], training_tasks=[TASKS], env_config={})
    (curve,) = read_runs([trial])
    assert (curve.task, curve.rule) == ("", "")
    assert "Task" not in write_report([trial], tmp_path / "out").read_text()


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_does_not_take_over_the_curves_of_another(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "ours", 0, [result(1, 1000, 1.0)])
    out = tmp_path / "out"
    out.mkdir()
    (out / "adaptation.json").write_text('{"ours": {"90": {"0": [[1, 2.0]]}}}')
    with pytest.raises(UserError, match=r"adaptation\.json of another report or run"):
        write_report([trial], out)
    assert [file.name for file in out.iterdir()] == ["adaptation.json"]
    write_report([trial, out], out)
    with pytest.raises(UserError, match=r"curves\.json of another report or run"):
        write_report([write(out / "only" / "adaptation.json", (out / "adaptation.json").read_text())], out)


def write(file: Path, text: str) -> Path:
    file.parent.mkdir()
    file.write_text(text)
    return file


def test_a_restarted_trial_is_read_with_its_config(tmp_path: Path) -> None:
    first = result(1, 1000)
    del first["config"]
    (curve,) = read_runs([write_trial(tmp_path / "kitchen", 0, [first, result(2, 2000, 1.0)])])
    assert curve.target_divergence == 5


@pytest.mark.usefixtures("blank_pictures")
def test_runs_of_algorithms_without_subtasks(tmp_path: Path) -> None:
    lines = [
        {
            "training_iteration": i,
            "num_env_steps_sampled_lifetime": 100.0 * i,
            "evaluation": {"env_runners": {"episode_return_mean": 10.0 * i}},
        }
        for i in (1, 2)
    ]
    trial = write_trial(tmp_path / "sac", 0, lines, env="Pendulum-v1", env_config={})
    text = write_report([trial], tmp_path / "out").read_text()
    assert "episode return: IQM" in text
    assert {f.name for f in (tmp_path / "out").glob("*.png")} == {"learning_curve.png"}


def test_same_runs_give_the_same_report(tmp_path: Path) -> None:
    run = write_experiment(tmp_path / "kitchen", [[0.5, 2.0], [1.0, 1.5]])
    first, second = (write_report([run], tmp_path / name).read_text() for name in ("one", "two"))
    assert first == second


def test_a_report_tells_as_much_as_its_runs(tmp_path: Path) -> None:
    run = write_experiment(tmp_path / "kitchen", [[0.5, 2.0], [1.0, 1.5]])
    first = write_report([run], tmp_path / "one")
    for place in (tmp_path / "one", tmp_path / "one" / "curves.json"):
        assert write_report([place], tmp_path / "two").read_text() == first.read_text()
    for name in ("curves.json", "curves.csv", "learning_curve.png", "subtask_rates.png", "divergence.png"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


@pytest.mark.usefixtures("blank_pictures")
def test_a_report_is_extended(tmp_path: Path) -> None:
    write_report([write_experiment(tmp_path / "before", [[0.5, 2.0], [1.0, 1.5]])], tmp_path / "report")
    ours = write_experiment(tmp_path / "ours", [[1.0, 2.0]])
    curves = read_runs([f"published={tmp_path / 'report'}", ours])
    assert [(curve.method, curve.seed) for curve in curves] == [("published", 0), ("published", 1), ("ours", 0)]
    write_report([ours], ours)  # among the runs, which are newer
    assert [curve.trial.parent for curve in read_runs([ours])] == [ours]


@pytest.mark.usefixtures("blank_pictures")
def test_a_run_counts_once_and_its_directory_before_reports(tmp_path: Path) -> None:
    trial = write_trial(tmp_path / "ours", 0, [result(1, 1000, 1.0)])
    trial = trial.rename(trial.with_name("SPiRL_x_ab5f8_00000_0_2026-11-25_13-32-33"))
    for name in ("first", "second"):
        write_report([trial], tmp_path / name)
    with (trial / "result.json").open("a") as file:
        file.write(json.dumps(result(2, 2000, 2.0)) + "\n")
    (curve,) = read_runs([tmp_path / "first", tmp_path / "second", tmp_path / "ours"])
    assert curve.env_steps.tolist() == [1000, 2000]
    (curve,) = read_runs([tmp_path / "first", tmp_path / "second"])
    assert curve.env_steps.tolist() == [1000]


@pytest.mark.usefixtures("blank_pictures")
def test_several_methods_of_a_report_stay_apart(tmp_path: Path) -> None:
    runs = [write_experiment(tmp_path / name, [[1.0]]) for name in "ab"]
    write_report(runs, tmp_path / "report")
    assert {curve.method for curve in read_runs([tmp_path / "report"])} == {"a", "b"}
    assert {curve.method for curve in read_runs([f"old={tmp_path / 'report'}"])} == {"old a", "old b"}


def test_a_report_may_say_little_of_a_run(tmp_path: Path) -> None:
    run = {"trial": "a", "task": "kettle", "env_steps": [10, 20], "scores": {"completed_subtasks": [1, None]}}
    (tmp_path / "curves.json").write_text(json.dumps({"methods": {"ours": {"runs": [run]}}}))
    (curve,) = read_runs([tmp_path])
    assert (curve.env, curve.task, curve.rule, curve.data) == ("", "kettle", "", "")
    np.testing.assert_array_equal(curve.score("completed_subtasks"), [1, np.nan])
    assert np.isnan(curve.score("tower_height")).all()
    assert curve.kl.shape == (0,)


@pytest.mark.usefixtures("blank_pictures")
def test_what_anyones_environment_measures_is_reported(tmp_path: Path) -> None:
    found = {"episode_return": 0.0, "episodes": 3, "low_level_steps": 7.0, "num_collisions": 1.0, "runs": 2.0}
    ours = [result(i, 1000 * i, evaluation=found | {"distance": 2.5 - i, "episode_1": 3.0}) for i in (1, 2)]
    counts = {
        "num_episodes": 3,
        "episode_len_mean": 7.0,
        "episode_return_mean": 1.0,
        "weights_seq_no": 2.0,
        "num_env_steps_sampled": 9,
        "sample": 0.1,
    }
    theirs = [result(1, 1000, evaluation={"env_runners": counts | {"distance": 1.0}, "num_healthy_workers": 1})]
    runs = [write_trial(tmp_path / "ours", 0, ours), write_trial(tmp_path / "theirs", 0, theirs)]
    mine, others = read_runs(runs)
    assert mine.score("distance").tolist() == [1.5, 0.5]
    assert others.score("distance").tolist() == [1.0]
    assert set(others.scores) == {"distance", "episode_return"}
    assert set(mine.scores) == {"distance", "episode_return", "num_collisions", "episode_1", "runs"}
    report = write_report(runs, tmp_path / "report").read_text()
    assert "| method | num collisions | runs | distance | episode 1 |" in report
    assert "| ours | 1 | 2 | 0.5 | 3 |" in report
    assert "ours,,distance,2000,0.5,0.5,,,1" in (tmp_path / "report" / "curves.csv").read_text()
    again = {curve.method: curve for curve in read_runs([tmp_path / "report"])}
    assert again["ours"].score("distance").tolist() == [1.5, 0.5]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", "JSON"),
        ('{"methods": {}}', "at least 1"),
        ('{"methods": {"a": {"runs": [{"trial": "x"}]}}}', "env_steps"),
        (
            '{"methods": {"a": {"runs": [{"trial": "x", "env_steps": [1, 2], "scores": {}, "kl": [1]}]}}}',
            "1 values for 0 steps",
        ),
        ('{"methods": {"a": {"runs": [{"trial": "x", "env_steps": [1], "episodes": ["many"]}]}}}', "number"),
        ('{"methods": {"a": {"runs": [{"trial": "x", "env_steps": [1, Infinity]}]}}}', "finite"),
        ('{"methods": {"a": {"runs": [{"trial": "x", "env_steps": [2, 1], "scores": {}}]}}}', "go back"),
    ],
)
def test_a_file_that_no_report_wrote(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / "curves.json").write_text(content)
    with pytest.raises(UserError, match=words) as caught:
        read_runs([tmp_path])
    assert str(tmp_path / "curves.json") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_output_that_cannot_be_written(tmp_path: Path) -> None:
    run = write_experiment(tmp_path / "kitchen", [[1.0]])
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot be written"):
        write_report([run], tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_sweep_over_a_number_is_drawn(tmp_path: Path) -> None:
    for seed, delta in enumerate((1.0, 3.0, 3.0)):
        write_trial(tmp_path / "sweep", seed, [result(1, 1000, 1.5 + delta)], target_divergence=delta)
    assert varied_number(sorted((tmp_path / "sweep").iterdir())) == ("target_divergence", [1.0, 3.0, 3.0])
    pictures = draw_run(tmp_path / "sweep")
    assert pictures == [tmp_path / "sweep" / name for name in ("learning_curve.png", "sweep.png")]
    assert [Image.open(picture).size for picture in pictures] == [(1200, 700)] * 2


def test_runs_of_one_seed_are_not_counted_as_seeds(tmp_path: Path) -> None:
    for name in ("first", "second"):
        write_trial(tmp_path / name, 0, [result(1, 1000, 1.5)])
    curves = read_runs([f"ours={tmp_path / 'first'}", f"ours={tmp_path / 'second'}"])
    assert plots._label(aggregate("ours", curves, "completed_subtasks")) == "ours (2\N{NO-BREAK SPACE}runs)"
    assert plots._label(aggregate("ours", curves[:1], "completed_subtasks")) == "ours (1\N{NO-BREAK SPACE}seed)"


@pytest.mark.parametrize("changes", [{}, {"policy": "copied"}, {"tau": 0.1, "target_divergence": 9.0}])
@pytest.mark.usefixtures("blank_pictures")
def test_other_experiments_are_no_sweep(tmp_path: Path, changes: dict[str, Any]) -> None:
    write_trial(tmp_path / "runs", 0, [result(1, 1000, 1.0)])
    write_trial(tmp_path / "runs", 1, [result(1, 1000, 2.0)], **changes)
    assert draw_run(tmp_path / "runs") == [tmp_path / "runs" / "learning_curve.png"]
    assert draw_run(tmp_path / "nowhere") == []


def test_a_page_has_everything_in_it(tmp_path: Path) -> None:
    """One file, which a browser opens without anything else; what others called their runs is no HTML."""
    run = write_experiment(tmp_path / "kitchen", [[0.5, 1.5]])
    trial = next(run.glob("SPiRL_*"))
    for name in ("film.mp4", "film.gif", "notes.txt"):
        (trial / name).write_bytes(b"film")
    runner = CliRunner().invoke(spirl, ["report", f"<b>ours={run}", "--html", "-o", str(tmp_path / "out")])
    assert runner.exit_code == 0, runner.output
    assert runner.output.strip() == f"report  {tmp_path / 'out' / 'report.html'}"

    class Reader(HTMLParser):
        def __init__(self) -> None:
            super().__init__()
            self.tags: list[str] = []
            self.sources: list[str] = []
            self.text = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            self.tags.append(tag)
            self.sources += [value or "" for name, value in attrs if name in ("src", "href")]

        def handle_data(self, data: str) -> None:
            self.text += data

    reader = Reader()
    reader.feed((tmp_path / "out" / "report.html").read_text())
    assert reader.tags.count("table") >= 2
    kinds = [source.partition(",")[0] for source in reader.sources]
    assert kinds == ["data:image/png;base64"] * 3 + ["data:image/gif;base64", "data:video/mp4;base64"]
    assert base64.b64decode(reader.sources[-1].partition(",")[2]) == b"film"
    picture = base64.b64decode(reader.sources[0].partition(",")[2])
    assert picture == (tmp_path / "out" / "learning_curve.png").read_bytes()
    assert "<b>ours" in reader.text
    assert "b" not in reader.tags


LOOK = """<script>
async function look() {
    const films = [...document.querySelectorAll("video")];
    await Promise.all(films.map(film => film.readyState || new Promise(done => {
        film.onloadedmetadata = film.onerror = done;
    })));
    document.body.dataset.seen = JSON.stringify({
        pictures: [...document.images].map(picture => [picture.naturalWidth, picture.naturalHeight]),
        films: films.map(film => [film.videoWidth, film.videoHeight, film.duration]),
        wide: document.documentElement.scrollWidth <= innerWidth,
        loaded: performance.getEntriesByType("resource").filter(each => !each.name.startsWith("data:")).length,
    });
}
addEventListener("load", look);
</script>"""


def test_a_browser_shows_pictures_and_films(tmp_path: Path) -> None:
    browser = shutil.which("chromium")
    if browser is None:
        pytest.skip("needs chromium: apt-get install chromium")
    imageio = pytest.importorskip("imageio.v2")
    run = write_experiment(tmp_path / "kitchen", [[0.5, 1.5]])
    frames = [np.full((48, 64, 3), 20 * index, np.uint8) for index in range(10)]
    imageio.mimwrite(next(run.glob("SPiRL_*")) / "film.mp4", frames, fps=10, macro_block_size=16)
    text = write_report([run], tmp_path / "out", as_page=True).read_text()
    (tmp_path / "seen.html").write_text(text.replace("</body>", f"{LOOK}</body>"))  # far from the report's pictures
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}"]
    command += ["--virtual-time-budget=20000", "--window-size=1000,800", "--dump-dom", f"{tmp_path / 'seen.html'}"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    found = re.search(r'<body data-seen="([^"]*)">', shown)
    assert found, shown[-2000:]
    seen = json.loads(html.unescape(found[1]))
    pictures = re.findall(r"!\[.*\]\((.*)\)", (tmp_path / "out" / "report.md").read_text())
    assert seen["pictures"] == [list(Image.open(tmp_path / "out" / name).size) for name in pictures]
    assert seen["films"] == [[64, 48, pytest.approx(1.0, abs=0.1)]]
    assert seen["wide"]
    assert seen["loaded"] == 0
