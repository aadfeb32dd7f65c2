"""What a report says of adaptation curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rllib_spirl.evaluation.adaptation_curves import EPISODES, AdaptationCurve, Document, find, load, merged
from rllib_spirl.evaluation.aggregate import BOOTSTRAP_SEED
from rllib_spirl.evaluation.runs import holds_runs, named
from rllib_spirl.evaluation.statistics import CONFIDENCE, RESAMPLES
from rllib_spirl.evaluation.tables import estimate, table

PICTURE = "adaptation.png"


def among(runs: Sequence[str | Path]) -> tuple[Document, list[str | Path]]:
    """The adaptation curves among runs, and the runs that are trainings."""
    documents: dict[tuple[str | None, Path], Document] = {}  # a file that is given twice counts once
    trained = []
    for run in runs:
        name, path = named(str(run))
        if (file := find(path)) is not None:
            documents[name, file.resolve()] = load(file)
        if file is None or holds_runs(path):
            trained.append(run)
    return merged((name, document) for (name, _), document in documents.items()), trained


def section(curves: Sequence[AdaptationCurve]) -> str:
    """What a report says of them, in Markdown."""
    parts = [
        "# Adaptation to new tasks",
        "Score by the number of the episode in a task: completed subtasks or, where there are none, the return. A "
        "point is the mean over tasks, of each task's mean over seeds; the band is the "
        f"{CONFIDENCE:.0%} percentile bootstrap over tasks ({RESAMPLES:,} resamples, seed {BOOTSTRAP_SEED}): how the "
        "mean may differ for other such tasks.",
        f"![adaptation curves]({PICTURE})",
        score_table(curves),
    ]
    return "\n\n".join(parts) + "\n"


def score_table(curves: Sequence[AdaptationCurve], columns: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """Markdown: the scores of methods along their first episodes.

    Args:
        curves: Of the methods.
        columns: Other columns, by their headings: what they say of each method.
    """
    columns = columns or {}
    reached = [episode for episode in EPISODES if any(curve.at(episode) is not None for curve in curves)]

    def cell(curve: AdaptationCurve, index: int | None) -> str:
        return "–" if index is None else estimate(curve.mean[index], curve.low[index], curve.high[index])

    header = ["method", "tasks", "seeds", *columns, *(f"episode {episode}" for episode in reached)]
    rows = [
        [curve.method, str(curve.tasks), str(curve.seeds)]
        + [said.get(curve.method, "–") for said in columns.values()]
        + [cell(curve, curve.at(episode)) for episode in reached]
        for curve in curves
    ]
    return table(header, rows)
