import math

import numpy as np
import pytest

from rllib_spirl.evaluation.statistics import (
    bootstrap_interval,
    improvement_interval,
    iqm,
    mean,
    probability_of_improvement,
)


def test_iqm_drops_the_lowest_and_highest_quarter() -> None:
    assert iqm([4.0, 0.0, 3.0, 2.0, 100.0]) == 3.0  # k = 1: the mean of 2, 3, 4
    assert iqm([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 80.0]) == 4.5  # k = 2: 3, 4, 5, 6
    assert iqm([0.0, 1.0, 5.0]) == 2.0  # k = 0: the mean
    np.testing.assert_array_equal(iqm([[0.0, 1.0, 3.0, 9.0], [4.0, 4.0, 4.0, 4.0]]), [2.0, 4.0])


def test_bootstrap_of_two_runs_is_their_exact_distribution() -> None:
    # Resamples of {0, 1} have means 0, ½, ½, 1 with equal probability: 95 % of the mass reaches from 0 to 1, 40 % is ½.
    assert bootstrap_interval([[0.0, 1.0]], mean, seed=0) == (0.0, 1.0)
    assert bootstrap_interval([[0.0, 1.0]], mean, seed=0, confidence=0.4) == (0.5, 0.5)


def test_bootstrap_is_reproducible_and_near_the_normal_interval() -> None:
    scores = np.random.default_rng(0).normal(3.0, 0.5, 200)
    low, high = bootstrap_interval([scores], mean, seed=1)
    assert (low, high) == bootstrap_interval([scores], mean, seed=1)
    assert (low, high) != bootstrap_interval([scores], mean, seed=2)
    half = 1.96 * scores.std() / math.sqrt(len(scores))
    assert low == pytest.approx(scores.mean() - half, abs=0.01)
    assert high == pytest.approx(scores.mean() + half, abs=0.01)


def test_strata_are_resampled_within_themselves() -> None:
    # All variation is between the strata: within them there is none, and the interval has no width.
    assert bootstrap_interval([[0.0, 0.0], [1.0, 1.0]], mean, seed=0) == (0.5, 0.5)
    low, high = bootstrap_interval([[0.0, 0.0, 1.0, 1.0]], mean, seed=0)
    assert low == 0.0
    assert high == 1.0


def test_one_run_has_no_interval() -> None:
    assert all(math.isnan(end) for end in bootstrap_interval([[3.0]], seed=0))
    assert all(math.isnan(end) for end in improvement_interval([[3.0]], [[2.0]], seed=0))
    for sides in (([[3.0, 4.0]], [[2.0]]), ([[3.0], [1.0]], [[2.0, 1.0], [0.0]])):
        assert all(math.isnan(end) for end in improvement_interval(*sides, seed=0))
        assert all(math.isnan(end) for end in improvement_interval(*sides[::-1], seed=0))


def test_probability_of_improvement_counts_pairs_and_halves_ties() -> None:
    # Pairs (2,1) (2,2) (2,4) (3,1) (3,2) (3,4): wins 1, ½, 0, 1, 1, 0.
    assert probability_of_improvement([[2.0, 3.0]], [[1.0, 2.0, 4.0]]) == pytest.approx(3.5 / 6)
    assert probability_of_improvement([[2.0], [0.0, 1.0]], [[1.0], [1.0]]) == pytest.approx((1.0 + 0.25) / 2)
    assert probability_of_improvement([[1.0, 1.0]], [[1.0]]) == 0.5


def test_improvement_interval_holds_the_estimate() -> None:
    ours, theirs = [[3.0, 3.5, 3.8, 2.9, 3.6]], [[3.1, 2.2, 2.8, 3.55, 2.5]]
    low, high = improvement_interval(ours, theirs, seed=0)
    assert low < probability_of_improvement(ours, theirs) <= high <= 1.0
    assert improvement_interval([[5.0, 6.0]], [[1.0, 2.0]], seed=0) == (1.0, 1.0)


def test_empty_strata_are_refused() -> None:
    with pytest.raises(ValueError, match="non-empty"):
        bootstrap_interval([[]], seed=0)
    with pytest.raises(ValueError, match="shorter"):
        probability_of_improvement([[1.0], [2.0]], [[1.0]])
