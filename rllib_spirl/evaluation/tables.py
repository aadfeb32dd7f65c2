"""Tables of reports, in Markdown."""

from collections.abc import Sequence

import numpy as np

from rllib_spirl.evaluation.statistics import Interval


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """The first column is text, the others are numbers."""
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, rule, *rows))


def estimate(value: float, low: float, high: float) -> str:
    """A number and its interval, in a table."""
    return f"{value:.2f}{shown(Interval(float(low), float(high)))}"


def shown(interval: Interval) -> str:
    """As it stands behind a number; nothing for one without ends."""
    return "" if np.isnan(interval.low) else f" [{interval.low:.2f}, {interval.high:.2f}]"
