"""The Ray Train job: its checkpoint, its reuse, its resumption, and several workers."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rllib_spirl.cli import prepare, spirl
from rllib_spirl.cli.prepare import prepare_skills
from rllib_spirl.errors import UserError
from rllib_spirl.evaluation.prior import prior_episode, prior_episodes, prior_scores, report_prior
from rllib_spirl.skills.checkpoint import CARD, SkillCard, load_card, load_skills, save_skills
from rllib_spirl.skills.model import skill_loss
from rllib_spirl.skills.pretrain import pretrain, skills_key
from rllib_spirl.skills.training import SkillTrainer, trained_model
from tests.conftest import TINY, scan, title
from tests.sets import opened

pytestmark = pytest.mark.usefixtures("ray_session")
SHORT = TINY.model_copy(update={"updates": 60, "report_every": 20, "threads_per_worker": 1})


def test_skills_are_trained_once_and_found_again(point_data: Path, tmp_path: Path) -> None:
    on_interrupt = signal.getsignal(signal.SIGINT)
    folder = pretrain(opened(point_data), SHORT, output=tmp_path / "skills")
    assert signal.getsignal(signal.SIGINT) is on_interrupt
    card = load_card(folder)
    assert card.model.state_dim == 2
    assert {"loss", "validation_reconstruction"} <= set(card.metrics)
    assert card.metrics["validation_loss_least"] <= card.metrics["validation_loss"]
    assert card.metrics["updates_at_least_loss"] in (20, 40, 60)
    assert list((folder / "tensorboard").glob("events*"))
    written = (folder / "skill.safetensors").stat().st_mtime_ns
    assert pretrain(opened(point_data), SHORT, output=folder) == folder
    assert (folder / "skill.safetensors").stat().st_mtime_ns == written
    with pytest.raises(UserError, match="other data or settings"):
        pretrain(opened(point_data), SHORT.model_copy(update={"beta": 0.5}), output=folder)


def test_noise_on_actions_needs_no_training(point_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RLLIB_SPIRL_HOME", str(tmp_path))
    data = opened(point_data)
    key = skills_key(data, TINY)
    trainer = SkillTrainer(scan(point_data), TINY)
    metrics = {"loss": 1.0, "prior_kl": 0.5, "prior_mean 0a": 2.0, "prior_pace 0a": 0.6}
    card = SkillCard(model=trainer.model.config, training={"key": key}, metrics=metrics)
    plain = save_skills(tmp_path / "skills" / key, trainer.model, card)
    noisy = pretrain(data, TINY.model_copy(update={"action_std": 0.2}))
    assert noisy != plain
    (before, _), (after, card) = load_skills(str(plain)), load_skills(str(noisy))
    assert card.model == before.config.model_copy(update={"action_std": 0.2})
    assert card.metrics == {"loss": 1.0, "prior_kl": 0.5}
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])


def test_workers_share_a_batch_between_them(point_data: Path) -> None:
    config = TINY.model_copy(update={"batch_size": 17})
    workers = [SkillTrainer(scan(point_data), config, rank=rank, world_size=3) for rank in range(3)]
    assert [len(next(worker._batches)[0]) for worker in workers] == [6, 6, 5]


@pytest.mark.long
def test_the_job_leaves_no_processes(point_data: Path, tmp_path: Path) -> None:
    pretrain(opened(point_data), SHORT, output=tmp_path / "skills")
    deadline = time.monotonic() + 60
    while any(title(process).startswith("ray::TrainController") for process in psutil.Process().children(True)):
        assert time.monotonic() < deadline
        time.sleep(0.2)


@pytest.mark.long
def test_a_killed_job_goes_on_from_its_last_checkpoint(point_data: Path, tmp_path: Path) -> None:
    output, config = tmp_path / "skills", SHORT.model_copy(update={"updates": 3000, "report_every": 100})
    settings = config.model_dump(exclude_defaults=True)
    command = [sys.executable, "-m", "rllib_spirl.cli.spirl", "pretrain", str(point_data), "--output", str(output)]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) as job:
        deadline = time.monotonic() + 300
        # Ray Train goes on from a checkpoint that its own list, written after the checkpoint, has. Its workers outlive
        # the driver by seconds and train on meanwhile.
        while not any(
            "checkpoint_" in file.read_text() for file in output.glob("run-*/checkpoint_manager_snapshot.json")
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        os.killpg(job.pid, signal.SIGKILL)
    assert list(output.glob("run-*/checkpoint_*/progress.json"))
    assert not (output / CARD).exists()

    pretrain(opened(point_data), config, output=output)
    assert load_card(output).metrics["validation_reconstruction"] < 0.1
    starts = []
    for events in sorted((output / "tensorboard").iterdir(), key=lambda file: file.stat().st_mtime):
        reader = EventAccumulator(str(events)).Reload()
        starts.append(reader.Scalars("skills/loss")[0].step)
    assert starts[0] == 100
    assert starts[-1] > 100


@pytest.mark.long
def test_two_that_want_the_same_skills_train_them_once(point_data: Path, tmp_path: Path) -> None:
    output = tmp_path / "skills"
    command = [sys.executable, "-m", "rllib_spirl.cli.spirl", "pretrain", str(point_data), "--output", str(output)]
    for name, value in SHORT.model_dump(exclude_defaults=True).items():
        command += ["--set", f"{name}={value}"]
    jobs = [subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(2)]
    assert [job.wait(timeout=300) for job in jobs] == [0, 0]
    assert load_card(output).metrics["validation_reconstruction"] > 0
    assert len(list((output / "tensorboard").iterdir())) == 1


@pytest.mark.long
def test_two_that_want_the_priors_score_find_it_once(
    point_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    section = {"data": str(point_data), "checkpoint": str(tmp_path / "skills"), "rollouts": 1}
    section["pretrain"] = SHORT.model_dump(exclude_defaults=True)
    pretrain(opened(point_data), SHORT, output=tmp_path / "skills")
    tried = []

    def report(card: Path, *arguments: Any, **options: Any) -> dict[str, float]:
        tried.append(card)
        time.sleep(0.3)  # so that the other one comes meanwhile
        return report_prior(card, *arguments, **options)

    monkeypatch.setattr(prepare, "report_prior", report)
    with ThreadPoolExecutor() as pool:
        wanted = [pool.submit(prepare_skills, section, places=[tmp_path], env="point") for _ in range(2)]
        assert {job.result().checkpoint for job in wanted} == {str(tmp_path / "skills")}
    assert tried == [tmp_path / "skills" / CARD]


@pytest.mark.slow
def test_two_workers_train_one_model(point_data: Path, tmp_path: Path) -> None:
    config = SHORT.model_copy(update={"num_workers": 2, "updates": 200, "report_every": 100})
    folder = pretrain(opened(point_data), config, output=tmp_path / "skills")
    one = pretrain(opened(point_data), config.model_copy(update={"num_workers": 1}), output=tmp_path / "one")
    two_workers, one_worker = load_card(folder).metrics, load_card(one).metrics
    assert two_workers["validation_reconstruction"] < 2 * one_worker["validation_reconstruction"] + 0.05
    # Each worker validated on half of the windows; together it is the mean over all.
    model, data = load_skills(folder)[0], scan(point_data, config)
    states, actions = map(torch.from_numpy, (data.validation_states, data.validation_actions))
    with torch.no_grad():
        expected = skill_loss(model, states, actions, beta=config.beta)[1]["posterior_kl"]
    assert two_workers["validation_posterior_kl"] == pytest.approx(expected.item(), rel=1e-4)


def test_a_horizon_longer_than_every_episode_is_refused(point_data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="shorter than 500"):
        pretrain(opened(point_data), SHORT.model_copy(update={"horizon": 500}), output=tmp_path / "skills")


def test_skills_of_a_training_that_diverged_are_none(point_data: Path, tmp_path: Path) -> None:
    trainer = SkillTrainer(scan(point_data), TINY)
    trainer.save(tmp_path / "state")
    shape = TINY.model_of(scan(point_data))
    trained = trained_model(tmp_path / "state", shape)
    assert all(torch.equal(t, trainer.model.state_dict()[name]) for name, t in trained.state_dict().items())
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(math.nan)
    trainer.save(tmp_path / "state")
    with pytest.raises(UserError, match="diverged: its weights are not finite"):
        trained_model(tmp_path / "state", shape)


def test_skills_are_written_to_local_folders_alone(point_data: Path) -> None:
    with pytest.raises(UserError, match="Choose a local or mounted folder"):
        spirl.pretrain(str(point_data), output="s3://bucket/skills")


def test_prior_rollouts_are_added_to_the_card(point_skills: str, tmp_path: Path) -> None:
    shutil.copytree(point_skills, tmp_path / "skills")
    scores = report_prior(tmp_path / "skills" / CARD, "point", {"limit": 20}, episodes=2)
    assert set(scores) == {"prior_mean", "prior_sampled"}
    metrics = load_card(tmp_path / "skills").metrics
    (pace,) = (value for name, value in metrics.items() if name.startswith("prior_pace"))
    alone = [prior_episode(point_skills, "point", {"limit": 20}, seed, True)[1] for seed in (20_000, 20_001)]
    assert pace == pytest.approx(sum(alone) / 2 / metrics["validation_pace"])
    assert prior_scores(metrics, "point", {"limit": 20}) == (scores["prior_mean"], scores["prior_sampled"])
    assert prior_scores(metrics, "point", {"limit": 40}) is None  # another task
    report_prior(tmp_path / "skills" / CARD, "point", {"limit": 40}, episodes=2)
    metrics = load_card(tmp_path / "skills").metrics
    assert prior_scores(metrics, "point", {"limit": 40})
    assert prior_scores(metrics, "point", {"limit": 20})
    assert [prior_episodes(metrics, "point", {"limit": limit}) for limit in (20, 5)] == [2, 0]


def test_the_prior_is_tried_again_for_more_episodes_than_there_are(
    point_data: Path, point_skills: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(point_skills, tmp_path / "skills")
    monkeypatch.setattr(prepare, "pretrain", lambda *_, **__: tmp_path / "skills")
    task: dict[str, Any] = {"env": "point", "env_config": {"limit": 20}}
    for wanted, known in ((2, 2), (1, 2), (3, 3)):
        # Skills that are there need no workers, which would be too many here.
        section = {"data": str(point_data), "rollouts": wanted, "pretrain": {"num_workers": 4096}}
        prepare_skills(section, places=[tmp_path], **task)
        assert prior_episodes(load_card(tmp_path / "skills").metrics, **task) == known


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"data": "nowhere"}, "nowhere does not exist"),
        ({}, "needs `data`"),
        ({"dta": "x"}, "skills: unknown key 'dta'"),
        ({"data": "x", "pretrain": {"beta": -1}}, "skills.pretrain.beta"),
        ({"checkpoint": "/nowhere"}, "Cannot read the skill checkpoint"),
        ({"chunk": 1, "rollouts": 5}, "with `chunk` there are no skills to train: leave `rollouts` out"),
        ({"data": "x", "pretrain": {"seed": -1}}, "skills.pretrain.seed"),
        ({"data": "x", "pretrain": {"lr": math.inf}}, "skills.pretrain.lr: Input should be a finite number"),
    ],
)
def test_a_wrong_skills_section_is_one_clear_error(section: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        prepare_skills(section, places=[tmp_path])
