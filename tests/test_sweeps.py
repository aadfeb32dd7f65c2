"""Sweeps over δ through the command: grid, early stopping, population-based training."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import ray
import yaml
from pyarrow import fs
from typer.testing import CliRunner

from rllib_spirl.cli.experiment import load
from rllib_spirl.cli.rllib import app
from rllib_spirl.cli.schedulers import CatchUp, scheduler
from rllib_spirl.errors import UserError

POINT = "tests.point:Point-v0"
EXAMPLES = Path(__file__).parent.parent / "tuned_examples"
# What the learner uses, and not what Tune has on record. Absent from the first results, like an evaluation.
DELTA = "learners/default_policy/target_divergence"
Results = dict[str, list[dict[str, Any]]]


@pytest.fixture(scope="module")
def three_cpus() -> Iterator[None]:
    """A local Ray for three trials at a time."""
    ray.shutdown()
    ray.init(address="local", num_cpus=3, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture
def sweep(point_settings: dict[str, Any], tmp_path: Path) -> Callable[..., Results]:
    """Runs a sweep of the point mass with given settings; returns every trial's results by its folder's name."""

    def run(config: dict[str, Any], **settings: Any) -> Results:
        experiment = {
            "run": "SPiRL",
            "env": POINT,
            "stop": {"env_steps": 1000},
            "storage_path": str(tmp_path),
            "config": point_settings | {"min_sample_timesteps_per_iteration": 20, "seed": 0} | config,
            **settings,
        }
        file = tmp_path / "sweep.yaml"
        file.write_text(yaml.safe_dump({"sweep": experiment}))
        outcome = CliRunner().invoke(app, ["train", "file", str(file)])
        if isinstance(outcome.exception, UserError):
            raise outcome.exception
        assert outcome.exit_code == 0, outcome.output
        return {
            file.parent.name: [json.loads(line) for line in file.read_text().splitlines()]
            for file in sorted((tmp_path / "sweep").glob("*/result.json"))
        }

    return run


def used(result: dict[str, Any]) -> float:
    return float(result["learners"]["default_policy"]["target_divergence"])


@pytest.mark.long
@pytest.mark.usefixtures("three_cpus")
def test_asha_stops_trials_by_env_steps(sweep: Callable[..., Results]) -> None:
    """Judged by δ itself, so that who is stopped is certain: all but the first, which nobody is compared with yet."""
    trials = sweep(
        {"target_divergence": {"grid_search": [4.0, 3.0, 2.0, 1.0]}},
        scheduler="asha",
        scheduler_config={"time_attr": "env_steps", "grace_period": 300, "reduction_factor": 2, "max_t": 1000},
        metric=DELTA,
        mode="max",
        max_concurrent_trials=1,
    )
    ends = {used(results[-1]): results[-1]["env_steps"] for results in trials.values()}
    assert set(ends) == {4.0, 3.0, 2.0, 1.0}
    assert ends.pop(4.0) >= 1000
    assert all(300 <= steps < 600 for steps in ends.values())


@pytest.mark.long
@pytest.mark.usefixtures("three_cpus")
def test_a_learner_uses_the_divergence_that_pbt_gave_it(sweep: Callable[..., Results], tmp_path: Path) -> None:
    trials = sweep(
        {"target_divergence": {"grid_search": [1.0, 2.0, 8.0]}},
        scheduler="pbt",
        scheduler_config={
            "time_attr": "env_steps",
            "perturbation_interval": 400,
            "synch": True,
            "resample_probability": 0.0,
            "hyperparam_mutations": {"target_divergence": {"uniform": [0.5, 20.0]}},
        },
        metric=DELTA,
        mode="max",
        checkpoint_config={"num_to_keep": 4},
    )
    assert len(trials) == 3
    mutated = [r for results in trials.values() for r in results if "learners" in r and used(r) not in (1.0, 2.0, 8.0)]
    assert used(mutated[0]) == pytest.approx(9.6) or used(mutated[0]) == pytest.approx(6.4)
    for results in trials.values():
        config = results[0]["config"]
        for r in results:
            config = r.get("config", config)  # logged when it changes
            assert "learners" not in r or used(r) == pytest.approx(config["target_divergence"])
        assert results[-1]["env_steps"] >= 1000
        assert sum("config" in r for r in results) < len(results)
    exploits = (tmp_path / "sweep" / "pbt_global.txt").read_text().splitlines()
    assert used(mutated[0]) in [pytest.approx(json.loads(line)[5]["target_divergence"]) for line in exploits]


@pytest.mark.slow
@pytest.mark.usefixtures("three_cpus")
def test_a_grid_ends_with_a_picture(sweep: Callable[..., Results], tmp_path: Path) -> None:
    config = {"evaluation_interval": 5, "evaluation_duration": 1}
    sweep({"target_divergence": {"grid_search": [1.0, 4.0]}, **config}, stop={"env_steps": 600})
    assert (tmp_path / "sweep" / "sweep.png").read_bytes().startswith(b"\x89PNG")


class Begun:
    """A trial of a sweep that was begun, with the scores of its evaluations by env steps."""

    def __init__(self, folder: Path, scores: dict[int, float]) -> None:
        folder.mkdir()
        results = [{"env_steps": steps, "score": score} for steps, score in scores.items()]
        (folder / "result.json").write_text("".join(json.dumps(result) + "\n" for result in results) + '{"cut off')
        self.trial_id, self.last_result = folder.name, results[-1] if results else {}
        self.storage = SimpleNamespace(storage_filesystem=fs.LocalFileSystem(), trial_fs_path=str(folder))


def made(tmp_path: Path, name: str, **settings: Any) -> Any:
    file = tmp_path / "sweep.yaml"
    spec = {
        "run": "SPiRL",
        "env": POINT,
        "scheduler": name,
        "metric": "score",
        "mode": "max",
        "scheduler_config": settings,
    }
    file.write_text(yaml.safe_dump({"sweep": spec}))
    (experiment,) = load(file)
    return scheduler(experiment)


@pytest.mark.parametrize("steps", [(15, 15, 15), (25, 21, 19), (30, 31, 39), (0, 12, 9)])
def test_a_resumed_pbt_goes_on_from_where_its_trials_are(tmp_path: Path, steps: tuple[int, ...]) -> None:
    """It waited for ever for a time that a trial had passed."""
    pbt = made(tmp_path, "pbt", time_attr="env_steps", perturbation_interval=10, synch=True,
               hyperparam_mutations={"target_divergence": {"choice": [1, 2]}})  # fmt: skip
    pbt.set_search_properties("score", "max")
    trials = [Begun(tmp_path / f"t{i}", {n: 1.0} if n else {}) for i, n in enumerate(steps)]
    pbt._trial_state = {t: SimpleNamespace(last_train_time=0, last_perturbation_time=0) for t in trials}
    CatchUp(pbt).on_step_begin(0, trials)
    assert pbt._next_perturbation_sync > max(steps), "each of them may go on"
    assert pbt._next_perturbation_sync - max(steps) <= 10
    assert [state.last_train_time for state in pbt._trial_state.values()] == list(steps)
    assert [state.last_perturbation_time for state in pbt._trial_state.values()] == [n // 10 * 10 for n in steps]
    assert pbt._hyperparam_mutations == {"target_divergence": [1, 2]}


def test_a_resumed_asha_compares_with_what_was_before(tmp_path: Path) -> None:
    def decides(resumed: bool) -> str:
        asha = made(tmp_path, "asha", time_attr="env_steps", grace_period=10, max_t=100, reduction_factor=2)
        asha.set_search_properties("score", "max")
        folder = tmp_path / str(resumed)
        folder.mkdir()
        trials = [Begun(folder / f"t{i}", {5: 0.0, 10: score}) for i, score in enumerate((3.0, 3.5, 4.0))]
        new = Begun(folder / "new", {})
        for trial in (*trials, new):
            asha.on_trial_add(None, trial)
        if resumed:
            CatchUp(asha).on_step_begin(0, [*trials, new])
        return str(asha.on_trial_result(None, new, {"env_steps": 10, "score": 0.1}))

    assert decides(resumed=False) == "CONTINUE"
    assert decides(resumed=True) == "STOP"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "scheduler async_hyperband needs 'metric'"),
        ({"metric": "env_steps"}, "scheduler async_hyperband needs 'mode'"),
        ({"metric": "evaluation/completed_subtasks", "mode": "max"}, "needs 'config.evaluation_interval'"),
        ({"metric": "env_stepps", "mode": "max"}, "no result has 'env_stepps'; did you mean 'env_steps'"),
    ],
)
def test_a_metric_that_judges_nothing_is_refused(
    sweep: Callable[..., Results], settings: dict[str, str], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sweep({}, scheduler="asha", stop={"training_iteration": 1}, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"scheduler": "hyperband", "metric": "evaluation/completed_subtasks"},
            "scheduler hyperband compares all results: set config.evaluation_interval: 1",
        ),
        (
            {
                "scheduler": "pbt",
                "metric": "env_steps",
                "scheduler_config": {"hyperparam_mutations": {"target_divergense": [1, 2]}},
            },
            "hyperparam_mutations: unknown key 'target_divergense'; did you mean 'target_divergence'",
        ),
        ({"scheduler": "hb_bohb", "metric": "env_steps"}, "scheduler hb_bohb needs a search algorithm"),
        (
            {"scheduler": "asha", "metric": "env_steps", "scheduler_config": {"time_attr": "env_stepz"}},
            "scheduler_config.time_attr: no result has 'env_stepz'; did you mean 'env_steps'",
        ),
    ],
)
def test_a_scheduler_that_would_fail_or_do_nothing_is_refused(
    sweep: Callable[..., Results], settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        sweep({"evaluation_interval": 2, "evaluation_duration": 1}, mode="max", **settings)


@pytest.mark.slow
@pytest.mark.usefixtures("three_cpus")
@pytest.mark.parametrize("name", ["delta", "asha", "pbt"])
def test_the_examples_are_accepted(name: str, tmp_path: Path) -> None:
    """All of it is checked before the first thing that takes long, here a recipe that is not there."""
    options = ["--set", "skills.data=nowhere.yaml", "--set", f"storage_path={tmp_path}"]
    outcome = CliRunner().invoke(app, ["train", "file", str(EXAMPLES / f"kitchen_sweep_{name}.yaml"), *options])
    assert isinstance(outcome.exception, UserError)
    assert "nowhere.yaml does not exist" in str(outcome.exception)
