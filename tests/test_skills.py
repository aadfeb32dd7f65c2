"""Skill model, corrective noise, trainer and checkpoint."""

import itertools
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributions import Normal, kl_divergence

from rllib_spirl.data import DataSet, TrajectoryWriter
from rllib_spirl.errors import UserError
from rllib_spirl.skills.checkpoint import load_card, load_skills
from rllib_spirl.skills.correction import StateStatistics
from rllib_spirl.skills.dataset import WindowStream
from rllib_spirl.skills.decoder import SkillDecoder
from rllib_spirl.skills.model import SkillModel, SkillModelConfig, skill_loss
from rllib_spirl.skills.pretrain import skills_key
from rllib_spirl.skills.training import SkillTrainer
from tests.conftest import TINY, scan
from tests.sets import load

SMALL = SkillModelConfig(state_dim=3, action_dim=2, horizon=4, latent_dim=2, hidden=16, layers=1, prior_layers=1)


@pytest.mark.parametrize("decoder", ["closed_loop", "open_loop"])
def test_shapes_and_gradients(decoder: str) -> None:
    model = SkillModel(SMALL.model_copy(update={"decoder": decoder}))
    states, actions = torch.randn(7, 4, 3), torch.randn(7, 4, 2)
    z = model.posterior(states, actions).sample()
    assert z.shape == (7, 2)
    assert model.prior(states[:, 0]).mean.shape == (7, 2)
    assert model.decode(z, states).shape == (7, 4, 2)
    loss, _ = skill_loss(model, states, actions, beta=0.1)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim == 2)


def test_the_loss_is_its_parts_and_the_prior_gives_no_gradient_to_the_encoder() -> None:
    model = SkillModel(SMALL)
    states, actions = torch.randn(5, 4, 3), torch.randn(5, 4, 2)
    loss, parts = skill_loss(model, states, actions, beta=0.25)
    expected = parts["reconstruction"] + 0.25 * parts["posterior_kl"] + parts["prior_kl"]
    assert loss.item() == pytest.approx(expected.item(), rel=1e-5)
    q, p = model.posterior(states, actions), model.prior(states[:, 0])
    unit = Normal(torch.zeros_like(q.mean), torch.ones_like(q.mean))
    assert parts["posterior_kl"].item() == pytest.approx(kl_divergence(q, unit).mean().item(), rel=1e-5)
    assert parts["prior_kl"].item() == pytest.approx(kl_divergence(q, p).mean().item(), rel=1e-5)
    for parameter in model.prior.parameters():
        parameter.data.add_(1.0)  # another prior: the encoder must not notice
    torch.manual_seed(1)
    first = torch.autograd.grad(skill_loss(model, states, actions, beta=0.25)[0], list(model.encoder.parameters()))
    for parameter in model.prior.parameters():
        parameter.data.sub_(1.0)
    torch.manual_seed(1)
    second = torch.autograd.grad(skill_loss(model, states, actions, beta=0.25)[0], list(model.encoder.parameters()))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_the_decoder_answers_hidden_states_with_the_recorded_actions() -> None:
    torch.manual_seed(0)
    model = SkillModel(SMALL)
    model.prior.set_scale(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 2.0, 1.0]))
    states, actions, z = torch.randn(6, 4, 3), torch.randn(6, 4, 2), torch.randn(6, SMALL.latent_dim)
    hidden = torch.tensor([True, False, True, False, False, False])
    with torch.no_grad():
        decoded, blindly = model.decode(z, states, hidden), model.decode(z, model.prior.mean.expand_as(states))
        torch.testing.assert_close(decoded[hidden], blindly[hidden])
        assert torch.equal(decoded[~hidden], model.decode(z, states)[~hidden])

        def reconstruction(hidden: torch.Tensor | None, corrected: torch.Tensor) -> torch.Tensor:
            torch.manual_seed(1)
            _, parts = skill_loss(
                model, states, actions, beta=1.0, perturbed_states=states, corrected_actions=corrected, hidden=hidden
            )
            return parts["reconstruction"]

        everywhere = torch.ones(6, dtype=torch.bool)
        assert reconstruction(everywhere, actions + 1) == reconstruction(everywhere, actions)
        assert reconstruction(None, actions + 1) != reconstruction(None, actions)


def test_the_encoder_never_sees_the_perturbed_states() -> None:
    model = SkillModel(SMALL)
    states, actions = torch.randn(5, 4, 3), torch.randn(5, 4, 2)
    _, clean = skill_loss(model, states, actions, beta=1.0)
    _, noisy = skill_loss(model, states, actions, beta=1.0, perturbed_states=states + 1, corrected_actions=actions - 1)
    assert torch.equal(clean["posterior_kl"], noisy["posterior_kl"])
    assert not torch.equal(clean["prior_kl"], noisy["prior_kl"])


def test_only_a_decoder_that_sees_the_state_learns_corrections(point_data: Path) -> None:
    data, scanned = DataSet.open(point_data), scan(point_data)
    states = torch.zeros(50, TINY.horizon, scanned.state_dim)
    actions = torch.full((50, TINY.horizon, scanned.action_dim), 0.9)
    for decoder, corrects in (("closed_loop", True), ("open_loop", False)):
        config = TINY.model_copy(update={"decoder": decoder})
        perturbed, corrected = SkillTrainer(scanned, config)._perturbed(states, actions).values()
        assert perturbed.any()
        assert torch.equal(corrected, actions) != corrects
        less = config.model_copy(update={"correction_gain": 0.5})
        assert (skills_key(data, less) != skills_key(data, config)) == corrects


def test_the_correction_of_a_known_system_is_found() -> None:
    # s' = s + 0.1 a, so a displacement e is undone by a = −10 e; a third dimension drifts by itself.
    rng = np.random.default_rng(0)
    actions = rng.uniform(-0.9, 0.9, (2000, 2))
    states = np.zeros((2000, 3))
    for t in range(1999):
        states[t + 1, :2] = states[t, :2] + 0.1 * actions[t]
        states[t + 1, 2] = 0.9 * states[t, 2] + rng.normal(0, 0.1)
    states += [100, 0, 0]
    statistics = StateStatistics(3, 2)
    for piece in (slice(0, 1000), slice(1000, 2000)):
        statistics.add(states[piece], actions[piece], np.array([0, 1000]))
    np.testing.assert_allclose(statistics.mean, states.mean(0), rtol=1e-6)
    np.testing.assert_allclose(statistics.std, states.std(0), rtol=1e-4)
    correction = statistics.correction(np.ones(3), ridge=1e-6)
    np.testing.assert_allclose(correction[:, :2], -10 * np.eye(2), atol=0.3)
    assert np.abs(correction[:, 2]).max() < 0.3


def _files(point_data: Path, path: Path) -> Path:
    """The same data set in several files."""
    data = load(point_data)
    with TrajectoryWriter(path, fps=10, file_size_mb=0.004) as writer:
        for i in range(data.num_episodes):
            writer.add(data.episode(i))
    assert len(list(path.glob("data/*/*.parquet"))) > 4
    return path


def walks(rng: np.random.Generator, share: float = 0.1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """States of positions (2,), their velocities and a number of its own; actions, and the starts of episodes.

    An action is a velocity that is wanted, and one step makes up for this share of the difference to it.
    """
    states, actions = [], []
    for _ in range(20):
        position, velocity, action = rng.normal(0, 1, 2), np.zeros(2), rng.uniform(-0.5, 0.5, 2)
        for _ in range(50):
            action = 0.9 * action + rng.uniform(-0.1, 0.1, 2)
            states.append(np.concatenate([position, velocity, rng.normal(0, 1, 1)]))
            actions.append(action)
            velocity = velocity + share * (action - velocity)
            position = position + 0.1 * velocity
    return np.array(states), np.array(actions), np.arange(0, 1001, 50)


def test_velocities_are_told_from_what_they_change() -> None:
    states, actions, starts = walks(np.random.default_rng(0))
    statistics = StateStatistics(5, 2)
    statistics.add(states, actions, starts)
    assert statistics.velocities == {2: 0, 3: 1}
    times = 0.1 * np.arange(1000)[:, None]
    swings = StateStatistics(2, 1)  # each is in proportion to the change of the other
    swings.add(np.concatenate([np.sin(times), np.cos(times)], 1), np.zeros((1000, 1)), np.array([0, 1000]))
    assert swings.velocities == {1: 0}
    assert StateStatistics(5, 2).velocities == {}


@pytest.mark.parametrize("again", [False, True])
def test_skills_are_blind_to_velocities_that_tell_the_actions(again: bool) -> None:
    """Velocities themselves, or the positions of the step before; not those that actions only accelerate."""
    for share, hidden in ((0.9, (2, 3)), (0.02, ())):
        states, actions, starts = walks(np.random.default_rng(0), share)
        if again:
            states[1:, 2:4] = states[:-1, :2]
            states[starts[:-1], 2:4] = states[starts[:-1], :2]
        statistics = StateStatistics(5, 2)
        statistics.add(states, actions, starts)
        assert statistics.giveaways == hidden


def test_a_correction_that_is_blind_is_that_of_the_other_dimensions() -> None:
    states, actions, starts = walks(np.random.default_rng(1))
    seen = [0, 1, 4]
    whole, part = StateStatistics(5, 2), StateStatistics(3, 2)
    whole.add(states, actions, starts)
    part.add(states[:, seen], actions, starts)
    found = whole.correction(np.ones(5), blind=(2, 3))
    np.testing.assert_allclose(found[:, seen], part.correction(np.ones(3)), rtol=1e-4, atol=1e-6)
    assert not found[:, 2:4].any()


@pytest.mark.parametrize("memory", [1e9, 400.0])
def test_a_pass_takes_every_window_of_its_episodes_once(point_data: Path, tmp_path: Path, memory: float) -> None:
    """From memory, and streamed with room for a few files at a time."""
    path = _files(point_data, tmp_path / "files")
    data, scanned = load(path), scan(path)
    episodes = scanned.train[1::2]
    stream = WindowStream(scanned, episodes, 5, memory, torch.Generator().manual_seed(0), torch.device("cpu"))
    assert stream.streamed == (memory < 1e9)
    starts = data.episode_starts
    wanted = np.concatenate([np.arange(starts[e], starts[e + 1] - 4) for e in episodes])
    passes = []
    batches = stream.batches(1)
    for _ in range(2):
        states, actions = map(torch.cat, zip(*itertools.islice(batches, len(wanted)), strict=True))
        passes.append(states)
        order = np.lexsort(states[:, 0].T.numpy())
        expected = np.lexsort(data.states[wanted].T)
        frames = wanted[expected][:, None] + np.arange(5)
        np.testing.assert_array_equal(states.numpy()[order], data.states[frames])
        np.testing.assert_array_equal(actions.numpy()[order], data.actions[frames])
    assert not torch.equal(*passes)


def test_held_out_windows_are_not_trained_on(point_data: Path, tmp_path: Path) -> None:
    one, several = scan(point_data), scan(_files(point_data, tmp_path / "files"))
    data = load(point_data)
    held_out = np.setdiff1d(np.arange(data.num_episodes), one.train)
    assert len(held_out) > 0
    frames = np.concatenate([np.arange(*data.episode_starts[e : e + 2]) for e in held_out])
    assert {tuple(s) for s in one.validation_states[:, 0]} <= {tuple(s) for s in data.states[frames]}
    np.testing.assert_array_equal(one.validation_states, several.validation_states)
    np.testing.assert_allclose(one.statistics.std, several.statistics.std, rtol=1e-5)


def test_too_few_episodes_for_the_workers(point_data: Path) -> None:
    with pytest.raises(UserError, match="or fewer workers"):
        SkillTrainer(scan(point_data), TINY, rank=99, world_size=100)


def test_training_learns_to_reconstruct(point_data: Path) -> None:
    trainer = SkillTrainer(scan(point_data), TINY)
    before = trainer.validate()["validation_reconstruction"]
    while trainer.updates < TINY.updates:
        trainer.step()
    assert trainer.validate()["validation_reconstruction"] < before / 5


def test_an_interrupted_training_ends_with_the_same_weights(point_data: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"updates": 30, "batch_size": 10_000})  # one batch a pass: the order is the pass's
    whole = SkillTrainer(scan(point_data), config)
    for _ in range(15):
        whole.step()
    whole.save(tmp_path / "state")
    for _ in range(15):
        whole.step()
    resumed = SkillTrainer(scan(point_data), config)
    resumed.restore(tmp_path / "state", 15)
    for _ in range(15):
        resumed.step()
    for a, b in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_training_goes_on_on_another_kind_of_device(point_data: Path, tmp_path: Path) -> None:
    """Whose random numbers have a state of another size: noise is then drawn anew."""
    trainer = SkillTrainer(scan(point_data), TINY)
    trainer.save(tmp_path / "state")
    tensors = load_file(tmp_path / "state")
    noise = {"rng.noise": torch.zeros(16, dtype=torch.uint8), "rng.cuda": torch.zeros(16, dtype=torch.uint8)}
    save_file(tensors | noise, tmp_path / "state")
    resumed = SkillTrainer(scan(point_data), TINY)
    resumed.restore(tmp_path / "state", 0)
    for a, b in zip(trainer.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(a, b)
    resumed.step()


def test_a_checkpoint_round_trips(point_skills: str) -> None:
    model, card = load_skills(point_skills)
    again, _ = load_skills(f"file://{point_skills}")
    assert card.model.state_dim == 2
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert not any(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda d: (d / "skill.json").unlink(), "Cannot read the skill checkpoint file"),
        (lambda d: (d / "skill.json").write_text("{"), "is not JSON"),
        (lambda d: (d / "skill.json").write_text('{"format": 9}'), "format 9"),
        (lambda d: (d / "skill.safetensors").unlink(), "Cannot read the skill checkpoint file"),
        (lambda d: (d / "skill.safetensors").write_bytes(b"x" * 50), "is corrupt"),
        (lambda d: _edit_card(d, "state_dim", 3), "does not fit its card"),
        (lambda d: _edit_card(d, "hidden", -1), "hidden"),
    ],
)
def test_a_damaged_checkpoint_is_one_clear_error(
    point_skills: str, tmp_path: Path, damage: object, message: str
) -> None:
    copy = tmp_path / "skills"
    shutil.copytree(point_skills, copy)
    damage(copy)  # type: ignore[operator]
    with pytest.raises(UserError, match=message) as caught:
        load_skills(copy)
    assert "\n" not in str(caught.value)


def _edit_card(directory: Path, key: str, value: int) -> None:
    card = json.loads((directory / "skill.json").read_text())
    card["model"][key] = value
    (directory / "skill.json").write_text(json.dumps(card))


@pytest.mark.parametrize("decoder", ["closed_loop", "open_loop"])
def test_the_running_decoder_equals_the_model(decoder: str) -> None:
    model = SkillModel(SMALL.model_copy(update={"decoder": decoder})).eval()
    states, z = torch.randn(1, 4, 3), torch.randn(1, 2)
    running = SkillDecoder(model)
    for _ in range(2):  # a second skill starts from its own beginning
        running.start(z[0].numpy())
        actions = np.stack([running.act(state.numpy()) for state in states[0]])
        np.testing.assert_allclose(actions, model.decode(z, states)[0].detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("prior_sees_all", [False, True])
def test_skills_do_not_depend_on_what_they_are_blind_to(prior_sees_all: bool) -> None:
    model = SkillModel(SMALL.model_copy(update={"blind": (1,), "prior_sees_all": prior_sees_all}))
    model.prior.set_scale(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.5, 2.0, 1.0]))
    states = torch.randn(6, 4, 3)
    others = states.clone()
    others[..., 1] += torch.randn(6, 4)
    actions, z = torch.randn(6, 4, 2), torch.randn(6, 2)
    with torch.no_grad():
        assert torch.equal(model.posterior(states, actions).mean, model.posterior(others, actions).mean)
        assert torch.equal(model.prior(states[:, 0]).mean, model.prior(others[:, 0]).mean) != prior_sees_all
        assert torch.equal(model.decode(z, states), model.decode(z, others))
        assert not torch.equal(model.prior.normalize(states), model.prior.normalize(others))  # what a policy sees
        decoder = SkillDecoder(model)
        decoder.start(z.numpy())
        for t in range(4):
            expected = model.decode(z, states[:, t : t + 1])[:, 0]
            np.testing.assert_allclose(decoder.act(others[:, t].numpy()), expected, atol=1e-5)


def test_the_pace_is_how_far_states_come_in_a_step() -> None:
    prior = SkillModel(SkillModelConfig(state_dim=3, action_dim=2, blind=(2,))).prior
    prior.set_scale(torch.zeros(3), torch.tensor([1.0, 2.0, 4.0]))
    states = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 9.0], [1.0, -2.0, 0.0]])
    # The first state moves by a deviation in each of the two that skills see, then the second by two.
    torch.testing.assert_close(prior.pace(states, 2), torch.tensor([2 / 3 / 2, 2 / 3 / 2]))


def test_the_card_is_readable_without_weights(point_skills: str) -> None:
    assert load_card(point_skills).model.horizon == TINY.horizon
