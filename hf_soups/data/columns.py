"""The columns that a task reads: there, of the right types, and without gaps."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.data.sources import quiet
from hf_soups.errors import DataError

if TYPE_CHECKING:
    import datasets

    from hf_soups.tasks import Task

ROWS_AT_ONCE = 5000


def checked_columns(rows: datasets.Dataset, task: Task, where: str) -> datasets.Dataset:
    """The task's columns and its label column alone, texts or images as they should be.

    Raises:
        DataError: if a column is missing, of another type, or has a gap; says which row.
    """
    if not len(rows):
        raise DataError(f"{where}: the split has no rows.")
    missing = [name for name in (*task.columns, task.label) if name not in rows.column_names]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(map(repr, missing))}; there are: {', '.join(rows.column_names)}. "
            f"Correct {'`image`' if task.kind == 'image' else '`text`'} or `label` in the recipe's task."
        )
    rows = rows.with_format(None).select_columns([*task.columns, task.label])
    for name in task.text:
        _check_text(rows, name, where)
    return rows if task.image is None else _with_images(rows, task.image, where)


def _check_text(rows: datasets.Dataset, name: str, where: str) -> None:
    import pyarrow as pa

    column = rows.select_columns([name]).with_format("arrow")[:].column(name)
    gaps = np.flatnonzero(np.asarray(column.is_null(nan_is_null=True)))
    if len(gaps):
        raise DataError(
            f"{where}: row {gaps[0]} has no text in column {name!r} ({len(gaps)} of {len(rows)} rows). "
            "Fill in the text or remove these rows."
        )
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(f"{where}: column {name!r} holds {column.type}, not text. Correct `text`, or convert it.")


def _with_images(rows: datasets.Dataset, name: str, where: str) -> datasets.Dataset:
    """The column as images; encoded bytes or paths are taken for images, and a row without one is an error."""
    from datasets import Image

    if not isinstance(rows.features[name], Image):
        _needs_files(rows, name, where)
        try:
            with quiet():
                rows = rows.cast_column(name, Image())
        except Exception as error:  # pyarrow's, by type of the column
            raise DataError(
                f"{where}: column {name!r} holds {rows.features[name]}, not images. Correct `image`, or convert it "
                "with cast_column(name, datasets.Image())."
            ) from error
    column = rows.select_columns([name]).with_format("arrow")
    blocks = (column[start : start + ROWS_AT_ONCE].column(name) for start in range(0, len(rows), ROWS_AT_ONCE))
    gaps = np.flatnonzero(np.concatenate([np.asarray(block.is_null()) for block in blocks]))
    if len(gaps):
        raise DataError(f"{where}: row {gaps[0]} has no image in column {name!r}. Remove the {len(gaps)} such rows.")
    return rows


def _needs_files(rows: datasets.Dataset, name: str, where: str) -> None:
    first = rows[0][name]
    if isinstance(first, str) and "://" not in first and not Path(first).is_file():
        raise DataError(
            f"{where}: column {name!r} holds text, and row 0 of it ({first[:80]!r}) is not the path of an image file. "
            "Correct `image`, or make the paths absolute."
        )
