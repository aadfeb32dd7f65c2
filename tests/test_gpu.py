"""On a GPU the same comes out as on the processor."""

from pathlib import Path
from typing import Any

import pytest
import torch

from rllib_spirl import SPiRL, SPiRLConfig
from rllib_spirl.algorithm.spirl_learner import spirl_loss, with_prior
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.training import SkillTrainer
from tests.conftest import TINY
from tests.point import PointEnv
from tests.sets import opened

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no CUDA device"),
    pytest.mark.usefixtures("ray_session"),
]


def test_losses_on_a_gpu_are_those_on_the_processor(point_settings: dict[str, Any]) -> None:
    losses, states = [], torch.randn(32, 2)
    weights: dict[str, torch.Tensor] = {}
    for gpus in (0, 1):
        config = SPiRLConfig().environment(PointEnv, env_config={}).training(**point_settings)
        algorithm = config.learners(num_gpus_per_learner=gpus).debugging(seed=3).build_algo()
        learner = algorithm.learner_group._learner
        module = learner.module["default_policy"]
        assert module.log_alpha.device.type == ("cuda" if gpus else "cpu")
        batch = {"states": states, "next_states": states + 0.1, "z": 0.5 * states, "rewards": states[:, 0]}
        batch = {name: column.to(learner.device) for name, column in batch.items()}
        batch["terminated"] = torch.zeros(32, device=learner.device)
        columns = with_prior(module, batch)
        arguments = learner._arguments(module, learner.config, columns)
        arguments["noise"] = torch.full(arguments["noise"].shape, 0.3, device=learner.device)
        if gpus:
            module.load_state_dict(weights)
        weights = {name: value.cpu() for name, value in module.state_dict().items()}
        losses.append(spirl_loss(module, columns, **arguments)[0].item())
        algorithm.stop()
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


def test_training_on_a_gpu(point_settings: dict[str, Any]) -> None:
    config = SPiRLConfig().environment(PointEnv, env_config={}).training(**point_settings, compile_updates=True)
    algorithm = config.learners(num_learners=1, num_gpus_per_learner=1).debugging(seed=3).build_algo()
    result = algorithm.train()
    algorithm.stop()
    assert result["updates"] > 10


def test_a_restored_run_makes_the_same_next_update_on_a_gpu(point_settings: dict[str, Any], tmp_path: Path) -> None:
    config = SPiRLConfig().environment(PointEnv, env_config={}).training(**point_settings)
    algorithm = config.learners(num_gpus_per_learner=1).debugging(seed=3).build_algo()
    algorithm.train()
    saved = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    algorithm._learn(5, 0.5)
    restored = SPiRL.from_checkpoint(saved)
    restored._learn(5, 0.5)
    weights = [each.learner_group._learner.module["default_policy"].state_dict() for each in (algorithm, restored)]
    algorithm.stop()
    restored.stop()
    for name, weight in weights[0].items():
        torch.testing.assert_close(weights[1][name], weight, rtol=1e-4, atol=1e-6)  # sums in another order


def test_skills_trained_on_a_gpu_reconstruct_as_well(point_data: Any) -> None:
    scanned = SkillData.scan(opened(point_data), TINY.horizon, TINY.validation_fraction, TINY.seed)
    found = []
    for device in ("cpu", "cuda"):
        trainer = SkillTrainer(scanned, TINY, device=torch.device(device))
        while trainer.updates < TINY.updates:
            trainer.step()
        found.append(trainer.validate()["validation_reconstruction"])
    assert found[1] == pytest.approx(found[0], rel=0.2)
