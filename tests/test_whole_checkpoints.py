"""A checkpoint is a whole agent: it goes on where the skills and the data that it was trained with are gone."""

import json
import os
import pickle
import shutil
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pyarrow import fs
from ray.rllib.algorithms import Algorithm
from typer.testing import CliRunner

from rllib_spirl import SPiRL, SPiRLConfig
from rllib_spirl.cli.rllib import app
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.restore import evaluate_checkpoint, load_policy
from rllib_spirl.evaluation.video import record_video
from rllib_spirl.files import local_copy, replacing
from rllib_spirl.skills.checkpoint import CARD, WEIGHTS, load_skills, read_skills, save_skills
from tests.test_video import PicturedPoint

pytestmark = pytest.mark.usefixtures("ray_session")


@pytest.fixture
def library(point_skills: str, point_data: Path, tmp_path: Path) -> Path:
    """A folder of skills and data of its own."""
    shutil.copytree(point_skills, tmp_path / "library" / "skills")
    shutil.copytree(point_data, tmp_path / "library" / "data")
    return tmp_path / "library"


@pytest.fixture
def settings(library: Path, point_settings: dict[str, Any]) -> dict[str, Any]:
    return point_settings | {"skill_checkpoint": str(library / "skills"), "offline_data": str(library / "data")}


@pytest.fixture
def leave(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], Path]:
    """Moves a checkpoint to where nothing else is left of what it was made with."""

    def move(checkpoint: Path) -> Path:
        shutil.rmtree(library)
        for name in ("HOME", "RLLIB_SPIRL_HOME"):
            (tmp_path / name).mkdir()
            monkeypatch.setenv(name, str(tmp_path / name))
        return Path(shutil.move(checkpoint, tmp_path / "HOME" / "checkpoint"))

    return move


def config(settings: dict[str, Any]) -> SPiRLConfig:
    return (
        SPiRLConfig()
        .environment(PicturedPoint, env_config={"limit": 40})
        .training(**settings)
        .env_runners(rollout_fragment_length=8)
        .reporting(min_sample_timesteps_per_iteration=24)
        .evaluation(evaluation_interval=1, evaluation_duration=3)
        .debugging(seed=3, log_level="ERROR")
    )


@pytest.fixture
def checkpoint(settings: dict[str, Any], tmp_path: Path) -> Path:
    """Of a run of two iterations."""
    algorithm = config(settings).build_algo()
    for _ in range(2):
        algorithm.train()
    algorithm.save_to_path(tmp_path / "checkpoint")
    algorithm.stop()
    return tmp_path / "checkpoint"


def weights(algorithm: SPiRL) -> dict[str, torch.Tensor]:
    return dict(algorithm.learner_group._learner.module["default_policy"].state_dict())


@pytest.mark.parametrize("kind", [SPiRL, Algorithm])
def test_a_run_goes_on_bit_for_bit_where_nothing_else_is_left(
    settings: dict[str, Any], tmp_path: Path, leave: Any, built: Any, kind: Any
) -> None:
    algorithm = built(config(settings).build_algo())
    for _ in range(2):
        algorithm.train()
    algorithm.save_to_path(tmp_path / "checkpoint")
    expected = algorithm.train()
    restored = built(kind.from_checkpoint(str(leave(tmp_path / "checkpoint"))))
    result = restored.train()
    assert all(torch.equal(weight, weights(restored)[name]) for name, weight in weights(algorithm).items())
    for name in ("env_steps", "updates", "evaluation"):
        assert result[name] == expected[name]
    assert torch.equal(algorithm.offline.sample(50)["z"], restored.offline.sample(50)["z"])
    # And from its own checkpoint again.
    again = built(kind.from_checkpoint(restored.save_to_path(tmp_path / "again")))
    assert again.train()["evaluation"] == algorithm.train()["evaluation"]


def test_evaluation_film_and_policy_need_nothing_else(
    settings: dict[str, Any], tmp_path: Path, leave: Any, built: Any
) -> None:
    algorithm = built(config(settings | {"eval_seed": 7}).build_algo())
    evaluation = algorithm.train()["evaluation"]
    checkpoint = str(leave(Path(algorithm.save_to_path(tmp_path / "checkpoint"))))
    result = evaluate_checkpoint(checkpoint, episodes=3, seed=7)
    assert result["episode_return"] == evaluation["episode_return"]
    (film,) = record_video(checkpoint, tmp_path / "film.gif", seed=7)
    assert film.seed == 7
    assert (tmp_path / "film.gif").stat().st_size > 0
    restored = load_policy(f"file://{checkpoint}")
    assert restored.policy(np.zeros(2, np.float32)).shape == (2,)
    outcome = CliRunner().invoke(app, ["evaluate", checkpoint, "--episodes", "3", "--seed", "7", "--json"])
    assert json.loads(outcome.output.splitlines()[-1])["episode_return"] == evaluation["episode_return"]


@pytest.mark.parametrize("learners", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)])
def test_processes_of_their_own_get_the_skills_too(
    settings: dict[str, Any], tmp_path: Path, leave: Any, built: Any, learners: int
) -> None:
    given = config(settings).env_runners(num_env_runners=1).learners(num_learners=learners)
    algorithm = given.build_algo()
    algorithm.train()
    _holds_skills_once(Path(algorithm.save_to_path(tmp_path / "checkpoint")))
    algorithm.stop()  # two algorithms have no room on two CPUs
    restored = built(SPiRL.from_checkpoint(str(leave(tmp_path / "checkpoint"))))
    before = restored.metrics.peek("env_steps")
    assert restored.train()["env_steps"] > before
    (horizon,) = restored.env_runner_group.foreach_env_runner(
        lambda runner: runner.env.unwrapped.envs[0].get_wrapper_attr("horizon"), local_env_runner=False
    )
    assert horizon == 5


def _holds_skills_once(checkpoint: Path) -> None:
    contents = (checkpoint / "skills" / WEIGHTS).read_bytes()
    part = contents[len(contents) // 2 :][:64]
    holding = [str(file.relative_to(checkpoint)) for file in checkpoint.rglob("*.pkl") if part in file.read_bytes()]
    # The decoder's weights are in no network of the policy.
    assert all("module_state" in name for name in holding), holding
    arguments = [file for file in checkpoint.rglob("class_and_ctor_args.pkl") if b"SkillFiles" in file.read_bytes()]
    assert arguments == []


def test_a_checkpoint_holds_the_skills_once_as_they_were(checkpoint: Path, library: Path) -> None:
    _holds_skills_once(checkpoint)
    for name in (WEIGHTS, CARD):
        assert (checkpoint / "skills" / name).read_bytes() == (library / "skills" / name).read_bytes()


def test_the_skills_of_the_checkpoint_are_used_where_others_are_now(
    checkpoint: Path, library: Path, built: Any
) -> None:
    files = read_skills(library / "skills")
    model, card = load_skills(library / "skills")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1)
    save_skills(library / "skills", model, card)
    algorithm = built(SPiRL.from_checkpoint(str(checkpoint)))
    used = algorithm.config.skill_checkpoint
    assert (used.weights, used.name) == (files.weights, files.name)
    algorithm.train()


def test_an_old_checkpoint_opens_where_its_skills_are(checkpoint: Path, library: Path, built: Any) -> None:
    shutil.rmtree(checkpoint / "skills")
    (checkpoint / "demonstrations.safetensors").unlink()
    load_policy(str(checkpoint)).make_env()
    algorithm = built(SPiRL.from_checkpoint(str(checkpoint)))
    algorithm.train()
    shutil.rmtree(library)
    for restore in (load_policy, SPiRL.from_checkpoint):
        with pytest.raises(UserError, match=r"Cannot read the skill checkpoint file .*library/skills/skill.json"):
            restore(str(checkpoint))


def _cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-10])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda skills: _cut(skills / WEIGHTS), "checkpoint/skills/skill.safetensors is corrupt"),
        (lambda skills: _cut(skills / CARD), "checkpoint/skills/skill.json is not JSON"),
        (
            lambda skills: (skills / WEIGHTS).unlink(),
            "Cannot read .*checkpoint/skills/skill.safetensors: there is none",
        ),
        (lambda skills: (skills / CARD).unlink(), "Cannot read .*checkpoint/skills/skill.json: there is none"),
    ],
)
def test_damaged_skills_in_a_checkpoint_are_one_clear_line(checkpoint: Path, damage: Any, message: str) -> None:
    damage(checkpoint / "skills")
    for restore in (load_policy, SPiRL.from_checkpoint):
        with pytest.raises(UserError, match=message) as caught:
            restore(str(checkpoint))
        assert "\n" not in str(caught.value)


def test_damaged_demonstrations_are_one_clear_line(checkpoint: Path) -> None:
    _cut(checkpoint / "demonstrations.safetensors")
    with pytest.raises(
        UserError, match=r"demonstrations.safetensors cannot be read .* Use another checkpoint"
    ) as caught:
        SPiRL.from_checkpoint(str(checkpoint))
    assert "\n" not in str(caught.value)


def test_other_demonstrations_can_be_named(
    checkpoint: Path, settings: dict[str, Any], tmp_path: Path, built: Any
) -> None:
    shutil.copytree(settings["offline_data"], tmp_path / "others")
    same, other = (
        built(SPiRL.from_checkpoint(str(checkpoint), config=config(settings | {"offline_data": str(data)})))
        for data in (settings["offline_data"], tmp_path / "others")
    )
    assert same.offline.source == settings["offline_data"]
    assert other.offline.source == str(tmp_path / "others")
    start = [0.9, 0.0]
    elsewhere = config(settings).environment(env_config={"limit": 41, "start": start})  # other rewards, for all we know
    moved = built(SPiRL.from_checkpoint(str(checkpoint), config=elsewhere))
    assert '"limit": 41' in moved.offline.labelled_for
    assert len(same.replay) > 0
    assert len(moved.replay) == 0, "what it experienced earned something else"
    moved.train()
    first = moved.replay._columns["states"][0]
    assert (first - torch.tensor(start)).abs().max() <= 0.02, "its episode begins in the environment as it is now"


def test_a_checkpoint_names_its_class(settings: dict[str, Any], tmp_path: Path, built: Any) -> None:
    """Ray derives one from it for its actors, whose methods would be stored by their names."""
    derived = type("SPiRL", (SPiRL,), {"__module__": SPiRL.__module__})
    path = built(derived(config=config(settings))).save_to_path(tmp_path / "checkpoint")
    stored = pickle.loads((Path(path) / "class_and_ctor_args.pkl").read_bytes())
    assert stored["class"] is SPiRL
    assert b"_labelled_for" not in (Path(path) / "class_and_ctor_args.pkl").read_bytes()
    built(SPiRL.from_checkpoint(path)).train()


def test_skills_that_are_nowhere_are_one_clear_line(settings: dict[str, Any], built: Any) -> None:
    lost = config(settings | {"skill_checkpoint": "/nowhere"})
    with pytest.raises(UserError, match="Cannot read the skill checkpoint file /nowhere"):
        lost.build_algo()
    waiting = built(SPiRL(config=lost))
    for use in (waiting.train, waiting.save_to_path):
        with pytest.raises(UserError, match="Cannot read the skill checkpoint file /nowhere"):
            use()


@pytest.mark.long
@pytest.mark.parametrize(("section", "runners"), [(False, 0), (False, 1), (True, 0)])
def test_an_experiment_is_resumed_without_its_skills_and_data(
    settings: dict[str, Any], library: Path, tmp_path: Path, runners: int, section: bool
) -> None:
    """Also when the file asks for skills to be made: they are not made anew."""
    plain = {name: value for name, value in settings.items() if name != "skill_checkpoint"}
    named = {"skills": {"data": str(library / "data"), "checkpoint": str(library / "made"), "rollouts": 0}}
    experiment = {
        "run": "SPiRL",
        "env": "tests.point:Point-v0",
        "storage_path": str(tmp_path / "out"),
        "checkpoint_config": {"checkpoint_frequency": 1},
        "config": (plain if section else settings)
        | {"num_env_runners": runners, "min_sample_timesteps_per_iteration": 24, "seed": 0},
    }
    if section:
        updates = {"updates": 20, "horizon": 5, "latent_dim": 2, "hidden": 16, "threads_per_worker": 1}
        experiment |= {"skills": named["skills"] | {"pretrain": updates}}
    file = tmp_path / "point.yaml"
    file.write_text(yaml.safe_dump(dict.fromkeys(("whole", "halved"), experiment)))

    def train(name: str, iterations: int, *options: str) -> list[dict[str, Any]]:
        command = ["train", "file", str(file), "--only", name, "--stop", f"training_iteration={iterations}", *options]
        outcome = CliRunner().invoke(app, command)
        assert outcome.exit_code == 0, outcome.output
        (results,) = (tmp_path / "out" / name).glob("*/result.json")
        return [json.loads(line) for line in results.read_text().splitlines()]

    expected = train("whole", 3)
    train("halved", 2)
    shutil.rmtree(library)
    results = train("halved", 3, "--resume")
    assert [result["training_iteration"] for result in results] == [1, 2, 3]
    assert not library.exists()
    if runners == 0:
        for name in ("env_steps", "updates"):
            assert results[-1][name] == expected[-1][name]
        assert results[-1]["learners"]["default_policy"]["q"] == expected[-1]["learners"]["default_policy"]["q"]


def test_files_have_the_permissions_that_the_umask_gives(
    point_skills: str, checkpoint: Path, tmp_path: Path, built: Any
) -> None:
    files = replace(read_skills(point_skills), name="copy")
    algorithm = built(SPiRL.from_checkpoint(str(checkpoint)))
    for umask, mode in ((0o022, 0o644), (0o002, 0o664), (0o077, 0o600)):
        folder = tmp_path / oct(umask)
        folder.mkdir()
        before = os.umask(umask)
        try:
            files.write(folder / "copy")
            algorithm.save_to_path(folder / "saved")
            with replacing(folder / "copy" / "picture.PNG") as file:
                assert file.suffix == ".png"
                file.unlink()
                file.touch(mode=0o600)
        finally:
            os.umask(before)
        written = [path for path in (*(folder / "copy").iterdir(), *(folder / "saved").rglob("*")) if path.is_file()]
        assert len(written) > 10
        assert {stat.S_IMODE(path.stat().st_mode) for path in written} == {mode}


def test_what_could_not_be_written_leaves_no_trace(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("old")
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "file") as file:
        file.write_bytes((tmp_path / "nothing").read_bytes())
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file", "old")]


def test_a_checkpoint_is_saved_where_it_is_asked_for(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, built: Any
) -> None:
    """Below the working directory, or at a URI: here one of a file system that is not the local one."""
    monkeypatch.chdir(tmp_path)
    algorithm = built(config(settings).build_algo())
    algorithm.train()
    assert algorithm.save_to_path("here") == str(tmp_path / "here")
    elsewhere = fs.SubTreeFileSystem(str(tmp_path), fs.LocalFileSystem())
    assert algorithm.save_to_path("there", filesystem=elsewhere) == "there"
    files = [sorted(str(p.relative_to(tmp_path / d)) for p in (tmp_path / d).rglob("*")) for d in ("here", "there")]
    assert files[0] == files[1]
    again = built(SPiRL.from_checkpoint("there", filesystem=elsewhere))
    assert again.train()["env_steps"] == algorithm.train()["env_steps"]


def test_a_folder_elsewhere_is_copied_here_for_a_while(checkpoint: Path) -> None:
    with local_copy(str(checkpoint)) as folder:
        assert folder == checkpoint
    with local_copy(f"local://{checkpoint}") as folder:
        assert folder.joinpath("skills", CARD).exists()
