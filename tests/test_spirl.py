"""The algorithm as a whole, on a point mass: it samples, learns, saves, restores and refuses nonsense."""

import copy
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from ray.tune.registry import register_env

from rllib_spirl import SPiRL, SPiRLConfig
from rllib_spirl.algorithm.offline import offline_replay
from rllib_spirl.algorithm.skill_env_runner import SkillEnvRunner
from rllib_spirl.algorithm.spirl_learner import Compiled, spirl_loss, with_prior
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.errors import UserError
from rllib_spirl.skills.checkpoint import load_skills
from tests.point import PointEnv
from tests.sets import load, opened

pytestmark = pytest.mark.usefixtures("ray_session")
Maker = Callable[..., SPiRLConfig]


@pytest.fixture
def config(point_settings: dict[str, Any]) -> Maker:
    """Makes a small configuration, with changes to the training settings."""

    def make(**training: Any) -> SPiRLConfig:
        return (
            SPiRLConfig()
            .environment("point", env_config={"limit": 40})
            .training(**(point_settings | training))
            .env_runners(rollout_fragment_length=8)
            .reporting(min_sample_timesteps_per_iteration=24)
            .evaluation(evaluation_interval=2, evaluation_duration=3)
            .debugging(seed=3, log_level="ERROR")
        )

    return make


@pytest.fixture
def algorithm(config: Maker) -> Any:
    built = config().build_algo()
    yield built
    built.stop()


def module(algorithm: SPiRL) -> Any:
    return algorithm.learner_group._learner.module["default_policy"]


def test_the_policy_starts_as_the_prior(algorithm: SPiRL, point_skills: str) -> None:
    states = torch.randn(16, 2)
    policy, kl = module(algorithm).skills(states)
    prior = load_skills(point_skills)[0].prior(states)
    assert kl.abs().max().item() == 0
    assert torch.equal(policy.mean, prior.mean)
    assert torch.equal(policy.stddev, prior.stddev)
    assert torch.equal(module(algorithm).best_skills(states), prior.mean)


def test_the_prior_can_be_narrowed(config: Maker, point_skills: str) -> None:
    algorithm = config(prior_spread=0.5).build_algo()
    states = torch.randn(4, 2)
    policy, kl = module(algorithm).skills(states)
    prior = load_skills(point_skills)[0].prior(states)
    mean, std = algorithm.env_runner._policy._skills(states[0].numpy())
    algorithm.stop()
    assert kl.abs().max().item() == 0
    assert torch.equal(policy.mean, prior.mean)
    assert torch.equal(policy.stddev, 0.5 * prior.stddev)
    np.testing.assert_allclose(mean, policy.mean[0].detach(), atol=1e-5)
    np.testing.assert_allclose(std, policy.stddev[0].detach(), atol=1e-5)


def test_the_policy_can_be_regularized_to_a_unit_gaussian(config: Maker) -> None:
    algorithm = config(regularize_to="unit").build_algo()
    policy, kl = module(algorithm).skills(torch.randn(4, 2))
    assert kl.abs().max().item() == 0
    assert policy.mean.abs().max().item() == 0
    assert (policy.stddev - 1).abs().max().item() == 0
    algorithm.stop()


def test_critics_begin_at_the_initial_value(config: Maker) -> None:
    algorithm = config(initial_value=-200, target_bounds=(-200, 0)).build_algo()
    acting = module(algorithm)
    for critic in (acting.critic, acting.target_critic):
        values = critic(torch.randn(8, 2), torch.randn(8, acting.latent_dim))
        assert (values == -200).all()
    algorithm.stop()


@pytest.mark.parametrize("policy", ["residual", "copied"])
def test_the_deterministic_policy_takes_the_most_valuable_skill_near_its_mean(config: Maker, policy: str) -> None:
    algorithm = config(policy=policy, skill_candidates=16).build_algo()
    states = torch.randn(32, 2)
    try:
        acting = module(algorithm)
        mean = acting._around_prior(acting.averaged_policy, states, acting.reference(states))[0].mean
        with torch.no_grad():
            assert torch.equal(acting.best_skills(states), mean)  # critics that know nothing
            acting.target_critic.weights[-1].normal_()
            best = acting.best_skills(states)
            inputs = acting.prior.normalize(states)
            gain = acting.target_critic(inputs, best).amin(0) - acting.target_critic(inputs, mean).amin(0)
        assert (gain >= 0).all()
        assert (gain > 0).any()
        assert torch.equal(acting.best_skills(states), best)  # deterministic
        drawn = torch.randn(16, 32, acting.latent_dim)
        anew = acting.best_skills(states, drawn)
        assert not torch.equal(anew, best)
        drawn[0] = torch.nan  # the mean is always among them
        assert torch.equal(acting.best_skills(states, drawn), anew)
        acting._around = acting._around[:1]
        assert torch.equal(acting.best_skills(states), mean)
    finally:
        algorithm.stop()


@pytest.mark.parametrize("policy", ["residual", "copied"])
@pytest.mark.parametrize("regularize_to", ["prior", "unit"])
def test_what_acts_is_the_latest_policy(config: Maker, policy: str, regularize_to: str) -> None:
    """The env runner's NumPy policy follows the learner's module through the updates."""
    algorithm = config(policy=policy, regularize_to=regularize_to).build_algo()
    try:
        for _ in range(2):
            algorithm.train()
        acting = algorithm.env_runner._policy
        for state in np.random.default_rng(0).normal(size=(5, 2)):
            inputs = torch.tensor(state[None], dtype=torch.float32)
            wanted, kl = module(algorithm).skills(inputs)
            assert kl.item() > 1e-5
            mean, std = acting._skills(state)
            np.testing.assert_allclose(mean, wanted.mean[0].detach(), atol=1e-5)
            np.testing.assert_allclose(std, wanted.stddev[0].detach(), atol=1e-5)
            np.testing.assert_allclose(acting.best(state), module(algorithm).best_skills(inputs)[0], atol=1e-5)
            drawn = np.array([acting.sample(state, np.random.default_rng(i)) for i in range(2000)])
            np.testing.assert_allclose(drawn.std(0) / std, 1, atol=0.1)
    finally:
        algorithm.stop()


@pytest.mark.parametrize("envs", [1, 3])
def test_episodes_and_their_pieces_come_whole(config: Maker, envs: int) -> None:
    """What several sample calls return, put together by episode, is the episodes that were run."""
    made = config().env_runners(num_envs_per_env_runner=envs)
    runner = SkillEnvRunner(config=made, worker_index=0)
    pieces: dict[str, list[Any]] = {}
    for _ in range(9):
        sampled = runner.sample(num_timesteps=5)
        assert 5 <= sum(len(e) for e in sampled) < 5 + envs
        for piece in sampled:
            pieces.setdefault(piece.id_, []).append(piece)
    whole = [episode for episode in pieces.values() if episode[-1].is_done]
    assert len(whole) > 2
    for episode in whole:
        assert not any(piece.is_done for piece in episode[:-1])
        for before, after in itertools.pairwise(episode):
            np.testing.assert_array_equal(before.get_observations(-1), after.get_observations(0))
        assert sum(info["low_level_steps"] for piece in episode for info in piece.get_infos()[-len(piece) :]) <= 40
    metrics = runner.get_metrics()
    assert metrics["num_episodes_lifetime"].peek() == len(whole)
    finished = runner.sample(num_episodes=2, explore=False)
    assert len(finished) >= 2
    assert all(episode.is_done for episode in finished)
    runner.stop()


def test_samples_of_whole_episodes_begin_in_other_states(config: Maker) -> None:
    runner = SkillEnvRunner(config=config().env_runners(batch_mode="complete_episodes"), worker_index=0)
    begun = [runner.sample(num_episodes=1)[0].get_observations(0) for _ in range(3)]
    assert len({tuple(state) for state in begun}) == 3
    again = SkillEnvRunner(config=config(), worker_index=0)
    np.testing.assert_array_equal(again.sample(num_episodes=1)[0].get_observations(0), begun[0])


def test_env_runners_with_several_environments_share_no_beginnings(config: Maker) -> None:
    begun = set()
    for index in (1, 2, 3):
        runner = SkillEnvRunner(config=config().env_runners(num_envs_per_env_runner=4), worker_index=index)
        runner.sample(num_timesteps=1)
        begun |= {tuple(episode.get_observations(0)) for episode in runner._ongoing_episodes}
        runner.stop()
    assert len(begun) == 12


class Placed(PointEnv):
    """Knows which env runner's it is, as RLlib tells environments."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.place = (config.worker_index, config.vector_index)
        config.pop("limit")


@pytest.mark.parametrize("envs", [1, 2])
def test_an_environment_is_told_where_it_is(config: Maker, envs: int) -> None:
    given = config().environment(Placed, env_config={"limit": 12}).env_runners(num_envs_per_env_runner=envs)
    runner = SkillEnvRunner(config=given, worker_index=2)
    many = runner._skill_env.env.envs if envs > 1 else [runner._skill_env]
    assert [env.unwrapped.place for env in many] == [(2, index) for index in range(envs)]
    assert runner._evaluation_env.unwrapped.place == (2, 0)
    assert given.env_config == {"limit": 12}, "what an environment does to its config is its own"
    runner.stop()


def test_a_remote_env_runner_does_not_repeat_the_beginning_of_a_run(config: Maker) -> None:
    def first(steps: int | None) -> Any:
        runner = SkillEnvRunner(config=config(), worker_index=1)
        if steps is not None:
            runner.begin_anew(steps)
        return runner.sample(num_episodes=1)[0].get_observations(0).tolist()

    assert first(None) == first(None)
    assert first(400) == first(400)
    assert len({tuple(first(steps)) for steps in (None, 400, 800)}) == 3


@pytest.mark.parametrize("envs", [1, 2])
def test_the_state_of_an_env_runner_before_and_after_its_first_episode(config: Maker, envs: int) -> None:
    """Also without a seed."""
    given = config().env_runners(num_envs_per_env_runner=envs)
    fresh, sampled, again = (SkillEnvRunner(config=given, worker_index=0) for _ in range(3))
    assert (
        SkillEnvRunner(config=given.copy().debugging(seed=None), worker_index=0).get_state()["sampling"]["envs"] == []
    )
    again.set_state(fresh.get_state())
    begun = [runner.sample(num_timesteps=6)[0].get_observations(0).tolist() for runner in (fresh, again)]
    assert begun[0] == begun[1]
    sampled.sample(num_timesteps=7)
    again.set_state(copy.deepcopy(sampled.get_state()))
    followed = [runner.sample(num_timesteps=20) for runner in (sampled, again)]
    for one, same in zip(*followed, strict=True):
        np.testing.assert_array_equal(one.get_observations(), same.get_observations())


def test_exploration_takes_the_most_valued_of_several_draws(config: Maker) -> None:
    runner = SkillEnvRunner(config=config(exploring_candidates=64), worker_index=0)
    module, states = runner.module, np.random.default_rng(0).normal(size=(5, 2)).astype(np.float32)
    chosen = runner._policy.sample(states, np.random.default_rng(1))
    drawn = SkillEnvRunner(config=config(), worker_index=0)._policy.sample(states, np.random.default_rng(1))
    assert chosen.shape == drawn.shape == (5, 2)
    noise = torch.from_numpy(np.random.default_rng(1).standard_normal((64, 5, 2), np.float32))

    def value(z: Any) -> torch.Tensor:
        rows = torch.from_numpy(states)
        features = module.target_critic.features(module.inputs(rows))
        return module.target_critic.values(features, torch.as_tensor(z)).amin(0).flatten()

    with torch.no_grad():
        policy, _ = module.skills(torch.from_numpy(states))
        candidates = torch.stack([value(policy.mean + policy.stddev * each) for each in noise])
        torch.testing.assert_close(value(chosen), candidates.amax(0))
    np.testing.assert_allclose(runner._policy.sample(states[0], np.random.default_rng(1)).shape, (2,))
    assert any(name.startswith("target_critic") for name in module.sampling_state())


def test_a_copied_policy_starts_as_the_prior_too(config: Maker) -> None:
    algorithm = config(policy="copied", kl_in_target=True).build_algo()
    try:
        assert module(algorithm).skills(torch.randn(16, 2))[1].abs().max().item() < 1e-6
        algorithm.train()
        assert module(algorithm).skills(torch.randn(16, 2))[1].abs().max().item() > 1e-4
    finally:
        algorithm.stop()


def test_training_reports_what_a_user_needs(algorithm: SPiRL) -> None:
    first, second = algorithm.train(), algorithm.train()
    assert "evaluation" not in first  # every second iteration
    assert second["evaluation"]["episodes"] == 3
    assert set(second["evaluation"]["subtask_rate"]) == {"right", "up"}
    assert 0 <= second["evaluation"]["completed_subtasks"] <= 2
    assert first["env_steps"] < second["env_steps"] <= 5 * len(algorithm.replay)
    learner = second["learners"]["default_policy"]
    assert all(np.isfinite(learner[name]) for name in ("kl", "alpha", "q", "critic_loss", "policy_loss"))
    # 2 updates for each transition after the warm-up, and the offline ones.
    assert second["updates"] == 10 + 2 * (len(algorithm.replay) - 24 + 8)


def test_only_the_policy_the_critics_and_alpha_learn(algorithm: SPiRL) -> None:
    before = {k: v.clone() for k, v in module(algorithm).state_dict().items()}
    algorithm.train()
    after = module(algorithm).state_dict()
    changed = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"policy", "averaged_policy", "critic", "target_critic", "log_alpha"}


def test_stored_transitions_are_those_of_the_environment(algorithm: SPiRL) -> None:
    algorithm.train()
    columns = algorithm.replay._columns
    size = len(algorithm.replay)
    follows = (columns["states"][1:size] == columns["next_states"][: size - 1]).all(1)
    # Every transition begins where the last one ended, but for the first of each episode.
    assert 0.7 * size < follows.sum() < size
    moved = (columns["next_states"][:size] - columns["states"][:size]).abs().max()
    assert moved <= 5 * 0.1 + 1e-6  # H steps of at most 0.1: not six, nor four and the reset


def test_evaluation_uses_fixed_seeds_and_leaves_training_alone(config: Maker) -> None:
    runs = []
    for interval in (1, 2):
        algorithm = config().evaluation(evaluation_interval=interval).build_algo()
        results = [algorithm.train() for _ in range(2)]
        runs.append((results[-1]["evaluation"], module(algorithm).state_dict()))
        algorithm.stop()
    (first, weights), (second, same) = runs
    assert first["episode_return"] == second["episode_return"]
    assert all(torch.equal(weights[name], same[name]) for name in weights)


def test_a_run_that_is_restored_goes_on_as_if_it_had_not_stopped(config: Maker, tmp_path: Path) -> None:
    """Bit by bit with a local env runner: environments, episodes, replay, random state and all."""
    made = [config().build_algo()]
    try:
        expected = [made[0].train() for _ in range(6)][-1]
        made.append(config().build_algo())  # after that run: PyTorch's random state is the process's
        for _ in range(3):
            made[1].train()
        made.append(SPiRL.from_checkpoint(made[1].save_to_path(str(tmp_path / "checkpoint"))))
        result = [made[2].train() for _ in range(3)][-1]
        weights, same = module(made[0]).state_dict(), module(made[2]).state_dict()
        assert all(torch.equal(weights[name], same[name]) for name in weights)
        assert result["env_steps"] == expected["env_steps"]
        assert result["env_runners"]["episode_return_mean"] == expected["env_runners"]["episode_return_mean"]
        assert torch.equal(made[0].replay.sample(50)["z"], made[2].replay.sample(50)["z"])
    finally:
        for algorithm in made:
            algorithm.stop()


@pytest.mark.parametrize("trained", [0, 3])
def test_a_run_of_whole_episodes_goes_on_as_if_it_had_not_stopped(config: Maker, tmp_path: Path, trained: int) -> None:
    given = config().env_runners(batch_mode="complete_episodes")
    first = given.build_algo()
    made = [first]
    try:
        for _ in range(trained):
            first.train()
        made.append(SPiRL.from_checkpoint(first.save_to_path(str(tmp_path / "checkpoint"))))
        random = torch.get_rng_state()
        first.train()
        torch.set_rng_state(random)
        made[1].train()
        assert torch.equal(made[0].replay.sample(50)["states"], made[1].replay.sample(50)["states"])
        weights, same = module(made[0]).state_dict(), module(made[1]).state_dict()
        assert all(torch.equal(weights[name], same[name]) for name in weights)
    finally:
        for algorithm in made:
            algorithm.stop()


def test_another_learning_rate_holds_after_a_restoration(config: Maker, tmp_path: Path) -> None:
    one = config(policy_lr=1e-2).build_algo()
    other = config(policy_lr=1e-9, critic_lr=1e-3).build_algo()
    try:
        one.train()
        other.restore_from_path(one.save_to_path(str(tmp_path / "checkpoint")))
        before = copy.deepcopy(module(other).policy.state_dict())
        other._learn(5, 0.5)
        for name, value in module(other).policy.state_dict().items():
            torch.testing.assert_close(value, before[name], rtol=0, atol=1e-7)
        optimizer = other.learner_group._learner.get_optimizer("default_policy")
        assert [group["lr"] for group in optimizer.param_groups] == [1e-3, 1e-9, 3e-3]
    finally:
        one.stop()
        other.stop()


def test_another_target_divergence_holds_after_a_restoration(config: Maker, tmp_path: Path) -> None:
    """As population-based training does it: a new trial with a mutated δ restores another trial's checkpoint."""
    one = config(target_divergence=1.0).build_algo()
    other = config(target_divergence=7.0).build_algo()
    try:
        one.train()
        other.restore_from_path(one.save_to_path(str(tmp_path / "checkpoint")))
        learner = other.learner_group._learner
        assert learner.config.get_config_for_module("default_policy").target_divergence == 7
        alpha = module(other).log_alpha.item()
        other._learn(50, 0.5)
        assert module(other).log_alpha.item() < alpha, "KL is below 7, so α falls"
    finally:
        one.stop()
        other.stop()


def test_the_target_divergence_goes_from_one_number_to_another(config: Maker, tmp_path: Path) -> None:
    annealed = config(initial_divergence=4.0, target_divergence=1.0, divergence_steps=1000).build_algo()
    try:
        result = annealed.train()
        used = result["learners"]["default_policy"]["target_divergence"]
        assert used == pytest.approx(4 - 3 * result["env_steps"] / 1000)
        annealed.restore_from_path(annealed.save_to_path(str(tmp_path / "checkpoint")))
        result = annealed.train()
        assert result["learners"]["default_policy"]["target_divergence"] < used, "it goes on, and does not start anew"
        while result["env_steps"] < 1000:
            result = annealed.train()
        result = annealed.train()
        assert result["learners"]["default_policy"]["target_divergence"] == 1.0
    finally:
        annealed.stop()


def test_bounded_skills_are_learned_before_the_bound(config: Maker, point_data: Path, point_skills: str) -> None:
    model, _ = load_skills(point_skills)
    free = offline_replay(opened(point_data), model, PointEnv(), 100_000)._columns["z"]
    before = offline_replay(opened(point_data), model, PointEnv(), 100_000, skill_bound=2.0)._columns["z"]
    inside = free.abs() < 1.98
    torch.testing.assert_close((2 * before.tanh())[inside], free[inside], atol=1e-4, rtol=0)
    assert before.isfinite().all()
    algorithm = config(skill_bound=2.0).build_algo()
    try:
        assert np.isfinite(algorithm.train()["learners"]["default_policy"]["critic_loss"])
        assert algorithm.env_runner._evaluation_env._skill_bound == 2.0
    finally:
        algorithm.stop()


def test_a_restored_run_makes_the_same_next_update(algorithm: SPiRL, config: Maker, tmp_path: Path) -> None:
    algorithm.train()
    state = algorithm.learner_group._learner.get_state()
    restored = SPiRL.from_checkpoint(algorithm.save_to_path(str(tmp_path / "checkpoint")))
    try:
        assert len(restored.replay) == len(algorithm.replay)
        restored._learn(5, 0.5)  # right after the restoration, with the random state that it brought back
        torch.set_rng_state(torch.from_numpy(state["torch_rng"]))
        algorithm._learn(5, 0.5)
        a, b = module(algorithm).state_dict(), module(restored).state_dict()
        assert all(torch.equal(a[name], b[name]) for name in a)
        assert restored.train()["env_steps"] > algorithm.metrics.peek("env_steps")
    finally:
        restored.stop()


def test_after_an_earlier_checkpoint_its_policy_is_evaluated(config: Maker, tmp_path: Path) -> None:
    algorithm = config().evaluation(evaluation_interval=1, evaluation_duration=1).build_algo()
    try:
        algorithm.train()
        saved = algorithm.save_to_path(str(tmp_path / "checkpoint"))
        wanted = {name: weight.clone() for name, weight in module(algorithm).policy.state_dict().items()}
        algorithm.train()
        algorithm.restore_from_path(saved)
        algorithm.evaluate()
        for acting in (module(algorithm), algorithm.eval_env_runner.module, algorithm.env_runner.module):
            assert all(torch.equal(weight, wanted[name]) for name, weight in acting.policy.state_dict().items())
    finally:
        algorithm.stop()


def test_a_checkpoint_that_was_not_written_to_its_end_is_refused(algorithm: SPiRL, tmp_path: Path) -> None:
    saved = Path(algorithm.save_to_path(str(tmp_path / "checkpoint")))
    (saved / "replay.safetensors").unlink()
    with pytest.raises(UserError, match=r"The replay buffer in .*replay.safetensors cannot be read"):
        SPiRL.from_checkpoint(str(saved))


@pytest.mark.parametrize("evaluates", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_what_an_environment_raises_in_another_process_is_told(config: Maker, evaluates: bool) -> None:
    """RLlib would replace the env runner, whose environment raises it again, and again."""

    class LooseJoint(PointEnv):
        def step(self, action: Any) -> Any:
            if self.steps == 20:
                raise ValueError("a joint is loose")
            return super().step(action)

    register_env("loose joint", LooseJoint)
    made = config().environment("loose joint")
    made = made.evaluation(evaluation_num_env_runners=1) if evaluates else made.env_runners(num_env_runners=1)
    algorithm = made.build_algo()
    try:
        with pytest.raises(ValueError, match="a joint is loose") as caught:
            algorithm.evaluate() if evaluates else algorithm.train()
        assert "in step" in str(caught.value.__cause__)
    finally:
        algorithm.stop()


@pytest.mark.parametrize(("learners", "requests"), [(0, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_remote_env_runner_feeds_the_same_loop(config: Maker, learners: int, requests: int) -> None:
    made = config().env_runners(num_env_runners=1, max_requests_in_flight_per_env_runner=requests)
    algorithm = made.learners(num_learners=learners).build_algo()
    try:
        results = [algorithm.train() for _ in range(3)]
        assert results[-1]["env_steps"] > results[0]["env_steps"] > 0
        assert results[-1]["updates"] > 10
        assert np.isfinite(results[-1]["learners"]["default_policy"]["critic_loss"])
        assert len(algorithm.replay) >= 72
        algorithm._sample()  # env runners take the latest policy with the next request
        (acting,) = algorithm.env_runner_group.foreach_env_runner(
            lambda runner: runner.module.policy.state_dict(), local_env_runner=False
        )
        learned = algorithm.learner_group.foreach_learner(
            lambda learner: {k: v.numpy() for k, v in learner.module["default_policy"].policy.state_dict().items()}
        )
        policy = learned.result_or_errors[0].get()
        assert all(np.array_equal(policy[name], acting[name]) for name in policy)
        assert np.any(policy["net.6.weight"] != 0), "the head, which is 0 before learning"
    finally:
        algorithm.stop()


@pytest.mark.long
def test_evaluation_does_not_depend_on_who_runs_it(config: Maker) -> None:
    returns = []
    for explore in (False, True):
        results = []
        for runners in (0, 1):
            given = config().evaluation(evaluation_num_env_runners=runners, evaluation_config={"explore": explore})
            algorithm = given.build_algo()
            results.append(algorithm.evaluate())
            algorithm.stop()
        assert results[0]["low_level_steps"] == results[1]["low_level_steps"]
        assert results[0]["subtask_rate"] == results[1]["subtask_rate"]
        assert results[0]["episode_return"] == results[1]["episode_return"]
        returns.append(results[0]["episode_return"])
    assert returns[0] != returns[1]  # the mean, and drawn skills


def test_compiled_updates_are_the_same_updates(config: Maker, caplog: pytest.LogCaptureFixture) -> None:
    """The same losses and gradients: after many steps of Adam rounding alone would make the weights differ."""
    algorithm = config(compile_updates=True).build_algo()
    try:
        algorithm.train()
        algorithm._learn(8, 0.5)
        if "not compiled" in caplog.text:
            pytest.skip("there is no C++ compiler")
        learner = algorithm.learner_group._learner
        batch = with_prior(module(algorithm), algorithm.replay.sample(32))
        results = []
        for loss in (learner._losses, spirl_loss):
            learner._losses = loss
            torch.manual_seed(0)
            module(algorithm).zero_grad()
            total = learner._loss("default_policy", module(algorithm), algorithm.config, batch, log=False)
            total.backward()
            gradients = {name: p.grad for name, p in module(algorithm).named_parameters() if p.grad is not None}
            results.append({"loss": total.detach()} | gradients)
        compiled, eager = results
        assert len(eager) > 10
        torch.testing.assert_close(compiled, eager, atol=1e-5, rtol=1e-3)
    finally:
        algorithm.stop()


def test_what_cannot_be_compiled_goes_on_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-compiler-is-called-this",))
    twice = Compiled(lambda x: torch.tanh(x) * 2 + 0.123)
    x = torch.randn(64)
    for _ in range(2):
        assert torch.equal(twice(x), torch.tanh(x) * 2 + 0.123)
    assert caplog.text.count("not compiled") == 1


def test_a_large_data_set_gives_a_share_of_its_transitions(point_skills: str, point_data: Path) -> None:
    model, _ = load_skills(point_skills)
    whole = offline_replay(opened(point_data), model, PointEnv(), 100_000)
    part = offline_replay(opened(point_data), model, PointEnv(), load(point_data).num_frames // 2)
    assert len(part) == len(whole) // 2
    states = {tuple(row.tolist()) for row in whole._columns["states"]}
    assert {tuple(row.tolist()) for row in part._columns["states"]} <= states


class Reusing(PointEnv):
    """Returns one array, again and again, as environments written for speed do."""

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        self.buffer = np.zeros(2, np.float32)
        super().__init__(config)

    def reset(self, **kwargs: Any) -> Any:
        self.buffer[:], info = super().reset(**kwargs)
        return self.buffer, info

    def step(self, action: Any) -> Any:
        self.buffer[:], *rest = super().step(action)
        return self.buffer, *rest


def test_an_environment_may_reuse_its_observation(config: Maker) -> None:
    runner = SkillEnvRunner(config=config().environment(Reusing, env_config={"limit": 40}), worker_index=0)
    (episode,) = runner.sample(num_timesteps=4)
    assert len(np.unique(episode.get_observations(), axis=0)) == 5
    runner.stop()


def test_a_time_limit_is_restored_and_an_unknown_wrapper_is_not(point_skills: str) -> None:
    def skill_env(*wrappers: Callable[[gym.Env], gym.Env]) -> SkillEnv:
        env: gym.Env = PointEnv({"limit": 10_000})
        for wrapper in wrappers:
            env = wrapper(env)
        made = SkillEnv(env, point_skills)
        made.reset(seed=0)
        return made

    first, second = (skill_env(lambda env: gym.wrappers.TimeLimit(env, 12)) for _ in range(2))
    for _ in range(2):  # of 5 steps
        first.step(np.zeros(2, np.float32))
    state = first.get_state()
    assert state is not None
    second.set_state(state)
    for env in (first, second):
        assert env.step(np.zeros(2, np.float32))[4]["low_level_steps"] == 2
    assert skill_env(lambda env: gym.wrappers.ClipAction(env)).get_state() is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_bounds": [4, 0]}, "target_bounds"),
        ({"grad_clip": 1.0}, "grad_clip"),
        ({"regularize_to": "nothing"}, "regularize_to"),
    ],
)
def test_settings_that_would_do_nothing_or_harm_are_refused(
    config: Maker, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        config(**changes).validate()
    with pytest.raises(ValueError, match="gym_env_vectorize_mode"):
        config().env_runners(gym_env_vectorize_mode="async").validate()


def test_demonstrations_become_skill_transitions(point_skills: str, point_data: Path) -> None:
    model, _ = load_skills(point_skills)
    replay = offline_replay(opened(point_data), model, PointEnv(), 100_000)
    columns = {name: column[: len(replay)] for name, column in replay._columns.items()}
    distance = (columns["next_states"] - torch.tensor([1.0, 1.0])).norm(dim=1)
    earned, last = columns["rewards"] > 0, columns["terminated"] == 1
    assert columns["rewards"].max() <= 2
    # A window that completes the task is cut at the state that completed it.
    completing = last & earned & (distance < 0.15)
    assert completing.sum() >= 8  # eight of the twelve demonstrations go the right way round
    # After every other last window its recording has no whole window left to bootstrap from.
    data = load(point_data)
    ends = torch.from_numpy(data.next_states[data.episode_starts[1:] - 1])
    stops = (columns["next_states"][last & ~completing][:, None] - ends).norm(dim=2).min(1).values
    assert stops.max() < 5 * 0.1 * 2**0.5


@pytest.mark.parametrize(
    ("training", "message"),
    [
        ({"skill_checkpoint": None}, "needs `skill_checkpoint`"),
        ({"target_divergence": -1.0}, "`target_divergence` must be a number greater than 0, got -1.0"),
        ({"initial_alpha": 0}, "`initial_alpha` must be a number greater than 0"),
        (
            {"initial_divergence": 0.0},
            "`initial_divergence` must be a number greater than 0, or null for none; got 0.0",
        ),
        ({"skill_bound": -2.0}, "`skill_bound` must be a number greater than 0"),
        ({"tau": 2}, "`tau` must be in"),
        ({"policy_tau": 0}, "`policy_tau` must be in"),
        ({"conservatism": -0.1}, "`conservatism` must be a number, at least 0"),
        ({"offline_fraction": 1.5}, "`offline_fraction` must be in"),
        ({"warmup_steps": -1}, "`warmup_steps` must be a whole number, at least 0"),
        ({"policy": "prior"}, "`policy` must be 'residual', 'copied' or 'flow'"),
        ({"critic_members": 0}, "`critic_members` must be a whole number, at least 1"),
        ({"critic_layers": 2.5}, "`critic_layers` must be a whole number, at least 1, got 2.5"),
        ({"policy_hidden": 0}, "`policy_hidden` must be a whole number, at least 1"),
        ({"eval_seed": -1}, "`eval_seed` must be a whole number, at least 0"),
        ({"updates_per_step": float("inf")}, "`updates_per_step` must be a number greater than 0"),
        ({"target_divergence": None}, "`target_divergence` must be a number greater than 0, got None"),
        ({"tau": "fast"}, "`tau` must be in"),
        ({"target_bounds": ["a", "b"]}, "`target_bounds` must be"),
        ({"initial_value": None}, "`initial_value` must be a number, got None"),
        ({"initial_value": 1, "target_bounds": [-200, 0]}, "`initial_value`, 1, is not within `target_bounds`"),
        ({"lr": 1e-4}, "no use for `lr`: set `policy_lr`, `critic_lr` or `alpha_lr`"),
        ({"train_batch_size": 512}, "set `train_batch_size_per_learner`"),
        ({"num_epochs": 7}, "set `updates_per_step`"),
    ],
)
def test_nonsense_is_refused_with_the_value_and_the_remedy(config: Maker, training: dict, message: str) -> None:
    with pytest.raises((ValueError, UserError), match=message):
        config(**training).validate()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": {"fcnet_hiddens": [8]}}, "SPiRL has no use for `model`: set `policy_hidden`"),
        ({"_model_config": {"fcnet_hiddens": [8]}}, "SPiRL has no use for `model_config`: set `policy_hidden`"),
        ({"torch_compile_learner": True}, "SPiRL has no use for `torch_compile_learner`: set `compile_updates`"),
        ({"grad_clip": 1.0}, "SPiRL has no use for `grad_clip`: leave it out"),
        ({"normalize_actions": True}, "SPiRL has no use for `normalize_actions`: leave it out"),
        ({"observation_filter": "MeanStdFilter"}, "SPiRL has no use for `observation_filter`: leave it out"),
        (
            {"batch_mode": "complete_episodes", "num_envs_per_env_runner": 2},
            "`batch_mode` 'complete_episodes' would throw away",
        ),
    ],
)
def test_settings_of_which_nothing_would_come_are_refused(config: Maker, given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config().update_from_dict(given).validate()
