"""What `spirl data inspect` finds out about a data set by itself."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from rllib_spirl.data import DataSet, Episode, TrajectoryWriter
from rllib_spirl.data.lerobot import LeRobotRecipe
from rllib_spirl.skills.advice import (
    LOSS,
    Advice,
    advise,
    advise_beta,
    overfit_warning,
    posterior_warning,
    ranges,
    stuck_warning,
)
from rllib_spirl.skills.dataset import SkillData
from rllib_spirl.skills.model import Decoder
from rllib_spirl.skills.pretrain import skills_key
from rllib_spirl.skills.training import PretrainConfig, SkillTrainer
from tests.conftest import TINY, CommandResult


def written(path: Path, *, fps: float = 12.5, wait: int = 0) -> DataSet:
    """States: two positions, a constant, their velocities, the first position doubled, and both a step before."""
    rng = np.random.default_rng(0)
    with TrajectoryWriter(path, fps=fps) as writer:
        for _ in range(30):
            times = np.concatenate([np.linspace(0, 4, 41), np.full(wait, 4.0)])
            phase, pace = rng.uniform(0, 6, 2), rng.uniform(0.5, 1.5, 2)
            positions = np.sin(pace * times[:, None] + phase)
            velocities = pace * np.cos(pace * times[:, None] + phase)
            before = np.concatenate([positions[:1], positions[:-1]])
            columns = [positions, np.full((len(times), 1), 2.5), velocities, -2 * positions[:, :1] + 1, before]
            actions = np.tanh(velocities[:-1])
            states = np.concatenate(columns, 1)
            if wait:
                states[-wait:] = states[-wait - 1]
            writer.add(Episode(states, actions, np.zeros(len(actions)), False, True, "wave"))
    return writer.data_set


def advised(data: DataSet) -> Advice:
    return advise(data, data.load())


def test_columns_are_numbered_as_where_the_data_is_from(tmp_path: Path) -> None:
    written(tmp_path / "waves")
    recipe = LeRobotRecipe(path=str(tmp_path / "waves"), state_columns="1:5,0")
    data = recipe.build(tmp_path / "some", {}, overwrite=False, workers=None)
    assert advised(data).settings == {"state_columns": "1,3:5,0"}


def test_columns_that_say_nothing_new_are_told(tmp_path: Path) -> None:
    advice = advised(written(tmp_path / "waves"))
    assert advice.settings == {"state_columns": "0:2,3:5"}
    text = "\n".join(advice.sentences)
    assert "Columns 2 never change." in text
    assert "Columns 5 say the same as 0." in text
    assert "Columns 6:8 repeat the state before, 0:2." in text
    assert "Columns 3:5 look like velocities of 0:2." in text


def test_columns_that_change_in_some_episodes_alone_are_kept(tmp_path: Path) -> None:
    """Where episodes of a task are together, and there are more than are looked at."""
    rng = np.random.default_rng(0)
    with TrajectoryWriter(tmp_path / "tasks", fps=10) as writer:
        for number in range(400):
            states, actions = rng.normal(size=(12, 3)), rng.uniform(-1, 1, (11, 2))
            if number < 399:
                states[:, 2], actions[:, 1] = 1.0, 0.5
            writer.add(Episode(states, actions, np.zeros(11), False, True, "drawer"))
    advice = advised(writer.data_set)
    assert "never change" not in "\n".join(advice.sentences)
    assert "state_columns" not in advice.settings


def test_waiting_and_another_rate_are_told(tmp_path: Path) -> None:
    advice = advised(written(tmp_path / "waves", fps=50, wait=10))
    assert advice.settings["horizon"] == 20
    assert any("At 50 steps/s" in sentence and "0.2 s" in sentence for sentence in advice.sentences)
    assert any("repeat the state before: the robot waits" in sentence for sentence in advice.sentences)


def test_actions_that_never_change_or_hardly_are_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    actions = np.concatenate([rng.uniform(-0.02, 0.02, (200, 2)), np.zeros((200, 1))], 1)
    actions[7, 0] = 1
    with TrajectoryWriter(tmp_path / "idle", fps=10) as writer:
        writer.add(Episode(rng.normal(size=(201, 2)), actions, np.zeros(200), False, True, "wave"))
    text = "\n".join(advised(writer.data_set).sentences)
    assert "Actions 2 never change" in text
    assert "lie within 0.02 of 0, and some reach 1: where these are outliers" in text


def test_of_good_data_nothing_is_said(point_data: Path) -> None:
    advice = advised(DataSet.open(str(point_data)))
    assert advice.sentences == []
    assert advice.settings == {}


@pytest.mark.slow
def test_beta_is_suggested_that_brings_the_posterior_into_range(point_data: Path) -> None:
    data = DataSet.open(str(point_data))
    config = TINY.model_copy(update={"beta": 3.0})
    advice = advise_beta(data, config)
    beta = advice.settings["beta"]
    assert beta < config.beta
    found = advise_beta(data, config.model_copy(update={"beta": beta}))
    assert found.settings == {}, (beta, found.sentences)


@pytest.mark.parametrize(
    ("decoder", "divergence", "told"),
    [
        ("closed_loop", 0.1, "Lower beta (now 0.02)"),
        ("closed_loop", 1.3, "Raise beta"),
        ("closed_loop", 0.5, None),
        ("open_loop", 1.3, None),
        ("open_loop", 1.8, "Raise beta"),
    ],
)
def test_pretraining_warns_of_a_posterior_out_of_range(decoder: Decoder, divergence: float, told: str | None) -> None:
    config = PretrainConfig(decoder=decoder, beta=0.02)
    warning = posterior_warning({"validation_posterior_kl": divergence}, config)
    assert (told is None) == (warning is None)
    assert told is None or told in str(warning)


@pytest.mark.parametrize(("now", "warned"), [(0.41, False), (0.43, False), (0.45, True)])
def test_pretraining_warns_of_skills_that_know_their_windows_by_heart(now: float, warned: bool) -> None:
    metrics = {"validation_loss": now, "validation_loss_least": 0.4, "updates_at_least_loss": 2000.0}
    warning = overfit_warning(metrics)
    assert (warning is not None) == warned
    assert warning is None or "updates: 2000" in warning
    assert overfit_warning({"loss": now}) is None  # nothing was held out
    assert overfit_warning({name: value for name, value in metrics.items() if name != LOSS}) is None  # not finite


@pytest.mark.parametrize(
    ("pace", "action_std", "told"),
    [(0.6, 0.0, "action_std: 0.2, the error of their actions"), (0.6, 0.2, "more data"), (0.9, 0.0, None)],
)
def test_skills_that_get_stuck_are_warned_of(pace: float, action_std: float, told: str | None) -> None:
    warning = stuck_warning(pace, {"validation_reconstruction": 0.042}, action_std)
    assert (told is None) == (warning is None)
    assert told is None or told in str(warning)
    for metrics in ({}, {"validation_reconstruction": 0.4}):  # nothing held out; actions that are not learned
        assert "more data" in str(stuck_warning(0.6, metrics, 0.0))
        assert "state_dropout: 0.2" in str(stuck_warning(0.6, metrics, 0.0, 0.0))
    assert "more data" in str(stuck_warning(0.6, {}, 0.2, 0.2))


def test_inspect_tells_it(spirl: Callable[..., CommandResult], tmp_path: Path) -> None:
    written(tmp_path / "waves")
    assert "look like velocities of 0:2" in spirl("inspect", tmp_path / "waves").out
    assert json.loads(spirl("inspect", tmp_path / "waves", "--json").out)["suggested"] == {"state_columns": "0:2,3:5"}


def test_ranges_are_written_as_options_take_them() -> None:
    assert ranges([0, 1, 2, 5, 7, 8]) == "0:3,5,7:9"


def test_skills_do_not_see_velocities_unless_they_are_asked_to(tmp_path: Path) -> None:
    data = written(tmp_path / "waves")
    shown = TINY.model_copy(update={"blind": ()})
    scanned = SkillData.scan(data, TINY.horizon, TINY.validation_fraction, TINY.seed)
    trainer = SkillTrainer(scanned, TINY)
    assert (trainer.model.config.blind, trainer.model.config.prior_sees_all) == ((3, 4, 6, 7), False)
    states, actions = torch.zeros(500, TINY.horizon, 8), torch.zeros(500, TINY.horizon, 2)
    perturbed, corrected = trainer._perturbed(states, actions).values()
    assert not perturbed[..., [3, 4, 6, 7]].any()
    assert (perturbed[..., [0, 1, 5]].std((0, 1)) > 0).all()
    assert corrected.any()
    assert SkillTrainer(scanned, shown).model.config.blind == ()
    to_prior = TINY.model_copy(update={"prior_sees_all": True})
    model = SkillTrainer(scanned, to_prior).model.config
    assert (model.blind, model.prior_sees_all) == ((3, 4, 6, 7), True)
    assert len({skills_key(data, config) for config in (TINY, shown, to_prior)}) == 3
