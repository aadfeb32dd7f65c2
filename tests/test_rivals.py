"""Chunks of actions as skills, and the parts of which RLPD and Q-chunking are made."""

import copy
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from ray.tune.registry import register_env
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from rllib_spirl.algorithm.chunk_windows import windows
from rllib_spirl.algorithm.losses import cloning_loss, policy_loss, q_target, uniform_divergence
from rllib_spirl.algorithm.spirl_config import SPiRLConfig
from rllib_spirl.algorithm.spirl_rl_module import CriticEnsemble, FlowPolicy
from rllib_spirl.skills.checkpoint import SkillCard, save_skills
from rllib_spirl.skills.decoder import SkillDecoder
from rllib_spirl.skills.model import SkillModel, SkillModelConfig
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer
from tests.conftest import TINY, scan
from tests.point import GOALS, RADIUS, STEP, PointEnv, PointsEnv

CHUNKS = SkillModelConfig(state_dim=2, action_dim=2, horizon=3, latent_dim=6, decoder="identity", hidden=16, layers=1)


def test_a_chunk_is_its_own_skill() -> None:
    model = SkillModel(CHUNKS)
    states, actions = torch.randn(5, 3, 2), torch.rand(5, 3, 2) * 2 - 1
    q = model.posterior(states, actions)
    torch.testing.assert_close(q.mean, actions.flatten(1))
    assert float(q.stddev.max()) < 0.01
    torch.testing.assert_close(model.decode(q.mean, states), actions)
    decoder = SkillDecoder(model)
    for chunk in actions.numpy():
        decoder.start(chunk.ravel())
        np.testing.assert_array_equal([decoder.act(np.zeros(2)) for _ in range(3)], chunk)
    assert not hasattr(model, "decoder")


def test_a_chunk_has_as_many_numbers_as_its_actions() -> None:
    assert TINY.model_copy(update={"decoder": "identity"}).model(2, 2).latent_dim == TINY.horizon * 2
    with pytest.raises(ValidationError, match="latent_dim 10: with the identity decoder z is a chunk of 10 actions"):
        SkillModelConfig(state_dim=2, action_dim=2, decoder="identity")
    with pytest.raises(ValidationError, match="action_std: with the identity decoder z is the actions"):
        PretrainConfig(decoder="identity", action_std=0.2)


def test_divergence_from_uniform_is_the_entropy_of_what_tanh_makes_of_it() -> None:
    policy = Normal(torch.tensor([[0.3, -2.0, 0.0]]), torch.tensor([[0.5, 1.0, 2.0]]))
    u = torch.tensor([[0.1, -4.0, 3.0]])
    squashed = TransformedDistribution(Independent(policy, 1), [TanhTransform(cache_size=1)])
    expected = squashed.log_prob(torch.tanh(u)) + 3 * math.log(2)  # the uniform density is 1/8
    torch.testing.assert_close(uniform_divergence(policy, u), expected, rtol=1e-4, atol=1e-4)


def test_golden_numbers_of_the_policys_loss() -> None:
    q, kl = torch.tensor([[1.0, 3.0], [2.0, 5.0]]), torch.tensor([4.0, 6.0])
    assert policy_loss(q, kl, torch.tensor(0.5), mean=True).item() == ((0.5 * 4 - 1.5) + (0.5 * 6 - 4)) / 2
    cloned = cloning_loss(Normal(torch.zeros(2, 3), torch.ones(2, 3)), torch.tensor([[0.0] * 3, [1.0] * 3]))
    assert cloned.item() == pytest.approx((3 * math.log(2 * math.pi) + 1.5) / 2)


def test_a_flow_learns_both_of_two_skills() -> None:
    """A Gaussian would have its mean between them."""
    torch.manual_seed(0)
    flow = FlowPolicy(SkillModelConfig(state_dim=2, action_dim=1, horizon=1, latent_dim=1, decoder="identity"), 32, 2)
    optimizer = torch.optim.Adam(flow.parameters(), lr=3e-3)
    states = torch.zeros(128, 2)
    for _ in range(600):
        z = torch.where(torch.rand(128, 1) < 0.5, -0.8, 0.8)
        loss = flow.loss(states, z, torch.randn(128, 1), torch.rand(128, 1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    drawn = flow(states[:1], torch.randn(500, 1, 1)).detach().ravel()
    assert 0.3 < float((drawn > 0).float().mean()) < 0.7
    assert float((drawn.abs() - 0.8).abs().median()) < 0.1


@pytest.fixture(scope="module")
def chunks(point_data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Chunks of the point mass's demonstrations, hardly trained."""
    config = TINY.model_copy(update={"decoder": "identity", "updates": 50})
    trainer = SkillTrainer(scan(point_data, config), config)
    while trainer.updates < config.updates:
        trainer.step()
    return str(save_skills(tmp_path_factory.mktemp("chunks"), trainer.model, SkillCard(model=trainer.model.config)))


RLPD = {"skill_bound": 1.0, "regularize_to": "uniform", "target_divergence": 12.0, "critic_members": 5}
RLPD |= {"target_members": 2, "policy_value": "mean"}
METHODS: dict[str, dict[str, Any]] = {
    "rlpd": RLPD | {"log_std_bound": 5.0},
    "qc_rlpd": RLPD | {"cloning": 0.01, "target_members": None, "target_value": "mean", "kl_in_target": True},
    "qc": {"policy": "flow", "skill_candidates": 4, "critic_members": 2, "warmup_steps": 0, "offline_fraction": None},
}


def test_critics_see_what_bounded_skills_come_to() -> None:
    torch.manual_seed(0)
    critic = CriticEnsemble(CHUNKS, hidden=8, layers=1, members=2, layer_norm=False, skill_bound=1.0)
    plain = CriticEnsemble(CHUNKS, hidden=8, layers=1, members=2, layer_norm=False)
    torch.nn.init.normal_(critic.weights[-1])
    plain.load_state_dict(critic.state_dict())
    states, u = torch.randn(4, 2), torch.randn(4, 6)
    torch.testing.assert_close(critic(states, u), plain(states, torch.tanh(u)))
    torch.testing.assert_close(critic(states, torch.full((4, 6), 9.0)), critic(states, torch.full((4, 6), 12.0)))


def test_values_of_some_critics_are_those_that_all_have_at_their_places() -> None:
    torch.manual_seed(0)
    critic = CriticEnsemble(CHUNKS, hidden=8, layers=2, members=5, layer_norm=True)
    torch.nn.init.normal_(critic.weights[-1])
    torch.nn.init.normal_(critic.scales[0])
    states, z = torch.randn(4, 2), torch.randn(4, 6)
    chosen = torch.tensor([3, 0])
    torch.testing.assert_close(critic(states, z, chosen), critic(states, z)[chosen])


def test_golden_numbers_of_a_target_by_the_mean() -> None:
    next_q = torch.tensor([[1.0, 3.0], [2.0, 5.0]])
    target = q_target(torch.tensor([1.0, 0.5]), torch.tensor([0.0, 1.0]), next_q, 0.5, mean=True)
    assert target.tolist() == [1.75, 0.5]


def test_an_env_runner_chooses_among_a_flows_skills_as_the_learner_does(
    chunks: str, point_settings: dict[str, Any], ray_session: None
) -> None:
    algorithm = build(chunks, point_settings, "qc")
    try:
        module = algorithm.learner_group._learner.module["default_policy"]
        torch.nn.init.normal_(module.target_critic.weights[-1])
        states, noise = torch.randn(50, 2), torch.randn(4, 50, module.latent_dim)
        runner = copy.deepcopy(algorithm.env_runner.module)
        assert not torch.equal(*(m.choose(m.policy, states, noise) for m in (module, runner)))
        runner.load_state_dict(module.sampling_state(), strict=False)
        chosen = module.choose(module.policy, states, noise)
        assert torch.equal(chosen, runner.choose(runner.policy, states, noise))
        assert float(chosen.abs().max()) <= 1
        module.target_critic.load_state_dict(module.critic.state_dict())
        assert torch.equal(
            module.choose(module.policy, states, noise, module.critic), module.choose(module.policy, states, noise)
        )
    finally:
        algorithm.stop()


def build(chunks: str, settings: dict[str, Any], method: str) -> Any:
    config = SPiRLConfig().environment("point").env_runners(num_env_runners=0).debugging(seed=0)
    config.training(**(settings | {"skill_checkpoint": chunks} | METHODS[method]))
    return config.build_algo()


def test_golden_windows() -> None:
    states, rewards = np.arange(5, dtype=np.float32)[:, None], np.array([0.0, 1.0, 0.0, 2.0])
    actions = np.array([[0.0], [0.1], [0.2], [0.3]], np.float32)
    found = windows(states, actions, rewards, terminated=True, horizon=3)
    assert found is not None
    torch.testing.assert_close(found["z"], torch.tensor([[0.0, 0.1, 0.2], [0.1, 0.2, 0.3]]))
    assert found["states"].tolist() == [[0], [1]]
    assert found["next_states"].tolist() == [[3], [4]]
    assert found["rewards"].tolist() == [1, 3]
    assert found["terminated"].tolist() == [0, 1]
    assert windows(states, actions, rewards, terminated=True, horizon=5) is None


@pytest.mark.parametrize("many", [None, "sync", "vector_entry_point", "same_step"])
def test_every_window_of_an_agents_steps_is_a_transition(
    many: str | None, chunks: str, point_settings: dict[str, Any], ray_session: None
) -> None:
    """Episodes of 23 steps, which is no multiple of the chunks' five."""
    settings = point_settings | {"skill_checkpoint": chunks} | METHODS["rlpd"]
    config = SPiRLConfig().environment(PointEnv, env_config={"limit": 23}).training(**settings)
    config.env_runners(num_env_runners=0, rollout_fragment_length=20).debugging(seed=0)
    if many is not None:
        register_env("points", lambda config: PointsEnv(config) if "num_envs" in config else PointEnv(config))
        config.env_runners(
            num_envs_per_env_runner=3, gym_env_vectorize_mode=many if many == "sync" else "vector_entry_point"
        )
        if many != "sync":
            config.environment("points", env_config={"limit": 23, "same_step": many == "same_step"})
    algorithm = config.build_algo()
    try:
        skills = 0
        for _ in range(6):
            skills += algorithm._store(algorithm._sample())
        replay = algorithm.replay
        kept = {name: column[: len(replay)] for name, column in replay._columns.items()}
    finally:
        algorithm.stop()
    assert len(replay) > 3 * skills
    moves = torch.tanh(kept["z"]).view(-1, TINY.horizon, 2).sum(1)
    torch.testing.assert_close(kept["next_states"], kept["states"] + STEP * moves, rtol=0, atol=1e-5)
    ends = kept["terminated"] > 0
    goal = torch.tensor(GOALS[1], dtype=torch.float32)
    assert ((kept["next_states"][ends] - goal).norm(dim=1) < RADIUS).all()


@pytest.mark.parametrize("method", METHODS)
def test_each_method_trains_evaluates_and_is_restored(
    method: str, chunks: str, point_settings: dict[str, Any], ray_session: None, tmp_path: Path
) -> None:
    algorithm = build(chunks, point_settings, method)
    try:
        learned = algorithm.train()["learners"]["default_policy"]
        assert all(np.isfinite(learned[name]) for name in ("q", "critic_loss", "policy_loss"))
        saved = algorithm.save_to_path(str(tmp_path / "checkpoint"))
        before = algorithm.env_runner.run_episodes([1, 2])
    finally:
        algorithm.stop()
    again = build(chunks, point_settings, method)
    try:
        again.restore_from_path(saved)
        assert again.env_runner.run_episodes([1, 2]) == before
    finally:
        again.stop()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"regularize_to": "uniform"}, "needs bounded skills: set `skill_bound`"),
        ({"target_members": 9}, "`target_members` must be from 1 to critic_members, 4"),
        ({"target_members": 2.0}, "`target_members` must be a whole number, at least 1, got 2.0"),
        ({"divergence_steps": 7}, "`divergence_steps` are from `initial_divergence` on: set that too"),
        ({"policy_value": "most"}, "`policy_value` must be 'least' or 'mean'"),
        ({"policy": "flow", "cloning": 0.1}, "`policy` 'flow' has no use for `cloning`"),
        ({"policy": "flow", "target_divergence": 3.0}, "`policy` 'flow' has no use for `target_divergence`"),
        ({"policy": "flow", "regularize_to": "unit"}, "`policy` 'flow' has no use for `regularize_to`"),
        ({"warmup_steps": 20, "replay_capacity": 10}, "`warmup_steps`, 20, are more than are kept, 10"),
        ({"gamma": 1.5}, "`gamma` must be in"),
        ({"policy": "flow", "skill_bound": 1.0}, "leave `skill_bound` out"),
        ({"cloning": -1}, "`cloning` must be a number, at least 0"),
        ({"least_alpha": 0.5}, "`least_alpha`, 0.5, is above `initial_alpha`"),
    ],
)
def test_bad_settings_are_one_line(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SPiRLConfig().environment("point").training(skill_checkpoint="skills", **settings).validate()
