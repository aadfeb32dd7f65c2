"""One learning curve per method out of one per run."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rllib_spirl.evaluation.curve import Array, Curve
from rllib_spirl.evaluation.statistics import Interval, bootstrap_interval, iqm, mean

Metric = Literal["completed_subtasks", "all_completed", "success", "stacked_blocks", "tower_height", "episode_return"]
METRICS: dict[Metric, str] = {
    "completed_subtasks": "completed subtasks",
    "all_completed": "episodes with all subtasks completed",
    "success": "success rate",
    "stacked_blocks": "stacked blocks",
    "tower_height": "height of the tower",
    "episode_return": "episode return",
}
# Of every bootstrap of a report: the same runs give the same report.
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class MethodCurve:
    """A metric of a method over its N runs at K steps; nan where there is nothing to report."""

    method: str
    runs: tuple[Curve, ...]
    metric: Metric
    steps: Array
    """(K,) low-level steps."""
    values: Array
    """(N, K), a row per run, nan where the run has no evaluation near the step."""
    mean: Array
    iqm: Array
    low: Array
    high: Array
    """(K,) ends of the 95 % stratified bootstrap interval of the IQM; nan for a single run."""
    count: Array
    """(K,) runs behind each point."""

    def at(self, step: float) -> int | None:
        """Index of the point nearest to ``step``; None if there is none within half the distance between points."""
        if len(self.steps) == 0:
            return None
        index = int(np.abs(self.steps - step).argmin())
        return index if abs(self.steps[index] - step) <= _tolerance(self.steps) else None

    def final(self) -> Array:
        """(N,) the last evaluation of every run."""
        return np.array([getattr(run, self.metric)[-1] for run in self.runs])


def by_method(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves that have evaluations, grouped by method, in order of appearance."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if len(curve.env_steps):
            groups.setdefault(curve.method, []).append(curve)
    return groups


def choose_metric(curves: Sequence[Curve]) -> Metric:
    """What the task is about where every evaluated run reports it, else the episode return."""
    evaluated = [c for c in curves if len(c.env_steps)]
    sparse = all(c.rule == "sparse reward" for c in evaluated)
    metrics: tuple[Metric, ...] = ("completed_subtasks", "success", "tower_height" if sparse else "stacked_blocks")
    for metric in metrics:
        if all(np.isfinite(getattr(c, metric)).any() for c in evaluated):
            return metric
    return "episode_return"


def align(steps: Sequence[Array], values: Sequence[Array]) -> tuple[Array, Array]:
    """Put runs that were evaluated at slightly different steps on common steps, without inventing values.

    The common steps are those of the run that got furthest. Every run gives each of them its nearest evaluation, if one
    lies within half the distance between common steps.

    Args:
        steps: Per run (E_i,), increasing.
        values: Per run (E_i,).

    Returns:
        Common steps (K,) and values (N, K), nan where a run has none.
    """
    common = max(steps, key=lambda s: (s[-1], -len(s)))
    tolerance = _tolerance(common)
    table = np.full((len(steps), len(common)), np.nan)
    for row, (run_steps, run_values) in enumerate(zip(steps, values, strict=True)):
        distance = np.abs(run_steps[:, None] - common[None, :])
        nearest = distance.argmin(axis=0)
        close = distance.min(axis=0) <= tolerance
        table[row, close] = run_values[nearest[close]]
    return common, table


def strata(runs: Sequence[Curve]) -> list[list[int]]:
    """Indices of runs that differ in nothing but seed and skill model."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, run in enumerate(runs):
        rows.setdefault((run.env, run.task, run.rule, run.data), []).append(row)
    return list(rows.values())


def aggregate(method: str, runs: Sequence[Curve], metric: Metric) -> MethodCurve:
    """The curve of one method; runs of different data or task are strata of the bootstrap."""
    steps, values = align([r.env_steps for r in runs], [getattr(r, metric) for r in runs])
    groups = strata(runs)
    points = []
    for column in values.T:
        present = [column[rows][np.isfinite(column[rows])] for rows in groups]
        present = [scores for scores in present if len(scores)]
        if not present:
            points.append((np.nan, np.nan, *Interval(np.nan, np.nan), 0))
            continue
        scores = np.concatenate(present)
        interval = bootstrap_interval(present, iqm, seed=BOOTSTRAP_SEED)
        points.append((float(mean(scores)), float(iqm(scores)), *interval, len(scores)))
    table = np.array(points).T
    return MethodCurve(method, tuple(runs), metric, steps, values, *table)


def _tolerance(steps: Array) -> float:
    return float(np.median(np.diff(steps))) / 2 if len(steps) > 1 else 0.1 * float(steps[0])
