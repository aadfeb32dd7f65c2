"""The recorded curves are those of the examples as they are: who changes an example's settings records it anew."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import typer

from rllib_spirl.cli.experiment import load
from rllib_spirl.yaml_text import parse_file

ROOT = Path(__file__).parents[1]
RUNS: list[tuple[str, dict[str, Any]]] = [
    (file.stem, run)
    for file in sorted((ROOT / "benchmarks" / "results").glob("*.json"))
    for run in json.loads(file.read_text()).get("runs", [])
    if "experiment" in run  # noted since a later version
]


@pytest.mark.parametrize(
    "queue",
    [
        "kitchen_queue",
        "block_stacking_queue",
        "maze_queue",
        "ogbench_queue",
        "metaworld_queue",
        "adaptation_queue",
    ],
)
def test_a_queue_names_experiments_that_there_are(queue: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from adaptation import Row  # scripts, and no package
    from learning import Method, specifications, steps_of

    kind = Row if queue == "adaptation_queue" else Method
    rows = [kind.model_validate(values) for values in parse_file(ROOT / f"benchmarks/{queue}.yaml")]
    for row in rows:
        assert steps_of(row, specifications([row])[row.title]) > 0
        if isinstance(row, Row) and row.anew:
            assert row.test_tasks
        if isinstance(row, Row) and row.trained:
            (first,) = (other for other in rows if (other.title, other.table) == (row.trained, row.table))
            assert (first.example, first.settings, first.steps) == (row.example, row.settings, row.steps)


def test_a_run_that_is_repeated_stays_in_its_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from learning import keep, recorded

    first = {"method": "spirl", "task": "kitchen", "seed": 0, "tables": ["rivals"], "env_steps": [1]}
    other = first | {"seed": 1, "tables": []}
    keep(tmp_path / "runs.json", [first, other])
    keep(tmp_path / "runs.json", [first | {"tables": [], "env_steps": [2]}])
    assert recorded(tmp_path / "runs.json") == [first | {"env_steps": [2]}, other]


def test_other_settings_are_not_recorded_as_the_headline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    from learning import command

    main = command("kitchen", 5, lambda *_: {}, "kitchen.json")
    with pytest.raises(typer.BadParameter, match="give it a --name"):
        main(settings=["config.target_divergence=5"])


@pytest.mark.parametrize(("results", "run"), RUNS, ids=[f"{r}-{x['method']}-{x['seed']}" for r, x in RUNS])
def test_a_recorded_run_has_the_settings_of_its_example(results: str, run: dict[str, Any]) -> None:
    experiments = {e.name: e.given for e in load(ROOT / f"tuned_examples/{run['example']}.yaml")}
    if only := re.search(r"--only (\S+)", run.get("command", "")):
        experiments = {only[1]: experiments[only[1]]}
    given = [{key: spec.get(key) for key in run["experiment"]} for spec in experiments.values()]
    given = json.loads(json.dumps(given))  # keys that are numbers become texts
    recorded = run["experiment"]
    if "adaptation" in run:  # training's evaluations are not what its curve shows
        recorded, *given = (_without_evaluations(experiment) for experiment in (recorded, *given))
    assert recorded in given, (
        f"benchmarks/results/{results}.json: {run['method']}, seed {run['seed']} was recorded with other settings than "
        f"tuned_examples/{run['example']}.yaml has; record it anew, or put the settings back"
    )


def _without_evaluations(experiment: dict[str, Any]) -> dict[str, Any]:
    config = {name: value for name, value in experiment["config"].items() if not name.startswith("evaluation_")}
    return experiment | {"config": config}
