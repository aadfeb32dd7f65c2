"""The examples that come with the package: found by name anywhere, copied, and in the wheel."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from rllib_spirl import examples
from rllib_spirl.cli.experiment import load
from rllib_spirl.cli.prepare import _resolve, look, read_section
from rllib_spirl.cli.rllib import app
from rllib_spirl.errors import UserError

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_example_has_a_name_and_says_what_it_is() -> None:
    assert {f"{name}.yaml" for name in examples.names()} == {file.name for file in (ROOT / "tuned_examples").iterdir()}
    listed = CliRunner().invoke(app, ["example", "list"]).output.splitlines()
    assert [line.split()[0] for line in listed] == examples.names()
    assert all(len(line.split()) > 5 for line in listed)
    assert examples.description("kitchen_paper").endswith("as far as they differ from ours: to compare with.")


@pytest.mark.parametrize("name", ["kitchen_smoke", "kitchen_smoke.yaml", "tuned_examples/kitchen_smoke.yaml"])
def test_an_example_is_found_by_name_with_its_recipe(name: str) -> None:
    (experiment,) = load(name, overrides=["skills.checkpoint=nowhere"])
    assert experiment.name == "kitchen_smoke"
    assert experiment.skills is not None
    frames, model = look(read_section(experiment.skills), places=experiment.places, env=None)
    assert frames is not None
    assert model is not None
    assert (model.state_dim, model.action_dim) == (30, 9)


def test_a_file_comes_before_an_example_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "kitchen.yaml").write_text("mine: {run: PPO, env: CartPole-v1}")
    assert load("kitchen.yaml")[0].name == "mine"
    assert load("kitchen")[0].name == "kitchen"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("kitchn", "kitchn does not exist, and no example is called so; did you mean 'kitchen'"),
        ("mine.yml", "mine.yml does not exist, and no example is called so; did you mean 'mine.yaml'"),
        ("elsewhere/kitchen.yaml", "elsewhere/kitchen.yaml does not exist$"),
    ],
)
def test_another_name_is_no_example(name: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").touch()
    with pytest.raises(UserError, match=message):
        load(name)


def test_a_copy_has_the_recipes_that_it_names(tmp_path: Path) -> None:
    run = CliRunner().invoke(app, ["example", "get", "kitchen", "--output", "mine"])
    assert run.output.split() == ["mine/kitchen.yaml", "mine/offline_data/kitchen_mixed.yaml"]
    (experiment,) = load("mine/kitchen.yaml")
    assert (experiment.base / "offline_data/kitchen_mixed.yaml").samefile("mine/offline_data/kitchen_mixed.yaml")
    with pytest.raises(UserError, match=r"mine/kitchen.yaml exists; remove it, or name another folder with --output"):
        examples.copy("kitchen", Path("mine"))
    with pytest.raises(UserError, match="there is no example 'kitchn'; did you mean 'kitchen'"):
        examples.copy("kitchn", Path("other"))
    assert not Path("other").exists()


def test_a_recipe_beside_the_file_comes_before_that_of_its_repository() -> None:
    Path(".git").mkdir()
    for folder in (Path(), Path("mine")):
        (folder / "offline_data").mkdir(parents=True)
        (folder / "offline_data/short.yaml").write_text("environment: kitchen\nepisodes: 2\n")
    Path("mine/short.yaml").write_text("short: {run: SPiRL, skills: {data: offline_data/short.yaml}}\n")
    (experiment,) = load("mine/short.yaml")
    assert experiment.base == Path.cwd()
    found = _resolve("offline_data/short.yaml", experiment.places)
    assert str(found) == "mine/offline_data/short.yaml"
    Path("mine/offline_data/short.yaml").unlink()
    found = _resolve("offline_data/short.yaml", experiment.places)
    assert str(found) == "offline_data/short.yaml"
    Path("offline_data/short.yaml").unlink()
    with pytest.raises(UserError, match=r"skills.data: offline_data/short.yaml does not exist in .*/mine or "):
        _resolve("offline_data/short.yaml", experiment.places)


@pytest.mark.slow
def test_the_wheel_is_enough_for_the_smoke_example(tmp_path: Path) -> None:
    """In an environment that has the dependencies and, of this project, nothing but the wheel."""

    def call(*command: object) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        environment |= {"HOME": str(tmp_path / "home"), "RLLIB_SPIRL_HOME": str(tmp_path / "home" / "spirl")}
        run = subprocess.run([*map(str, command)], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout + run.stderr
        return run.stdout

    source = tmp_path / "source"  # building leaves files behind
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".*", "build", "runs", "*.egg-info", "results"))
    call(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, source)
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    purelib = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = call(tmp_path / "venv/bin/python", "-c", purelib).strip()
    (wheel,) = tmp_path.glob("rllib_spirl-*.whl")
    call(tmp_path / "venv/bin/python", "-m", "pip", "install", "-q", "--no-deps", wheel)
    (Path(packages) / "dependencies.pth").write_text(sysconfig.get_path("purelib"))
    where = call(tmp_path / "venv/bin/python", "-c", "import rllib_spirl; print(rllib_spirl.__file__)")
    assert where.strip() == f"{packages}/rllib_spirl/__init__.py"
    assert "kitchen_smoke" in call(tmp_path / "venv/bin/rllib", "example", "list")
    shorter = (
        "stop.env_steps=1000",
        "skills.pretrain.updates=200",
        "skills.rollouts=1",
        "config.evaluation_interval=1",
    )
    settings = [word for setting in shorter for word in ("--set", setting)]
    told = call(tmp_path / "venv/bin/rllib", "train", "file", "kitchen_smoke", *settings).split()
    run = tmp_path / "home" / "ray_results" / "kitchen_smoke"
    (checkpoint,) = run.glob("*/checkpoint_*")
    assert (checkpoint / "skills" / "skill.json").exists()
    assert str(checkpoint) in told
    assert str(run / "learning_curve.png") in told
    picture = np.asarray(Image.open(run / "learning_curve.png").convert("RGB"), int)
    assert (np.ptp(picture, axis=-1) > 60).sum() > 100, "there is a coloured curve among the black and grey"
    agent = call(tmp_path / "venv/bin/rllib", "evaluate", checkpoint, "--episodes", 1)
    assert "completed_subtasks" in agent
