"""What windows of recorded steps earn in a task, and which of them count."""

from typing import Any

import numpy as np
import pytest

from rllib_spirl.algorithm.offline import counting, window_labels
from rllib_spirl.data import Trajectories
from rllib_spirl.data.episode import labelled
from rllib_spirl.errors import UserError


def test_which_windows_count_does_not_depend_on_the_other_episodes() -> None:
    """Two recordings of six steps that stop before their task is done, skills of two: one has lost something."""
    states = np.arange(13.0)[:, None]
    rewards = np.array([0, 1, 0, 0, 1, 0, 0, 1, -1, 0, 1, 0.0])
    both = Trajectories(
        states=states[:-1],
        actions=np.zeros((12, 1)),
        rewards=rewards,
        next_states=states[1:],
        terminated=np.zeros(12, bool),
        episode_starts=np.array([0, 6, 12]),
        task_index=np.zeros(12, np.int64),
        tasks=["play"],
    )
    starts = np.array([0, 1, 2, 3, 4, 6, 7, 8, 9, 10])
    assert counting(both, starts, 2).tolist() == [True] * 5 + [True, True, True, False, False]


def test_play_that_meets_a_goal_again_and_again_is_an_attempt_each_time() -> None:
    """Twelve steps, the goal met with the steps 4, 5 and 9, skills of three steps."""
    states = np.arange(13.0)[:, None]
    play = Trajectories(
        states=states[:-1],
        actions=np.zeros((12, 1)),
        rewards=np.zeros(12),
        next_states=states[1:],
        terminated=np.zeros(12, bool),
        episode_starts=np.array([0, 12]),
        task_index=np.zeros(12, np.int64),
        tasks=["play"],
    )
    met = np.array([4, 5, 9])
    earned = np.where(np.isin(np.arange(12), met), 0.0, -1.0)
    data = play.relabel(lambda _: (earned, met))
    starts = np.arange(10)
    assert counting(data, starts, 3).all()
    last, labels = window_labels(data, starts, 3)
    assert last.tolist() == [2, 3, 4, 4, 4, 5, 8, 9, 9, 9]
    assert labels["terminated"].tolist() == [0, 0, 1, 1, 1, 1, 0, 1, 1, 1]
    assert labels["rewards"].tolist() == [-3, -3, -2, -1, 0, 0, -3, -2, -1, 0]
    once = play.relabel(lambda _: (earned, 4))
    assert counting(once, starts, 3).tolist() == [True] * 5 + [False] * 5


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (np.zeros(3), "must return rewards and the step that completes the task, got ndarray"),
        ((np.zeros(2), None), r"4 states need rewards of shape \(3,\), got \(2,\)"),
        ((0.0, None), r"need rewards of shape \(3,\), got \(\)"),
        ((np.array([0, np.nan, 0]), None), "the reward of step 1 is not finite"),
        ((np.zeros(3), 3), "completed at steps from 0 to 2, ascending, got 3"),
        ((np.zeros(3), -1), "completed at steps from 0 to 2"),
        ((np.zeros(3), np.array([1, 1])), "ascending"),
        ((np.zeros(3), 1.0), "completed at steps from 0 to 2"),
    ],
)
def test_labels_that_make_no_sense_name_relabel(found: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"relabel.*{message}"):
        labelled(lambda _: found, np.zeros((4, 2)))


def test_a_relabel_that_fails_is_named() -> None:
    def fail(_: Any) -> Any:
        raise KeyError("goal")

    with pytest.raises(UserError, match="relabel fails: KeyError: 'goal'"):
        labelled(fail, np.zeros((4, 2)))
    assert labelled(lambda _: ([0, 1, 0], np.array([1])), np.zeros((4, 2)))[0].tolist() == [0, 1, 0]


@pytest.mark.parametrize("done_at", [[0, 2], (0, 2), np.array([0, 2])])
def test_steps_that_complete_a_task_may_be_any_sequence(done_at: Any) -> None:
    _, found = labelled(lambda _: (np.zeros(3), done_at), np.zeros((4, 2)))
    assert isinstance(found, np.ndarray)
    assert found.tolist() == [0, 2]
    assert labelled(lambda _: (np.zeros(3), np.int64(1)), np.zeros((4, 2)))[1] == 1
