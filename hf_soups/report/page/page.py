"""The report as a whole: read the folders, put the sections together, write one HTML file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from hf_soups.errors import InputError
from hf_soups.files.writing import write_text
from hf_soups.report.page.board import leaderboard_section
from hf_soups.report.page.cascades import asked_cascades, cost_section, exit_section
from hf_soups.report.page.examples import PER_EXIT, RowFinder, example_section
from hf_soups.report.page.html import Page, Section, is_ours, require_extra, to_html
from hf_soups.report.page.key_figures import chosen_section, limit_section
from hf_soups.report.page.sources import ShownSweep, find_sources, read_pools, read_sweep, searched_in
from hf_soups.report.page.training import curve_section, soup_section


def write_report(
    folders: Sequence[str | Path],
    out: str | Path,
    *,
    title: str | None = None,
    examples: int = PER_EXIT,
    resamples: int = 1000,
    overwrite: bool = False,
) -> Path:
    """Write the report as one HTML file that opens offline; its path.

    Args:
        folders: as for `page_for`.
        out: the file.
        title: as for `page_for`.
        examples: as for `page_for`.
        resamples: as for `page_for`.
        overwrite: replace an earlier report.
    Raises:
        MissingExtra: if Altair or vl-convert is not installed.
        InputError: if `out` may not be replaced, or as for `page_for`.
        HfSoupsError: if it cannot be written.
    """
    at = Path(out)
    require_extra()
    _refuse(at, overwrite=overwrite)
    text = to_html(page_for(folders, title=title, examples=examples, resamples=resamples))
    write_text(at, text)
    return at


def page_for(
    folders: Sequence[str | Path], *, title: str | None = None, examples: int = PER_EXIT, resamples: int = 1000
) -> Page:
    """What the report says; no model is loaded, and rows of data are read for examples alone.

    Args:
        folders: a sweep, pools of predictions, cascades, or folders that hold them.
        title: of the page; default: after the sweep's task.
        examples: rows of the data to show of each exit of each cascade; 0: none.
        resamples: bootstrap resamples of each interval.
    Raises:
        InputError: if a folder is none of these, or one cannot be read.
    """
    sources = find_sources(folders)
    sweep = None if sources.sweep is None else read_sweep(sources.sweep, resamples=resamples)
    answered, pools = read_pools(sources.pools)
    answered = (*(searched_in(sweep) if sweep is not None else ()), *answered)
    asked = asked_cascades(sources.cascades, answered)
    board = None if sweep is None else sweep.board
    sections = (
        chosen_section(sweep, asked),
        *([] if sweep is None else [leaderboard_section(sweep.board)]),
        cost_section(board, answered, asked),
        *([] if sweep is None else _of_sweep(sweep)),
        exit_section(asked),
        example_section(asked, RowFinder(pools, sources.sweep), per_exit=examples),
        limit_section(sweep, answered, asked),
    )
    task = _task(sweep)
    named = title or (f"{task}: model soups and cascades" if task else "Model soups and cascades")
    about = "hf_soups report of " + ", ".join(map(str, folders))
    return Page(named, about, tuple(s for s in sections if s is not None))


def _of_sweep(sweep: ShownSweep) -> tuple[Section, Section]:
    metric = sweep.board.metric
    best = next((row.name for row in sweep.board.rows if row.kind == "best on select"), "")
    return curve_section(sweep.runs, metric=metric, best=best), soup_section(sweep.soups, str(sweep.folder))


def _task(sweep: ShownSweep | None) -> str:
    """The task's name, where the runs know it."""
    records = [run.record for run in sweep.runs if run.record is not None] if sweep is not None else []
    names = [str((record.recipe.get("task") or {}).get("name") or "") for record in records]
    return next(iter(names), "")


def _refuse(out: Path, *, overwrite: bool) -> None:
    """Check before any work that the file may be written; only an earlier report is ever replaced."""
    if out.is_dir():
        raise InputError(f"{out} is a folder. Name a file with --out, such as {out / 'report.html'}.")
    if not os.path.lexists(out):
        return
    if not overwrite:
        raise InputError(f"{out} exists already. Choose another file with --out, or replace it with --overwrite.")
    if not is_ours(out):
        raise InputError(
            f"{out} exists and is no report of hf_soups, so it is not replaced. Choose another file with --out."
        )
