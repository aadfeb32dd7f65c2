"""Point estimates and bootstrap confidence intervals over seeds (after Agarwal et al., NeurIPS 2021), in numpy.

A score is one number per run (seed). Runs that differ in more than the seed, by task or data, are separate *strata*:
they are resampled within their stratum, so that each keeps its weight.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONFIDENCE = 0.95
RESAMPLES = 2000
Statistic = Callable[[NDArray[np.floating]], NDArray[np.floating]]


class Interval(NamedTuple):
    """Ends of a confidence interval; both nan where fewer than two runs leave nothing to resample."""

    low: float
    high: float


def mean(scores: ArrayLike) -> NDArray[np.floating]:
    """Mean over the last axis: (..., N) to (...)."""
    return np.mean(np.asarray(scores, float), axis=-1)


def iqm(scores: ArrayLike) -> NDArray[np.floating]:
    """Interquartile mean over the last axis: (..., N) to (...).

    With x₍₁₎ ≤ … ≤ x₍N₎ and k = ⌊N/4⌋ it is the mean of x₍k+1₎ … x₍N−k₎: less moved by one odd run than the mean, and
    less noisy than the median. Below four runs nothing is trimmed and it is the mean.
    """
    ordered = np.sort(np.asarray(scores, float), axis=-1)
    count = ordered.shape[-1]
    cut = count // 4
    return ordered[..., cut : count - cut].mean(axis=-1)


def bootstrap_interval(
    strata: Sequence[ArrayLike],
    statistic: Statistic = iqm,
    *,
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Stratified percentile bootstrap of a statistic of all runs together.

    Each resample draws, with replacement, N_k runs from the N_k of every stratum k and computes the statistic θ* of the
    union; the interval is [q_{α/2}, q_{1−α/2}] of θ*, with α = 1 − confidence and q linearly interpolated. With five
    runs or fewer such intervals are narrower than they claim; a run that is alone in its stratum counts as certain, and
    where all are, there is no interval: (nan, nan).

    Args:
        strata: Scores of the runs, one array (N_k,) per stratum.
        statistic: Maps (resamples, ΣN_k) to (resamples,).
        seed: Of the resampling: the same scores and seed give the same interval.
        confidence: Probability mass between the ends.
        resamples: Number of resamples.

    Raises:
        ValueError: If a stratum is empty or not one-dimensional.
    """
    arrays = _checked(strata)
    if max(len(a) for a in arrays) < 2:
        return Interval(np.nan, np.nan)
    generator = np.random.default_rng(seed)
    drawn = np.concatenate([_resample(a, resamples, generator) for a in arrays], axis=-1)
    return _percentiles(statistic(drawn), confidence)


def probability_of_improvement(ours: Sequence[ArrayLike], theirs: Sequence[ArrayLike]) -> float:
    """How likely a run of ours scores above a run of theirs, averaged over strata.

    P(X > Y) = 1/K Σ_k 1/(N_k M_k) Σ_i Σ_j [x_ki > y_kj] + ½[x_ki = y_kj]; ½ means no difference.

    Args:
        ours: Scores x_k (N_k,) of one method, an array per stratum.
        theirs: Scores y_k (M_k,) of the other, with the same strata in the same order.

    Raises:
        ValueError: If the strata are not as many, or one is empty.
    """
    pairs = list(zip(_checked(ours), _checked(theirs), strict=True))
    return float(np.mean([_above(x, y) for x, y in pairs]))


def improvement_interval(
    ours: Sequence[ArrayLike],
    theirs: Sequence[ArrayLike],
    *,
    seed: int,
    confidence: float = CONFIDENCE,
    resamples: int = RESAMPLES,
) -> Interval:
    """Stratified bootstrap interval of `probability_of_improvement`; runs of both methods are resampled.

    It is (nan, nan) where all strata of one of the methods have a single run, which do not tell how far runs vary.

    Raises:
        ValueError: As `probability_of_improvement`.
    """
    pairs = list(zip(_checked(ours), _checked(theirs), strict=True))
    if any(max(map(len, of_one)) < 2 for of_one in zip(*pairs, strict=True)):
        return Interval(np.nan, np.nan)
    generator = np.random.default_rng(seed)
    drawn = [_above(_resample(x, resamples, generator), _resample(y, resamples, generator)) for x, y in pairs]
    return _percentiles(np.mean(drawn, axis=0), confidence)


def _above(x: NDArray[np.floating], y: NDArray[np.floating]) -> NDArray[np.floating]:
    """(..., N) and (..., M) to the share of the N·M pairs in which x wins, ties counting half."""
    difference = x[..., :, None] - y[..., None, :]
    return ((difference > 0) + 0.5 * (difference == 0)).mean(axis=(-2, -1))


def _resample(scores: NDArray[np.floating], resamples: int, generator: np.random.Generator) -> NDArray[np.floating]:
    return scores[generator.integers(len(scores), size=(resamples, len(scores)))]


def _percentiles(values: NDArray[np.floating], confidence: float) -> Interval:
    tail = (1 - confidence) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _checked(strata: Sequence[ArrayLike]) -> list[NDArray[np.floating]]:
    arrays = [np.asarray(scores, float) for scores in strata]
    if not arrays or any(a.ndim != 1 or len(a) == 0 for a in arrays):
        raise ValueError(f"expected one non-empty list of scores per stratum, got {strata!r}")
    return arrays
