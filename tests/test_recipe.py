"""Recipes: what they may say, and that building depends on nothing but what they say."""

import importlib
import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from rllib_spirl import locking
from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.data import recipe as recipes
from rllib_spirl.demos import recording
from rllib_spirl.demos.recipes import KitchenRecipe
from rllib_spirl.errors import UserError
from tests.sets import fingerprint, load, opened

OFFLINE_DATA = Path(__file__).resolve().parents[1] / "offline_data"
SUBTASKS = ["microwave", "kettle", "bottom burner", "top burner", "light switch"]
TARGET = ["microwave", "kettle", "bottom burner", "light switch"]

# Stands in for the kitchen's demonstrator, to be quick and to fail on purpose. It is a file, since worker processes
# import it by its name. Every call leaves a line in a log.
FAKE = """
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any
import numpy as np
from rllib_spirl.data.episode import Episode

VERSION = 1
SUBTASKS = ["microwave", "kettle", "bottom burner", "top burner", "light switch", "slide cabinet", "hinge cabinet"]

@dataclass
class Demonstration:
    episode: Episode
    completed: list
    happened: list

def demonstrate(order, seed, noise, velocities):
    log = Path(__file__).with_name("calls.log")
    with log.open("a") as stream:
        stream.write(f"{seed} {os.environ.get('OMP_NUM_THREADS')} {os.getpid()}\\n")
    limit = os.environ.get("FAKE_INTERRUPT_AFTER")
    if limit and len(log.read_text().splitlines()) > int(limit):
        raise KeyboardInterrupt
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(3, 9))
    completed = list(order)
    if rng.random() < float(os.environ.get("FAKE_FAILURES", "0.3")):
        completed = completed[:-1]
    if os.environ.get("FAKE_TARGET") and rng.random() < 0.5:
        completed = os.environ["FAKE_TARGET"].split(";")
    episode = Episode(rng.normal(size=(steps + 1, 4)), rng.uniform(-1, 1, (steps, 2)), np.ones(steps), True, False,
                      "; ".join(order))
    return Demonstration(episode, completed, completed)
"""


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Directory of the stand-in demonstrator, with its calls.log."""
    place = tmp_path / "fake"
    place.mkdir()
    (place / "fake_kitchen.py").write_text(FAKE)
    monkeypatch.syspath_prepend(str(place))
    monkeypatch.delitem(sys.modules, "fake_kitchen", raising=False)
    monkeypatch.setattr(KitchenRecipe, "module", "fake_kitchen")
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path / "home"))
    return place


def build(recipe: Path, **options: Any) -> Path:
    """The folder of a recipe's data set."""
    return Path(str(recipes.build(recipe, **options)))


def calls(place: Path) -> list[str]:
    log = place / "calls.log"
    return log.read_text().splitlines() if log.exists() else []


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    values = {
        "source": "scripted",
        "environment": "kitchen",
        "demonstrations": 10,
        "seed": 3,
        "subtasks": SUBTASKS,
        "order_length": 4,
        "target": TARGET,
        "exclude": [TARGET[:3]],
        "fps": 12.5,
    }
    return save(tmp_path / "toy.yaml", values)


def save(path: Path, values: object) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


def contents(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in sorted(path.rglob("*")) if file.is_file()}


def test_same_bytes_for_any_number_of_workers(recipe: Path, fake: Path, tmp_path: Path) -> None:
    one = build(recipe, output=tmp_path / "one", workers=1)
    calls_one = {line.split()[0] for line in calls(fake)}
    (fake / "calls.log").unlink()
    two = build(recipe, output=tmp_path / "two", workers=2)
    lines = [line.split() for line in calls(fake)]
    assert contents(one) == contents(two)
    assert {line[0] for line in lines} == calls_one
    assert {line[1] for line in lines} == {"1"}, "one thread in each process"
    assert load(one).num_episodes == 10
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith(".")) == []


def test_another_seed_is_other_data(recipe: Path, fake: Path, tmp_path: Path) -> None:
    one = build(recipe, output=tmp_path / "one", workers=1)
    two = build(recipe, output=tmp_path / "two", overrides={"seed": 4}, workers=1)
    assert fingerprint(one) != fingerprint(two)
    assert load(one).tasks != load(two).tasks


def test_an_interrupted_build_goes_on(
    recipe: Path, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = build(recipe, output=tmp_path / "whole", workers=1)
    total = len(calls(fake))
    (fake / "calls.log").unlink()
    monkeypatch.setenv("FAKE_INTERRUPT_AFTER", str(total // 2))
    with pytest.raises(KeyboardInterrupt):
        build(recipe, output=tmp_path / "again", workers=1)
    assert not (tmp_path / "again").exists()
    before = len(calls(fake))
    monkeypatch.delenv("FAKE_INTERRUPT_AFTER")
    again = build(recipe, output=tmp_path / "again", workers=1)
    assert contents(again) == contents(whole)
    # The demonstration that was cut off begins anew; it had at most max_attempts tries.
    assert total < len(calls(fake)) <= total + 5
    assert len(calls(fake)) - before < total


def test_a_built_data_set_is_reused(recipe: Path, fake: Path, tmp_path: Path) -> None:
    first = build(recipe, workers=1)
    assert first.parent == tmp_path / "home" / "data"
    assert first.name.startswith("toy-")
    made = len(calls(fake))
    assert build(recipe) == first
    assert len(calls(fake)) == made
    assert build(recipe, overrides={"demonstrations": 2}, workers=1) != first


def test_who_waited_for_another_build_takes_its_data(
    recipe: Path, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The lock is given only when the other build is done."""

    @contextmanager
    def waited(place: Path, task: str) -> Iterator[None]:
        monkeypatch.setattr(recipes, "sole_writer", locking.sole_writer)
        build(recipe, workers=1)
        made.append(len(calls(fake)))
        yield

    made: list[int] = []
    monkeypatch.setattr(recipes, "sole_writer", waited)
    build(recipe, workers=1)
    assert len(calls(fake)) == made[0]


def test_a_home_in_the_output_is_found_again(
    recipe: Path, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    place = {"output": "~/set"}
    first = build(recipe, overrides=place, workers=1)
    assert first == tmp_path / "me" / "set"
    assert build(recipe, overrides=place, workers=1) == first


def test_a_damaged_data_set_is_replaced_when_asked(recipe: Path, fake: Path, tmp_path: Path) -> None:
    place = build(recipe, output=tmp_path / "set", workers=1)
    (place / "meta" / "info.json").write_text("{")
    with pytest.raises(UserError):
        build(recipe, output=place, workers=1)
    build(recipe, output=place, workers=1, overwrite=True)
    assert load(place).num_episodes > 0


def test_a_data_set_of_the_same_recipe_is_built_anew_when_asked(recipe: Path, fake: Path, tmp_path: Path) -> None:
    place = build(recipe, output=tmp_path / "set", workers=1)
    made = contents(place)
    file = next(place.glob("data/**/*.parquet"))
    damaged = bytearray(file.read_bytes())
    damaged[4:60] = bytes(56)  # the footer is whole, so that it opens
    file.write_bytes(damaged)
    assert build(recipe, output=place, workers=1) == place
    with pytest.raises(UserError, match="build it again"):
        load(place)
    build(recipe, output=place, workers=1, overwrite=True)
    assert contents(place) == made


def test_a_built_data_set_without_one_of_its_files_is_not_taken(recipe: Path, fake: Path, tmp_path: Path) -> None:
    place = build(recipe, output=tmp_path / "set", workers=1)
    file = next(place.glob("data/**/*.parquet"))
    table = pq.read_table(file)
    pq.write_table(table.slice(0, table.num_rows // 2), file)
    with pytest.raises(UserError, match="a file is missing"):
        build(recipe, output=place, workers=1)


def test_nothing_else_is_overwritten_unasked(recipe: Path, fake: Path, tmp_path: Path) -> None:
    place = build(recipe, output=tmp_path / "set", workers=1)
    before = contents(place)
    with pytest.raises(UserError, match="exists, but not from this recipe"):
        build(recipe, output=place, overrides={"seed": 9}, workers=1)
    assert contents(place) == before
    build(recipe, output=place, overrides={"seed": 9}, workers=1, overwrite=True)
    assert contents(place) != before


def test_output_below_a_regular_file_fails_before_the_work(recipe: Path, fake: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="cannot write there"):
        build(recipe, output=tmp_path / "file" / "set", workers=1)
    assert calls(fake) == []


def test_failures_are_tried_again_with_the_same_order(
    recipe: Path, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = load(build(recipe, output=tmp_path / "a", workers=1))
    monkeypatch.setenv("FAKE_FAILURES", "0")
    perfect = load(build(recipe, output=tmp_path / "b", workers=1))
    assert [plain.episode(i).task for i in range(10)] == [perfect.episode(i).task for i in range(10)]
    monkeypatch.setenv("FAKE_FAILURES", "0.8")
    poor = load(build(recipe, output=tmp_path / "c", overrides={"max_attempts": 2}, workers=1))
    failed = opened(tmp_path / "c").ours["source"]["demonstrations_failed"]
    assert failed == 10 - poor.num_episodes > 0
    monkeypatch.setenv("FAKE_FAILURES", "1")
    with pytest.raises(UserError, match="all 10 demonstrations failed"):
        build(recipe, output=tmp_path / "d", workers=1)
    assert not (tmp_path / "d").exists()


def test_a_demonstration_that_becomes_the_target_is_refused(
    recipe: Path, fake: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Held out is what happens, not only what was asked for."""
    monkeypatch.setenv("FAKE_FAILURES", "0")
    monkeypatch.setenv("FAKE_TARGET", ";".join([*TARGET, "top burner"]))
    data = load(build(recipe, output=tmp_path / "set", workers=1))
    assert len(calls(fake)) > 10 >= data.num_episodes


def test_held_out_orders_are_never_planned() -> None:
    mixed = recipes.read_recipe(OFFLINE_DATA / "kitchen_mixed.yaml")
    assert isinstance(mixed, KitchenRecipe)
    assert mixed.demonstrations >= 600
    assert mixed.noise == 0.05
    assert mixed.target == TARGET
    assert len(mixed.subtasks) == 7
    assert len(mixed.orders()) == 7 * 6 * 5 * 4 - 24 - 3
    planned = [job.task["order"] for job in recording.plan(mixed, Path("parts"))]
    assert len(set(planned)) == len(planned) == mixed.demonstrations, "no order twice"
    assert all(list(order[:3]) != TARGET[:3] for order in planned)
    assert {name for order in planned for name in order} == set(mixed.subtasks)
    seeds = {seed for job in recording.plan(mixed, Path("parts")) for seed in job.seeds}
    assert len(seeds) == mixed.demonstrations * mixed.max_attempts
    order = ["slide cabinet", *TARGET[:3]]
    for happened, accepted in ((order, True), ([*order, TARGET[3]], False)):  # the last by accident
        demonstration = SimpleNamespace(completed=order, happened=happened)
        assert mixed.accepts({"order": order}, demonstration) == accepted


@pytest.mark.parametrize("name", ["kitchen_mixed", "kitchen_smoke", "kitchen_human", "kitchen_d4rl"])
def test_shipped_recipes_are_valid(name: str) -> None:
    overrides = {"path": "somewhere.hdf5"} if name == "kitchen_d4rl" else None
    recipe = recipes.read_recipe(OFFLINE_DATA / f"{name}.yaml", overrides)
    assert recipe.fps == 12.5


def test_orders_repeat_only_when_all_were_used(recipe: Path, tmp_path: Path) -> None:
    parsed = recipes.read_recipe(recipe, {"subtasks": ["a", "b", "c"], "target": [], "exclude": [], "order_length": 2})
    assert isinstance(parsed, KitchenRecipe)
    orders = [job.task["order"] for job in recording.plan(parsed, tmp_path)]
    assert len(set(orders[:6])) == 6
    assert len(orders) == 10


BAD = {
    "misspelt key": ({"demonstratons": 3}, "unknown key 'demonstratons'; did you mean 'demonstrations'?"),
    "wrong type": ({"noise": "loud"}, "noise = 'loud'"),
    "out of range": ({"demonstrations": 0}, "demonstrations = 0"),
    "negative seed": ({"seed": -1}, "seed = -1"),
    "unknown source": ({"source": "script"}, "source 'script' is unknown; did you mean 'scripted'?"),
    "unknown environment": ({"environment": "kichen"}, "environment 'kichen' is unknown; did you mean 'kitchen'?"),
    "missing key": ({"environment": None}, "'environment' is missing"),
    "key of another source": ({"source": "minari"}, "unknown key"),
    "misspelt target": ({"target": ["ketle"]}, "'ketle' in target or exclude is not one of the subtasks; did you mean"),
    "too long": ({"order_length": 6}, "order_length = 6, but there are 5 subtasks"),
    "nothing left": ({"exclude": [[name] for name in SUBTASKS]}, "leave no order"),
    "a subtask twice": ({"subtasks": ["kettle", "kettle", "microwave"]}, "a subtask is named twice"),
    "empty exclusion": ({"exclude": [[]]}, "excludes everything"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_recipes_give_one_line(recipe: Path, kind: str) -> None:
    overrides, words = BAD[kind]
    with pytest.raises(UserError) as caught:
        recipes.read_recipe(recipe, overrides)
    message = str(caught.value)
    assert message.startswith(f"{recipe}: ")
    assert words in message
    assert "\n" not in message


def test_bad_recipe_files(tmp_path: Path, recipe: Path) -> None:
    with pytest.raises(UserError, match=r"does not exist; did you mean 'toy\.yaml'\?"):
        recipes.read_recipe(tmp_path / "toys.yaml")
    (tmp_path / "broken.yaml").write_text("a: [1,\nb: 2")
    with pytest.raises(UserError, match="not valid YAML") as caught:
        recipes.read_recipe(tmp_path / "broken.yaml")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="a recipe is a mapping"):
        recipes.read_recipe(save(tmp_path / "list.yaml", [1]))
    with pytest.raises(UserError, match="'path' is missing"):
        recipes.read_recipe(OFFLINE_DATA / "kitchen_d4rl.yaml")


def test_unknown_subtask_names_the_nearest(recipe: Path, fake: Path, tmp_path: Path) -> None:
    module = importlib.import_module("fake_kitchen")
    module.SUBTASKS = dict.fromkeys(SUBTASKS)  # type: ignore[attr-defined]
    with pytest.raises(UserError, match=r"subtask 'top burned' is unknown in the kitchen; did you mean 'top burner'"):
        build(recipe, overrides={"subtasks": [*SUBTASKS, "top burned"]})


def test_local_lerobot_recipe_follows_its_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path / "home"))

    def record(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with TrajectoryWriter(tmp_path / "arm", fps=30, overwrite=True) as writer:
            writer.add(Episode(rng.normal(size=(6, 3)), rng.uniform(-1, 1, (5, 2)), np.zeros(5), True, False, "x"))

    record(0)
    path = save(tmp_path / "arm.yaml", {"source": "lerobot", "path": "arm"})
    first = build(path)
    assert fingerprint(first) == fingerprint(tmp_path / "arm"), "the path is relative to the recipe"
    assert json.loads((first / "meta/info.json").read_text())["rllib_spirl"]["source"]["source"] == "lerobot"
    assert build(path) == first
    record(1)
    assert build(path) != first
