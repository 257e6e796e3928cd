"""The report as a whole: read the folders, put the sections together, write one HTML file."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hf_soups.checkpoint import sources_of
from hf_soups.errors import InputError
from hf_soups.files.writing import write_text
from hf_soups.progress import Meter
from hf_soups.reporting.page.board import chosen_section, leaderboard_section, limit_section
from hf_soups.reporting.page.cascades import PER_EXIT, cost_section, example_section, exit_section
from hf_soups.reporting.page.classes import class_section
from hf_soups.reporting.page.drift import drift_section
from hf_soups.reporting.page.html import Page, Section, is_ours, require_extra, to_html
from hf_soups.reporting.page.kept import kept_section
from hf_soups.reporting.page.settings import setting_section
from hf_soups.reporting.page.sources import ReportContent, read_content
from hf_soups.reporting.page.training import curve_section, soup_section
from hf_soups.reporting.page.verdict import choice_of


def report(
    folders: Sequence[str | Path] | str | Path,
    out: str | Path = "report.html",
    *,
    title: str | None = None,
    examples: int = PER_EXIT,
    resamples: int = 1000,
    overwrite: bool = False,
    progress: bool = True,
) -> Path:
    """Write the report as one HTML file that opens offline; its path.

    Args:
        folders: as for `page_for`.
        out: the file.
        title: as for `page_for`.
        examples: as for `page_for`.
        resamples: as for `page_for`.
        overwrite: replace an earlier report.
        progress: show progress.
    Raises:
        MissingExtra: if Altair or vl-convert is not installed.
        InputError: if `out` may not be replaced, or as for `page_for`.
        HfSoupsError: if it cannot be written.
    """
    at = Path(out)
    require_extra()
    _refuse(at, overwrite=overwrite)
    page = page_for(folders, title=title, examples=examples, resamples=resamples, progress=progress)
    write_text(at, to_html(page))
    return at


def page_for(
    folders: Sequence[str | Path] | str | Path,
    *,
    title: str | None = None,
    examples: int = PER_EXIT,
    resamples: int = 1000,
    progress: bool = False,
) -> Page:
    """What the report says; no model is loaded, and rows of data are read for examples alone.

    Args:
        folders: a sweep, pools of predictions, cascades, their answers to new rows, or folders that hold them.
        title: of the page; default: after the sweep's task.
        examples: rows of the data to show of each exit of each cascade; 0: none.
        resamples: bootstrap resamples of each interval.
        progress: show progress.
    Raises:
        InputError: if a folder is none of these, or one cannot be read.
    """
    content = read_content(sources_of(folders), resamples=resamples, progress=progress)
    choice = choice_of(content)
    makers: tuple[Callable[[ReportContent], Section | None], ...] = (
        partial(chosen_section, choice=choice), leaderboard_section, lambda _: class_section(choice), cost_section,
        setting_section, curve_section, soup_section, kept_section, exit_section, drift_section,
        partial(example_section, per_exit=examples), limit_section,
    )  # fmt: skip
    sections = []
    with Meter("sections", len(makers), visible=progress) as meter:
        for done, make in enumerate(makers, 1):
            sections.append(make(content))
            meter(done)
    task = _task(content)
    named = title or (f"{task}: model soups and cascades" if task else "Model soups and cascades")
    about = "hf_soups report of " + ", ".join(map(str, sources_of(folders)))
    return Page(named, about, tuple(s for s in sections if s is not None))


def _task(content: ReportContent) -> str:
    """The task's name, where the runs know it."""
    runs = content.sweep.found.planned if content.sweep is not None else ()
    names = (str((run.record.recipe.get("task") or {}).get("name") or "") for run in runs if run.record is not None)
    return next(names, "")


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
