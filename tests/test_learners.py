"""Several learners are one learner: each takes its share of the batch, and all of them the mean gradient."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rllib_spirl import SPiRL, SPiRLConfig
from tests.point import PointEnv

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("ray_session")]
Maker = Callable[..., SPiRLConfig]


@pytest.fixture
def config(point_settings: dict[str, Any]) -> Maker:
    def make(learners: int, **training: Any) -> SPiRLConfig:
        return (
            SPiRLConfig()
            .environment(PointEnv, env_config={"limit": 40})
            .training(**(point_settings | training))
            .learners(num_learners=learners)
            .reporting(min_sample_timesteps_per_iteration=24)
            .debugging(seed=3, log_level="ERROR")
        )

    return make


def weights(algorithm: SPiRL) -> list[dict[str, Any]]:
    """Those of each learner, α, targets and averages among them."""
    found = algorithm.learner_group.foreach_learner(
        lambda learner: {name: x.numpy() for name, x in learner.module["default_policy"].state_dict().items()}
    )
    return [result.get() for result in found.result_or_errors]


@pytest.mark.parametrize(
    "settings",
    [pytest.param({}, marks=pytest.mark.long), {"target_members": 2, "cloning": 0.1, "conservatism": 0.1}],
)
def test_two_learners_make_the_update_of_one_with_the_whole_batch(
    config: Maker, settings: dict[str, Any], built: Callable[[SPiRL], SPiRL]
) -> None:
    updates, rows = 4, 32
    alone = built(config(1, train_batch_size_per_learner=rows, **settings).build_algo())
    torch.manual_seed(0)
    batch = {
        "states": torch.randn(updates * rows, 2),
        "z": torch.randn(updates * rows, 2),
        "rewards": torch.rand(updates * rows),
        "next_states": torch.randn(updates * rows, 2),
        "terminated": (torch.rand(updates * rows) > 0.9).float(),
    }
    before = weights(alone)[0]
    alone._update_on(batch, updates)
    (whole,) = weights(alone)
    alone.stop()  # there are two processors
    together = built(config(2, train_batch_size_per_learner=rows // 2, **settings).build_algo())
    order = torch.arange(updates * rows).view(updates, 2, rows // 2).transpose(0, 1).flatten()
    together._update_on({name: column[order] for name, column in batch.items()}, 2 * updates)
    first, second = weights(together)
    moved = 0.0
    for name, weight in whole.items():
        np.testing.assert_allclose(first[name], weight, atol=1e-5, err_msg=name)
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        moved = max(moved, float(np.abs(weight - before[name]).max()))
    assert moved > 1e-3  # four steps of Adam, of α's too
    assert first["log_alpha"] != before["log_alpha"]


def test_two_learners_train_and_resume(config: Maker, built: Callable[[SPiRL], SPiRL], tmp_path: Path) -> None:
    algorithm = built(config(2).build_algo())
    result = [algorithm.train() for _ in range(2)][-1]
    assert result["updates"] > 10
    assert np.isfinite(result["learners"]["default_policy"]["critic_loss"])
    first, second = weights(algorithm)
    assert all(np.array_equal(first[name], second[name]) for name in first)
    path = algorithm.save_to_path(str(tmp_path / "checkpoint"))
    batch = algorithm._columns(4, 0.5)
    algorithm._update_on(batch, 4)
    wanted = weights(algorithm)[0]
    algorithm.stop()
    restored = built(SPiRL.from_checkpoint(path))
    restored._update_on(batch, 4)  # with the noise that the other drew
    for found in weights(restored):
        assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
