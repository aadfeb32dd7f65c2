"""A policy restored on its own does what the algorithm it was saved from did."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_spirl import SPiRLConfig
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import restore
from rllib_spirl.evaluation.restore import evaluate_checkpoint, load_policy

pytestmark = pytest.mark.usefixtures("ray_session")
SEED = 70


@pytest.fixture(scope="module")
def trainings(
    ray_session: None, point_skills: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[bool, tuple[Path, dict[str, Any]]]:
    """For evaluations that do not explore, and that do: a checkpoint of a policy that has left the prior, and its last
    evaluation in training."""
    skills = tmp_path_factory.mktemp("own") / "skills"
    shutil.copytree(point_skills, skills)
    config = (
        SPiRLConfig()
        .environment("point", env_config={"limit": 40})
        .training(skill_checkpoint=str(skills), warmup_steps=10, train_batch_size_per_learner=32, policy_hidden=32)
        .training(critic_hidden=32, policy_lr=0.02, eval_seed=SEED)
        .reporting(min_sample_timesteps_per_iteration=40)
        .evaluation(evaluation_interval=1, evaluation_duration=4)
        .debugging(seed=0, log_level="ERROR")
    )
    algorithm = config.build_algo()
    evaluation, made = algorithm.train()["evaluation"], {}
    for explore in (False, True):
        if explore:
            algorithm.config.evaluation_config["explore"] = True
            evaluation = algorithm.evaluate()
        path = tmp_path_factory.mktemp("run") / "checkpoint"
        algorithm.save_to_path(path)
        made[explore] = path, evaluation
    algorithm.stop()
    return made


@pytest.fixture(scope="module")
def trained(trainings: dict[bool, tuple[Path, dict[str, Any]]]) -> tuple[Path, dict[str, Any]]:
    return trainings[False]


@pytest.mark.parametrize("explore", [False, True])
def test_evaluation_of_the_checkpoint_is_the_one_of_training(
    trainings: dict[bool, tuple[Path, dict[str, Any]]], explore: bool
) -> None:
    path, evaluation = trainings[explore]
    assert evaluation["episode_return"] != trainings[not explore][1]["episode_return"]
    result = evaluate_checkpoint(str(path), episodes=4, seed=SEED)
    assert result.pop("seed") == SEED
    for name, value in result.items():
        assert evaluation[name] == pytest.approx(value)


@pytest.mark.slow
def test_the_result_does_not_depend_on_the_number_of_processes(
    trained: tuple[Path, dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = evaluate_checkpoint(str(trained[0]), episodes=4, seed=0)
    monkeypatch.setattr(restore, "EPISODES_PER_PROCESS", 1)
    assert evaluate_checkpoint(str(trained[0]), episodes=4, seed=0) == alone


def test_the_policy_is_the_trained_one_without_what_only_learning_needs(trained: tuple[Path, dict[str, Any]]) -> None:
    restored = load_policy(str(trained[0]))
    assert (restored.env, restored.env_config) == ("point", {"limit": 40})
    assert not any(name.startswith(("critic", "log_alpha")) for name, _ in restored.module.named_parameters())
    observation = np.array([0.3, 0.1], np.float32)
    z = restored.policy(observation)
    prior = restored.module.prior(torch.from_numpy(observation)[None]).mean[0].detach().numpy()
    assert z.shape == (2,)
    assert not np.allclose(z, prior, atol=1e-3)


def _remove(path: Path) -> Path:
    shutil.rmtree(path / "learner_group")
    return path


def _cut(path: Path) -> Path:
    file = path / "class_and_ctor_args.pkl"
    file.write_bytes(file.read_bytes()[:40])
    return path


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path / "nowhere", "does not exist"),
        (lambda path: path / "replay.safetensors", "is a file"),
        (lambda path: path.parent, "is not a checkpoint of rllib train; did you mean .*/copy"),
        (_remove, "its policy cannot be restored"),
        (_cut, "class_and_ctor_args.pkl is missing or damaged"),
    ],
)
def test_what_is_no_checkpoint_is_a_one_line_error(
    trained: tuple[Path, dict[str, Any]], tmp_path: Path, spoil: Any, message: str
) -> None:
    shutil.copytree(trained[0], tmp_path / "copy")
    with pytest.raises(UserError, match=message) as caught:
        load_policy(str(spoil(tmp_path / "copy")))
    assert "\n" not in str(caught.value)


def test_an_environment_that_is_not_registered_here(trained: tuple[Path, dict[str, Any]]) -> None:
    restored = load_policy(str(trained[0]))
    elsewhere = restore.Restored(restored.module, "Elsewhere-v0", {}, restored.skill_checkpoint)
    with pytest.raises(UserError, match="Elsewhere-v0 cannot be made here"):
        elsewhere.make_env()
