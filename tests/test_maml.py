"""MAML: its inner step and outer gradient by hand, what env runners meet, tiny runs, and new tasks."""

import itertools
import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from ray.rllib.env.single_agent_episode import SingleAgentEpisode
from torch import Tensor

from rllib_spirl import MAML, MAMLConfig, UserError
from rllib_spirl.algorithm.replay_buffer import Batch
from rllib_spirl.evaluation import adapting
from rllib_spirl.evaluation.restore import load_policy
from rllib_spirl.meta import adapting_env_runner
from rllib_spirl.meta.adapting_env_runner import Meeting
from rllib_spirl.meta.advantages import (
    baseline_features,
    discounted,
    fit_baseline,
    generalized_advantages,
    padded,
    transitions,
)
from rllib_spirl.meta.fine_tuning import FineTuning
from rllib_spirl.meta.gaussian_policy import LOG_STD_LEAST, GaussianPolicy
from rllib_spirl.meta.inner_step import adapted, inner_loss, log_probability, maml_loss
from tests.commands import run

POINT = "rllib_spirl/PointTasks-v0"


def line(slope: float, offset: float) -> GaussianPolicy:
    """N(slope·s + offset, 1)."""
    policy = GaussianPolicy(1, 1, hidden=1, layers=0, initial_std=1.0)
    with torch.no_grad():
        policy.mean[0].weight.fill_(slope)
        policy.mean[0].bias.fill_(offset)
    return policy


def taken(policy: GaussianPolicy, states: list[float], actions: list[float], advantages: list[float]) -> Batch:
    """Transitions whose actions were drawn from the policy as it is."""
    columns = {"observations": torch.tensor(states)[:, None], "actions": torch.tensor(actions)[:, None]}
    logp = log_probability(policy, dict(policy.named_parameters()), *columns.values()).detach()
    return columns | {"logp": logp, "advantages": torch.tensor(advantages), "counted": torch.ones(len(states))}


# The maths.


def test_the_inner_step_is_the_one_worked_out_by_hand() -> None:
    policy = line(0.5, 0.0)
    batch = taken(policy, [1.0, 2.0], [1.0, 0.0], [1.0, -1.0])
    # Means 0.5 and 1, so a − m is 0.5 and −1. With σ = 1 ∂ log π/∂m = a − m, and ∂ log π/∂ log σ = (a − m)² − 1.
    # Times the advantages, mean of two: slope (0.5·1 + 1·2)/2, offset (0.5 + 1)/2, log σ (−0.75 − 0)/2.
    stepped = adapted(policy, dict(policy.named_parameters()), batch, inner_lr=0.1)
    assert stepped["mean.0.weight"].item() == pytest.approx(0.5 + 0.1 * 1.25)
    assert stepped["mean.0.bias"].item() == pytest.approx(0.1 * 0.75)
    assert stepped["log_std"].item() == pytest.approx(-0.1 * 0.375)
    assert policy.mean[0].weight.item() == 0.5, "the policy itself is as it was"


def test_the_second_derivative_is_the_one_worked_out_by_hand() -> None:
    """One action before and one after, and the offset b alone: everything by hand.

    Before, b = 0 and a = 2 with A = 1: θ' = b + η A r(b) (a − b), with r(0) = 1, so θ'(0) = 0.2 for η = 0.1, and
    dθ'/db = 1 + η A ((a − b)² − 1) = 1.3. After, a = 1.2 with A = 1: the loss's derivative by θ' is −(a − θ') = −1.
    """
    policy = line(0.0, 0.0)
    for name, parameter in policy.named_parameters():
        parameter.requires_grad_(name == "mean.0.bias")
    before = taken(policy, [0.0], [2.0], [1.0])
    parameters = {"mean.0.bias": policy.mean[0].bias}
    stepped = adapted(policy, parameters, before, inner_lr=0.1)
    assert stepped["mean.0.bias"].item() == pytest.approx(0.2)
    after = taken(line(0.0, 0.2), [0.0], [1.2], [1.0])
    for first_order, slope in ((False, -1.3), (True, -1.0)):
        stepped = adapted(policy, parameters, before, inner_lr=0.1, first_order=first_order)
        loss = inner_loss(policy, stepped, after)  # without clipping where the ratio is 1
        (gradient,) = torch.autograd.grad(loss, policy.mean[0].bias)
        assert gradient.item() == pytest.approx(slope, rel=1e-5)


def family(policy: GaussianPolicy, tasks: int = 3, steps: int = 2, rows: int = 7) -> Batch:
    """Random transitions of some tasks, in float64, of which the last row of the first task is padding."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    shape = (tasks, steps + 1, rows)
    batch = {"observations": normal(*shape, 2), "actions": normal(*shape, 2), "advantages": normal(*shape)}
    parameters = dict(policy.named_parameters())
    logp = log_probability(policy, parameters, batch["observations"], batch["actions"]).detach()
    counted = torch.ones(*shape, dtype=torch.float64)
    counted[0, :, -1] = 0
    return batch | {"logp": logp + 0.05 * normal(*shape), "counted": counted}


def test_the_outer_gradient_is_that_of_finite_differences_and_first_order_is_another() -> None:
    torch.manual_seed(0)
    policy = GaussianPolicy(2, 2, hidden=5, layers=1, initial_std=0.8).double()
    batch = family(policy)

    def loss(first_order: bool = False) -> Tensor:
        return maml_loss(policy, batch, inner_lr=0.3, clip=0.2, first_order=first_order)[0]

    parameters = list(policy.parameters())
    exact = torch.autograd.grad(loss(), parameters)
    first = torch.autograd.grad(loss(first_order=True), parameters)
    assert loss().item() == loss(first_order=True).item()
    for parameter, gradient in zip(parameters, exact, strict=True):
        numeric = torch.empty_like(parameter)
        flat, step = parameter.data.view(-1), 1e-6
        for index in range(len(flat)):
            value = flat[index].item()
            flat[index] = value + step
            above = loss().item()
            flat[index] = value - step
            numeric.view(-1)[index] = (above - loss().item()) / (2 * step)
            flat[index] = value
        torch.testing.assert_close(gradient, numeric, rtol=1e-4, atol=1e-7)
    assert not all(torch.allclose(a, b, rtol=1e-2) for a, b in zip(exact, first, strict=True))


def test_a_task_is_adapted_to_by_itself_and_padding_counts_nothing() -> None:
    torch.manual_seed(0)
    policy = GaussianPolicy(2, 2, hidden=5, layers=1, initial_std=0.8).double()
    batch = family(policy)
    arguments: dict[str, Any] = {"inner_lr": 0.3, "clip": 0.2, "first_order": False}
    _, values = maml_loss(policy, batch, **arguments)
    for task in range(3):
        alone, _ = maml_loss(policy, {name: column[task : task + 1] for name, column in batch.items()}, **arguments)
        torch.testing.assert_close(values["outer_loss"][task], alone.detach())
    other = {name: column.clone() for name, column in batch.items()}
    other["actions"][0, :, -1] = 100.0
    other["advantages"][0, :, -1] = 100.0
    torch.testing.assert_close(maml_loss(policy, other, **arguments)[1]["outer_loss"], values["outer_loss"])
    shorter = {name: column[0, :, :-1] for name, column in batch.items()}
    tasks = [[{name: column[k] for name, column in shorter.items()} for k in range(3)]]
    tasks.append([{name: column[1, k] for name, column in batch.items()} for k in range(3)])
    joined = padded(tasks)
    assert joined["counted"].sum(-1).tolist() == [[6.0] * 3, [7.0] * 3]
    torch.testing.assert_close(maml_loss(policy, joined, **arguments)[1]["outer_loss"], values["outer_loss"][:2])


def test_advantages_are_those_worked_out_by_hand() -> None:
    assert discounted(np.array([1.0, 2.0, 4.0]), 0.5).tolist() == [3.0, 4.0, 4.0]
    # δ = [1 + 0.5·2 − 3, 2 + 0.5·1 − 2, 4 − 1] = [−1, 0.5, 3], and γλ = 0.25.
    found = generalized_advantages(np.array([1.0, 2.0, 4.0]), np.array([3.0, 2.0, 1.0]), 0.5, 0.5)
    assert found.tolist() == [-1 + 0.25 * 1.25, 0.5 + 0.75, 3.0]
    features = baseline_features(np.array([[2.0], [-20.0]]))
    np.testing.assert_allclose(features, [[2, 4, 0, 0, 0, 1], [-10, 100, 0.01, 1e-4, 1e-6, 1]])
    rng = np.random.default_rng(0)
    states = rng.normal(size=(50, 3))
    returns = 2 * states[:, 0] - states[:, 1] ** 2 + 3
    features = baseline_features(states)
    np.testing.assert_allclose(features @ fit_baseline(features, returns), returns, atol=1e-3)


def test_episodes_become_transitions_with_their_advantages() -> None:
    episodes = []
    for rewards in ([1.0, 0.0], [0.0, 0.0, 3.0]):
        episode = SingleAgentEpisode()
        episode.add_env_reset(np.zeros(2, np.float32))
        for step, reward in enumerate(rewards, 1):
            episode.add_env_step(
                np.full(2, step, np.float32),
                np.full(1, 0.1 * step, np.float32),
                reward,
                truncated=step == len(rewards),
                extra_model_outputs={"action_logp": -float(step)},
            )
        episodes.append(episode.to_numpy())
    batch = transitions(episodes, gamma=0.9, lambda_=1.0)
    assert batch["observations"][:, 0].tolist() == [0, 1, 0, 1, 2]
    assert batch["logp"].tolist() == [-1, -2, -1, -2, -3]
    assert batch["counted"].tolist() == [1] * 5
    assert batch["advantages"].mean().item() == pytest.approx(0, abs=1e-6)
    assert batch["advantages"].std(unbiased=False).item() == pytest.approx(1, abs=1e-5)
    # Returns are 1, 0 and 2.43, 2.7, 3 at the times 0, 1 and 0, 1, 2: with λ = 1 less than others' of the time is bad.
    assert batch["advantages"][0] < 0 < batch["advantages"][2]
    assert batch["advantages"][1] < 0 < batch["advantages"][3]


# The algorithm.

Maker = Callable[..., MAMLConfig]


@pytest.fixture
def config() -> Maker:
    """Makes a small configuration, with changes to the training settings."""

    def make(**training: Any) -> MAMLConfig:
        settings = {
            "training_tasks": [0, 90, 180],
            "test_tasks": [45, 135],
            "tasks_per_step": 2,
            "adaptation_episodes": 4,
            "policy_hidden": 16,
            "lr": 3e-3,
        }
        return (
            MAMLConfig()
            .environment(POINT, env_config={"max_episode_steps": 5})
            .env_runners(num_envs_per_env_runner=4)
            .training(**(settings | training))
            .evaluation(evaluation_interval=2, evaluation_duration=10)
            .debugging(seed=3, log_level="ERROR")
        )

    return make


def policy_of(algorithm: MAML) -> GaussianPolicy:
    return algorithm.learner_group._learner.module["default_policy"].policy


@pytest.mark.usefixtures("ray_session")
@pytest.mark.parametrize("first_order", [False, True])
def test_a_training_step_is_on_the_episodes_after_adaptation(config: Maker, first_order: bool, built: Any) -> None:
    algorithm = built(config(first_order=first_order, inner_steps=2).build_algo())
    before = {name: weight.clone() for name, weight in policy_of(algorithm).state_dict().items()}
    results = [algorithm.train() for _ in range(2)]
    # Two tasks, three times four episodes of five steps in each.
    assert [result["num_env_steps_sampled_lifetime"] for result in results] == [120, 240]
    assert any(not torch.equal(weight, before[name]) for name, weight in policy_of(algorithm).state_dict().items())
    acting = algorithm.env_runner.module.policy.state_dict()
    assert all(torch.equal(weight, acting[name]) for name, weight in policy_of(algorithm).state_dict().items())
    evaluation = results[-1]["evaluation"]
    last = [evaluation[f"episode_{i}"]["episode_return"] for i in (9, 10)]  # two of a third group of four
    assert evaluation["episode_return"] == pytest.approx(np.mean(last))
    assert evaluation["episodes"] == 4
    assert "evaluation" not in results[0]
    assert math.isfinite(results[-1]["learners"]["default_policy"]["outer_loss"])


@pytest.mark.usefixtures("ray_session")
def test_a_deviation_below_its_least_can_widen_again(config: Maker, built: Any) -> None:
    algorithm = built(config().build_algo())
    policy = policy_of(algorithm)
    with torch.no_grad():
        policy.log_std.fill_(LOG_STD_LEAST - 1)
    assert torch.autograd.grad(policy(torch.zeros(1, 2))[1].sum(), policy.log_std)[0].tolist() == [0, 0]
    algorithm.train()
    assert (policy.log_std >= LOG_STD_LEAST).all()
    assert torch.autograd.grad(policy(torch.zeros(1, 2))[1].sum(), policy.log_std)[0].tolist() == [1, 1]


@pytest.mark.usefixtures("ray_session")
def test_an_env_runner_adapts_to_a_task_and_is_then_what_it_was(config: Maker, built: Any) -> None:
    algorithm = built(config().build_algo())
    runner = algorithm.env_runner
    start = {name: weight.clone() for name, weight in runner.module.policy.state_dict().items()}
    (before, after), again = runner.run([Meeting(90, [1, 2]), Meeting(90, [1, 2])])
    assert all(torch.equal(before[name], again[0][name]) for name in before), "random numbers are the meeting's own"
    assert all(torch.equal(after[name], again[1][name]) for name in after)
    now = runner.module.policy.state_dict()
    assert all(torch.equal(weight, now[name]) for name, weight in start.items())
    policy = runner.module.policy
    parameters = {name: weight.detach() for name, weight in policy.named_parameters()}
    stepped = adapted(policy, parameters, before, inner_lr=algorithm.config.inner_lr)
    for batch, used in ((before, parameters), (after, stepped)):
        logp = log_probability(policy, used, batch["observations"], batch["actions"])
        torch.testing.assert_close(logp, batch["logp"], rtol=1e-4, atol=1e-4)
    assert len(before["counted"]) == 4 * 5


@pytest.mark.usefixtures("ray_session")
def test_a_run_that_is_restored_goes_on_as_if_it_had_not_stopped(config: Maker, tmp_path: Path, built: Any) -> None:
    first = built(config().build_algo())
    expected = [first.train() for _ in range(4)][-1]
    second = built(config().build_algo())
    for _ in range(2):
        second.train()
    third = built(MAML.from_checkpoint(second.save_to_path(str(tmp_path / "checkpoint"))))
    result = [third.train() for _ in range(2)][-1]
    weights, same = policy_of(first).state_dict(), policy_of(third).state_dict()
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    for name in ("num_env_steps_sampled_lifetime", "evaluation"):
        assert result[name] == expected[name]


@pytest.mark.slow
@pytest.mark.usefixtures("ray_session")
def test_remote_env_runners_meet_the_same(config: Maker, built: Any) -> None:
    local = built(config().build_algo())
    remote = built(config().env_runners(num_env_runners=2, num_envs_per_env_runner=4).build_algo())
    for algorithm in (local, remote):
        for _ in range(2):
            result = algorithm.train()
        assert result["num_env_steps_sampled_lifetime"] == 160
    weights, same = policy_of(local).state_dict(), policy_of(remote).state_dict()
    for name, weight in weights.items():
        torch.testing.assert_close(same[name], weight, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"training_tasks": []}, "MAML needs `training_tasks`: add a `tasks:` section"),
        ({"test_tasks": [90]}, "`test_tasks`: '90' is a training task"),
        ({"inner_steps": 0}, "`inner_steps` must be a whole number, at least 1, got 0"),
        ({"inner_lr": 0}, "`inner_lr` must be a number greater than 0, got 0"),
        ({"lambda_": 1.5}, "`lambda_` must be in \\[0, 1\\], got 1.5"),
        ({"policy_hidden": 0}, "`policy_hidden` must be a whole number, at least 1, got 0"),
        ({"gamma": 1.5}, "`gamma` must be in \\[0, 1\\], got 1.5"),
        ({"eval_seed": -1}, "`eval_seed` must be a whole number, at least 0, got -1"),
        (
            {"train_batch_size_per_learner": 9},
            "MAML has no use for `train_batch_size_per_learner`: set `tasks_per_step`",
        ),
        ({"adaptation_episodes": 3}, "`num_envs_per_env_runner` must be from 1 to adaptation_episodes, 3"),
        (
            {"adaptation_episodes": 10},
            "`evaluation_duration` \\(10\\) must be more than `adaptation_episodes` \\(10\\)",
        ),
        ({"inner_steps": 3}, "`adaptation_episodes` \\([0-9]+\\) for each of `inner_steps` \\(3\\)"),
        (
            {"tasks_per_step": 20, "minibatch_size": 15},
            "`minibatch_size` \\(15\\) must divide `tasks_per_step` \\(20\\)",
        ),
        ({"shuffle_batch_per_epoch": True}, "MAML has no use for `shuffle_batch_per_epoch`: leave it out"),
    ],
)
def test_settings_that_make_no_sense_are_refused(config: Maker, training: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config(**training).validate()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": None}, "MAML needs `training_tasks`: add a `tasks:` section"),
        ({"tasks": {"training": [10], "test": [10.0]}}, "'10.0' is a training task"),
        ({"skills": {"chunk": 1}}, "'skills' is for algorithms that use skills \\(SPiRL\\), not MAML"),
        ({"env": "CartPole-v1"}, "MAML in CartPole-v1 needs observations and actions that are flat boxes"),
        ({"env": "Pendulum-v1"}, "Pendulum-v1 has one task only"),
        ({"config": {"inner_rate": 1}}, "unknown key 'inner_rate'"),
        ({"config": {"evaluation_duration_unit": "timesteps"}}, "set `evaluation_duration` to a number"),
        ({"config": {"evaluation_config": {"explore": False}}}, "in evaluations too: leave out `explore`"),
        ({"config": {"explore": False}}, "MAML has no use for `explore`: it learns from what it explores"),
        ({"config": {"batch_mode": "truncate_episodes"}}, "MAML has no use for `batch_mode`"),
        (
            {"config": {"model_config": {"fcnet_hiddens": [9]}}},
            "MAML has no use for `model_config`: set `policy_hidden`",
        ),
        ({"config": {"num_learners": 2}}, "MAML trains with one learner, got num_learners=2"),
    ],
)
@pytest.mark.usefixtures("no_ray")
def test_mistakes_in_an_experiment_are_refused_at_the_start(
    changes: Any, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = {"run": "MAML", "env": POINT, "tasks": {"training": [10, 90]}, "storage_path": str(tmp_path)}
    file = tmp_path / "point.yaml"
    file.write_text(yaml.safe_dump({"point": experiment | changes}))
    assert run(["rllib", "train", "file", str(file)], monkeypatch) == 1
    assert re.search(message, capfd.readouterr().err.splitlines()[-1])


# A new task.


@pytest.fixture(scope="module")
def checkpoint(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Of a run of one iteration."""
    algorithm = (
        MAMLConfig()
        .environment(POINT, env_config={"max_episode_steps": 5})
        .training(training_tasks=[0, 90], test_tasks=[45], tasks_per_step=2, adaptation_episodes=2)
        .debugging(log_level="ERROR")
        .build_algo()
    )
    algorithm.train()
    saved = algorithm.save_to_path(str(tmp_path_factory.mktemp("maml") / "checkpoint"))
    algorithm.stop()
    return str(saved)


def test_the_first_episodes_in_new_tasks_are_written_down(
    checkpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["spirl", "adapt", checkpoint, "--episodes", "5", "--output", str(tmp_path)]
    assert run([*command, "--task", "45", "--task", "135"], monkeypatch) == 0
    assert any(line.startswith("mean of 2 tasks  episode 5") for line in capsys.readouterr().out.splitlines())
    document = json.loads((tmp_path / "adaptation.json").read_text())
    assert {task: set(seeds) for task, seeds in document["MAML"].items()} == {"45.0": {"0"}, "135.0": {"0"}}
    curve = document["MAML"]["45.0"]["0"]
    assert [episode for episode, _ in curve] == [1, 2, 3, 4, 5]
    source = adapting.adaptable(checkpoint)
    assert source.test_tasks == [45]
    again = adapting.adapt(source, [45.0], episodes=5)
    assert again["45.0"] == [tuple(point) for point in curve]


@pytest.mark.usefixtures("ray_session")
def test_no_inner_step_is_taken_of_which_nothing_comes(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[float] = []

    def counted(*arguments: Any, inner_lr: float) -> Any:
        steps.append(inner_lr)
        return adapted(*arguments, inner_lr=inner_lr)

    monkeypatch.setattr(adapting_env_runner, "adapted", counted)
    algorithm = MAML.from_checkpoint(checkpoint)
    try:
        config, runner = algorithm.config, algorithm.env_runner
        runner.run([Meeting(45.0, range(config.inner_steps + 1))])
        assert steps == [config.inner_lr] * config.inner_steps
        steps.clear()
        list(runner.meet(45.0, (config.inner_steps + 2) * config.adaptation_episodes, itertools.count()))
        assert steps == [config.inner_lr] * config.inner_steps + [config.inner_lr / 2]
    finally:
        algorithm.stop()


def test_what_is_for_other_checkpoints_is_one_clear_line(checkpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    source = adapting.adaptable(checkpoint)
    with pytest.raises(UserError, match="of MAML: leave --fine-tune-after out"):
        adapting.adapt(source, [45.0], episodes=2, fine_tuning=FineTuning(after=1))
    with pytest.raises(UserError, match="of MAML: leave --follow-after out"):
        adapting.adapt(source, [45.0], episodes=2, follow_after=1)
    with pytest.raises(UserError, match="of MAML: leave --told-by-demonstrations out"):
        adapting.adapt(source, [45.0], episodes=2, told_by_demonstrations=True)
    with pytest.raises(UserError, match=r"'0.0' is a task that .* was trained on"):
        adapting.check_tasks(source, [0])
    with pytest.raises(UserError, match="of MAML, of many tasks: use `spirl adapt`"):
        load_policy(checkpoint)


@pytest.mark.usefixtures("ray_session")
def test_the_outer_learning_rate_follows_its_schedule(config: Maker, built: Any) -> None:
    algorithm = built(config(lr=[[0, 1e-3], [100, 1e-4]]).build_algo())
    optimizer = algorithm.learner_group._learner.get_optimizer("default_policy")
    rates = []
    while algorithm.train()["num_env_steps_sampled_lifetime"] < 200:
        rates.append(optimizer.param_groups[0]["lr"])
    algorithm.train()
    assert rates == sorted(rates, reverse=True)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1e-4)


@pytest.mark.long
@pytest.mark.usefixtures("ray_session")
def test_one_step_goes_where_the_episodes_before_it_have_shown_the_goal_to_be(built: Any) -> None:
    algorithm = built(
        MAMLConfig()
        .environment(POINT)
        .env_runners(num_envs_per_env_runner=10)
        .training(
            training_tasks=[9 * i for i in range(21)],
            test_tasks=[22.5, 85.5, 157.5],
            tasks_per_step=21,
            initial_std=0.5,
            lr=3e-3,
        )
        .debugging(seed=0, log_level="ERROR")
        .build_algo()
    )

    def returns() -> tuple[float, float]:
        """Mean of ten episodes before and of ten after an inner step, in directions never trained on."""
        runner = algorithm.env_runner
        tasks = algorithm.config.test_tasks
        found = [[r.episode_return for r in runner.meet(task, 20, iter([1, 2]))] for task in tasks]
        return float(np.mean([each[:10] for each in found])), float(np.mean([each[10:] for each in found]))

    untrained = returns()
    for _ in range(12):
        algorithm.train()
    before, after = returns()
    assert after > before + 5
    assert after > max(untrained) + 5
