"""The pictures of a report, 1200 x 700 pixels each."""

import textwrap
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator

from rllib_spirl.evaluation.adaptation_curves import AdaptationCurve
from rllib_spirl.evaluation.aggregate import MethodCurve, align, title
from rllib_spirl.evaluation.curve import Array, Curve

# Okabe and Ito's colours, which colour-blind people tell apart too; then the same ones with other line styles.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_STYLES = ("-", "-.", ":")
_STEPS = "environment steps (low-level, warm-up included)"
_STYLE: Any = {
    "font.size": 13,
    "axes.titlesize": 14,
    "legend.fontsize": 11.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "lines.linewidth": 2.0,
    "legend.frameon": False,
}

# Kitchen, completed subtasks of 4 against million low-level steps, read off the papers' figures (±0.05).
PUBLISHED: dict[str, tuple[tuple[float, float], ...]] = {
    "SkiMo": ((0.2, 3.2), (0.5, 3.45), (1.0, 3.6)),
    "SPiRL, closed loop": (
        (0.1, 0.57), (0.2, 2.45), (0.3, 2.56), (0.5, 2.75), (0.7, 2.83), (1.0, 2.90), (1.28, 2.94),
    ),
    "SPiRL, open loop": (
        (0.1, 0.26), (0.2, 0.02), (0.3, 0.96), (0.5, 1.42), (0.7, 1.82), (1.0, 2.36), (1.28, 2.64),
    ),
    "flat prior": ((0.1, 0.92), (0.2, 0.95), (0.3, 0.99), (0.5, 0.97), (0.7, 0.96), (1.0, 1.03)),
    "skills without prior": ((0.1, 0.31), (0.2, 0.52), (0.3, 0.56), (0.5, 0.32), (0.7, 0.61), (1.0, 0.60)),
    "BC + SAC": ((0.1, 0.36), (0.2, 0.22), (0.3, 0.33), (0.5, 0.36), (0.7, 0.40), (1.0, 0.46)),
    "SAC": ((0.1, 0.05), (0.2, 0.09), (0.3, 0.18), (0.5, 0.27), (1.0, 0.32)),
}  # fmt: skip
PUBLISHED_NOTE = "published, other data and physics"
_MARKERS = "osD^vPX"


def learning_curve(methods: Sequence[MethodCurve], path: Path, *, published: bool = False) -> None:
    """IQM of every method with its 95 % band, a plain line where there is one run.

    ``published`` adds the curves of the papers, dashed and labelled as what they are: other experiments.
    """
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for index, method in enumerate(methods):
            style = _style(index)
            axes.plot(method.steps, method.iqm, marker="o", markersize=4, label=_label(method), **style)
            if np.isfinite(method.low).any():
                axes.fill_between(method.steps, method.low, method.high, color=style["color"], alpha=0.18, linewidth=0)
        handles: list[Any] = axes.get_legend_handles_labels()[0]
        if published:
            handles.append(Line2D([], [], linestyle="", label=f"\n{textwrap.fill(PUBLISHED_NOTE, 22)}:"))
            handles += [_published(axes, index, name) for index, name in enumerate(PUBLISHED)]
        figure.legend(handles=handles, title=_band_title(methods), loc="outside right upper", alignment="left")
        metric = methods[0].metric
        runs = [run for method in methods for run in method.runs]
        total = {len(run.task.split(", ")) for run in runs if run.task}
        of = f" (of {total.pop()})" if metric == "completed_subtasks" and len(total) == 1 else ""
        axes.set(
            xlabel=_STEPS,
            ylabel=f"{title(metric)}{of}",
            title=_title(runs),
        )
        if metric != "episode_return":
            axes.set_ylim(0, 1.04 * max(axes.get_yticks()[-2], axes.dataLim.y1))
        if published:
            # Log, because runs here are several times shorter than the published ones.
            axes.set_xscale("log")
            _log_ticks(axes)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        _save(figure, path)


def subtask_rates(methods: Sequence[MethodCurve], path: Path) -> None:
    """How often each subtask is completed in evaluation, a panel per subtask, mean over a method's runs."""
    names = list(dict.fromkeys(name for m in methods for run in m.runs for name in run.subtask_rate))
    with mpl.rc_context(_STYLE | {"axes.titlesize": 13}):
        columns = 1 if len(names) == 1 else 2 if len(names) <= 4 else 3 if len(names) <= 6 else 4
        rows = -(-len(names) // columns)
        figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
        panels = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
        for axes, name in zip(panels.flat, names, strict=False):
            for index, method in enumerate(methods):
                runs = [run for run in method.runs if name in run.subtask_rate]
                if runs:
                    steps, values = align([r.env_steps for r in runs], [r.subtask_rate[name] for r in runs])
                    _plot_mean(axes, steps, values, marker="o", markersize=3, **_style(index))
            axes.set(title=name, ylim=(-0.03, 1.03))
            axes.set_xlim(left=0)
            axes.xaxis.set_major_formatter(FuncFormatter(_thousands))
        for axes in panels.flat[len(names) :]:
            axes.set_axis_off()
        # Panels above an empty place of the grid are the lowest of their column.
        for column in range(columns):
            lowest = panels[(len(names) - 1 - column) // columns, column]
            lowest.tick_params(labelbottom=True)
        figure.supylabel("share of evaluation episodes", fontsize=13)
        figure.supxlabel(_STEPS, fontsize=13)
        _legend_above(figure, methods)
        _save(figure, path)


def divergence(methods: Sequence[MethodCurve], path: Path) -> None:
    """KL(π ‖ prior) against its target δ, and α, over training: thin lines are runs, thick ones their mean."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
        upper, lower = figure.subplots(2, 1, sharex=True)
        targets: dict[float, list[str]] = {}
        for index, method in enumerate(methods):
            style = _style(index)
            _plot_runs(upper, method.runs, lambda run: run.kl, style)
            _plot_runs(lower, method.runs, lambda run: run.alpha, style)
            for run in method.runs:
                if np.isfinite(run.target_divergence) and np.isfinite(run.kl).any():
                    targets.setdefault(run.target_divergence, []).append(style["color"])
        for target, colours in targets.items():
            colour = colours[0] if len(set(colours)) == 1 and len(targets) > 1 else "0.35"
            upper.axhline(target, color=colour, linestyle="--", linewidth=1.3)
            upper.annotate(
                f"δ = {target:g}", (1.005, target), xycoords=("axes fraction", "data"), va="center", color=colour
            )
        upper.set_ylabel("KL(π ‖ prior), nats")
        upper.set_ylim(bottom=0)
        lower.set(xlabel=_STEPS, ylabel="temperature α", yscale="log")
        lower.set_xlim(left=0)
        lower.xaxis.set_major_formatter(FuncFormatter(_thousands))
        _legend_above(figure, methods)
        _save(figure, path)


def adaptation(
    curves: Sequence[AdaptationCurve], path: Path, score: str = "score (completed subtasks, or return)"
) -> None:
    """Mean score over tasks, called so, against the episodes spent in them, with its 95 % band over tasks.

    Of many episodes the axis is logarithmic, and a point is the mean over episodes within a tenth of each other.
    """
    last = max(float(curve.episodes[-1]) for curve in curves)
    logarithmic = last > 30  # what happens in the first episodes is what it is about
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        for index, whole in enumerate(curves):
            curve = _joined(whole) if logarithmic else whole
            style = _style(index)
            tasks = f"({curve.tasks}\N{NO-BREAK SPACE}{'task' if curve.tasks == 1 else 'tasks'})"
            label = textwrap.fill(f"{curve.method} {tasks}", 28)
            axes.plot(curve.episodes, curve.mean, marker="o", markersize=3, label=label, **style)
            if np.isfinite(curve.low).any():
                axes.fill_between(curve.episodes, curve.low, curve.high, color=style["color"], alpha=0.15, linewidth=0)
        band = any(np.isfinite(curve.low).any() for curve in curves)
        figure.legend(title="mean and 95 % interval" if band else None, loc="outside right upper", alignment="left")
        joined = ", means over neighbouring ones" if logarithmic else ""
        axes.set(xlabel=f"episodes in the new task{joined}", ylabel=score)
        if logarithmic:
            axes.set_xscale("log")
            axes.set_xlim(min(float(curve.episodes[0]) for curve in curves), last)
            _log_ticks(axes)
        else:
            axes.set_xlim(left=0)
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _save(figure, path)


def _joined(curve: AdaptationCurve) -> AdaptationCurve:
    """A curve with one point for each 24th of a decade of episodes: those within a tenth of each other."""
    _, groups = np.unique(np.floor(24 * np.log10(curve.episodes)), return_inverse=True)

    def means(values: Array) -> Array:
        return np.bincount(groups, values) / np.bincount(groups)

    episodes, mean, low, high = map(means, (curve.episodes, curve.mean, curve.low, curve.high))
    return replace(curve, episodes=episodes, mean=mean, low=low, high=high)


def sweep(key: str, values: Array, scores: Array, metric: str, runs: Sequence[Curve], path: Path) -> None:
    """The last evaluation of every trial, and their mean, against the setting ``key`` that varies; (N,) each."""
    with mpl.rc_context(_STYLE):
        figure, axes = _figure()
        distinct = np.unique(values)
        axes.plot(distinct, [scores[values == value].mean() for value in distinct], color=_COLOURS[0])
        axes.plot(values, scores, "o", markersize=8, color=_COLOURS[0])
        name = "target divergence δ, nats" if key == "target_divergence" else key
        ends = [run.env_steps[-1] for run in runs]
        # A scheduler ends some trials early.
        at = f"at {_thousands(round(np.median(ends), -3))} environment steps"
        if max(ends) > 1.1 * min(ends):
            at = "at a trial's last evaluation"
        axes.set(xlabel=name, ylabel=f"{title(metric)} {at}")
        axes.set_title(_title(runs))
        if distinct.min() > 0 and distinct.max() / distinct.min() >= 20:
            axes.set_xscale("log")
        axes.set_xticks(distinct, [f"{value:g}" for value in distinct])
        axes.set_xticks([], minor=True)
        axes.set_ylim(bottom=min(0.0, float(scores.min())))
        _save(figure, path)


def _figure() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(12, 7), dpi=100, layout="constrained")
    return figure, figure.subplots()


def _save(figure: Figure, path: Path) -> None:
    figure.savefig(path, format="png")


def _style(index: int) -> dict[str, Any]:
    colours = len(_COLOURS)
    return {"color": _COLOURS[index % colours], "linestyle": _STYLES[index // colours % len(_STYLES)]}


def _label(method: MethodCurve, width: int = 28) -> str:
    count = len(method.runs)
    kind = "seed" if len({run.seed for run in method.runs}) == count else "run"
    seeds = f"({count}\N{NO-BREAK SPACE}{kind}{'' if count == 1 else 's'})"
    return textwrap.fill(f"{method.method} {seeds}", width)


def _band_title(methods: Sequence[MethodCurve]) -> str | None:
    return "IQM and 95 % interval" if any(np.isfinite(m.low).any() for m in methods) else None


def _title(runs: Sequence[Curve]) -> str:
    """Environment, task and data, as far as all runs share them."""
    shared = []
    for text in (_shared(r.env for r in runs), _shared(r.task for r in runs), _shared(r.rule for r in runs)):
        if text:
            shared.append(text)
    data = _shared(r.data for r in runs)
    lines = [shared[0] if shared else "", ", ".join(shared[1:]), f"data: {data}" if data else ""]
    return "\n".join(textwrap.fill(line, 100) for line in lines if line)


def _shared(texts: Iterable[str]) -> str:
    found = set(texts)
    return found.pop() if len(found) == 1 else ""


def _published(axes: Axes, index: int, name: str) -> Line2D:
    steps, values = np.array(PUBLISHED[name]).T
    shade = str(0.25 + 0.07 * index)
    style: dict[str, Any] = {"color": shade, "linestyle": (0, (4, 2)), "linewidth": 1.3, "marker": _MARKERS[index]}
    return axes.plot(steps * 1e6, values, markersize=5, label=name, **style)[0]


def _legend_above(figure: Figure, methods: Sequence[MethodCurve]) -> None:
    handles = [Line2D([], [], label=_label(m, 36), **_style(i)) for i, m in enumerate(methods)]
    figure.legend(handles=handles, loc="outside upper center", ncols=min(len(handles), 3))


def _plot_mean(axes: Axes, steps: Array, values: Array, **style: Any) -> None:
    some = np.isfinite(values).any(axis=0)
    axes.plot(steps[some], np.nanmean(values[:, some], axis=0), **style)


def _plot_runs(axes: Axes, runs: Sequence[Curve], values: Callable[[Curve], Array], style: dict[str, Any]) -> None:
    kept = [(run.train_steps, values(run)) for run in runs if np.isfinite(values(run)).any()]
    if not kept:
        return
    if len(kept) > 1:
        for steps, series in kept:
            axes.plot(steps, series, **{**style, "linewidth": 0.7, "alpha": 0.35})
    _plot_mean(axes, *align([steps for steps, _ in kept], [series for _, series in kept]), **style)


def _thousands(value: float, _: Any = None) -> str:
    return f"{value / 1e6:g}M" if abs(value) >= 1e6 else f"{value / 1e3:g}k" if abs(value) >= 1e3 else f"{value:g}"


def _log_ticks(axes: Axes) -> None:
    low, high = axes.get_xlim()
    ticks = [m * 10.0**e for e in range(0, 9) for m in (1, 2, 5) if low <= m * 10.0**e <= high]
    axes.set_xticks(ticks, [_thousands(t) for t in ticks])
    axes.set_xticks([], minor=True)
