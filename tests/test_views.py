"""A prior that sees the pictures of anyone's environment, by convolutions of its own or by a frozen ResNet-18."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import SyncVectorEnv
from safetensors.torch import save_file
from torch import nn

from rllib_spirl import PictureWrapper, PretrainConfig, RecordTrajectories, SPiRLConfig, UserError, pretrain
from rllib_spirl.cli.prepare import read_section
from rllib_spirl.data import DataSet
from rllib_spirl.envs.skill_env import SkillEnv, make_env, try_env
from rllib_spirl.envs.skill_vector_env import SkillVectorEnv
from rllib_spirl.skills.checkpoint import SkillCard, load_skills, save_skills
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.pretrain import skills_key
from rllib_spirl.skills.resnet import ResNet18Features, _ResidualBlock
from rllib_spirl.skills.training import SkillTrainer
from tests.point import GOALS, PointEnv

TINY = PretrainConfig(prior="images", horizon=5, latent_dim=2, hidden=32, layers=1, prior_layers=1, updates=40)
ROOM = "tests.test_views.RoomEnv"


def _unlicensed(limit: int = 5) -> gym.Env:
    raise RuntimeError("no licence")


gym.register("Unlicensed-v0", entry_point=_unlicensed)


class RoomEnv(PointEnv):
    """`PointEnv` with a view of its goals, and with methods that return no picture."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 10}  # noqa: RUF012 (Gymnasium's own form)

    def __init__(self, config: dict[str, Any] | None = None) -> None:
        super().__init__(config)
        self.render_mode = (config or {}).get("render_mode")

    def view(self) -> np.ndarray:
        """(64, 96, 3): red and green are bright about either goal; the agent is in the middle."""
        y, x = np.meshgrid(np.linspace(1.5, -1.5, 64), np.linspace(-1.5, 1.5, 96), indexing="ij")
        seen = np.zeros((64, 96, 3))
        for channel, goal in enumerate(GOALS - self.position):
            seen[..., channel] = 255 * np.exp(-4 * ((x - goal[0]) ** 2 + (y - goal[1]) ** 2))
        return seen.astype(np.uint8)

    def render(self) -> np.ndarray | None:
        return self.view() if self.render_mode == "rgb_array" else None

    def floats(self) -> np.ndarray:
        return np.zeros((64, 64, 3))


def walk(env: gym.Env, seed: int) -> None:
    """An episode of a script that goes to both goals."""
    rng = np.random.default_rng(seed)
    observation, _ = env.reset(seed=seed)
    done, target = False, 0
    while not done:
        offset = GOALS[target] - observation["state"]
        if np.linalg.norm(offset) < 0.12:
            target = min(target + 1, 1)
        action = np.clip(offset / 0.1, -1, 1) + rng.normal(0, 0.1, 2)
        observation, _, terminated, truncated, _ = env.step(action.astype(np.float32))
        done = terminated or truncated


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty walks, with views."""
    folder = tmp_path_factory.mktemp("data") / "room"
    with RecordTrajectories(PictureWrapper(RoomEnv(), "view"), folder) as env:
        for seed in range(20):
            walk(env, seed)
    return folder


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file like torchvision's, with more in it than is needed."""
    torch.manual_seed(1)
    state = ResNet18Features().state_dict() | {"fc.bias": torch.zeros(1000)}
    state["bn1.running_mean"] = torch.full((64,), 0.1)
    file = tmp_path_factory.mktemp("weights") / "resnet18.pth"
    torch.save(state, file)
    return file


class TestWrapper:
    def test_observations_show_the_picture_before_and_after_a_step(self) -> None:
        env = PictureWrapper(RoomEnv(), "view")
        observation, _ = env.reset(seed=0)
        assert env.observation_space.contains(observation)
        np.testing.assert_array_equal(*observation["images"])
        large = env.unwrapped.view().astype(float).reshape(32, 2, 32, 3, 3).mean((1, 3))  # 64 × 96 becomes 32 × 32
        np.testing.assert_allclose(observation["images"][1], large, atol=1)  # it rounds once along each axis
        after = env.step(np.array([1.0, 0.0], np.float32))[0]
        np.testing.assert_array_equal(after["images"][0], observation["images"][1])
        assert not np.array_equal(*after["images"])

    def test_a_method_in_env_config_is_enough(self) -> None:
        shown = make_env(ROOM, {"images": "view", "limit": 7})
        assert isinstance(shown, PictureWrapper)
        assert shown.unwrapped.limit == 7
        first = shown.reset(seed=0)[0]
        rendered = make_env(ROOM, {"images": "render"}).reset(seed=0)[0]  # with the mode in which it returns pictures
        np.testing.assert_array_equal(first["images"], rendered["images"])

    def test_recorded_pictures_are_of_the_states_before_the_actions(self, recorded: Path) -> None:
        read = DataSet.open(recorded).load(images=True)
        assert read.num_episodes == 20
        env = PictureWrapper(RoomEnv(), "view")
        env.reset()
        for frame in (0, 5, len(read.actions) - 1):
            env.unwrapped.position = read.states[frame].astype(float)
            np.testing.assert_array_equal(read.images[frame], env._picture())

    @pytest.mark.parametrize(
        ("config", "match"),
        [
            ({"images": "veiw"}, r"images: RoomEnv has no method veiw.*view"),
            ({"images": "floats"}, r"RoomEnv.floats returns float64 \(64, 64, 3\)"),
        ],
    )
    def test_what_is_no_picture_is_one_clear_error(self, config: dict[str, Any], match: str) -> None:
        with pytest.raises(UserError, match=match):
            try_env(ROOM, config).reset()

    @pytest.mark.parametrize("key", ["images", "max_episode_steps"])
    def test_a_key_that_is_not_for_the_environment_itself_is_not_blamed(self, key: str) -> None:
        with pytest.raises(UserError, match=r"Unlicensed-v0 cannot be made: RuntimeError: no licence"):
            try_env("Unlicensed-v0", {key: "view" if key == "images" else 3})
        with pytest.raises(UserError, match=r"Unlicensed-v0 cannot be made: unknown key 'lmit'; did you mean 'limit'"):
            try_env("Unlicensed-v0", {"lmit": 3})

    def test_many_at_once_have_no_pictures(self) -> None:
        with pytest.raises(UserError, match="makes 4 copies"):
            make_env("tests.point.PointsEnv", {"images": "view", "num_envs": 4})

    def test_several_side_by_side_are_seen_too(self, recorded: Path, tmp_path: Path) -> None:
        trainer = SkillTrainer(SkillData.scan(DataSet.open(recorded), 5, 0.1, 0, images=True), TINY)
        skills = str(save_skills(tmp_path, trainer.model, SkillCard(model=trainer.model.config)))
        envs = SyncVectorEnv([lambda: make_env(ROOM, {"images": "view"})] * 2)
        alone, together = SkillEnv(make_env(ROOM, {"images": "view"}), skills), SkillVectorEnv(envs, skills)
        together.reset(seed=[3, 4])
        alone.reset(seed=4)
        z = np.full(2, 0.5, np.float32)
        np.testing.assert_allclose(together.step(np.stack([z, z]))[0][1], alone.step(z)[0], atol=1e-6)


@pytest.mark.slow
def test_an_agent_learns_with_skills_whose_prior_sees_its_environment(recorded: Path, tmp_path: Path) -> None:
    config = TINY.model_copy(update={"updates": 300})
    skills = pretrain(DataSet.open(recorded), config, output=tmp_path / "skills")
    algorithm = (
        SPiRLConfig()
        .environment(ROOM, env_config={"images": "view"})
        .training(skill_checkpoint=str(skills), offline_data=str(recorded), offline_updates=200)
        .evaluation(evaluation_interval=3, evaluation_duration=10)
        .debugging(seed=0)
        .build_algo()
    )
    for _ in range(3):
        result = algorithm.train()
    algorithm.stop()
    assert result["evaluation"]["episode_return"] > 1.5  # of 2


class TestResNet:
    def test_it_is_the_published_network_up_to_its_third_stage(self) -> None:
        network = ResNet18Features()
        assert sum(p.numel() for p in network.parameters()) == 2_782_784
        for name in (
            "conv1.weight",
            "layer1.1.bn2.running_var",
            "layer2.0.downsample.0.weight",
            "layer3.1.conv2.weight",
        ):
            assert name in network.state_dict()
        assert "layer1.0.downsample.0.weight" not in network.state_dict()

    def test_a_block_adds_what_two_convolutions_make_of_its_input(self) -> None:
        block = _ResidualBlock(1, 1, stride=1).eval()
        for convolution, factor in ((block.conv1, 2.0), (block.conv2, -3.0)):
            nn.init.zeros_(convolution.weight)
            convolution.weight.data[0, 0, 1, 1] = factor
        x = torch.tensor([[[[1.0, -1.0], [0.5, 2.0]]]])
        assert torch.allclose(block(-x), torch.relu(-x - 6 * torch.relu(-x)), atol=1e-3)
        block.conv2.weight.data[0, 0, 1, 1] = 3.0
        assert torch.allclose(block(x), torch.relu(x + 6 * torch.relu(x)), atol=1e-3)

    @pytest.mark.long
    def test_it_stays_as_it_was_while_the_prior_learns(self, recorded: Path, weights: Path, tmp_path: Path) -> None:
        config = TINY.model_copy(update={"picture_encoder": "resnet18", "picture_weights": str(weights), "updates": 2})
        config = PretrainConfig.model_validate(config.model_dump() | {"batch_size": 8})
        skills = pretrain(DataSet.open(recorded), config, output=tmp_path / "skills")
        model, card = load_skills(str(skills))
        assert card.model.picture_encoder == "resnet18"
        for name, value in torch.load(weights, weights_only=True).items():
            if name != "fc.bias":
                assert torch.equal(model.prior.features.state_dict()[name], value), name
        begun = SkillTrainer(SkillData.scan(DataSet.open(recorded), 5, 0.1, 0, images=True), config)
        assert not torch.equal(model.prior.net[0].weight, begun.model.prior.net[0].weight)
        weights.rename(weights.with_suffix(".away"))  # the checkpoint is complete without the file
        try:
            pictures = torch.zeros(1, 2, 32, 32, 3, dtype=torch.uint8)
            assert torch.isfinite(load_skills(str(skills))[0].prior(pictures).mean).all()
        finally:
            weights.with_suffix(".away").rename(weights)

    def test_other_weights_are_other_skills_wherever_they_lie(
        self, recorded: Path, weights: Path, tmp_path: Path
    ) -> None:
        state = torch.load(weights, weights_only=True)
        same, other = tmp_path / "same.safetensors", tmp_path / "other.safetensors"
        (tmp_path / "copy.pth").write_bytes(weights.read_bytes())
        save_file({name: value for name, value in state.items() if "num_batches" not in name}, same)  # as of old
        save_file(state | {"bn1.bias": torch.ones(64)}, other)
        networks = [ResNet18Features() for _ in range(3)]
        for network, file in zip(networks, (weights, same, other), strict=True):
            network.load(file)
        pictures = torch.randint(0, 256, (1, 2, 32, 32, 3), dtype=torch.uint8)
        assert torch.equal(networks[0](pictures), networks[1](pictures))
        assert not torch.equal(networks[0](pictures), networks[2](pictures))

        def key(file: Path) -> str:
            chosen = {"picture_encoder": "resnet18", "picture_weights": str(file)}
            return skills_key(DataSet.open(recorded), PretrainConfig.model_validate(TINY.model_dump() | chosen))

        assert key(weights) == key(tmp_path / "copy.pth") != key(other)
        assert skills_key(DataSet.open(recorded), TINY) not in (key(weights), key(other))

    @pytest.mark.parametrize(
        ("section", "match"),
        [
            ({"picture_encoder": "resnet18"}, "resnet18 needs picture_weights"),
            ({"picture_weights": "x.pth"}, "resnet18 needs picture_weights"),
            ({"picture_encoder": "resnet18", "picture_weights": "x.pth", "prior": "state"}, "set prior: images"),
            ({"picture_encoder": "resnet18", "picture_weights": "missing.pth"}, "missing.pth cannot be read"),
            ({"picture_encoder": "resnet18", "picture_weights": "text.pth"}, "text.pth cannot be read"),
            ({"picture_encoder": "resnet18", "picture_weights": "text.safetensors"}, "text.safetensors cannot be read"),
            ({"picture_encoder": "resnet18", "picture_weights": "other.pth"}, "other.pth is no file.*conv1.weight"),
            ({"picture_encoder": "resnet18", "picture_weights": "module.pth"}, "module.pth cannot be read"),
        ],
    )
    def test_weights_that_cannot_be_used_are_one_clear_error(
        self, section: dict[str, Any], match: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tmp_path)
        for name in ("text.pth", "text.safetensors"):
            Path(name).write_text("hello")
        torch.save({"conv1.bias": torch.zeros(3)}, "other.pth")
        torch.save(nn.Linear(2, 2), "module.pth")
        with pytest.raises(UserError, match=match):
            read_section({"data": "any", "pretrain": {"prior": "images"} | section})

    def test_skills_that_are_given_need_no_weights(self) -> None:
        chosen = {"prior": "images", "picture_encoder": "resnet18", "picture_weights": "gone.pth"}
        assert read_section({"checkpoint": "skills", "pretrain": chosen | {"horizon": 10}}).given
