"""Pictures of a plan and the search it came from, on the rows that nothing was chosen on where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.cascades.frontier_file import is_share
from hf_soups.errors import DataError
from hf_soups.from_pool.opening import open_plan
from hf_soups.pool import Pool
from hf_soups.pool.rows import Wanted, load_rows
from hf_soups.predictions import same_rows

if TYPE_CHECKING:
    from hf_soups.data import Split


def draw_plan(reference: str, out: str | Path, *, images: bool = True) -> tuple[Path, ...]:
    """Draw score against cost, exits, reliability and, of images, a sheet by exit; the first three with their CSV.

    Args:
        reference: FILE#NUMBER.
        out: the folder.
        images: read the pool's images again for the sheet.
    """
    from hf_soups.report.cascades import draw_cascade_pictures

    opened = open_plan(reference)
    frontier, plan, pool, parts = opened.frontier, opened.plan, opened.pool, opened.parts
    rows = parts.select if parts.report is None else parts.report
    shown = (
        _images(pool)
        if images and pool.kind == "image" and (not frontier.report or is_share(frontier.report))
        else None
    )
    return draw_cascade_pictures(
        out, frontier, plan.apply(rows), plan=plan, report=parts.report, images=shown, members=pool.members
    )


def _images(pool: Pool) -> Split | None:
    """The pool's rows as they were asked for; None where they cannot be had any more, or are not the same."""
    data, column = pool.data, pool.data.columns[0]
    try:
        found = load_rows(
            Wanted(data.path, data.split, data.config, data.revision, pool.kind, (), column, data.label,
                   pool.label_names, data.rows)
        ).split  # fmt: skip
    except DataError:  # moved, or a recipe's own split, which data sets do not know by name
        return None
    return found if same_rows(found.fingerprint, data.fingerprint) else None
