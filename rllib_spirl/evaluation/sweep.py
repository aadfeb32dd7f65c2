"""What came out of a sweep: the final score against the setting that was varied."""

from pathlib import Path

import numpy as np

from rllib_spirl.errors import UserError
from rllib_spirl.evaluation import plots
from rllib_spirl.evaluation.aggregate import choose_metric
from rllib_spirl.evaluation.runs import read_runs, varied_number

PICTURE = "sweep.png"


def draw_sweep(experiment: str | Path) -> Path | None:
    """Draw ``sweep.png`` in an experiment's folder; returns its path.

    None, and no picture, where fewer than two trials were evaluated, where they differ in something else than one
    number, and where the folder is not on this machine.
    """
    folder = Path(experiment)
    try:
        curves = [curve for curve in read_runs([folder]) if len(curve.env_steps)]
    except UserError:
        return None
    found = varied_number([curve.trial for curve in curves])
    if found is None:
        return None
    key, values = found
    metric = choose_metric(curves)
    scores = np.array([getattr(curve, metric)[-1] for curve in curves])
    plots.sweep(key, np.array(values), scores, metric, curves, folder / PICTURE)
    return folder / PICTURE
