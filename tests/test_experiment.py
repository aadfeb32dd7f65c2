"""Experiment files: reading, overrides, search spaces, and every mistake named in one line."""

from pathlib import Path

import pytest
import yaml
from ray.rllib.callbacks.callbacks import RLlibCallback
from ray.tune.search.sample import Domain

from rllib_spirl import SPiRL
from rllib_spirl.algorithm.episode_end import EpisodeEnd
from rllib_spirl.cli import algorithms, look, training
from rllib_spirl.cli.experiment import load
from rllib_spirl.cli.metrics import check_metrics, lookup
from rllib_spirl.cli.prepare import SkillsSection
from rllib_spirl.cli.progress import StopAt
from rllib_spirl.envs.skill_env import try_env
from rllib_spirl.envs.tasks import check_split
from rllib_spirl.errors import UserError

TUNED_EXAMPLES = Path(__file__).parent.parent / "tuned_examples"

PPO = """
cart:
  run: PPO
  env: CartPole-v1
  stop: {env_steps: 2e5}
  local_dir: results
  checkpoint_config: {num_to_keep: 2}
  config:
    lr: 3e-4
    num_env_runners: 0
    train_batch_size_per_learner: 1e3
    model_config: {fcnet_hiddens: [16]}
    evaluation_config: {explore: false}
"""


@pytest.fixture
def write(tmp_path: Path):
    def _write(text: str, name: str = "x.yaml") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return _write


def test_each_path_of_a_choice_is_absolute(tmp_path: Path) -> None:
    (tmp_path / "skills").mkdir()
    file = tmp_path / "point.yaml"
    choices = {"choice": ["skills", "s3://bucket/skills", "nowhere"]}
    file.write_text(yaml.safe_dump({"point": {"run": "SPiRL", "env": "x", "config": {"skill_checkpoint": choices}}}))
    (experiment,) = load(file)
    found = experiment.found(experiment.config["skill_checkpoint"])
    assert found.categories == [str(tmp_path / "skills"), "s3://bucket/skills", "nowhere"]


def test_a_file_becomes_a_checked_experiment(write, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (cart,) = load(write(PPO))
    assert (cart.name, cart.run, cart.env) == ("cart", "PPO", "CartPole-v1")
    assert cart.stop == {"env_steps": 200_000.0}
    assert cart.storage_path == str(tmp_path / "results")  # the old name, made absolute for Tune
    assert cart.checkpoint_config == {"num_to_keep": 2, "checkpoint_at_end": True}
    space = algorithms.param_space(cart)
    assert space["lr"] == pytest.approx(3e-4)  # YAML 1.1 would say it is text
    assert space["train_batch_size_per_learner"] == 1000
    assert isinstance(space["train_batch_size_per_learner"], int)
    config = algorithms.validate(cart, space)
    assert config.model_config["fcnet_hiddens"] == [16]
    assert config.env == "CartPole-v1"


def test_overrides_reach_every_experiment_and_stop_is_replaced(write):
    path = write(PPO + PPO.replace("cart:", "other:"))
    both = load(
        path,
        overrides=["config.lr=1e-4", "skills.pretrain.epochs=2", "config.env_config.tasks=[a, b]"],
        stops=["training_iteration=3", "env_steps=1_000"],
    )
    assert [e.name for e in both] == ["cart", "other"]
    for e in both:
        assert e.config["lr"] == pytest.approx(1e-4)
        assert e.skills == {"pretrain": {"epochs": 2}}
        assert e.config["env_config"] == {"tasks": ["a", "b"]}
        assert e.stop == {"training_iteration": 3, "env_steps": 1000}
        assert e.given["config"]["lr"] == pytest.approx(1e-4)


def test_experiments_of_a_file_can_be_chosen(write):
    path = write("\n".join(f"{name}: {{run: PPO, env: CartPole-v1}}" for name in ("first", "second", "third")))
    assert [e.name for e in load(path, only=["third", "first"])] == ["first", "third"]
    with pytest.raises(UserError, match=r"has no experiment 'secnd'.*second"):
        load(path, only=["secnd"])


def test_search_spaces_survive_to_the_param_space(write):
    text = PPO.replace("lr: 3e-4", "lr: {grid_search: [1e-3, 1e-4]}\n    gamma: {uniform: [0.9, 0.99]}")
    (cart,) = load(write(text), overrides=["config.model_config.fcnet_hiddens={choice: [[8], [16]]}"])
    space = algorithms.param_space(cart)
    assert space["lr"] == {"grid_search": [1e-3, 1e-4]}
    assert "seed" not in space
    assert isinstance(space["gamma"], Domain)
    assert isinstance(space["_model_config"]["fcnet_hiddens"], Domain)
    config = algorithms.validate(cart, space)
    assert config.lr == 1e-3
    assert 0.9 <= config.gamma <= 0.99


def test_samples_without_a_seed_have_one_each(write):
    spaces = []
    for change in ("num_samples=3", "num_samples=3 config.seed=7"):
        (cart,) = load(write(PPO), overrides=change.split())
        spaces.append(algorithms.param_space(cart))
    assert isinstance(spaces[0]["seed"], Domain)
    assert spaces[1]["seed"] == 7
    seeds = {next(algorithms.variants(spaces[0]))["seed"] for _ in range(3)}
    assert len(seeds) == 3


@pytest.mark.parametrize("name", ["APPO", "DQN", "IMPALA", "PPO", "SAC"])
def test_built_in_algorithms_are_accepted(name, write):
    env = "Pendulum-v1" if name == "SAC" else "CartPole-v1"
    (experiment,) = load(write(f"a: {{run: {name}, env: {env}, config: {{num_env_runners: 1}}}}"))
    assert algorithms.validate(experiment, algorithms.param_space(experiment)).num_env_runners == 1


MISTAKES = [  # (what --set or --stop says, what the one line must contain)
    ("stpo={a: 1}", ["cart", "'stpo'", "'stop'"]),
    ("run=PPPO", ["run: 'PPPO'", "'PPO'"]),
    ("run=null", ["'run' is missing"]),
    ("run=3", ["'run' must be"]),
    ("env=CartPole-v7", ["'CartPole-v7'", "CartPole-v"]),
    ("env=null", ["'env' is missing"]),
    ("config.lrr=1", ["config", "'lrr'", "'lr'"]),
    ("config.gamma=high", ["config.gamma", "number", "'high'"]),
    ("config.gamma=true", ["config.gamma", "number"]),
    ("config.explore=5", ["config.explore", "true or false"]),
    ("config.env_config=5", ["config.env_config", "mapping"]),
    ("config.num_workers=2", ["'num_workers'", "'num_env_runners'"]),
    ("config.model={}", ["'model'", "'model_config'"]),
    ("config.enable_rl_module_and_learner=false", ["old API stack"]),
    ("config.model_config.fcnet_hidens=[4]", ["model_config", "'fcnet_hidens'", "'fcnet_hiddens'"]),
    ("config.evaluation_config.explor=false", ["evaluation_config", "'explor'", "'explore'"]),
    ("config.gym_env_vectorize_mode=whole", ["config", "gym_env_vectorize_mode"]),
    ("config.lr={uniform: [2, 1]}", ["config.lr", "lower < upper"]),
    ("config.lr={loguniform: [0, 1]}", ["above 0"]),
    ("config.lr={uniform: 3}", ["'uniform' takes a list"]),
    ("config.lr={uniform: [0, .inf]}", ["'uniform' takes 2 numbers"]),
    ("config.lr={quniform: [0.1, 0.5, 0]}", ["'quniform' rounds to a step above 0, not 0"]),
    ("skills.pretrain.lr={uniform: [1, 2]}", ["search spaces belong in 'config'"]),
    ("stop.env_steps=lots", ["stop", "'env_steps'", "number", "'lots'"]),
    ("num_samples=0", ["'num_samples'"]),
    ("checkpoint_config.num_to_kep=1", ["'num_to_kep'", "'num_to_keep'"]),
    ("checkpoint_config.num_to_keep=0", ["num_to_keep"]),
    ("scheduler=ashaa", ["'ashaa'", "'asha'"]),
    ("scheduler_config={a: 1}", ["without 'scheduler'"]),
    ("storage_path=[1]", ["'storage_path'"]),
    ("time_budget_s=-1", ["'time_budget_s'", "positive"]),
    ("config", ["--set config", "path.to.key=value"]),
    ("config.lr.x=1", ["'config.lr' is a value"]),
    ("config.lr=[1", ["--set config.lr", "not valid YAML"]),
]


@pytest.mark.parametrize(("change", "words"), MISTAKES, ids=[change for change, _ in MISTAKES])
def test_each_mistake_is_one_line(change, words, write):
    def check():
        (cart,) = load(write(PPO), overrides=[change])
        algorithms.validate(cart, algorithms.param_space(cart))
        training.scheduler(cart)

    with pytest.raises(UserError) as caught:
        check()
    message = str(caught.value)
    for word in words:
        assert word in message
    assert "\n" not in message.strip()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["holds no experiment"]),
        ("[1, 2]", ["holds no experiment"]),
        ("a: 5", ["'a' is not an experiment"]),
        ("a: {run: PPO", ["line 1", "not valid YAML"]),
        ("a:\n  run: PPO\n  run: SAC\n", ["line 3", "'run' appears twice"]),
        ("a: {run: !!python/name:os.system }", ["not valid YAML"]),
        ("a/b: {run: PPO}", ["'a/b' cannot name an experiment"]),
    ],
)
def test_broken_files(text, words, write):
    path = write(text)
    with pytest.raises(UserError) as caught:
        load(path)
    assert str(path) in str(caught.value)
    assert all(word in str(caught.value) for word in words)


def test_missing_file_names_its_neighbour(write, tmp_path):
    write(PPO, "kitchen.yaml")
    with pytest.raises(UserError, match=r"kitchn.yaml does not exist; did you mean 'kitchen.yaml'"):
        load(tmp_path / "kitchn.yaml")


@pytest.mark.parametrize("stop", ["env_steps", "=5", "env_steps=lots", "env_steps=true"])
def test_stop_takes_metric_and_number(stop, write):
    with pytest.raises(UserError, match="--stop"):
        load(write(PPO), stops=[stop])


@pytest.mark.parametrize("key", ["callbacks", "callbacks_class"])
def test_callbacks_of_other_algorithms_stay(write, key):
    name = "ray.rllib.callbacks.callbacks.RLlibCallback"
    (cart,) = load(write(PPO), overrides=[f"config.{key}={name}"])
    config = algorithms.validate(cart, algorithms.param_space(cart))
    assert config.callbacks_class == [EpisodeEnd, RLlibCallback]
    with pytest.raises(UserError, match=r"config.callbacks: 'nowhere.Mine' cannot be imported"):
        algorithms.param_space(load(write(PPO), overrides=[f"config.{key}=nowhere.Mine"])[0])


def test_merged_experiments_do_not_share_settings(write):
    text = (
        "a: &a\n  run: PPO\n  env: CartPole-v1\n  config: &c {lr: 1e-3}\nb:\n  <<: *a\n  config: {<<: *c, gamma: 0.9}\n"
    )
    a, b = load(write(text), overrides=["config.env_config.x=1"])
    assert "gamma" not in a.config
    assert b.config["lr"] == 1e-3
    a.config["env_config"]["x"] = 2
    assert b.config["env_config"]["x"] == 1


def test_stop_takes_env_steps_for_any_algorithm_and_refuses_unknown_metrics():
    result = {"num_env_steps_sampled_lifetime": 300, "env_runners": {"episode_return_mean": float("nan")}}
    assert lookup(result, "env_steps") == 300
    assert lookup(result, "env_runners/episode_return_mean") is None
    assert StopAt({"env_steps": 300}, "f: a", "a")("t", result)
    assert not StopAt({"env_steps": 301, "evaluation/completed_subtasks": 0}, "f: a", "a")("t", result)
    wrong = StopAt({"env_stps": 5}, "f: a", "a")
    assert not wrong.stop_all()
    wrong("t", result)
    assert wrong.stop_all()
    assert "'env_stps'; did you mean 'env_steps'" in wrong.mistake


def test_a_resumed_run_gets_the_newest_stop():
    import pickle

    before = pickle.dumps(StopAt({"env_steps": 100}, "f: a", "resumed"))
    newest = StopAt({"env_steps": 200}, "f: a", "resumed")
    assert pickle.loads(before) is newest


def test_skills_are_made_and_named_in_the_config(write, monkeypatch, tmp_path):
    import sys
    from types import ModuleType, SimpleNamespace

    from ray.rllib.algorithms.ppo import PPO as Base
    from ray.rllib.algorithms.ppo import PPOConfig

    class Config(PPOConfig):
        def __init__(self, algo_class=None):
            super().__init__(algo_class)
            self.skill_checkpoint, self.offline_data = None, None

    class Skilled(Base):
        @classmethod
        def get_default_config(cls):
            return Config(cls)

    calls = []

    def prepare_skills(skills, *, places, env, env_config):
        calls.append((skills, places, env, env_config))
        return SimpleNamespace(checkpoint="/skills/a", data="/data/a")

    module = ModuleType("rllib_spirl.cli.prepare")
    module.prepare_skills = prepare_skills
    monkeypatch.setitem(sys.modules, "rllib_spirl.cli.prepare", module)
    (tmp_path / "pyproject.toml").touch()
    (cart,) = load(write(PPO), overrides=["skills.data=recipe.yaml", "config.env_config.tasks=[a]"])
    with pytest.raises(UserError, match="not PPO"):
        look.surroundings(cart, {})
    monkeypatch.setattr(algorithms, "algorithm_class", lambda experiment: Skilled)
    ready = training.with_skills(cart)
    assert calls == [({"data": "recipe.yaml"}, cart.places, "CartPole-v1", {"tasks": ["a"]})]
    assert ready.config["skill_checkpoint"] == "/skills/a"
    assert ready.config["offline_data"] == "/data/a"


@pytest.mark.parametrize("example", sorted(TUNED_EXAMPLES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_tuned_example_is_valid(example: Path) -> None:
    """Keys, types, values and environments are; the skills it names are made when it runs."""
    for experiment in load(example):
        space = algorithms.param_space(experiment)
        algorithms.validate(experiment, space, without_skills=True)
        assert experiment.stop
        if experiment.skills:
            SkillsSection.model_validate(experiment.skills)
            if "data" in experiment.skills:
                assert (TUNED_EXAMPLES.parent / experiment.skills["data"]).exists()
        if "training_tasks" in space:
            env = try_env(space["env"], space.get("env_config", {}))
            check_split(env, space["training_tasks"], space["test_tasks"])


def test_skills_and_data_are_found_from_the_working_directory_of_a_trial(write, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for place in ("beside/skills", "here/data", "here/other"):
        (tmp_path / place).mkdir(parents=True)
    config = (
        "{skill_checkpoint: skills, offline_data: {grid_search: [data, ../here/other, nowhere, 's3://bucket/data']}}"
    )
    text = f"mine: {{run: SPiRL, env: rllib_spirl/Kitchen-v0, config: {config}}}"
    (experiment,) = load(write(text, "beside/x.yaml"))
    space = algorithms.param_space(experiment)
    assert Path(space["skill_checkpoint"]) == tmp_path / "beside/skills"
    data, other, *rest = space["offline_data"]["grid_search"]
    assert Path(data) == tmp_path / "here/data"
    assert Path(other).is_absolute()
    assert Path(other).samefile(tmp_path / "here/other")
    assert rest == ["nowhere", "s3://bucket/data"]
    assert experiment.given["config"]["skill_checkpoint"] == "skills", "what is compared with a run to resume"


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("config.num_env_runners={grid_search: [0, 7]}", "needs 8 CPUs .* has 2; lower config.num_env_runners .now 7"),
        ("resources_per_trial={cpu: 3}", "needs 3 CPUs .* has 2; lower resources_per_trial, or give --ray-num-cpus 3"),
        ("config.num_gpus_per_learner=1", "needs 1 GPUs and this Ray has 0; set config.num_gpus_per_learner: 0"),
    ],
)
def test_each_trial_must_fit_before_anything_starts(write, monkeypatch, override, message):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    (experiment,) = load(write(PPO))
    training.check_resources(experiment)
    (experiment,) = load(write(PPO), overrides=[override])
    with pytest.raises(UserError, match=message):
        training.check_resources(experiment)


def test_a_run_is_not_resumed_beside_itself(write, tmp_path):
    (experiment,) = load(write(PPO), overrides=[f"local_dir={tmp_path}"])
    with (
        training.in_its_folder(experiment, resume=False),
        training.in_its_folder(experiment, resume=False),
        pytest.raises(UserError, match=r"--resume: another command trains in .*; wait for its end, or stop it"),
        training.in_its_folder(experiment, resume=True),
    ):
        raise AssertionError
    with training.in_its_folder(experiment, resume=True):
        pass


def test_resources_of_a_trial_are_those_that_there_are(write, monkeypatch):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0, "arm": 1.0})
    (experiment,) = load(write(PPO), overrides=["resources_per_trial={cpu: 1, arm: 1}"])
    training.check_resources(experiment)
    (experiment,) = load(write(PPO), overrides=["resources_per_trial={cpus: 2}"])
    with pytest.raises(UserError, match="resources_per_trial: this Ray has no 'cpus'; did you mean 'cpu'"):
        training.check_resources(experiment)
    (experiment,) = load(write(PPO), overrides=["resources_per_trial={cpu: 1}", "config.num_env_runners=0"])
    training.check_bundles(experiment)
    (experiment,) = load(write(PPO), overrides=["resources_per_trial={cpu: 1}", "config.num_env_runners=2"])
    with pytest.raises(UserError, match=r"is of one process, and a trial has 3 here \(config.num_env_runners: 2\)"):
        training.check_bundles(experiment)


@pytest.mark.parametrize("example", ["kitchen", "kitchen_meta", "kitchen_pearl", "kitchen_maml"])
def test_skills_that_are_still_to_be_made_do_not_hide_what_a_trial_needs(monkeypatch, example):
    monkeypatch.setattr("ray.cluster_resources", lambda: {"CPU": 2.0})
    for experiment in load(example):
        training.check_resources(experiment)
    (experiment, *_) = load(example, overrides=["config.num_env_runners=64"])
    with pytest.raises(UserError, match=r"needs 65 CPUs and this Ray has 2; lower config.num_env_runners"):
        training.check_resources(experiment)


def test_a_misspelt_metric_of_evaluations_is_told(write):
    text = (
        "mine: {run: SPiRL, env: rllib_spirl/Kitchen-v0, config: {evaluation_interval: 1}, stop: {METRIC: 4}, "
        "skills: {data: d}}"
    )
    for metric in ("completed_subtasks", "success", "subtask_rate/kettle", "episode_2/episode_return"):
        (experiment,) = load(write(text.replace("METRIC", f"evaluation/{metric}")))
        assert check_metrics(experiment, SPiRL, lambda: ("success",)) == []
    (experiment,) = load(write(text.replace("METRIC", "evaluation/completed_subtask")))
    (warning,) = check_metrics(experiment, SPiRL, lambda: ("success",))
    assert "no result has 'evaluation/completed_subtask'; did you mean 'evaluation/completed_subtasks'?" in warning
