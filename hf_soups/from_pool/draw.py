"""Pictures of a plan and the search it came from, on the rows that nothing was chosen on where there are any."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.cascades.frontier_file import opened_reference
from hf_soups.errors import DataError
from hf_soups.from_pool.halves import halves
from hf_soups.pool import Pool, read_pool
from hf_soups.pool.rows import Wanted, load_rows

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

    _, frontier, index = opened_reference(reference)
    plan, pool = frontier.plan(index), read_pool(frontier.pool)
    parts = halves(pool, frontier.report, frontier.seed)
    rows = parts.select if parts.report is None else parts.report
    shown = _images(pool) if images and pool.kind == "image" and not Path(frontier.report).is_dir() else None
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
    return found if found.fingerprint == data.fingerprint else None
