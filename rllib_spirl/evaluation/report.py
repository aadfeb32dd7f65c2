"""A report on training runs: report.md, the curves as CSV and JSON, and pictures."""

import csv
import io
import itertools
import json
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import adaptation_curves, adaptation_report, plots, records
from rllib_spirl.evaluation.aggregate import (
    BOOTSTRAP_SEED,
    MethodCurve,
    aggregate,
    by_method,
    choose_metric,
    measured,
    score_at,
    strata,
    title,
)
from rllib_spirl.evaluation.curve import Array, Curve
from rllib_spirl.evaluation.page import FILMS, page
from rllib_spirl.evaluation.run_pictures import LEARNING_CURVE
from rllib_spirl.evaluation.runs import read_runs
from rllib_spirl.evaluation.skill_map import Kind, draw_map, skills_used
from rllib_spirl.evaluation.statistics import (
    CONFIDENCE,
    RESAMPLES,
    Interval,
    bootstrap_interval,
    improvement_interval,
    iqm,
    mean,
    probability_of_improvement,
)
from rllib_spirl.evaluation.tables import estimate, shown, table
from rllib_spirl.files import replacing, writing

MILESTONES = (20_000, 50_000, 100_000, 200_000, 500_000, 1_000_000)
SUBTASK_RATES, DIVERGENCE, SKILLS_USED = "subtask_rates.png", "divergence.png", "skills.png"
_COLUMNS = ("env_steps", "mean", "iqm", "ci_low", "ci_high", "n")


def write_report(
    runs: Sequence[str | Path], output: str | Path, *, published: bool = False, as_page: bool = False
) -> Path:
    """Read runs and write report.md, curves.csv, curves.json and the pictures into ``output``.

    Each file appears under its name whole or not at all; other files there are left alone.

    Args:
        runs: See `runs.read_runs`. Among them may be files of adaptation curves, see `adaptation_curves`, and folders
            that hold one.
        output: Directory; made if it is not there.
        published: Draw the papers' kitchen curves beside the runs', labelled as other experiments.
        as_page: Write report.html too, one file with all pictures, and the films that lie in the runs' folders.

    Returns:
        The path of report.md or, if there is one, of report.html.

    Raises:
        UserError: If a run cannot be read, none of them has been evaluated, or the output cannot be written.
    """
    document, trained = adaptation_report.among(runs)
    curves = read_runs(trained) if trained or not document else []
    groups = by_method(curves)
    if not groups and not document:
        raise UserError(
            f"{', '.join(map(str, runs))}: no evaluation has been reported yet; set config.evaluation_interval."
        )
    metric = choose_metric(curves)
    methods = [aggregate(name, members, metric) for name, members in groups.items()]
    directory = Path(output)
    for kind, made in ((records.CURVES, methods), (adaptation_curves.CURVES, document)):
        if not made and (directory / kind).exists():  # which would count as this report's, when that is read
            raise UserError(
                f"{directory} has the {kind} of another report or run, which is not among those named: choose another "
                "--output, or name that too."
            )
    with writing(f"{directory}: the report cannot be written", "choose another --output"):
        directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as files:

            def new(name: str) -> Path:
                return files.enter_context(replacing(directory / name))

            # First, so that it appears last: where the text is, what it shows is there too.
            text = new("report.md")
            drawings = _drawings(methods, published)
            for name, draw in drawings.items():
                draw(new(name))
            if methods:
                new("curves.csv").write_text(_csv(groups))
                new(records.CURVES).write_text(json.dumps(_json(groups, metric), indent=1) + "\n")
            parts = [_markdown(methods, curves, metric, drawings)] if methods else []
            if document:
                adapted = adaptation_curves.aggregate(document)
                plots.adaptation(adapted, new(adaptation_report.PICTURE))
                adaptation_curves.write(document, new(adaptation_curves.CURVES))
                parts.append(adaptation_report.section(adapted))
            text.write_text("\n".join(parts))
        if not as_page:
            return directory / "report.md"
        folders = dict.fromkeys(run.trial for method in methods for run in method.runs)
        films = [file for folder in folders for file in sorted(folder.glob("*")) if file.suffix in FILMS]
        with replacing(directory / "report.html") as file:
            file.write_text(page((directory / "report.md").read_text(), directory, films))
    return directory / "report.html"


def _drawings(methods: Sequence[MethodCurve], published: bool) -> dict[str, Callable[[Path], None]]:
    """What draws each picture that there is something for, by its file's name."""
    runs = [run for method in methods for run in method.runs]
    drawings: dict[str, Callable[[Path], None]] = {}
    if methods:
        drawings[LEARNING_CURVE] = partial(plots.learning_curve, methods, published=published)
    if any(run.subtask_rate for run in runs):
        drawings[SUBTASK_RATES] = partial(plots.subtask_rates, methods)
    if any(np.isfinite(run.kl).any() for run in runs):
        drawings[DIVERGENCE] = partial(plots.divergence, methods)
    if used := _skills_used(methods):
        drawings[SKILLS_USED] = partial(draw_map, used)
    return drawings


def _skills_used(methods: Sequence[MethodCurve]) -> list[Kind]:
    """Of the newest checkpoint there is, in the order of the methods and their runs."""
    for method in methods:
        for run in method.runs:
            for checkpoint in sorted(run.trial.glob("checkpoint_*"), reverse=True):
                try:
                    if used := skills_used(checkpoint):
                        return used
                except UserError:
                    continue  # damaged, or being written: a report does without
    return []


def improvements(methods: Sequence[MethodCurve]) -> list[tuple[str, str, float, float, Interval]]:
    """For each pair of methods (X, Y): step, P(X > Y) and its interval, at the last step that all their runs reached.

    Tasks are the strata. Pairs without a common task are left out, and those of which a run has no evaluation near that
    step; of two orders the one with P ≥ ½ is returned.
    """
    rows = []
    for first, second in itertools.combinations(methods, 2):
        tasks = [t for t in dict.fromkeys(_task(r) for r in first.runs) if t in {_task(r) for r in second.runs}]
        if not tasks:
            continue
        step = min(float(run.env_steps[-1]) for m in (first, second) for run in m.runs if _task(run) in tasks)
        ours, theirs = (
            [np.array([score_at(r, m.metric, step) for r in m.runs if _task(r) == t]) for t in tasks]
            for m in (first, second)
        )
        if not all(np.isfinite(scores).all() for scores in (*ours, *theirs)):
            continue  # a run was not evaluated near that step
        names = first.method, second.method
        probability = probability_of_improvement(ours, theirs)
        if probability < 0.5:
            ours, theirs, names, probability = theirs, ours, names[::-1], 1 - probability
        rows.append((*names, step, probability, improvement_interval(ours, theirs, seed=BOOTSTRAP_SEED)))
    return rows


def _task(run: Curve) -> tuple[str, str, str]:
    return run.env, run.task, run.rule


def _reported(groups: dict[str, list[Curve]]) -> list[tuple[str, MethodCurve]]:
    """Every metric that a method's runs report."""
    return [
        (metric, aggregate(name, members, metric)) for name, members in groups.items() for metric in measured(members)
    ]


def _columns(curve: MethodCurve) -> tuple[Array, ...]:
    return curve.steps, curve.mean, curve.iqm, curve.low, curve.high, curve.count


def _csv(groups: dict[str, list[Curve]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("method", "data", "metric", *_COLUMNS))
    for metric, curve in _reported(groups):
        data = _joined(run.data for run in curve.runs)
        for row in zip(*_columns(curve), strict=True):
            writer.writerow((curve.method, data, metric, *("" if np.isnan(v) else f"{v:.6g}" for v in row)))
    return text.getvalue()


def _json(groups: dict[str, list[Curve]], metric: str) -> dict[str, Any]:
    methods: dict[str, Any] = {
        name: {"runs": [records.record(run) for run in members], "metrics": {}} for name, members in groups.items()
    }
    for name, curve in _reported(groups):
        columns = {key: records.numbers(values) for key, values in zip(_COLUMNS, _columns(curve), strict=True)}
        methods[curve.method]["metrics"][name] = columns
    return {
        "metric": metric,
        "confidence": CONFIDENCE,
        "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED, "statistic": "iqm"},
        "version": version("rllib_spirl"),
        "methods": methods,
    }


def _joined(texts: Iterable[str]) -> str:
    return "; ".join(dict.fromkeys(t for t in texts if t))


def _markdown(methods: Sequence[MethodCurve], curves: Sequence[Curve], metric: str, pictures: Collection[str]) -> str:
    runs = [run for method in methods for run in method.runs]
    parts = ["# Training report", _setting(runs)]
    parts.append(f"![learning curves]({LEARNING_CURVE})")
    parts.append(f"## At the last evaluation\n\n{_final_table(methods, metric)}")
    if milestones := _milestone_table(methods):
        parts.append(
            f"## Along the way\n\nIQM of {title(metric)} at the evaluation nearest to each number of steps.\n\n"
            f"{milestones}"
        )
    if others := _others_table(methods, metric):
        parts.append(f"## What else was measured\n\nAt the last evaluation, mean over runs.\n\n{others}")
    if SUBTASK_RATES in pictures:
        parts.append(
            "## Subtasks\n\nShare of episodes that completed each, at the last evaluation, mean over runs.\n\n"
            f"{_subtask_table(methods)}\n\n![subtask rates]({SUBTASK_RATES})"
        )
    if len(methods) > 1 and (pairs := improvements(methods)):
        parts.append(
            "## Probability of improvement\n\nHow likely a run of X scores above a run of Y, ties counting half, at "
            "the last step that all runs of both have reached; ½ means no difference.\n\n"
            f"{_improvement_table(pairs)}"
        )
    if DIVERGENCE in pictures:
        parts.append(f"## Divergence from the prior and temperature\n\n![KL and alpha]({DIVERGENCE})")
    if SKILLS_USED in pictures:
        parts.append(
            "## Skills\n\nThe two directions of z in which demonstrated skills differ most, and where the agent's "
            f"skills lie in them.\n\n![skills]({SKILLS_USED})"
        )
    parts.append(_method_note(methods))
    if notes := _notes(methods, curves):
        parts.append("## Notes\n\n" + "\n".join(f"- {note}" for note in notes))
    return "\n\n".join(parts) + "\n"


def _setting(runs: Sequence[Curve]) -> str:
    episodes = sorted({int(e) for run in runs for e in run.episodes if np.isfinite(e)})
    per = f"{' or '.join(map(str, episodes))} episodes" if episodes else "an unreported number of episodes"
    policies = {True: "with draws from the policy", False: "with the deterministic policy"}
    policy = " or ".join(policies[explores] for explores in sorted({run.explores for run in runs}))
    lines = [
        ("Environment", _joined(r.env for r in runs)),
        ("Task", _joined(", ".join(filter(None, (r.task, r.rule))) for r in runs)),
        ("Data", _joined(r.data for r in runs)),
        ("Evaluation", f"{per} each, {policy}"),
        ("Steps", "low-level environment steps of training, warm-up included"),
    ]
    return "\n".join(f"- {name}: {text}" for name, text in lines if text)


def _final_table(methods: Sequence[MethodCurve], metric: str) -> str:
    subtasks = metric == "completed_subtasks"
    header = ["method", "data", "runs (skill models)", "env steps", f"{title(metric)}: IQM [95 %]", "mean"]
    header += ["all completed"] if subtasks else []
    unit = "" if subtasks else ", return"
    header += ["first evaluation", f"prior alone{unit}: mean / sampled", "minutes"]
    rows = []
    for method in methods:
        scores = method.final()
        interval = bootstrap_interval([scores[members] for members in strata(method.runs)], seed=BOOTSTRAP_SEED)
        skills = len({run.skill_checkpoint for run in method.runs if run.skill_checkpoint})
        row = [
            method.method,
            _joined(run.data for run in method.runs),
            f"{len(method.runs)} ({skills})" if skills else f"{len(method.runs)}",
            f"{np.median([run.env_steps[-1] for run in method.runs]):,.0f}",
            f"{float(iqm(scores)):.2f}{shown(interval)}",
            f"{float(mean(scores)):.2f}",
        ]
        if subtasks:
            row.append(f"{np.mean([run.score('all_completed')[-1] for run in method.runs]):.0%}")
        first = iqm([run.score(metric)[0] for run in method.runs])
        row.append(f"{float(first):.2f} @ {np.median([run.env_steps[0] for run in method.runs]):,.0f}")
        minutes = np.median([run.seconds[-1] for run in method.runs]) / 60
        row += [_prior_scores(method), "–" if np.isnan(minutes) else f"{minutes:.0f}"]
        rows.append(row)
    return table(header, rows)


def _prior_scores(method: MethodCurve) -> str:
    """What the skills achieved before any training, mean over skill models."""
    scores = list({(run.skill_checkpoint, _task(run)): run.prior_alone for run in method.runs}.values())
    if np.isnan(scores).all():
        return "–"
    return " / ".join(f"{value:.2f}" for value in np.nanmean(scores, axis=0))


def _milestone_table(methods: Sequence[MethodCurve]) -> str:
    indices = {step: [method.at(step) for method in methods] for step in MILESTONES}
    reached = [step for step, points in indices.items() if any(p is not None for p in points)]
    if not reached:
        return ""

    def cell(method: MethodCurve, index: int | None) -> str:
        return "–" if index is None else estimate(method.iqm[index], method.low[index], method.high[index])

    rows = [[m.method, *(cell(m, indices[step][i]) for step in reached)] for i, m in enumerate(methods)]
    return table(["method", *(f"{step:,}" for step in reached)], rows)


def _others_table(methods: Sequence[MethodCurve], metric: str) -> str:
    """What environments measure beside ``metric``, the return and what is told with these; "" if nothing."""
    told = {metric, "episode_return", "all_completed"}
    by_method = [measured(method.runs) for method in methods]
    names = [name for name in dict.fromkeys(itertools.chain(*by_method)) if name not in told]
    if not names:
        return ""
    rows = []
    for method, known in zip(methods, by_method, strict=True):
        last = {name: np.mean([run.score(name)[-1] for run in method.runs]) for name in known}
        rows.append([method.method, *(f"{last[name]:.4g}" if name in last else "–" for name in names)])
    return table(["method", *map(title, names)], rows)


def _subtask_table(methods: Sequence[MethodCurve]) -> str:
    names = list(dict.fromkeys(name for m in methods for run in m.runs for name in run.subtask_rate))
    rows = []
    for method in methods:
        last = [[r.subtask_rate[name][-1] for r in method.runs if name in r.subtask_rate] for name in names]
        rows.append([method.method, *(f"{np.mean(rates):.2f}" if rates else "–" for rates in last)])
    return table(["method", *names], rows)


def _improvement_table(pairs: Sequence[tuple[str, str, float, float, Interval]]) -> str:
    rows = [[x, y, f"{step:,.0f}", f"{p:.2f}{shown(interval)}"] for x, y, step, p, interval in pairs]
    return table(["X", "Y", "env steps", "P(X > Y) [95 %]"], rows)


def _method_note(methods: Sequence[MethodCurve]) -> str:
    text = (
        "IQM: the mean of the middle half of the runs (the mean, below four runs). Intervals: "
        f"{CONFIDENCE:.0%} percentile bootstrap over runs, {RESAMPLES:,} resamples, stratified by task and data, seed "
        f"{BOOTSTRAP_SEED}."
    )
    if any(1 < len(m.runs) < 5 for m in methods):
        text += " With fewer than five runs they are narrower than they claim."
    return f"## How the numbers were made\n\n{text}"


def _notes(methods: Sequence[MethodCurve], curves: Sequence[Curve]) -> list[str]:
    notes = [note for curve in curves for note in curve.notes]
    notes += [f"{c.trial.name}: not evaluated yet and left out." for c in curves if not len(c.env_steps)]
    for method in methods:
        seen: dict[Any, int] = {}
        for run in method.runs:
            key = (run.seed, run.skill_checkpoint, _task(run), run.data)
            seen[key] = seen.get(key, 0) + 1
        repeated = [f"{key[0]}" for key, count in seen.items() if count > 1 and key[0] is not None]
        if repeated:
            notes.append(f"{method.method}: more than one run of seed {', '.join(repeated)}; they are not independent.")
        ends = [run.env_steps[-1] for run in method.runs]
        if max(ends) > 1.1 * min(ends):
            notes.append(f"{method.method}: its runs end between {min(ends):,.0f} and {max(ends):,.0f} steps.")
    return notes
