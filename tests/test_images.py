"""A skill prior that sees pictures: from the column in the data to an agent that learns with it."""

import itertools
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from rllib_spirl import SPiRLConfig
from rllib_spirl.algorithm.offline import offline_replay
from rllib_spirl.data import Episode, TrajectoryWriter
from rllib_spirl.data import columns as c
from rllib_spirl.data import recipe as recipes
from rllib_spirl.data.windows import previous_frames
from rllib_spirl.envs.block_stacking import BlockStackingEnv, pictures
from rllib_spirl.envs.skill_env import SkillEnv
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.prior import prior_episode
from rllib_spirl.skills.checkpoint import SkillCard, load_skills, save_skills
from rllib_spirl.skills.dataset import SkillData, WindowStream
from rllib_spirl.skills.model import SkillModel, SkillModelConfig, StateSet, skill_loss
from rllib_spirl.skills.pretrain import skills_key
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer
from tests.sets import fingerprint, load, opened

RECIPE = Path(__file__).resolve().parents[1] / "offline_data" / "block_stacking_images.yaml"
CONFIG = PretrainConfig(
    prior="images",
    state_set=StateSet(own=6, item=6),
    horizon=5,
    latent_dim=3,
    hidden=32,
    layers=1,
    prior_layers=1,
    state_noise=0,
    beta=1e-3,
    updates=60,
    batch_size=64,
)


def scan(path: Path, images: bool = True) -> SkillData:
    return SkillData.scan(opened(path), CONFIG.horizon, CONFIG.validation_fraction, CONFIG.seed, images=images)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six stacks of two among five blocks, with pictures."""
    output = tmp_path_factory.mktemp("data") / "blocks"
    few = {"demonstrations": 6, "stacks": 1}
    recipes.build(RECIPE, output=output, overrides=few, workers=1)
    return output


@pytest.fixture(scope="module")
def skills(data: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """Skills of them, hardly trained."""
    trainer = SkillTrainer(scan(data), CONFIG)
    while trainer.updates < CONFIG.updates:
        trainer.step()
    card = SkillCard(model=trainer.model.config, data=fingerprint(data))
    return str(save_skills(tmp_path_factory.mktemp("skills"), trainer.model, card))


class TestData:
    def test_pictures_are_read_back_when_asked_for(self, data: Path) -> None:
        read = load(data, images=True)
        np.testing.assert_array_equal(read.images, pictures(read.states))
        assert load(data).images is None
        episode = read.episode(2)
        episode.validate()
        np.testing.assert_array_equal(episode.images, pictures(episode.states[:-1]))
        assert opened(data).features[c.IMAGE] == {"dtype": "uint8", "shape": [32 * 32 * 3], "names": None}
        file = next(data.glob("data/*/*.parquet"))
        assert pq.read_schema(file).field(c.IMAGE).type == pa.list_(pa.uint8(), 32 * 32 * 3)

    def test_the_fingerprint_covers_them(self, data: Path, tmp_path: Path) -> None:
        def written(name: str, change: Any) -> Path:
            with TrajectoryWriter(tmp_path / name, fps=20) as writer:
                for e in map(read.episode, range(2)):
                    images = change(e.images)
                    writer.add(Episode(e.states, e.actions, e.rewards, e.terminated, e.truncated, e.task, images))
            return tmp_path / name

        read = load(data, images=True)
        same, inverted, without = written("a", lambda x: x), written("b", lambda x: ~x), written("c", lambda x: None)
        prints = [fingerprint(path) for path in (same, inverted, without)]
        assert len(set(prints)) == 3
        for path, known in zip((same, inverted, without), prints, strict=True):
            info = path / "meta" / "info.json"
            info.write_text(info.read_text().replace('"fingerprint"', '"forgotten"'))
            assert fingerprint(path) == known

    def test_pictures_make_other_data_and_other_skills(self, data: Path) -> None:
        plain = recipes.read_recipe(RECIPE.with_name("block_stacking.yaml"))
        assert recipes.recipe_hash(recipes.read_recipe(RECIPE)) != recipes.recipe_hash(plain)
        state = CONFIG.model_copy(update={"prior": "state"})
        assert skills_key(opened(data), state) != skills_key(opened(data), CONFIG)

    @pytest.mark.parametrize("memory", [1e9, 500_000.0])
    def test_every_window_comes_with_the_pictures_before_and_at_its_start(
        self, data: Path, tmp_path: Path, memory: float
    ) -> None:
        """From memory, and streamed: it is the pictures that do not fit."""
        read, path = load(data, images=True), tmp_path / "files"
        with TrajectoryWriter(path, fps=20, file_size_mb=0.2) as writer:
            for index in range(read.num_episodes):
                writer.add(read.episode(index))
        scanned = scan(path)
        stream = WindowStream(scanned, scanned.train, 5, memory, torch.Generator().manual_seed(0), torch.device("cpu"))
        assert stream.streamed == (memory < 1e9)
        states, _, images = map(torch.cat, zip(*itertools.islice(stream.batches(1), 300), strict=True))
        np.testing.assert_array_equal(images[:, 1], pictures(states[:, 0].numpy()))
        where = {state.tobytes(): frame for frame, state in enumerate(read.states)}
        frames = np.array([where[state.tobytes()] for state in states[:, 0].numpy()])
        assert np.isin(frames, read.episode_starts).any()
        before = read.states[previous_frames(frames, read.episode_starts)]
        np.testing.assert_array_equal(images[:, 0], pictures(before))
        assert scanned.validation_images is not None
        np.testing.assert_array_equal(scanned.validation_images[:, 1], pictures(scanned.validation_states[:, 0]))

    def test_bad_pictures_are_one_clear_error(self, data: Path, tmp_path: Path) -> None:
        read = load(data, images=True)
        episode = read.episode(0)

        def write(*images: Any) -> Path:
            with TrajectoryWriter(tmp_path / "data", fps=20, overwrite=True) as writer:
                for each in images:
                    writer.add(Episode(episode.states, episode.actions, episode.rewards, False, True, "", each))
            return tmp_path / "data"

        for bad in (episode.images[:-1], episode.images[:, :16], episode.images.astype(np.float32)):
            with pytest.raises(UserError, match="images must be uint8 of shape"):
                write(bad)
        with pytest.raises(UserError, match="episode 1 has no images, episode 0 has some"):
            write(episode.images, None)
        with pytest.raises(UserError, match="episode 1 has images, episode 0 has none"):
            write(None, episode.images)
        path = write(None)
        for read_it in (lambda: load(path, images=True), lambda: scan(path)):
            with pytest.raises(UserError, match=r"file-000.parquet: column 'observation.image' is missing.*images: tr"):
                read_it()
        file = next(write(episode.images).glob("data/*/*.parquet"))
        table = pq.read_table(file)
        at = table.schema.get_field_index(c.IMAGE)
        rows = table.column(c.IMAGE).to_pylist()
        for values, kind, message in (
            ([row[:-3] for row in rows], pa.uint8(), r"file-000.parquet: 'observation.image' holds 3069 uint8 values"),
            (rows, pa.int64(), "holds 3072 int64 values"),
            ([rows[0], *(row[:9] for row in rows[1:])], pa.uint8(), "row 1: 'observation.image' has 9 values"),
        ):
            pq.write_table(table.set_column(at, c.IMAGE, pa.array(values, pa.list_(kind))), file)
            with pytest.raises(UserError, match=message):
                load(path, images=True)


class TestPrior:
    def test_learns_what_the_pictures_tell(self) -> None:
        """States tell nothing; the previous picture's brightness is the action."""
        torch.manual_seed(0)
        model = SkillModel(
            SkillModelConfig(
                state_dim=2,
                action_dim=1,
                horizon=3,
                latent_dim=2,
                hidden=32,
                layers=1,
                prior_layers=1,
                prior_images=True,
            )
        )
        optimizer = torch.optim.Adam(model.parameters(), 3e-3)
        for _ in range(120):
            actions = torch.rand(64, 1, 1) * 2 - 1
            images = torch.full((64, 2, 32, 32, 3), 128, dtype=torch.uint8)
            images[:, 0] = (127 * (actions + 1)).to(torch.uint8)[..., None]
            actions = actions.expand(-1, 3, -1)
            loss, _ = skill_loss(model, torch.zeros(64, 3, 2), actions, beta=1e-2, images=images)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        # Skills that the prior takes from the pictures alone do what was done there, and not what was done elsewhere.
        with torch.no_grad():
            done = model.decode(model.prior(images).mean, torch.zeros(64, 3, 2))
        assert (done - actions).square().mean() < 0.03
        assert (done - actions.roll(1, 0)).square().mean() > 0.3
        assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters() if p.ndim >= 2)

    def test_a_checkpoint_round_trips(self, data: Path, skills: str) -> None:
        model, card = load_skills(skills)
        assert card.model.prior_images
        assert card.model.fits(6 + 6 * 11)
        again, _ = load_skills(save_skills(Path(skills) / "copy", model, card))
        read = load(data, images=True)
        pairs = torch.from_numpy(read.images[:8].reshape(4, 2, 32, 32, 3))
        assert torch.equal(model.prior(pairs).mean, again.prior(pairs).mean)

    def test_held_out_pictures_tell_which_skill_comes(self, data: Path) -> None:
        config = CONFIG.model_copy(update={"beta": 0.05, "updates": 150})  # smooth skills, so few pictures are enough
        scanned = scan(data)
        trainer = SkillTrainer(scanned, config)
        before = trainer.validate()
        while trainer.updates < config.updates:
            trainer.step()
        assert trainer.validate()["validation_reconstruction"] < 0.5 * before["validation_reconstruction"]
        states, actions = map(torch.from_numpy, (scanned.validation_states, scanned.validation_actions))
        images = torch.from_numpy(scanned.validation_images)
        others = images[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
        with torch.no_grad():
            right, wrong = (
                skill_loss(trainer.model, states, actions, beta=1e-3, images=i)[1]["prior_kl"] for i in (images, others)
            )
        assert right < 0.9 * wrong


class Recording(BlockStackingEnv):
    """Keeps the actions it was given."""

    def step(self, action: np.ndarray) -> Any:
        self.actions = [*getattr(self, "actions", []), action]
        return super().step(action)


class TestSkillEnv:
    @pytest.mark.parametrize("blocks", [5, 11])
    def test_observes_the_state_and_what_the_prior_says_of_the_pictures(self, skills: str, blocks: int) -> None:
        """Among more blocks than it was trained with, too."""
        recording = Recording(blocks=blocks, images=True, max_episode_steps=12)
        env = SkillEnv(recording, skills)
        low_level = BlockStackingEnv(blocks=blocks, images=True, max_episode_steps=12)
        model, _ = load_skills(skills)
        size = 6 + 6 * blocks
        observation, _ = env.reset(seed=1)
        seen, _ = low_level.reset(seed=1)
        for z in (np.zeros(3, np.float32), np.ones(3, np.float32), None):
            assert env.observation_space.contains(observation)
            assert observation.shape == (size + 2 * 3,)
            np.testing.assert_array_equal(observation[:size], seen["state"])
            said = model.prior(torch.from_numpy(seen["images"])[None])
            np.testing.assert_allclose(observation[size:], torch.cat([said.mean, said.stddev], 1)[0], rtol=1e-5)
            flat = torch.from_numpy(observation)[None]
            assert torch.equal(model.prior.at(flat).mean[0], flat[0, size : size + 3])
            assert torch.equal(model.prior.states(flat)[0], flat[0, :size])
            if z is not None:
                observation, *_, info = env.step(z)
                assert info["low_level_steps"] == 5
                for action in recording.actions[-5:]:
                    state = torch.from_numpy(seen["state"])[None, None]
                    wanted = model.decode(torch.from_numpy(z)[None], state)[0, 0].clamp(-1, 1)
                    np.testing.assert_allclose(action, wanted, atol=1e-5)
                    seen = low_level.step(action)[0]
        assert env.step(np.zeros(3, np.float32))[3]  # truncated after two of five steps

    def test_paints_only_what_it_needs(self, skills: str, monkeypatch: pytest.MonkeyPatch) -> None:
        painted = []
        paint = BlockStackingEnv.paint
        monkeypatch.setattr(BlockStackingEnv, "paint", lambda env: painted.append(env) or paint(env))
        env = SkillEnv(BlockStackingEnv(blocks=5, images=True), skills)
        env.reset(seed=0)
        for _ in range(2):
            env.step(np.zeros(3, np.float32))
        assert len(painted) == 3

    def test_an_environment_without_pictures_is_a_clear_error(self, skills: str) -> None:
        with pytest.raises(UserError, match=r"observations are Box.*Set in env_config images: true"):
            SkillEnv(BlockStackingEnv(blocks=5), skills)
        flat_env = gym.wrappers.FlattenObservation(BlockStackingEnv(blocks=5, images=True))
        with pytest.raises(UserError, match=r"observations are Box.*prior sees pictures"):
            SkillEnv(flat_env, skills)


def test_demonstrations_become_observations_of_the_environment(data: Path, skills: str) -> None:
    model, _ = load_skills(skills)
    env = BlockStackingEnv(blocks=5, images=True)
    replay = offline_replay(opened(data), model, env, 100_000)
    columns = {name: column[: len(replay)] for name, column in replay._columns.items()}
    assert columns["states"].shape[1] == 6 + 6 * 5 + 2 * 3
    read = load(data, images=True)
    where = {state.tobytes(): frame for frame, state in enumerate(read.states)}
    for name in ("states", "next_states"):
        for row in range(0, len(replay), 40):
            if name == "next_states" and columns["terminated"][row]:
                continue
            observation = columns[name][row]
            frame = where[observation[: 6 + 6 * 5].numpy().tobytes()]
            pair = read.images[[previous_frames(np.array(frame), read.episode_starts), frame]]
            said = model.prior(torch.from_numpy(pair)[None])
            torch.testing.assert_close(observation[-6:], torch.cat([said.mean, said.stddev], 1)[0])


@pytest.mark.usefixtures("ray_session")
class TestLearning:
    def config(self, skills: str, **env_config: Any) -> SPiRLConfig:
        return (
            SPiRLConfig()
            .environment(
                "rllib_spirl/BlockStacking-v0", env_config={"blocks": 11, "max_episode_steps": 60} | env_config
            )
            .training(
                skill_checkpoint=skills,
                offline_fraction=0,
                warmup_steps=8,
                replay_capacity=200,
                train_batch_size_per_learner=16,
                policy_hidden=16,
                critic_hidden=16,
            )
            .reporting(min_sample_timesteps_per_iteration=16)
            .evaluation(evaluation_interval=2, evaluation_duration=1)
            .debugging(seed=3, log_level="ERROR")
        )

    def test_among_eleven_blocks_without_a_picture_in_the_replay(self, skills: str) -> None:
        algorithm = self.config(skills, images=True).build_algo()
        try:
            module = algorithm.learner_group._learner.module["default_policy"]
            size = 6 + 6 * 11 + 2 * 3
            observations = torch.from_numpy(np.random.default_rng(0).normal(size=(4, size)).astype(np.float32))
            observations[:, -3:].abs_()
            policy, kl = module.skills(observations)
            assert kl.abs().max() == 0  # it starts as the prior
            assert torch.equal(policy.mean, observations[:, -6:-3])
            for _ in range(2):
                result = algorithm.train()
            assert result["evaluation"]["episodes"] == 1
            assert {name: column.shape[1:] for name, column in algorithm.replay._columns.items()} == {
                "states": (size,),
                "z": (3,),
                "rewards": (),
                "next_states": (size,),
                "terminated": (),
            }
            stored = algorithm.replay.sample(64)["states"]
            assert (stored[:, -3:] > 0).all()
            assert result["updates"] > 0
            module = algorithm.env_runner.module
            module.policy.net[-1].weight.data.normal_(0, 0.1)
            wanted, kl = module.skills(stored[:1])
            assert kl.item() > 0
            mean, std = algorithm.env_runner._policy._skills(stored[0].numpy())
            np.testing.assert_allclose(mean, wanted.mean[0].detach(), atol=1e-5)
            np.testing.assert_allclose(std, wanted.stddev[0].detach(), atol=1e-5)
        finally:
            algorithm.stop()

    @pytest.mark.parametrize("reference", ["prior", "unit"])
    def test_a_copied_policy_starts_as_what_the_prior_says(self, skills: str, reference: str) -> None:
        """What it is regularised to is another matter: cloned behaviour may be rewarded for entropy."""
        config = self.config(skills, images=True).training(policy="copied", regularize_to=reference, prior_spread=0.5)
        algorithm = config.build_algo()
        try:
            module, acting = algorithm.env_runner.module, algorithm.env_runner._policy
            state_dim = module.observation_space.shape[0] - module.prior.said
            observed = torch.cat([torch.zeros(1, state_dim), torch.tensor([[0.5, 0, -1, 2, 1, 0.1]])], -1)
            z, kl = module.skills(observed)
            assert z.mean[0].tolist() == pytest.approx([0.5, 0, -1])
            assert z.stddev[0].tolist() == pytest.approx([2, 1, 0.1])
            ratios = torch.tensor([2, 1, 0.1])
            if reference == "prior":
                expected = 3 * (2 - 0.5 + np.log(0.5))  # every deviation is twice the reference's
            else:
                expected = (0.5 * (ratios**2 + torch.tensor([0.25, 0, 1]) - 1) - ratios.log()).sum().item()
            assert kl.item() == pytest.approx(expected, abs=1e-4)
            module.policy.net[-1].weight.data.normal_(0, 0.1)
            z, _ = module.skills(observed)
            mean, std = acting._skills(observed[0].numpy())
            np.testing.assert_allclose(mean, z.mean[0].detach(), atol=1e-5)
            np.testing.assert_allclose(std, z.stddev[0].detach(), atol=1e-5)
            assert algorithm.train()["updates"] > 0
        finally:
            algorithm.stop()

    def test_the_prior_alone_acts(self, skills: str) -> None:
        env_config = {"blocks": 11, "max_episode_steps": 20, "images": True}
        for sample in (False, True):
            result, pace = prior_episode(skills, "rllib_spirl/BlockStacking-v0", env_config, 0, sample)
            assert result.low_level_steps == 20
            assert pace > 0
