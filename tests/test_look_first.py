"""What can be known at the start is said at the start: one line, exit code 1, nothing written."""

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import ray
import typer
import yaml

from rllib_spirl import RecordTrajectories, SPiRL, SPiRLConfig
from rllib_spirl.cli import errors, look
from rllib_spirl.cli.experiment import load
from rllib_spirl.cli.metrics import check_metrics
from rllib_spirl.cli.prepare import frames_of
from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.demos.recipes import BlockStackingRecipe, KitchenRecipe
from rllib_spirl.envs.kitchen import KitchenEnv
from rllib_spirl.errors import UserError, one_line, user_error
from rllib_spirl.skills.checkpoint import SkillCard, save_skills
from rllib_spirl.skills.model import SkillModel, SkillModelConfig, StateSet
from tests.commands import run
from tests.conftest import TINY
from tests.point import PointEnv

BLOCKS = "rllib_spirl/BlockStacking-v0"


class Mislabelled(KitchenEnv):
    """Its labels are one too few."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(**config)

    def relabel(self, states: Any) -> Any:
        rewards, done_at = super().relabel(states)
        return rewards[1:], done_at


class NoEnv:
    """Like an environment, but none."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.observation_space = self.action_space = gym.spaces.Box(-1, 1, (2,))


def write_data(path: Path, states: int, actions: int) -> None:
    rng = np.random.default_rng(0)
    with TrajectoryWriter(path, fps=10) as writer:
        for _ in range(3):
            recorded, steps = rng.normal(size=(13, states)), np.tanh(rng.normal(size=(12, actions)))
            writer.add(Episode(recorded, steps, np.zeros(12), False, True, "anything"))


def write_skills(path: Path, **shape: Any) -> None:
    model = SkillModel(SkillModelConfig(hidden=8, layers=1, prior_layers=1, **shape))
    save_skills(path, model, SkillCard(model=model.config))


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Data sets, skills and recipes for and not for the kitchen."""
    folder = tmp_path_factory.mktemp("material")
    for name, states, actions in (("data", 30, 9), ("data-39", 39, 9), ("data-8", 30, 8), ("data-66", 66, 3)):
        write_data(folder / name, states, actions)
    write_skills(folder / "skills", state_dim=30, action_dim=9)
    write_skills(folder / "skills-39", state_dim=39, action_dim=9)
    write_skills(folder / "skills-set", state_dim=36, action_dim=3, state_set=StateSet(own=6, item=6))
    for name, file in (("cut-weights", "skill.safetensors"), ("cut-card", "skill.json")):
        shutil.copytree(folder / "skills", folder / name)
        cut(folder / name / file)
    kitchen = {"source": "scripted", "environment": "kitchen", "demonstrations": 2, "order_length": 1}
    recipes = {
        "scripted": kitchen | {"subtasks": ["kettle"]},
        "velocities": kitchen | {"subtasks": ["kettle"], "velocities": True},
        "ketle": kitchen | {"subtasks": ["ketle"]},
        "stacking": {"source": "scripted", "environment": "block_stacking", "demonstrations": 2},
        "import": {"source": "lerobot", "path": str(folder / "data-39")},
    }
    for name, recipe in recipes.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(recipe))
    return folder


@pytest.fixture
def workspace(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with an experiment that makes its skills from data, and one that has skills."""
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    common = {
        "run": "SPiRL",
        "env": "rllib_spirl/Kitchen-v0",
        "stop": {"env_steps": 100},
        "storage_path": str(tmp_path / "results"),
    }
    config = {"env_config": {"tasks": ["microwave", "kettle"]}}
    files = {
        "data": common | {"skills": {"data": str(material / "data")}, "config": config},
        "skills": common | {"config": config | {"skill_checkpoint": str(material / "skills")}},
        "ppo": common | {"run": "PPO", "config": config},
    }
    for name, experiment in files.items():
        (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({"kitchen": experiment}))
    return tmp_path


def settings(*pairs: str) -> list[str]:
    return [part for pair in pairs for part in ("--set", pair)]


PRETRAIN = ["spirl", "pretrain"]
KITCHEN = ["--env", "rllib_spirl/Kitchen-v0"]
# Which file's experiment or else which command, its options ("@" stands for the folder of the material), and the words.
REFUSED: dict[str, tuple[str | list[str], list[str], list[str]]] = {
    "data of wider states": ("data", settings("skills.data=@/data-39"), ["30-dimensional obs", "data-39 has 39"]),
    "data of fewer actions": ("data", settings("skills.data=@/data-8"), ["9-dimensional actions", "data-8 has 8"]),
    "recipe with velocities": ("data", settings("skills.data=@/velocities.yaml"), ["kitchen's demo", "has 59"]),
    "recipe without them": ("data", settings("skills.data=@/scripted.yaml", "config.env_config.velocities=true"),
                            ["59-dimensional observations", "has 30"]),
    "recipe of another environment": ("data", settings("skills.data=@/stacking.yaml"), ["block_stacking's", "has 36"]),
    "recipe of an unknown subtask": ("data", settings("skills.data=@/ketle.yaml"), ["'ketle'", "'kettle'"]),
    "dropout of states nobody sees": ("data", settings("skills.pretrain={decoder: open_loop, state_dropout: 0.1}"),
                                      ["state_dropout", "closed_loop"]),
    "all states to a prior over pictures": ("data", settings("skills.pretrain={prior: images, prior_sees_all: true}"),
                                            ["prior_sees_all", "pictures"]),
    "no such dimension": ("data", settings("skills.pretrain.blind=[30]"),
                          ["skills.pretrain.blind", "0 to 29"]),
    "set that does not come out": ("data", settings("skills.pretrain.state_set={own: 7, item: 6}"),
                                   ["skills.pretrain.state_set", "30 numbers"]),
    "prior without pictures": ("data", settings("skills.pretrain.prior=images"), ["skills.pretrain.prior", "pictures"]),
    "pictures that no prior sees": ("data", [*settings("skills.data=@/data-66", "config.env_config={images: true}"),
                                             "--env", BLOCKS], [BLOCKS, "need a flat Box"]),
    "offline data of wider states": ("skills", settings("config.offline_data=@/data-39"),
                                     ["config.offline_data", "states of 39", "environment 30"]),
    "offline data of more items": ("skills", [*settings("config.skill_checkpoint=@/skills-set", "config.offline_data=@/"
                                   "data-66", "config.env_config={blocks: 5}"), "--env", BLOCKS], ["of 66", "36"]),
    "no data": ("data", settings("skills.data=nowhere"), ["nowhere does not exist"]),
    "skills of other data": ("skills", settings("config.skill_checkpoint=@/skills-39"), ["trained on 39"]),
    "skills of other data in skills": ("data", settings("skills={checkpoint: @/skills-39}"), ["trained on 39"]),
    "cut weights": ("skills", settings("config.skill_checkpoint=@/cut-weights"),
                    ["config.skill_checkpoint", "skill.safetensors is corrupt"]),
    "cut card": ("skills", settings("config.skill_checkpoint=@/cut-card"),
                 ["config.skill_checkpoint", "skill.json is not JSON"]),
    "cut weights in skills": ("data", settings("skills={checkpoint: @/cut-weights}"),
                              ["skills.checkpoint", "skill.safetensors is corrupt"]),
    "cut card beside data": ("data", settings("skills.checkpoint=@/cut-card"), ["skill.json is not JSON"]),
    "no skills": ("skills", settings("config.skill_checkpoint=nowhere"), ["nowhere/skill.json", "there is none"]),
    "skills for PPO": ("ppo", settings("skills.data=@/data"), ["'skills' is for algorithms that use", "not PPO"]),
    "unknown subtask": ("data", settings("config.env_config.tasks=[ketle]"), ["config.env_config", "'kettle'"]),
    "unknown subtask in a grid": ("data", settings("config.env_config.tasks={grid_search: [[kettle], [ketle]]}"),
                                  ["config.env_config", "'kettle'"]),
    "unknown subtask in evaluation": ("data", settings("config.evaluation_config={env_config: {tasks: [ketle]}}"),
                                      ["config.env_config", "'kettle'"]),
    "unknown subtask for PPO": ("ppo", settings("config.env_config.tasks=[ketle]"), ["config.env_config", "'kettle'"]),
    "unknown key of env_config": ("data", settings("config.env_config.task=[kettle]"), ["key 'task'", "'tasks'"]),
    "impossible env_config": ("data", settings("config.env_config.max_episode_steps=0"), ["env_config", "positive"]),
    "impossible setting beside skills": ("data", settings("config.tau=2"), ["`tau` must be in (0, 1]"]),
    "impossible point of a sweep": ("skills", settings("config.target_divergence={grid_search: [1, -1]}"),
                                    ["`target_divergence` must be a number greater than 0, got -1"]),
    "labels": ("data", ["--env", "tests.test_look_first.Mislabelled"],
               ["skills.data", "relabel: 13 states need rewards of shape (12,), got (11,)"]),
    "no environment": ("data", ["--env", "tests.test_look_first.NoEnv"], ["makes NoEnv, which is no gymnasium.Env"]),
    "seed": ("data", settings("config.seed=-1"), ["`seed` must be a whole number, at least 0, got -1"]),
    "seed that is no number": ("data", settings("config.seed=abc"), ["`seed` must be a whole number"]),
    "fragments": ("data", settings("config.rollout_fragment_length=0"), ["`rollout_fragment_length` must be a whole"]),
    "env runners": ("data", settings("config.num_env_runners=-1"), ["num_env_runners"]),
    "environments side by side": ("data", settings("config.num_envs_per_env_runner=0"), ["num_envs_per_env_runner"]),
    "evaluations": ("data", settings("config.evaluation_interval=-1"), ["`evaluation_interval` must be a whole"]),
    "rollouts": ("data", settings("skills.rollouts=-1"), ["skills.rollouts", "greater than or equal to 0"]),
    "stop": ("data", ["--stop", "env_step=100"], ["stop: no result has 'env_step'", "'env_steps'"]),
    "stop in the file": ("data", settings("stop={trainng_iteration: 3}"), ["stop", "'training_iteration'"]),
    "stop at no group": ("data", ["--stop", "evalution/completed_subtasks=3"], ["'evaluation/completed_subtasks'"]),
    "stop at a whole group": ("data", ["--stop", "learners=3"], ["stop: no result has 'learners'"]),
    "stop at another environment's measure": ("data", ["--stop", "tower_height=3"], ["no result has 'tower_height'"]),
    "stop without evaluation": ("data", ["--stop", "evaluation/episode_return=3"], ["'config.evaluation_interval'"]),
    "metric": ("data", settings("metric=env_stepps", "mode=max"), ["metric: no result has 'env_stepps'"]),
    "metric of the old stack": ("data", settings("metric=episode_reward_mean", "mode=max"),
                                ["did you mean 'env_runners/episode_return_mean'"]),
    "scheduler's metric": ("data", settings("scheduler=asha", "scheduler_config={metric: up, mode: max}"),
                           ["scheduler_config.metric: no result has 'up'"]),
    "metric of checkpoints": ("data", ["--checkpoint-score-attr", "env_stps"],
                              ["checkpoint_config.checkpoint_score_attribute", "'env_steps'"]),
    **{name: (file, ["--env", name], [f"'{name}' is 'rllib_spirl/Kitchen-v0' here"]) for file, name in (
        ("data", "kitchen-mixed-v0"), ("data", "kitchen-complete-v0"), ("ppo", "kitchen-partial-v0"),
        ("data", "D4RL/kitchen/mixed-v2"), ("data", "FrankaKitchen-v1"),
        ("data", "gymnasium_robotics:FrankaKitchen-v1"))},
    "short name": ("data", ["--env", "Kitchen-v0"], ["did you mean 'rllib_spirl/Kitchen-v0'"]),
    "misspelt environment": ("data", ["--env", "rllib_spirl/BlokStaking-v0"], [f"did you mean '{BLOCKS}'"]),
    "key of pretraining in skills": ("data", settings("skills.updates=5"), ["'skills.pretrain.updates'"]),
    "key of pretraining in config": ("data", settings("config.updates=5"), ["'skills.pretrain.updates'"]),
    "key of pretraining at the top": ("data", settings("state_noise=0"), ["'skills.pretrain.state_noise'"]),
    "key of skills in pretraining": ("data", settings("skills.pretrain.data=x"), ["did you mean 'skills.data'"]),
    "key of config at the top": ("data", settings("target_divergence=1"), ["did you mean 'config.target_divergence'"]),
    "key of config in skills": ("data", settings("skills.target_divergence=1"), ["'config.target_divergence'"]),
    "key of the experiment in config": ("data", settings("config.stop=1"), ["did you mean 'stop' beside 'config'"]),
    "key that two levels have": ("data", settings("seed=1"), ["'config.seed' or 'skills.pretrain.seed'"]),
    "misspelt key of pretraining": ("data", settings("skills.pretrain.updtes=5"), ["did you mean 'updates'"]),
    "key of another algorithm": ("ppo", settings("config.updates=5"), ["unknown key 'updates'"]),
    "neither data nor skills": ("data", settings("skills={rollouts: 1}"), ["needs `data`"]),
    "pretrain: data of wider states": ([*PRETRAIN, "@/data-39"], KITCHEN, ["data-39 has 39"]),
    "pretrain: unknown subtask": ([*PRETRAIN, "@/data"], [*KITCHEN, "--env-config", "{tasks: [ketle]}"], ["'kettle'"]),
    "pretrain: recipe with velocities": ([*PRETRAIN, "@/velocities.yaml"], KITCHEN, ["has 59"]),
    "pretrain: another's kitchen": ([*PRETRAIN, "@/data"], ["--env", "kitchen-mixed-v0"], ["'rllib_spirl/Kitchen-v0'"]),
    "pretrain: misspelt setting": ([*PRETRAIN, "@/data"], settings("updtes=5"), ["did you mean 'updates'"]),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
@pytest.mark.usefixtures("no_ray")
def test_refused_at_the_start(
    kind: str,
    workspace: Path,
    material: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    what, options, words = REFUSED[kind]
    command = ["rllib", "train", "file", f"{what}.yaml"] if isinstance(what, str) else what
    before = sorted(workspace.iterdir())
    assert run([part.replace("@", str(material)) for part in [*command, *options]], monkeypatch) == 1
    output = capfd.readouterr()
    (line,) = output.err.splitlines()
    assert line.startswith("error: ")
    for word in words:
        assert word in line
    if isinstance(what, str):
        assert f"{what}.yaml: kitchen: " in line
    for shown in ("\x1b", "ray::", "Traceback"):
        assert shown not in output.err + output.out
    assert sorted(workspace.iterdir()) == before


def test_evaluations_add_to_the_settings_of_the_environment() -> None:
    space: dict[str, Any] = {"env": "E-v0", "env_config": {"velocities": True, "nested": {"a": 1}}}
    space["evaluation_config"] = {"explore": True, "env_config": {"nested": {"b": 2}}}
    found = list(look._variants(space))
    assert found[1]["env_config"] == {"velocities": True, "nested": {"a": 1, "b": 2}}
    assert (len(found), found[0]["env_config"]["nested"]) == (2, {"a": 1})


def test_actions_that_will_be_others_are_told(tmp_path: Path) -> None:
    with RecordTrajectories(PointEnv({"limit": 3}), tmp_path / "data") as env:
        env.reset()
        env.step(np.zeros(2))
    assert look._other_bounds(PointEnv(), env.data_set) == ""
    stronger, free = PointEnv(), PointEnv()
    stronger.action_space = gym.spaces.Box(np.array([-1, -1], np.float32), np.array([1, 5], np.float32))
    told = f"action[1] = 1 was 1 in what made {env.data_set}, and will be 5 in PointEnv"
    assert look._other_bounds(stronger, env.data_set) == told
    free.action_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
    assert look._other_bounds(free, env.data_set) == "", "1 stays 1"


@pytest.mark.usefixtures("no_ray")
def test_an_import_is_held_against_the_environment_before_training(
    workspace: Path, material: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run([*PRETRAIN, f"{material}/import.yaml", *KITCHEN], monkeypatch) == 1
    error = capfd.readouterr().err
    assert "30-dimensional observations, but the data of" in error.splitlines()[-1]
    assert {path.name for path in (workspace / "home").iterdir()} == {"data", "locks"}  # no skills


@pytest.mark.parametrize("damaged", ["cut-weights", "cut-card"])
@pytest.mark.usefixtures("no_ray")
def test_a_checkpoint_whose_skills_are_damaged(
    damaged: str,
    checkpoint: Path,
    material: Path,
    workspace: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    skills = checkpoint / "skills"
    shutil.rmtree(skills, ignore_errors=True)
    shutil.copytree(material / damaged, skills)
    for command in (["rllib", "evaluate"], ["spirl", "video", "--output", "film.gif"]):
        assert run([*command, str(checkpoint)], monkeypatch) == 1
        (line,) = (line for line in capfd.readouterr().err.splitlines() if line.startswith("error: "))
        assert "skill.safetensors is corrupt" in line or "skill.json is not JSON" in line
    assert not list(workspace.glob("*.gif"))


@pytest.fixture(scope="module")
def checkpoint(material: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of SPiRL."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(material / "skills", folder / "skills")
    config = SPiRLConfig().environment("rllib_spirl/Kitchen-v0")
    algorithm = config.training(skill_checkpoint=str(folder / "skills"), replay_capacity=500).build_algo()
    algorithm.save_to_path(str(folder / "checkpoint"))
    algorithm.stop()
    return folder / "checkpoint"


def test_a_command_of_its_own(workspace: Path) -> None:
    """As a user runs it, in a process of its own: what is imported on the way says nothing either."""
    command = [sys.executable, "-m", "rllib_spirl.cli.rllib", "train", "file", "data.yaml", "--stop", "env_step=1"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "error: data.yaml: kitchen: stop: no result has 'env_step'; did you mean 'env_steps'?\n"


def test_other_algorithms_are_warned_of_unknown_metrics(workspace: Path) -> None:
    (ppo,) = load("ppo.yaml", stops=["env_stps=5", "env_runners/episode_return_mean=3", "env_steps=9"])
    (warning,) = look.metrics(ppo, {"env": ppo.env})
    assert "stop: no result has 'env_stps'; did you mean 'env_steps'" in warning
    assert "PPO" in warning


@pytest.mark.parametrize("metric", ["tower_height", "stacked_blocks", "subtask_rate/kettle", "completed_subtasks"])
def test_what_an_environment_measures_is_a_metric(metric: str, workspace: Path) -> None:
    (experiment,) = load("skills.yaml", stops=[f"{metric}=1"])
    assert look.metrics(experiment, {"env": BLOCKS, "env_config": {"blocks": 2}}) == []


@pytest.mark.usefixtures("ray_session")
def test_all_that_a_result_contains_is_known(
    point_settings: dict[str, Any], workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = (
        SPiRLConfig()
        .environment("point")
        .training(**point_settings)
        .evaluation(evaluation_interval=1, evaluation_duration=1)
        .reporting(min_sample_timesteps_per_iteration=30)
    )
    algorithm = config.build_algo()
    try:
        result = algorithm.train()
    finally:
        algorithm.stop()
    names = {key for key, value in result.items() if isinstance(value, int | float) and not isinstance(value, bool)}
    groups = {key for key, value in result.items() if isinstance(value, dict)}
    assert {"env_steps", "updates", "training_iteration", "completed_subtasks"} <= names
    assert {"evaluation", "learners", "subtask_rate"} <= groups
    evaluated = [f"evaluation/{key}{'/x' * isinstance(value, dict)}" for key, value in result["evaluation"].items()]
    stops = [f"{name}=1" for name in (*names, *(f"{group}/x" for group in groups - {"evaluation"}), *evaluated)]
    (experiment,) = load("skills.yaml", stops=stops, overrides=["config.evaluation_interval=1"])
    assert check_metrics(experiment, SPiRL, lambda: ()) == []


@pytest.mark.parametrize(
    "recipe",
    [
        KitchenRecipe(source="scripted", environment="kitchen", demonstrations=1, subtasks=["kettle"], order_length=1),
        KitchenRecipe(
            source="scripted",
            environment="kitchen",
            demonstrations=1,
            subtasks=["kettle"],
            order_length=1,
            velocities=True,
        ),
        BlockStackingRecipe(source="scripted", environment="block_stacking", demonstrations=1, blocks=4),
        BlockStackingRecipe(source="scripted", environment="block_stacking", demonstrations=1, images=True),
    ],
    ids=["kitchen", "velocities", "stacking", "images"],
)
def test_a_recipe_tells_what_it_will_record(recipe: Any) -> None:
    episode = recipe.demonstrator.demonstrate(**recipe.variants()[0], seed=0, noise=0.0).episode
    frames = frames_of(recipe)
    assert frames is not None
    assert (frames.state_dim, frames.action_dim) == (episode.states.shape[1], episode.actions.shape[1])
    assert frames.images == (episode.images is not None)


@pytest.mark.usefixtures("no_ray")
def test_skills_of_the_settings_that_are_damaged(
    workspace: Path, material: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Skills under the home directory, found by the content of data and settings."""
    from rllib_spirl.data import DataSet
    from rllib_spirl.skills.pretrain import skills_folder, skills_key

    key = skills_key(DataSet.open(material / "data"), TINY)
    folder = skills_folder(key, None)
    shutil.copytree(material / "cut-weights", folder)
    card = SkillCard.model_validate_json((folder / "skill.json").read_text())
    (folder / "skill.json").write_text(card.model_copy(update={"training": {"key": key}}).model_dump_json())
    options = settings(*(f"skills.pretrain.{k}={v}" for k, v in TINY.model_dump(exclude_defaults=True).items()))
    assert run(["rllib", "train", "file", "data.yaml", *options], monkeypatch) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert "skill.safetensors is corrupt" in line
    assert not (workspace / "results").exists()


def _refuse() -> None:
    raise UserError("not so; did you mean 'otherwise'?")


def _fail() -> None:
    raise ValueError("a number\nis wrong")


class _Actor:
    def __init__(self, start: Callable[[], None]) -> None:
        start()

    def work(self) -> None:
        pass


def _nested(start: Callable[[], None]) -> None:
    ray.get(ray.remote(_Actor).remote(start).work.remote())


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize(
    "remote",
    [
        lambda start: ray.remote(lambda: start()).remote(),
        lambda start: ray.remote(_Actor).remote(start).work.remote(),
        lambda start: ray.remote(_nested).remote(start),
    ],
    ids=["task", "constructor", "constructor in a task"],
)
def test_errors_of_other_processes_are_told_as_they_are(
    remote: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()

    @app.command()
    def command(start: str) -> None:
        ray.get(remote({"refuse": _refuse, "fail": _fail}[start]))

    for start, told in (("refuse", "error: not so; did you mean 'otherwise'?"), ("fail", "a number")):
        monkeypatch.setattr(sys, "argv", ["x", start])
        with pytest.raises(SystemExit) as ended:
            errors.run(app)
        assert ended.value.code == 1
        error = capsys.readouterr().err
        last = error.splitlines()[-1]
        assert told in last
        assert last.startswith("error: ")
        assert "\x1b" not in error
        assert "ray::" not in last
        assert (error.count("\n") == 1) == (start == "refuse")


def test_an_error_without_one_inside_is_its_own() -> None:
    assert user_error(ValueError("x")) is None
    assert one_line(ValueError("x\n  y")) == "x y"
    assert one_line(KeyError()) == "KeyError"
    mistake = UserError("y")
    mistake.__cause__ = ValueError("x")
    assert user_error(mistake) is mistake


def test_a_full_disk_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    app = typer.Typer()

    @app.command()
    def command() -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "there/file")

    monkeypatch.setattr(sys, "argv", ["command"])
    with pytest.raises(SystemExit) as ended:
        errors.run(app)
    assert ended.value.code == 1
    assert capsys.readouterr().err == "error: there/file: No space left on device; free some.\n"


def test_arguments_of_an_environment_are_a_mapping(
    workspace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for given, message in (
        (["--env-config", "5", *KITCHEN], "--env-config: give a mapping such as '{ordered: false}', not '5'"),
        (["--env-config", "{ordered: false}"], "--env-config is of an environment to try the prior in: name one with"),
    ):
        assert run([*PRETRAIN, "data", *given], monkeypatch) == 1
        assert message in capsys.readouterr().err
