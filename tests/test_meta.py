"""Learning to learn: tasks, their context, the learner of many of them, and what a new task is met with."""

import importlib
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
import torch
import yaml

from rllib_spirl import MetaSPiRL, MetaSPiRLConfig, SPiRL, SPiRLConfig, UserError
from rllib_spirl.algorithm.offline import offline_replay
from rllib_spirl.algorithm.replay_buffer import COLUMNS, Batch, SkillReplay, successive
from rllib_spirl.algorithm.spirl_learner import with_prior
from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.envs.kitchen import KitchenEnv
from rllib_spirl.envs.point_tasks import PointTasksEnv
from rllib_spirl.envs.rollout import skill_random
from rllib_spirl.envs.skill_env import make_skill_env
from rllib_spirl.envs.tasks import canonical, check_split
from rllib_spirl.evaluation import adaptation_curves, adapting
from rllib_spirl.evaluation.restore import load_policy
from rllib_spirl.meta.adaptation import Acquaintance, episode_seeds
from rllib_spirl.meta.context_encoder import ContextEncoder, divergence_from_unit
from rllib_spirl.meta.fine_tuning import FineTuning
from rllib_spirl.meta.meeting import meet
from rllib_spirl.meta.meta_learner import meta_loss
from rllib_spirl.meta.task_env_runner import EXPLORED, TASK
from rllib_spirl.meta.task_replay import TaskDemonstrations, TaskReplay, task_demonstrations
from rllib_spirl.meta.task_rl_module import MUCH
from rllib_spirl.skills.checkpoint import load_skills
from rllib_spirl.skills.chunks import chunk_config, save_chunks
from rllib_spirl.skills.model import SkillModel
from tests.commands import run
from tests.sets import opened

POINT = "rllib_spirl/PointTasks-v0"
KITCHEN = "rllib_spirl/Kitchen-v0"
# Of an entropy of −2/2 for actions within bounds.
ENTROPY = 2 * (math.log(2) + 0.5)


@pytest.fixture(scope="module")
def chunks(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Skills of two actions."""
    return str(save_chunks(tmp_path_factory.mktemp("chunks"), chunk_config(2, 2, horizon=2)))


@pytest.fixture(scope="module")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Walks of the point robot in some directions, with rewards that mean nothing here."""
    path = tmp_path_factory.mktemp("walks") / "data"
    rng = np.random.default_rng(0)
    with TrajectoryWriter(path, fps=10) as writer:
        for angle in rng.uniform(0, math.pi, 12):
            ahead = np.array([np.cos(angle), np.sin(angle)])
            actions = np.clip(ahead + rng.normal(0, 0.2, (20, 2)), -0.95, 0.95)
            states = np.concatenate([np.zeros((1, 2)), 0.1 * actions.cumsum(0)])
            writer.add(Episode(states, actions, rng.normal(size=20), False, True, "walk"))
    return path


Maker = Callable[..., MetaSPiRLConfig]


@pytest.fixture
def config(chunks: str) -> Maker:
    """Makes a small configuration, with changes to the training settings."""

    def make(**training: Any) -> MetaSPiRLConfig:
        settings = {
            "skill_checkpoint": chunks,
            "training_tasks": [10, 90, 170],
            "test_tasks": [50, 130],
            "skill_bound": 1.0,
            "regularize_to": "uniform",
            "context_dim": 3,
            "context_hidden": 16,
            "context_size": 16,
            "much_context": 10,
            "exploring_tasks": 1,
            "solved_tasks": 3,
            "policy_hidden": 16,
            "critic_hidden": 16,
            "critic_members": 2,
            "train_batch_size_per_learner": 8,
            "warmup_steps": 40,
            "offline_updates": 4,
            "replay_capacity": 500,
            "tasks_per_step": 1,
        }
        return (
            MetaSPiRLConfig()
            .environment(POINT, env_config={"max_episode_steps": 10})
            .training(**(settings | training))
            .reporting(min_sample_timesteps_per_iteration=20)
            .evaluation(evaluation_interval=2, evaluation_duration=3)
            .debugging(seed=3, log_level="ERROR")
        )

    return make


def module(algorithm: SPiRL) -> Any:
    return algorithm.learner_group._learner.module["default_policy"]


# The tasks.


def test_a_task_of_the_kitchen_holds_from_the_next_reset_on() -> None:
    env = KitchenEnv(["microwave", "kettle"])
    env.reset(seed=0)
    env.set_task(["kettle", "light switch", "top burner"])
    info = env.step(np.zeros(9))[-1]
    assert list(info["subtasks"]) == ["microwave", "kettle"]
    state = env.get_state()
    _, info = env.reset(seed=0)
    assert list(info["subtasks"]) == ["kettle", "light switch", "top burner"] == env.get_task()
    env.set_state(state)
    assert list(env.step(np.zeros(9))[-1]["subtasks"]) == ["microwave", "kettle"]
    tasks = env.sample_tasks(20)
    assert all(len(set(task)) == 4 for task in tasks)
    env.set_task(tasks[0])


def test_the_point_robot_is_rewarded_at_its_goal_only() -> None:
    dense, sparse = PointTasksEnv(), PointTasksEnv(sparse=True)
    for env, first, last in ((dense, -0.9, 0.0), (sparse, 0.0, 1.0)):
        env.set_task(0)
        env.reset(seed=0)
        steps = [env.step(np.array([1.0, 0.0])) for _ in range(10)]
        assert steps[0][1] == pytest.approx(first)
        assert steps[-1][1] == pytest.approx(last)
        states = np.array([[0, 0], *(step[0] for step in steps)])
        np.testing.assert_allclose(env.relabel(states)[0], [step[1] for step in steps], atol=1e-6)
    assert not any(step[2] or step[3] for step in steps)
    twin = PointTasksEnv(sparse=True)
    twin.set_state(sparse.get_state())
    assert twin.step(np.ones(2))[1:4] == sparse.step(np.ones(2))[1:4]
    assert all(0 <= task <= 180 for task in sparse.sample_tasks(10))


@pytest.mark.parametrize(
    ("env", "training", "test", "message"),
    [
        (KITCHEN, [["kettle", "microwav"]], [], "unknown subtask 'microwav'.*did you mean 'microwave'"),
        (KITCHEN, [["kettle", "kettle"]], [], "each once"),
        (KITCHEN, [4], [], "a task is a list of subtasks, not 4"),
        (KITCHEN, [["kettle"], ["kettle"]], [], "training: 'kettle' is there twice"),
        (POINT, [90], [45, 45.0], "test: '45.0' is there twice"),
        (KITCHEN, [["kettle"]], ["kettle"], "test: 'kettle' is a training task"),
        (POINT, [30, 200], [], "a direction from 0 to 180 degrees, not 200"),
        (POINT, [30], [30.0], "test: '30.0' is a training task"),
        ("CartPole-v1", [30], [], "CartPole-v1 has one task only: an environment of many has sample_tasks"),
    ],
)
def test_tasks_that_are_not_there_or_not_apart_are_refused(env: str, training: Any, test: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        check_split(gym.make(env), training, test)


def test_contexts_that_do_not_fit_name_their_own_setting(tmp_path: Path) -> None:
    contexts = TaskReplay([90], 10, 2, 2, seed=0)
    contexts.of[0].add(successive(torch.zeros(11, 2), torch.zeros(10, 2), torch.zeros(10), False))
    contexts.save(tmp_path)
    with pytest.raises(UserError, match=r"this one only 4\. Set context_capacity to at least 10"):
        TaskReplay([90], 4, 2, 2, seed=0, sized_by="context_capacity").restore(tmp_path)


EXPERIMENT = {
    "run": "MetaSPiRL",
    "env": POINT,
    "skills": {"chunk": 1},
    "stop": {"env_steps": 100},
    "tasks": {"training": [10, 90], "test": [50]},
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": None}, "MetaSPiRL needs `training_tasks`: add a `tasks:` section"),
        ({"tasks": {"test": [50]}}, "tasks: 'training' is missing"),
        ({"tasks": {"training": [10], "tests": [5]}}, "tasks: unknown key 'tests'; did you mean 'test'"),
        ({"tasks": {"training": 10}}, "tasks: 'training' must be a list of tasks, not 10"),
        ({"tasks": {"training": [10], "test": [10]}}, "'10' is a training task"),
        ({"tasks": {"training": [10], "test": [10.0]}}, "'10.0' is a training task"),
        ({"tasks": {"training": [10, 190]}}, "tasks: PointTasks: a task is a direction"),
        ({"tasks": "nowhere.yaml"}, "tasks: nowhere.yaml does not exist"),
        (
            {"tasks": {"training": [["ketle"]]}, "env": KITCHEN},
            "unknown subtask 'ketle' in tasks; did you mean 'kettle",
        ),
        ({"run": "SPiRL"}, "'tasks' is for algorithms that learn from many tasks \\(MetaSPiRL, MAML\\), not SPiRL"),
        ({"training": [10]}, "unknown key 'training'; did you mean 'tasks.training'"),
        ({"skills": {"chunk": 1, "checkpoint": "x"}}, "`chunk` makes its own skills"),
    ],
)
@pytest.mark.usefixtures("no_ray")
def test_mistakes_in_an_experiment_are_refused_at_the_start(
    changes: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "point.yaml"
    file.write_text(yaml.safe_dump({"point": EXPERIMENT | {"storage_path": str(tmp_path)} | changes}))
    assert run(["rllib", "train", "file", str(file)], monkeypatch) == 1
    (line,) = capfd.readouterr().err.splitlines()
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"policy": "copied"}, "needs `policy` 'residual'"),
        ({"context_size": 0}, "`context_size` must be a whole number, at least 1, got 0"),
        ({"exploring_divergence": 0}, "`exploring_divergence` must be a number greater than 0"),
        ({"test_tasks": [90]}, "`test_tasks`: '90' is a training task"),
        ({"context_hidden": 0}, "`context_hidden` must be a whole number, at least 1, got 0"),
        ({"context_capacity": 9}, r"`much_context` \(10\) must not be more than `context_capacity` \(9\)"),
        ({"solving_episodes": 0}, "`solving_episodes` must be a whole number, at least 1, got 0"),
        ({"exploring_episodes": 3}, r"`evaluation_duration` \(3\) must be more than `exploring_episodes` \(3\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: Maker, training: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**training).validate()


@pytest.mark.parametrize(
    ("exploring", "size", "lengths", "kept"),
    [
        (1, 8, [3], [0, 1, 2]),
        (1, 8, [3, 3], [0, 1, 2, 3, 4, 5]),
        (1, 8, [3, 3, 4], [0, 1, 2, 5, 6, 7, 8, 9]),  # the newest of the others
        (2, 8, [3, 3, 1], [0, 1, 2, 3, 4, 5, 6]),
        (2, 8, [3, 4, 4], [0, 1, 2, 3, 4, 5, 6, 10]),
        (2, 4, [4, 6, 4], [0, 3, 6, 9]),  # all exploring ones have a part
        (1, 4, [10], [0, 3, 6, 9]),
        (1, 4, [10, 10], [0, 3, 6, 9]),
        (0, 4, [3, 3], [2, 3, 4, 5]),
    ],
)
def test_a_context_is_of_all_exploring_episodes_and_the_newest_others(
    exploring: int, size: int, lengths: list[int], kept: list[int]
) -> None:
    met = Acquaintance.__new__(Acquaintance)
    met.exploring_episodes, met.context_size, met.known = exploring, size, None
    rewards = torch.arange(float(sum(lengths))).split(lengths)
    met.episodes = [{"rewards": each} for each in rewards]
    context = met._context()
    assert context is not None
    assert context["rewards"].tolist() == kept


def test_evaluations_that_explore_throughout_are_refused(config: Maker) -> None:
    with pytest.raises(ValueError, match="explores in its first `exploring_episodes`"):
        config().evaluation(evaluation_config={"explore": True}).validate()
    with pytest.raises(ValueError, match="MetaSPiRL has no use for `rollout_fragment_length`: set `tasks_per_step`"):
        config().env_runners(rollout_fragment_length=4).validate()
    with pytest.raises(ValueError, match="explores in whole episodes: leave `batch_mode` out"):
        config().env_runners(batch_mode="complete_episodes").validate()
    with pytest.raises(ValueError, match="explores in whole episodes: leave `explore` out"):
        config().env_runners(explore=False).validate()


@pytest.mark.usefixtures("ray_session")
def test_the_experience_of_other_tasks_is_refused(config: Maker, tmp_path: Path, built: Any) -> None:
    algorithm = built(config().build_algo())
    algorithm.train()
    saved = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    other = built(config(training_tasks=[10, 170, 90]).build_algo())
    with pytest.raises(UserError, match=r"is of the task '90.0', this run's of '170.0'\. Use"):
        other.restore_from_path(saved)


def test_where_an_episode_begins_says_nothing_about_its_embedding() -> None:
    begun, noise = [], []
    for seed in range(2000):
        begun.append(np.random.default_rng(seed).uniform(size=2))
        noise.append(skill_random(seed).standard_normal(2))
    correlations = np.corrcoef(np.array(begun).T, np.array(noise).T)[:2, 2:]
    assert np.abs(correlations).max() < 0.1


def test_a_task_at_which_an_environment_fails_is_one_line() -> None:
    class Raising(PointTasksEnv):
        def set_task(self, task: Any) -> None:
            if task == 5:
                raise KeyError(task)
            super().set_task(task)

    with pytest.raises(UserError, match=r"^Raising has no task 5: KeyError: 5$"):
        canonical(Raising(), 5)


# The context.


def test_a_context_says_the_same_in_any_order_and_nothing_when_it_is_empty() -> None:
    encoder = ContextEncoder(7, 3, hidden=16, layers=2)
    context = torch.randn(4, 20, 7)
    belief = encoder(context, torch.ones(4, 20))
    other = encoder(context[:, torch.randperm(20)], torch.ones(4, 20))
    torch.testing.assert_close(other.mean, belief.mean)
    torch.testing.assert_close(other.stddev, belief.stddev)
    counted = (torch.arange(20) < torch.tensor([[20], [5], [1], [0]])).float()
    part = encoder(context, counted)
    torch.testing.assert_close(part.mean[1], encoder(context[1, :5], torch.ones(5)).mean)
    assert part.mean[3].tolist() == [0, 0, 0]
    assert part.stddev[3].tolist() == [1, 1, 1]
    divergences = divergence_from_unit(part)
    assert divergences[3].item() == 0
    assert (part.stddev[0] < part.stddev[2]).all(), "more transitions narrow the belief"
    unit = torch.distributions.Normal(0.0, 1.0)
    torch.testing.assert_close(divergences, torch.distributions.kl_divergence(part, unit).sum(-1))


@pytest.mark.usefixtures("ray_session")
def test_where_demonstrations_went_on_after_the_task_is_no_context(config: Maker, built: Any) -> None:
    ours = module(built(config().build_algo()))
    context = {
        "states": torch.randn(5, 2),
        "z": torch.randn(5, 4),
        "rewards": torch.randn(5),
        "next_states": torch.randn(5, 2),
        "terminated": torch.tensor([0.0, 0.0, 1.0, 0.0, 0.0]),
    }
    belief = ours.belief(context)
    for row, same in ((2, True), (1, False)):
        other = context["next_states"].clone()
        other[row] += 1
        assert torch.equal(ours.belief(context | {"next_states": other}).mean, belief.mean) == same


# The learner.


@pytest.mark.usefixtures("ray_session")
def test_each_kind_of_task_logs_its_own_divergence(config: Maker, built: Any) -> None:
    algorithm = built(config(exploring_divergence=0.1, target_divergence=2.0).build_algo())
    algorithm.train()
    ours, batch = module(algorithm), algorithm._columns(1, 0.5)
    minibatch = {name: column[0] for name, column in batch.items()}
    with torch.no_grad():
        ours.log_alpha.copy_(torch.tensor([0.5, 0.25]).log())
    learner = algorithm.learner_group._learner
    settings = learner.config.get_config_for_module("default_policy")
    minibatch = with_prior(ours, minibatch)
    torch.manual_seed(0)
    _, values = meta_loss(ours, minibatch, **learner._arguments(ours, settings, minibatch))
    assert (values["exploring_alpha"].item(), values["alpha"].item()) == pytest.approx((0.5, 0.25))
    assert values["exploring_kl"] != values["kl"]
    learned = algorithm.train()["learners"]["default_policy"]
    assert {"kl", "exploring_kl", "alpha", "exploring_alpha"} <= learned.keys()


@pytest.mark.usefixtures("ray_session")
def test_e_is_to_tell_training_tasks_apart(config: Maker, built: Any) -> None:
    """By a cross-entropy over them, of the tasks with much context."""
    algorithm = built(config(task_weight=0.5).build_algo())
    algorithm.train()  # the warm-up
    assert 0 <= algorithm.train()["learners"]["default_policy"]["tasks_told"] <= 1
    ours, learner = module(algorithm), algorithm.learner_group._learner
    minibatch = with_prior(ours, {name: column[0] for name, column in algorithm._columns(1, 0.5).items()})
    settings = learner.config.get_config_for_module("default_policy")
    arguments = learner._arguments(ours, settings, minibatch)
    assert arguments["task_weight"] == 0.5
    torch.nn.init.zeros_(ours.task_classifier.weight)
    with torch.no_grad():
        ours.task_classifier.bias.copy_(torch.arange(len(algorithm.config.training_tasks)))
    with_it, _ = meta_loss(ours, minibatch, **arguments)
    without, _ = meta_loss(ours, minibatch, **arguments | {"task_weight": 0.0})
    solved = minibatch["task"][minibatch["kind"] == MUCH]
    expected = -ours.task_classifier.bias.log_softmax(0)[solved].mean()
    assert (with_it - without).item() == pytest.approx(0.5 * expected.item(), rel=1e-4)
    assert not hasattr(module(built(config(task_weight=0.0).build_algo())), "task_classifier")


@pytest.mark.usefixtures("ray_session")
def test_without_an_embedding_an_update_is_that_of_spirl(config: Maker, chunks: str, built: Any) -> None:
    training = {"context_dim": 0, "exploring_tasks": 0, "solved_tasks": 1, "target_divergence": 1.0}
    meta = built(config(**training).build_algo())
    names = ("policy_hidden", "critic_hidden", "critic_members", "policy_tau")
    settings = {name: getattr(meta.config, name) for name in names}
    plain = built(
        SPiRLConfig()
        .environment(POINT)
        .training(
            skill_checkpoint=chunks,
            skill_bound=1.0,
            regularize_to="uniform",
            target_divergence=1.0,
            train_batch_size_per_learner=8,
            **settings,
        )
        .build_algo()
    )
    ours, theirs = module(meta), module(plain)
    theirs.load_state_dict({name: w for name, w in ours.state_dict().items() if "log" not in name}, strict=False)
    rng = torch.Generator().manual_seed(0)
    batch = {
        "states": torch.randn(24, 2, generator=rng),
        "z": torch.randn(24, 4, generator=rng),
        "rewards": torch.randn(24, generator=rng),
        "next_states": torch.randn(24, 2, generator=rng),
        "terminated": torch.zeros(24),
    }
    torch.manual_seed(0)
    plain._update_on(batch, 3)
    torch.manual_seed(0)
    many = {name: column.unflatten(0, (3, 8)) for name, column in batch.items()}
    meta._update_on(many | {"kind": torch.ones(3, 1, dtype=torch.long)}, 3)
    for name, weight in theirs.state_dict().items():
        found = ours.state_dict()[name]
        torch.testing.assert_close(found[1] if name == "log_alpha" else found, weight, rtol=1e-5, atol=1e-6)


@pytest.mark.usefixtures("ray_session")
def test_the_encoder_learns_from_the_critics_alone(config: Maker, built: Any) -> None:
    algorithm = built(config().build_algo())
    results = [algorithm.train() for _ in range(4)]
    assert results[-1]["env_steps"] > results[0]["env_steps"]
    assert results[-1]["updates"] > 10
    assert all(len(replay) > 0 for replay in algorithm.replay.of)
    kept = len(algorithm.contexts)
    assert len(algorithm.replay) / 2 <= kept < len(algorithm.replay), "contexts are of exploring episodes only"
    evaluation = results[-1]["evaluation"]
    assert evaluation["episode_return"] == evaluation["episode_3"]["episode_return"]
    assert evaluation["episodes"] == 2
    learner, batch = algorithm.learner_group._learner, algorithm._columns(1, 0.5)
    minibatch = {name: column[0] for name, column in batch.items()}
    ours, settings = module(algorithm), learner.config.get_config_for_module("default_policy")
    with torch.no_grad():
        ours.log_context_weight.fill_(-40.0)  # leaves the critics' loss
        for parameter in ours.critic.parameters():
            parameter.zero_()
    ours.zero_grad(set_to_none=True)
    learner._loss("default_policy", ours, settings, with_prior(ours, minibatch), log=False).backward()
    assert all(p.grad is None or p.grad.abs().max() < 1e-12 for p in ours.encoder.parameters())
    assert any(p.grad is not None and p.grad.abs().max() > 0 for p in ours.policy.parameters())


@pytest.mark.usefixtures("ray_session")
def test_what_acts_is_the_latest_policy_with_its_embedding(config: Maker, built: Any) -> None:
    algorithm = built(config().build_algo())
    for _ in range(3):
        algorithm.train()
    acting = algorithm.env_runner._policy
    for observed in np.random.default_rng(0).normal(size=(4, 5)):
        wanted, _ = module(algorithm).skills(torch.tensor(observed[None], dtype=torch.float32))
        mean, std = acting._skills(observed)
        np.testing.assert_allclose(mean, wanted.mean[0].detach(), atol=1e-5)
        np.testing.assert_allclose(std, wanted.stddev[0].detach(), atol=1e-5)
    other = acting._skills(np.array([0, 0, 2.0, 2, 2]))[0]
    assert np.abs(acting._skills(np.zeros(5))[0] - other).max() > 0


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_is_restored_goes_on_as_if_it_had_not_stopped(
    config: Maker, walks: Path, tmp_path: Path, built: Any
) -> None:
    given = config(offline_data=str(walks))
    first = built(given.build_algo())
    expected = [first.train() for _ in range(6)][-1]
    second = built(given.build_algo())
    for _ in range(3):
        second.train()
    third = built(MetaSPiRL.from_checkpoint(second.save_to_path(str(tmp_path / "checkpoint"))))
    result = [third.train() for _ in range(3)][-1]
    weights, same = module(first).state_dict(), module(third).state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    for name in ("env_steps", "updates", "evaluation"):
        assert result[name] == expected[name]


@pytest.mark.usefixtures("ray_session")
def test_remote_env_runners_get_the_tasks_dealt_out(config: Maker, built: Any) -> None:
    algorithm = built(config().env_runners(num_env_runners=1).build_algo())
    results = [algorithm.train() for _ in range(3)]
    assert results[-1]["env_steps"] > results[0]["env_steps"] > 0
    assert sum(len(replay) > 0 for replay in algorithm.replay.of) >= 2
    algorithm._sample()  # env runners take the latest policy with the next request
    (acting,) = algorithm.env_runner_group.foreach_env_runner(
        lambda runner: runner.module.encoder.state_dict(), local_env_runner=False
    )
    learned = module(algorithm).encoder.state_dict()
    assert all(torch.equal(learned[name], acting[name]) for name in learned)


@pytest.mark.usefixtures("ray_session")
def test_several_episodes_solve_a_task_after_one_that_explores(config: Maker, built: Any) -> None:
    algorithm = built(config(tasks_per_step=2, solving_episodes=3).build_algo())
    while not all(map(len, algorithm.contexts.of)):  # of what is not known yet there is no context
        algorithm.train()
    found = [(episode.custom_data[TASK], episode.custom_data[EXPLORED]) for episode in algorithm._sample()]
    (first, _), (second, _) = found[0], found[4]
    assert found == [(first, True), *[(first, False)] * 3, (second, True), *[(second, False)] * 3]


def test_where_a_recording_ends_a_value_does_but_not_the_task() -> None:
    """To values what is after it is worth nothing; a context says what an agent's would."""
    rows = {"states": torch.zeros(6, 2), "next_states": torch.zeros(6, 2), "z": torch.zeros(6, 1)}
    rows |= {name: torch.zeros(6) for name in ("rewards", "terminated")}
    task = torch.zeros(6, 1)
    ends, done = torch.tensor([0.0, 1, 0, 0, 1, 1])[:, None], torch.tensor([0.0, 1, 0, 0, 0, 0])[:, None]
    made = TaskDemonstrations(rows | {"task_rewards": task, "task_terminated": ends, "task_done": done}, horizon=1)
    assert made.of_task(0).sample_run(6, 6)["terminated"].sum() == 1
    assert made.of_task(0).sample(600)["terminated"].mean() == pytest.approx(0.5, abs=0.1)


def test_demonstrations_have_the_rewards_of_every_task(walks: Path, chunks: str, tmp_path: Path) -> None:
    model, _ = load_skills(chunks)
    env = PointTasksEnv()
    tasks = [0.0, 120.0]
    together = task_demonstrations(opened(walks), model, env, tasks, 100_000)
    for index, task in enumerate(tasks):
        env.set_task(task)
        alone = offline_replay(opened(walks), model, env, 100_000)
        rows = together.of_task(index).counting
        assert 0 < len(alone) == len(rows)
        torch.testing.assert_close(together.task_rewards[rows, index], alone._columns["rewards"])
        torch.testing.assert_close(together.task_terminated[rows, index], alone._columns["terminated"])
        for name in ("states", "next_states"):
            assert torch.equal(together._columns[name][rows], alone._columns[name])
    together.save(tmp_path / "demonstrations.safetensors")
    again = TaskDemonstrations.load(tmp_path / "demonstrations.safetensors", 2, 4)
    batch, same = together.of_task(1).sample(9), again.of_task(1).sample(9)
    assert all(torch.equal(batch[name], same[name]) for name in COLUMNS)
    assert torch.equal(again.task_done, together.task_done)


def test_demonstrations_too_short_for_skills_to_be_replayed_are_one_line(walks: Path) -> None:
    """Rewards are negative, so that a window counts only if another one follows: episodes have 20 steps."""
    model = SkillModel(chunk_config(2, 2, horizon=15))
    with pytest.raises(UserError, match=r"no episode .* skills of 15 steps to be replayed in task 0\.0"):
        task_demonstrations(opened(walks), model, PointTasksEnv(), [0.0], 100_000)
    with pytest.raises(UserError, match=r"no episode is long enough for .* replayed\. Set"):
        offline_replay(opened(walks), model, PointTasksEnv(), 100_000)


def test_demonstrations_that_are_not_kept_whole_are_refused(config: Maker, walks: Path, built: Any) -> None:
    algorithm = built(config(replay_capacity=10, warmup_steps=10, offline_data=str(walks)).build_algo())
    enough = -(-opened(walks).num_frames // 3)
    with pytest.raises(UserError, match=rf"3 tasks .* hold 30. Set replay_capacity to at least {enough}"):
        _ = algorithm.offline


def test_a_context_is_a_run_of_transitions(walks: Path, chunks: str) -> None:
    replay = SkillReplay(10, 1, 1)
    for first in (0, 6, 12):  # the ring has gone round: 8 to 17 are left
        numbers = torch.arange(first, first + 6.0)
        columns = {"states": numbers[:, None], "z": numbers[:, None], "next_states": numbers[:, None]}
        replay.add(columns | {"rewards": numbers, "terminated": numbers})
    runs = torch.stack([replay.sample_run(4, 6)["rewards"][:4] for _ in range(200)])
    assert (runs.diff(dim=1) == 1).all()
    assert set(runs[:, 0].tolist()) == set(range(8, 15))
    model, _ = load_skills(chunks)
    demonstrations = task_demonstrations(opened(walks), model, PointTasksEnv(), [0.0], 100_000)
    batch = demonstrations.of_task(0).sample_run(5, 5)
    follows = (batch["states"][1:] == batch["next_states"][:-1]).all(1)
    assert follows.sum() >= 3, "but where one recording ends and another begins"


# A new task.


@pytest.fixture(scope="module")
def checkpoint(chunks: str, walks: Path, ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run of two iterations."""
    algorithm = (
        MetaSPiRLConfig()
        .environment(POINT, env_config={"max_episode_steps": 10})
        .training(
            skill_checkpoint=chunks,
            offline_data=str(walks),
            training_tasks=[10, 90],
            test_tasks=[50],
            context_dim=2,
            context_size=8,
            much_context=4,
            policy_hidden=16,
            critic_hidden=16,
            train_batch_size_per_learner=4,
            warmup_steps=10,
            offline_updates=2,
        )
        .reporting(min_sample_timesteps_per_iteration=10)
        .debugging(log_level="ERROR")
        .build_algo()
    )
    algorithm.train()
    saved = algorithm.save_to_path(str(tmp_path_factory.mktemp("meta") / "checkpoint"))
    algorithm.stop()
    return str(saved)


def test_the_first_episodes_in_new_tasks_are_written_down(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["spirl", "adapt", checkpoint, "--episodes", "4", "--output", str(tmp_path)]
    assert run([*command, "--task", "50", "--task", "130"], monkeypatch) == 0
    assert (
        run(
            [*command, "--seed", "1", "--exploring", "2", "--fine-tune-after", "2", "--first-updates", "9"], monkeypatch
        )
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert any(line.startswith("mean of 2 tasks  episode 4") for line in lines)
    document = json.loads((tmp_path / "adaptation.json").read_text())
    assert set(document) == {"MetaSPiRL"}
    assert {task: set(seeds) for task, seeds in document["MetaSPiRL"].items()} == {"50.0": {"0", "1"}, "130.0": {"0"}}
    curve = document["MetaSPiRL"]["50.0"]["1"]
    assert [episode for episode, _ in curve] == [1, 2, 3, 4]
    assert all(-20 < score < 0 for _, score in curve)
    again = adapting.adapt(adapting.adaptable(checkpoint), [50.0], episodes=4, seed=0)
    assert again["50.0"] == [tuple(point) for point in document["MetaSPiRL"]["50.0"]["0"]]


def test_an_interrupted_adaptation_goes_on_with_the_tasks_that_are_missing(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, short = [(1, -5.0), (2, -4.0)], [(1, -5.0)]
    adaptation_curves.add(tmp_path, "MetaSPiRL", 0, {"50.0": whole, "130.0": short})
    command = ["spirl", "adapt", checkpoint, "--task", "50", "--task", "130", "--output", str(tmp_path), "--resume"]
    assert run([*command, "--episodes", "2"], monkeypatch) == 0
    lines = capsys.readouterr().out.splitlines()
    assert f"{tmp_path} has 1 of 2 tasks already" in lines
    assert [line for line in lines if line.startswith("50.0  episode")] == []
    curves = adaptation_curves.present(tmp_path, "MetaSPiRL", 0)
    assert curves["50.0"] == whole
    assert [episode for episode, _ in curves["130.0"]] == [1, 2]
    mean = (whole[1][1] + curves["130.0"][1][1]) / 2
    assert f"mean of 2 tasks  episode 2  {mean:.4g}" in lines
    # What another run begins to replace is not taken for its own when that goes on.
    monkeypatch.setattr(adaptation_curves, "add", lambda *_: pytest.fail("interrupted"))
    with pytest.raises(pytest.fail.Exception, match="interrupted"):
        run([*command[:-1], "--episodes", "2"], monkeypatch)
    assert not (tmp_path / "adaptation.json").exists()
    monkeypatch.undo()
    for task, points in curves.items():
        adaptation_curves.add(tmp_path, "MetaSPiRL", 0, {task: points})
    assert run([*command, "--episodes", "2", "--videos"], monkeypatch) == 0
    assert adaptation_curves.present(tmp_path, "MetaSPiRL", 0) == curves
    assert f"{tmp_path} has 2 of 2 tasks already" in capsys.readouterr().out.splitlines()


class DrawnPoint(PointTasksEnv):
    """The point robot with a picture that tells how often it has been drawn."""

    drawn = 0
    metadata: ClassVar = {"render_modes": ["rgb_array"], "render_fps": 10}

    def __init__(self, render_mode: str | None = None, **settings: Any) -> None:
        super().__init__(**settings)
        self.render_mode = render_mode

    def render(self) -> Any:
        type(self).drawn += 1
        return np.full((64, 64, 3), self.drawn, np.uint8)


@pytest.mark.usefixtures("ray_session")
def test_the_last_episode_in_a_new_task_is_filmed(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("imageio_ffmpeg")
    monkeypatch.setattr("rllib_spirl.envs.point_tasks.PointTasksEnv", DrawnPoint)
    command = ["spirl", "adapt", checkpoint, "--episodes", "3", "--task", "50", "--output", str(tmp_path)]
    assert run([*command, "--videos"], monkeypatch) == 0
    filmed = json.loads((tmp_path / "adaptation.json").read_text())
    assert DrawnPoint.drawn == 7  # to try; at first, and every second of ten steps
    video = tmp_path / "50.0.mp4"
    assert f"video  {video}" in capsys.readouterr().out.splitlines()
    pictures, seconds = importlib.import_module("imageio_ffmpeg").count_frames_and_secs(str(video))
    assert (pictures, seconds) == (16, pytest.approx(1.6, abs=0.1))  # the last one is held for a second
    assert run(command, monkeypatch) == 0
    assert json.loads((tmp_path / "adaptation.json").read_text()) == filmed
    assert adapting.film_of(Path("films"), ["microwave", "top burner"]) == Path("films/microwave, top burner.mp4")


def test_gradient_steps_in_a_new_task_begin_when_they_are_wanted(checkpoint: str) -> None:
    """For each skill of the episodes before, and then for those of each episode."""

    def counts(fine_tuning: FineTuning | None) -> tuple[list[int], list[float]]:
        """After each episode the gradient steps so far; and the episodes' scores."""
        algorithm = MetaSPiRL.from_checkpoint(checkpoint)
        steps, found, scores, update_on = 0, [], [], algorithm._update_on

        def update(columns: Batch, batches: int) -> None:
            nonlocal steps
            assert columns["rewards"].shape == (batches, 3)
            steps += batches
            update_on(columns, batches)

        algorithm._update_on = update
        with closing(make_skill_env(algorithm.env_runner.config.env_config)) as env:
            for result in meet(algorithm, env, 50.0, episodes=4, seed=0, fine_tuning=fine_tuning):
                found.append(steps)
                scores.append(result.episode_return)
        algorithm.stop()
        return found, scores

    skills = 5  # of an episode
    none, plain = counts(None)
    assert none == [0, 0, 0, 0]
    frozen, still = counts(FineTuning(2, updates_per_step=0, first_updates=0, batch_size=3))
    assert frozen == [0, 0, 0, 0]
    learning, tuned = counts(FineTuning(2, updates_per_step=2, first_updates=0, batch_size=3))
    assert learning == [0, 0, 2 * 2 * skills, 3 * 2 * skills]
    assert plain[:2] == still[:2] == tuned[:2]
    assert still[3] != tuned[3]
    more, _ = counts(FineTuning(2, updates_per_step=2, batch_size=3, first_updates=7))
    assert more == [0, 0, 7 + 2 * 2 * skills, 7 + 3 * 2 * skills]


@pytest.mark.parametrize(("every", "drawn"), [(0, []), (1, [1, 2, 3, 4, 5, 6]), (2, [1, 3, 5]), (4, [1, 5])])
def test_in_one_of_so_many_episodes_skills_are_drawn(every: int, drawn: list[int]) -> None:
    learning = FineTuning(2, explore_every=every)
    assert [episode for episode in range(1, 7) if learning.explores(episode)] == drawn


def test_a_task_can_be_told_by_demonstrations_with_its_rewards(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    episodes: list[tuple[Any, bool]] = []

    run_with = Acquaintance.run_with

    def noted(met: Acquaintance, e: Any, *arguments: Any, explore: bool) -> Any:
        episodes.append((e, explore))
        return run_with(met, e, *arguments, explore=explore)

    monkeypatch.setattr(Acquaintance, "run_with", noted)
    source, learning = adapting.adaptable(checkpoint), FineTuning(1, first_updates=2, batch_size=4)
    adapting.adapt(source, [50.0, 130.0], episodes=3, told_by_demonstrations=True, fine_tuning=learning)
    assert not any(explore for _, explore in episodes)
    told = [e for e, _ in episodes]
    assert all(np.array_equal(e, told[0]) for e in told[:3])
    assert all(np.array_equal(e, told[3]) for e in told[3:])
    assert not np.array_equal(told[0], told[3])
    monkeypatch.setattr(MetaSPiRLConfig, "uses_demonstrations", False)
    with pytest.raises(UserError, match="--told-by-demonstrations: the checkpoint has not learned from any"):
        adapting.adapt(source, [50.0], episodes=3, told_by_demonstrations=True)


def test_what_a_checkpoint_cannot_do_is_refused_before_it_is_restored(
    checkpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapting, "_restore", lambda *_: pytest.fail("restored"))
    source = adapting.adaptable(checkpoint)
    with pytest.raises(UserError, match="--follow-after 1: the first 1 episodes explore"):
        adapting.adapt(source, [50.0], episodes=3, follow_after=1)
    source.config["context_dim"] = 0
    with pytest.raises(UserError, match="`context_dim` is 0, so nothing is told; leave it out"):
        adapting.adapt(source, [50.0], episodes=3, told_by_demonstrations=True)
    source.config["offline_fraction"] = 0
    with pytest.raises(UserError, match="the checkpoint has not learned from any"):
        adapting.adapt(source, [50.0], episodes=3, told_by_demonstrations=True)


def test_a_task_that_is_named_twice_is_met_once(checkpoint: str) -> None:
    assert adapting.check_tasks(adapting.adaptable(checkpoint), [50, 130, 50.0]) == [50.0, 130.0]


def test_what_was_learned_in_a_task_is_gone_in_the_next(checkpoint: str) -> None:
    source, learning = adapting.adaptable(checkpoint), FineTuning(1, updates_per_step=4, first_updates=0, batch_size=4)
    both = adapting.adapt(source, [130.0, 50.0], episodes=4, fine_tuning=learning)
    assert both["50.0"] == adapting.adapt(source, [50.0], episodes=4, fine_tuning=learning)["50.0"]
    assert both["50.0"] != adapting.adapt(source, [50.0], episodes=4)["50.0"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--updates-per-step", "2"], "are of learning on: add --fine-tune-after"),
        (["--no-demonstrations"], "are of learning on: add --fine-tune-after"),
        (["--updates-per-step", "nan", "--fine-tune-after", "2"], "must be a number from 0 on, got nan"),
        (["--told-by-demonstrations", "--exploring", "2"], "no episode explores; leave one of them out"),
        (["--fine-tune-after", "20"], "--fine-tune-after 20: there are 20 episodes in all; ask for more --episodes"),
    ],
)
def test_options_of_learning_on_are_checked_first(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["spirl", "adapt", "nowhere", *options], monkeypatch) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("wrong", [{"after": -3}, {"first_updates": -5}, {"explore_every": -1}, {"batch_size": 0}])
def test_learning_on_needs_numbers_that_can_be(wrong: dict[str, int]) -> None:
    [(name, value)] = wrong.items()
    with pytest.raises(UserError, match=f"^fine_tuning: `{name}` must be at least [01], got {value}"):
        FineTuning(**{"after": 1} | wrong)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["kettle"], "a direction from 0 to 180 degrees, not 'kettle'"),
        ([90.0], "'90.0' is a task that .* was trained on; name another one, or add --trained-on-too"),
    ],
)
def test_tasks_that_cannot_be_adapted_to_are_one_clear_line(checkpoint: str, tasks: Any, message: str) -> None:
    source = adapting.adaptable(checkpoint)
    with pytest.raises(UserError, match=message):
        adapting.check_tasks(source, tasks)
    assert adapting.check_tasks(source, [90], trained_on_too=True) == [90.0]
    assert adapting.check_tasks(source, []) == [50.0]


@pytest.mark.usefixtures("ray_session")
def test_checkpoints_of_the_other_kind_are_one_clear_line(checkpoint: str, chunks: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="of MetaSPiRL, of many tasks: use `spirl adapt`"):
        load_policy(checkpoint)
    plain = SPiRLConfig().environment(POINT).training(skill_checkpoint=chunks).build_algo()
    saved = plain.save_to_path(str(tmp_path / "plain"))
    plain.stop()
    with pytest.raises(UserError, match="is a checkpoint of SPiRL; expected one of MetaSPiRL"):
        adapting.adaptable(saved)


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_two_goals_are_told_apart_after_one_episode(seed: int, tmp_path: Path, built: Any) -> None:
    """PEARL in miniature: the second episode in either task goes the right way, whichever way the first one went."""
    algorithm = built(
        MetaSPiRLConfig()
        .environment(POINT)
        .training(
            skill_checkpoint=str(save_chunks(tmp_path, chunk_config(2, 2))),
            training_tasks=[0, 180],
            skill_bound=1.0,
            regularize_to="uniform",
            target_divergence=ENTROPY,
            kl_in_target=True,
            exploring_tasks=0,
            solved_tasks=2,
            context_dim=2,
            context_size=20,
            context_capacity=200,
            context_hidden=32,
            critic_members=2,
            critic_hidden=64,
            policy_hidden=64,
            policy_tau=0.02,
            tau=0.02,
            policy_lr=1e-3,
            critic_lr=1e-3,
            initial_context_weight=0.01,
            skill_candidates=1,
            gamma=0.8,
            initial_alpha=0.2,
            warmup_steps=400,
            updates_per_step=0.5,
        )
        .reporting(min_sample_timesteps_per_iteration=800)
        .debugging(seed=seed, log_level="ERROR")
        .build_algo()
    )

    def second_returns() -> Iterator[float]:
        for task, first in itertools.product((0.0, 180.0), (seed, seed + 50)):
            runner, config = algorithm.env_runner, algorithm.config
            met = Acquaintance(
                runner._evaluation_env, runner.module, task, config.exploring_episodes, config.context_size
            )
            seeds = episode_seeds(first, task)
            met.run(next(seeds))
            yield met.run(next(seeds)).episode_return

    for _ in range(10):
        algorithm.train()
        if min(second_returns()) > -14:  # the best is -5.2; who stays at the start has -20, who goes wrong -35
            return
    pytest.fail("after 8,000 steps they are not told apart")
