"""The pictures that a finished run leaves beside its results."""

from pathlib import Path

import numpy as np

from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import plots
from rllib_spirl.evaluation.aggregate import aggregate, by_method, choose_metric
from rllib_spirl.evaluation.curve import Curve
from rllib_spirl.evaluation.runs import read_runs, varied_number
from rllib_spirl.files import replacing

LEARNING_CURVE, SWEEP = "learning_curve.png", "sweep.png"


def draw_run(experiment: str | Path) -> list[Path]:
    """Draw what an experiment came to, into its folder.

    ``learning_curve.png`` has the evaluations of its trials. ``sweep.png`` has their last ones against the setting that
    was varied, where they differ in one number.

    Returns:
        The pictures' paths; none where nothing was evaluated, or the folder is not on this machine.
    """
    folder = Path(experiment)
    try:
        curves = [curve for curve in read_runs([folder]) if len(curve.env_steps)]
    except UserError:
        return []
    if not curves:
        return []
    metric = choose_metric(curves)
    methods = [aggregate(name, runs, metric) for name, runs in by_method(curves).items()]
    with replacing(folder / LEARNING_CURVE) as file:
        plots.learning_curve(methods, file)
    return [folder / LEARNING_CURVE, *_sweep(curves, metric, folder)]


def _sweep(curves: list[Curve], metric: str, folder: Path) -> list[Path]:
    found = varied_number([curve.trial for curve in curves])
    if found is None:
        return []
    key, values = found
    scores = np.array([curve.score(metric)[-1] for curve in curves])
    with replacing(folder / SWEEP) as file:
        plots.sweep(key, np.array(values), scores, metric, curves, file)
    return [folder / SWEEP]
