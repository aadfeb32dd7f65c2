"""``spirl report``: training runs to a report with curves, tables and pictures."""

from pathlib import Path
from typing import Annotated

import typer


def report(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN…",
            help="Directories of experiments, trials, earlier reports or `spirl adapt`; NAME=DIR names the method.",
        ),
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Directory for the report.")] = Path("report"),
    published: Annotated[
        bool, typer.Option("--published/--no-published", help="Draw published kitchen curves beside them.")
    ] = False,
    html: Annotated[
        bool, typer.Option("--html", help="Write report.html too: one file, with pictures and films in it.")
    ] = False,
) -> None:
    """Compare finished or running training runs: report.md, curves.csv, curves.json and pictures."""
    from rllib_spirl.evaluation.report import write_report

    typer.echo(f"report  {write_report(runs, output, published=published, as_page=html)}")
