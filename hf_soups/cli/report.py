"""The command of the report: one HTML file about a sweep, its soups, pools and cascades."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hf_soups.cli.app import Overwrite, app, printed


@app.command()
def report(
    folders: Annotated[
        list[Path],
        typer.Argument(metavar="FOLDER", help="A sweep, pools of predictions, cascades, or a folder that holds them."),
    ],
    out: Annotated[Path, typer.Option("--out", help="The HTML file.")] = Path("report.html"),
    title: Annotated[str | None, typer.Option("--title", help="Of the page. Default: after the sweep's task.")] = None,
    examples: Annotated[
        int,
        typer.Option(
            min=0, help="Rows of the data that the file shows of each exit of a cascade; 0 keeps data out of it."
        ),
    ] = 6,
    resamples: Annotated[int, typer.Option(min=1, help="Bootstrap resamples of each interval.")] = 1000,
    overwrite: Overwrite = False,
) -> None:
    """One HTML file to read and to send: leaderboard, costs, learning curves, soups, exits; opens offline."""
    from hf_soups.report.page import write_report

    path = write_report(folders, out, title=title, examples=examples, resamples=resamples, overwrite=overwrite)
    printed(f"wrote {path}")
