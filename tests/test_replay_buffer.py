"""The replay ring: contents, order, sampling, and its file."""

from pathlib import Path

import pytest
import torch

from rllib_spirl.algorithm.replay_buffer import SkillReplay, mixed_batch
from rllib_spirl.errors import UserError


def transitions(first: int, count: int) -> dict[str, torch.Tensor]:
    """Transitions that carry their number in every column."""
    n = torch.arange(first, first + count, dtype=torch.float32)
    return {
        "states": n[:, None].repeat(1, 3),
        "z": n[:, None].repeat(1, 2),
        "rewards": n,
        "next_states": n[:, None].repeat(1, 3) + 0.5,
        "terminated": n % 2,
    }


def filled(capacity: int, count: int, seed: int = 0) -> SkillReplay:
    replay = SkillReplay(capacity, state_dim=3, latent_dim=2, seed=seed)
    replay.add(transitions(0, count))
    return replay


def test_the_oldest_transitions_make_room() -> None:
    replay = SkillReplay(5, 3, 2)
    for first in range(0, 8, 2):
        replay.add(transitions(first, 2))
    assert len(replay) == 5
    assert set(replay.sample(200)["rewards"].tolist()) == {3, 4, 5, 6, 7}


def test_more_than_fits_keeps_the_newest() -> None:
    assert set(filled(4, 11).sample(200)["rewards"].tolist()) == {7, 8, 9, 10}


def test_rows_stay_together() -> None:
    batch = filled(50, 40).sample(64)
    assert torch.equal(batch["states"][:, 0], batch["rewards"])
    assert torch.equal(batch["next_states"][:, 2], batch["rewards"] + 0.5)
    assert torch.equal(batch["terminated"], batch["rewards"] % 2)


def test_a_restored_buffer_draws_the_same_and_goes_on_the_same(tmp_path: Path) -> None:
    original = filled(10, 13)
    original.sample(7)
    original.save(tmp_path / "replay")
    restored = SkillReplay(10, 3, 2, seed=99)
    restored.restore(tmp_path / "replay")
    for replay in (original, restored):
        replay.add(transitions(100, 4))
    assert torch.equal(original.sample(50)["rewards"], restored.sample(50)["rewards"])


@pytest.mark.parametrize("lag", [1, 7])
def test_a_state_in_several_transitions_is_written_once(tmp_path: Path, lag: int) -> None:
    """Three episodes whose transitions overlap, as those of demonstrations do; some numbers are NaN."""
    original = SkillReplay(1000, 30, 2)
    for _ in range(3):
        path = torch.randn(200 + lag, 30)
        path[:, 3] = torch.nan
        rest = {"z": torch.randn(200, 2), "rewards": torch.randn(200), "terminated": torch.zeros(200)}
        original.add({"states": path[:200], "next_states": path[lag:], **rest})
    original.save(tmp_path / "replay")
    assert (tmp_path / "replay").stat().st_size < 0.65 * 600 * 4 * (30 + 2 + 1 + 30 + 1)
    restored = SkillReplay.load(tmp_path / "replay", 30, 2)
    for name, column in original._columns.items():
        assert torch.equal(column[:600].view(torch.int32), restored._columns[name].view(torch.int32))


def test_a_full_ring_moves_into_a_larger_one_in_order(tmp_path: Path) -> None:
    filled(5, 8).save(tmp_path / "replay")
    larger = SkillReplay(7, 3, 2)
    larger.restore(tmp_path / "replay")
    larger.add(transitions(50, 3))  # fills the two free places, then replaces the oldest, 3
    assert set(larger.sample(300)["rewards"].tolist()) == {4, 5, 6, 7, 50, 51, 52}


def test_a_full_ring_does_not_go_into_a_smaller_one(tmp_path: Path) -> None:
    filled(10, 10).save(tmp_path / "replay")
    smaller = filled(4, 2)
    with pytest.raises(UserError, match=r"holds 10 transitions, this one only 4\. Set replay_capacity to at least 10"):
        smaller.restore(tmp_path / "replay")
    assert len(smaller) == 2


def test_other_dimensions_and_damage_are_refused(tmp_path: Path) -> None:
    filled(5, 5).save(tmp_path / "replay")
    with pytest.raises(UserError, match="shape"):
        SkillReplay(5, state_dim=4, latent_dim=2).restore(tmp_path / "replay")
    (tmp_path / "replay").write_bytes((tmp_path / "replay").read_bytes()[:100])
    with pytest.raises(UserError, match="cannot be read"):
        SkillReplay(5, 3, 2).restore(tmp_path / "replay")


def test_every_minibatch_is_mixed_in_the_same_proportion() -> None:
    own, offline = filled(20, 20), SkillReplay(20, 3, 2)
    offline.add(transitions(1000, 20))
    rewards = mixed_batch(own, offline, count=6, batch_size=8, fraction=0.25)["rewards"].view(6, 8)
    assert (rewards >= 1000).sum(1).tolist() == [2] * 6
    assert (mixed_batch(own, offline, 2, 8, fraction=1.0)["rewards"] >= 1000).all()
    assert (mixed_batch(own, None, 2, 8, fraction=0.5)["rewards"] < 1000).all()
    few = filled(20, 5)
    rewards = mixed_batch(few, offline, count=6, batch_size=10, fraction=None)["rewards"].view(6, 10)
    assert (rewards >= 1000).sum(1).tolist() == [8] * 6, "as many as they are of all 25"
