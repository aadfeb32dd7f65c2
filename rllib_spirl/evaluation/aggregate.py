"""One learning curve per method out of one per run."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rllib_spirl.evaluation.curve import Array, Curve
from rllib_spirl.evaluation.statistics import Interval, bootstrap_interval, iqm, mean

OF_TASKS = {
    "completed_subtasks": "subtasks",
    "success": "success",
    "stacked_blocks": "stacked blocks",
    "tower_height": "tower height",
}
"""What a task may be about, in short: the first of these that its environment measures."""
_TITLES = {
    "all_completed": "episodes with all subtasks completed",
    "success": "success rate",
    "tower_height": "height of the tower",
}
# Of every bootstrap of a report: the same runs give the same report.
BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class MethodCurve:
    """A metric of a method over its N runs at K steps; nan where there is nothing to report."""

    method: str
    runs: tuple[Curve, ...]
    metric: str
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
        return _near(self.steps, step)

    def final(self) -> Array:
        """(N,) the last evaluation of every run."""
        return np.array([run.score(self.metric)[-1] for run in self.runs])


def by_method(curves: Sequence[Curve]) -> dict[str, list[Curve]]:
    """Curves that have evaluations, grouped by method, in order of appearance."""
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        if len(curve.env_steps):
            groups.setdefault(curve.method, []).append(curve)
    return groups


def title(metric: str) -> str:
    """What pictures and tables call a metric."""
    return _TITLES.get(metric, metric.replace("_", " "))


def choose_metric(curves: Sequence[Curve]) -> str:
    """What the task is about where every evaluated run reports it, else the episode return."""
    evaluated = [c for c in curves if len(c.env_steps)]
    sparse = all(c.rule == "sparse reward" for c in evaluated)  # for the height of a tower alone
    for metric in (m for m in OF_TASKS if not (sparse and m == "stacked_blocks")):
        if all(np.isfinite(c.score(metric)).any() for c in evaluated):
            return metric
    return "episode_return"


def measured(curves: Sequence[Curve]) -> list[str]:
    """The metrics that all evaluations of these runs know, what a task may be about first, the return last."""
    known = [name for name in curves[0].scores if all(np.isfinite(curve.score(name)).all() for curve in curves)]
    order = [*OF_TASKS, *(name for name in known if name != "episode_return"), "episode_return"]
    return [name for name in dict.fromkeys(order) if name in known]


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
        nearest = _nearest(run_steps, common)
        close = np.abs(run_steps[nearest] - common) <= tolerance
        table[row, close] = run_values[nearest[close]]
    return common, table


def score_at(run: Curve, metric: str, step: float) -> float:
    """A run's score in its evaluation nearest to a step; nan if that is further than half the distance between two."""
    near = _near(run.env_steps, step)
    return np.nan if near is None else float(run.score(metric)[near])


def _near(steps: Array, step: float) -> int | None:
    """Index of the point nearest to a step; None if there is none within half the distance between points."""
    if len(steps) == 0:
        return None
    index = int(np.abs(steps - step).argmin())
    return index if abs(steps[index] - step) <= _tolerance(steps) else None


def _nearest(steps: Array, wanted: Array) -> NDArray[np.intp]:
    """Indices (K,) into increasing steps (E,) of the nearest to each of the wanted ones (K,)."""
    after = np.clip(np.searchsorted(steps, wanted), 1, max(1, len(steps) - 1))
    before = after - 1
    after = np.minimum(after, len(steps) - 1)
    chosen: NDArray[np.intp] = np.where(wanted - steps[before] <= steps[after] - wanted, before, after)
    return chosen


def strata(runs: Sequence[Curve]) -> list[list[int]]:
    """Indices of runs that differ in nothing but seed and skill model."""
    rows: dict[tuple[str, ...], list[int]] = {}
    for row, run in enumerate(runs):
        rows.setdefault((run.env, run.task, run.rule, run.data), []).append(row)
    return list(rows.values())


def aggregate(method: str, runs: Sequence[Curve], metric: str) -> MethodCurve:
    """The curve of one method; runs of different data or task are strata of the bootstrap."""
    steps, values = align([r.env_steps for r in runs], [r.score(metric) for r in runs])
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
