"""Draws the figures of the concepts' page, by the code that they explain: python docs/figures.py."""

from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from rllib_spirl.algorithm.losses import residual_kl
from rllib_spirl.evaluation import plots, records
from rllib_spirl.evaluation.aggregate import aggregate, by_method, choose_metric

FIGURES = Path(__file__).parent / "figures"
RUNS = Path(__file__).parents[1] / "benchmarks" / "results" / "kitchen"


def main() -> None:
    """Draw them all."""
    FIGURES.mkdir(exist_ok=True)
    for figure in (transition, policy_and_prior):
        figure().savefig(FIGURES / f"{figure.__name__}.png")
    curves = records.load(RUNS / records.CURVES)
    metric = choose_metric(curves)
    lines = [aggregate(name, runs, metric) for name, runs in by_method(curves).items()]
    plots.divergence(lines, FIGURES / "divergence.png")


def transition() -> Figure:
    """One skill as one transition: H low-level steps under one bracket."""
    horizon = 10
    figure = Figure(figsize=(9, 2.6), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(-0.6, 2 * horizon + 0.6)
    axes.set_ylim(-1.4, 2.2)
    axes.plot(range(2 * horizon + 1), np.zeros(2 * horizon + 1), "o-", color="0.6", markersize=5)
    for index, name in enumerate(("", "'")):
        first, last = index * horizon, (index + 1) * horizon
        color = f"C{index}"
        axes.plot([first, last], [0, 0], "o", color="black", markersize=9)
        axes.annotate("", (last, 0.75), (first, 0.75), arrowprops={"arrowstyle": "->", "color": color, "linewidth": 2})
        axes.text((first + last) / 2, 1.0, f"z{name} ~ π(z | s{name})", ha="center", color=color, fontsize=12)
        axes.text((first + last) / 2, -0.75, "actions of the decoder, p(a | z, s)", ha="center", color="0.4")
        axes.text((first + last) / 2, 1.65, f"reward: the sum over {horizon} steps", ha="center", fontsize=10)
        axes.text(first, -1.2, f"s{name}", ha="center", fontsize=12)
    axes.text(2 * horizon, -1.2, "s''", ha="center", fontsize=12)
    return figure


def policy_and_prior() -> Figure:
    """A policy as far from the prior as target divergences of ½, 1 and 3 nats allow, in one dimension of z."""
    figure = Figure(figsize=(9, 3.2), dpi=110, layout="constrained")
    axes = figure.subplots()
    z = np.linspace(-4, 5, 400)

    def density(mean: float, deviation: float) -> np.ndarray:
        return np.exp(-0.5 * ((z - mean) / deviation) ** 2) / (deviation * np.sqrt(2 * np.pi))

    axes.plot(z, density(0, 1), color="0.5", label="prior p(z | s)")
    axes.fill_between(z, density(0, 1), color="0.9")
    log_std = torch.tensor([-0.5])
    for index, nats in enumerate((0.5, 1.0, 3.0)):
        means = torch.linspace(0, 4, 4001)[:, None]
        divergences = residual_kl(means, log_std.expand_as(means))
        mean = float(means[(divergences - nats).abs().argmin()])
        axes.plot(z, density(mean, float(log_std.exp())), color=f"C{index}", label=f"policy at a KL of {nats:g} nats")
    axes.set_xlabel("one dimension of z, in the prior's standard deviations")
    axes.set_yticks([])
    axes.legend(frameon=False)
    return figure


if __name__ == "__main__":
    main()
