"""Skills over sets: what is learned among some items works among any number of them, in any order."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_spirl import SPiRL, SPiRLConfig
from rllib_spirl.data import TrajectoryWriter
from rllib_spirl.demos.block_stacking import demonstrate
from rllib_spirl.envs.skill_env import SkillEnv, make_env
from rllib_spirl.errors import UserError
from rllib_spirl.nets import NumpySetEncoder, SetEncoder
from rllib_spirl.skills.checkpoint import SkillCard, load_skills, save_skills
from rllib_spirl.skills.decoder import NumpyStates, SkillDecoder
from rllib_spirl.skills.model import SkillModel, SkillModelConfig, SkillPrior, StateSet, skill_loss

BLOCKS = StateSet(own=6, item=6)
# To heights, and to blocks with something on them.
BLIND = StateSet(own=6, item=6, blind_own=(1,), blind_item=(4,), see_item={5: (0.003, 1)})


def shuffled(states: torch.Tensor) -> torch.Tensor:
    """The same states with their items in another order."""
    items = states[..., 6:].unflatten(-1, (-1, 6))
    return torch.cat([states[..., :6], items[..., torch.randperm(items.shape[-2]), :].flatten(-2)], -1)


@pytest.fixture(scope="module")
def skills(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A checkpoint of untrained skills over five blocks, blind to heights, that normalise by something."""
    shape = SkillModelConfig(
        state_dim=36,
        state_set=BLIND,
        action_dim=3,
        latent_dim=2,
        hidden=16,
        layers=1,
        prior_layers=1,
    )
    torch.manual_seed(0)
    model = SkillModel(shape)
    model.prior.set_scale(torch.randn(36), torch.rand(36) + 0.5)
    return str(save_skills(tmp_path_factory.mktemp("skills"), model, SkillCard(model=shape)))


@pytest.fixture(scope="module")
def algorithm(skills: str, ray_session: None) -> Iterator[SPiRL]:
    config = (
        SPiRLConfig()
        .environment("rllib_spirl/BlockStacking-v0", env_config={"blocks": 11, "max_episode_steps": 60})
        .training(skill_checkpoint=skills, warmup_steps=4, updates_per_step=1, train_batch_size_per_learner=16)
        .env_runners(rollout_fragment_length=4)
        .reporting(min_sample_timesteps_per_iteration=12)
        .evaluation(evaluation_interval=2, evaluation_duration=2)
        .debugging(seed=0, log_level="ERROR")
    )
    built = config.build_algo()
    yield built
    built.stop()


def test_skills_are_blind_to_some_numbers_and_policies_are_not() -> None:
    shape = SkillModelConfig(state_dim=36, state_set=BLIND, action_dim=3)
    prior, (encoder, _) = SkillPrior(shape), shape.state_encoder()
    here = torch.randn(72)
    higher = here.clone()
    higher[1] += 1
    higher[10::6] += 1
    torch.testing.assert_close(encoder(prior.seen(higher)), encoder(prior.seen(here)))
    assert (encoder(prior.normalize(higher)) - encoder(prior.normalize(here))).abs().max() > 1e-3
    seen = NumpyStates(prior, encoder, of_skills=True)(higher.numpy())
    np.testing.assert_allclose(seen, encoder(prior.seen(here)).detach(), atol=1e-5)
    assert SkillModelConfig(state_dim=18, state_set=BLIND, action_dim=3).unseen == [1, 10, 16]
    assert SkillModelConfig(state_dim=18, blind=(3, 5), action_dim=3).unseen == [3, 5]
    with pytest.raises(ValueError, match="from 0 to 5"):
        StateSet(own=6, item=6, blind_item=(6,))


def test_skills_see_only_some_items() -> None:
    shape = SkillModelConfig(
        state_dim=36, state_set=StateSet(own=6, item=6, see_item={0: (-0.9, 0.9), 5: (0.1, 1)}), action_dim=3
    )
    prior, (encoder, _) = SkillPrior(shape), shape.state_encoder()
    prior.set_scale(torch.zeros(36), torch.full((36,), 2.0))  # the limit is in the state's units
    state = torch.randn(5, 36)
    state[:, 6::6] = torch.tensor([-0.8, 0.1, 0.5, 0.2, 0.9])
    state[:, 11::6] = torch.tensor([0.15, 0.05, 0.2, 0.0, 0.1])
    state[1, 6] = -1.0  # too far away
    state[-1, 11::6] = 0.0  # nothing is left to see
    shown = torch.cat([state[:, :6], state[:, 6:12], state[:, 18:24], state[:, 30:]], -1)
    shown[1, 6] = torch.nan
    features = encoder(prior.seen(state))
    torch.testing.assert_close(features[:-1], encoder(prior.normalize(shown[:-1])))
    assert (features[-1] - encoder(prior.normalize(state))[-1]).abs().max() > 1e-3
    assert prior.pace(torch.stack([state, state + 1.0], -2), 1).isfinite().all()
    states = NumpyStates(prior, encoder, of_skills=True)
    np.testing.assert_allclose([states(x) for x in state.numpy()], features.detach(), atol=1e-5)
    features.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())
    with pytest.raises(ValueError, match="from 0 to 5"):
        StateSet(own=6, item=6, see_item={6: (0, 1)})


def test_items_have_no_order_and_no_number() -> None:
    encoder = SetEncoder(6, 6)
    states = torch.randn(8, 72)
    features = encoder(states)
    assert features.shape == (8, encoder.outputs) == (8, 70)
    torch.testing.assert_close(encoder(shuffled(states)), features)
    twice = torch.cat([states, states[:, 6:]], -1)
    torch.testing.assert_close(encoder(twice), features)  # every item twice is a mean of the same


def test_items_that_are_not_there_count_for_nothing() -> None:
    encoder = SetEncoder(6, 6)
    states = torch.randn(8, 36)
    filled = torch.nn.functional.pad(states, (0, 30), value=torch.nan)
    torch.testing.assert_close(encoder(filled), encoder(states))
    encoder(filled).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in encoder.parameters())


def test_single_states_give_the_same_features_in_numpy() -> None:
    encoder = SetEncoder(6, 6)
    state = torch.randn(36)
    np.testing.assert_allclose(NumpySetEncoder(encoder)(state.numpy()), encoder(state).detach(), atol=1e-5)


def test_all_items_share_a_scale_about_the_agent() -> None:
    model = SkillModel(SkillModelConfig(state_dim=18, state_set=BLOCKS, action_dim=3))
    mean = torch.tensor([1.0] * 6 + [3.0, *[0.0] * 5] + [-3.0, *[0.0] * 5])
    std = torch.tensor([2.0] * 6 + [4.0, *[1.0] * 5] * 2)
    model.prior.set_scale(mean, std)
    states = torch.arange(30.0)[None]  # four items
    wanted = torch.cat([(states[:, :6] - 1) / 2, states[:, 6:] / torch.tensor([5.0, *[1.0] * 5] * 4)], -1)
    torch.testing.assert_close(model.prior.normalize(states), wanted)


@pytest.mark.parametrize("decoder", ["closed_loop", "open_loop"])
def test_a_model_of_five_items_takes_eleven(decoder: Any) -> None:
    model = SkillModel(SkillModelConfig(state_dim=36, state_set=BLOCKS, action_dim=3, decoder=decoder, horizon=4))
    states, actions = torch.randn(3, 4, 36), torch.rand(3, 4, 3)
    skill_loss(model, states, actions, beta=0.1)[0].backward()
    assert all(p.grad is not None for p in model.parameters())
    states, z = torch.randn(2, 4, 72), torch.randn(2, 10)
    torch.testing.assert_close(model.prior(shuffled(states[:, 0])).mean, model.prior(states[:, 0]).mean)
    wanted = model.decode(z, states)
    running = SkillDecoder(model.requires_grad_(False))
    running.start(z[0].numpy())
    for step in range(4):
        np.testing.assert_allclose(running.act(states[0, step].numpy()), wanted[0, step].detach(), atol=1e-5)


def test_states_that_are_no_such_set_are_a_clear_error(skills: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="states of 25 numbers are not 6 and a number of items of 6"):
        SkillModelConfig(state_dim=25, state_set=BLOCKS, action_dim=3)
    with pytest.raises(UserError, match="has 3-dimensional observations"):
        SkillEnv(make_env("Pendulum-v1", {}), skills)


def test_an_agent_learns_among_more_items_than_its_skills_did(algorithm: SPiRL, skills: str) -> None:
    module: Any = algorithm.learner_group._learner.module["default_policy"]  # type: ignore[union-attr]
    before = {name: value.clone() for name, value in module.state_dict().items()}
    algorithm.train()
    algorithm.replay._columns["rewards"].normal_()  # with nothing but zeros there would be nothing to learn
    result = algorithm.train()
    assert algorithm.replay._columns["states"].shape[1] == 72
    assert result["evaluation"]["tower_height"] >= 1
    assert result["evaluation"]["stacked_blocks"] >= 0
    after = module.state_dict().items()
    changed = {name.split(".")[0] for name, value in after if not torch.equal(value, before[name])}
    assert changed == {"policy", "averaged_policy", "critic", "target_critic", "log_alpha"}
    states = torch.randn(1, 72)
    policy, _ = module.skills(states)
    mean, std = algorithm.env_runner._policy._skills(states[0].numpy())
    np.testing.assert_allclose(mean, policy.mean[0].detach(), atol=1e-5)
    np.testing.assert_allclose(std, policy.stddev[0].detach(), atol=1e-5)
    prior = load_skills(skills)[0].prior
    torch.testing.assert_close(prior(states).mean, module.prior(states).mean)


def test_demonstrations_of_fewer_items_are_replayed(skills: str, tmp_path: Path, ray_session: None) -> None:
    demonstrations = [demonstrate(blocks=5, stacks=1, seed=seed) for seed in range(3)]
    with TrajectoryWriter(tmp_path / "data", fps=20) as writer:
        for demonstration in demonstrations:
            writer.add(demonstration.episode)
    config = (
        SPiRLConfig()
        .environment("rllib_spirl/BlockStacking-v0", env_config={"blocks": 11, "max_episode_steps": 60})
        .training(skill_checkpoint=skills, offline_data=str(tmp_path / "data"), offline_updates=2, warmup_steps=4)
        .training(updates_per_step=1, train_batch_size_per_learner=16)
        .reporting(min_sample_timesteps_per_iteration=12)
        .debugging(seed=0, log_level="ERROR")
    )
    algorithm = config.build_algo()
    try:
        assert algorithm.offline is not None
        states = algorithm.offline._columns["states"]
        assert states.shape[1] == 72
        assert states[:, :36].isfinite().all()
        assert states[:, 36:].isnan().all()
        earned = algorithm.offline._columns["rewards"]
        assert earned.max() > 0  # labelled by the environment of eleven blocks
        learned = [algorithm.train()["learners"]["default_policy"] for _ in range(2)][-1]
        assert all(np.isfinite(learned[name]) for name in ("critic_loss", "policy_loss", "kl"))
    finally:
        algorithm.stop()
    module: Any = algorithm.learner_group._learner.module["default_policy"]  # type: ignore[union-attr]
    assert all(value.isfinite().all() for value in module.state_dict().values())
