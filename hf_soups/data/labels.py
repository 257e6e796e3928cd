"""The columns that a task reads, and its labels as class indices, mapped by name wherever there are names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Shaped

from hf_soups.data.sources import quiet
from hf_soups.data.targets import target_names, targets
from hf_soups.errors import DataError
from hf_soups.files.label_names import index_by_label, one_of_each
from hf_soups.files.problem_types import CLASSIFICATION

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from hf_soups.recipe.task import Task


ROWS_AT_ONCE = 5000


def checked_columns(rows: datasets.Dataset, task: Task, where: str, *, gaps: bool = False) -> datasets.Dataset:
    """The task's columns and its label column alone, texts or images as they should be.

    Args:
        rows: of one split.
        task: that names the columns.
        where: how errors call the rows.
        gaps: whether rows may lack a text or an image; they are left out later (`data.unreadable`).
    Raises:
        DataError: if a column is missing, of another type, or has a gap; says which row.
    """
    if not len(rows):
        raise DataError(f"{where}: the split has no rows.")
    missing = [name for name in (*task.columns, *task.label_columns) if name not in rows.column_names]
    if missing:
        raise DataError(
            f"{where}: no column {', '.join(map(repr, missing))}; there are: {', '.join(rows.column_names)}. "
            f"Correct {'`image`' if task.kind == 'image' else '`text`'} or `label` in the recipe's task."
        )
    rows = rows.with_format(None).select_columns([*task.columns, *task.label_columns])
    for name in task.text:
        _check_text(rows, name, where, gaps)
    return rows if task.image is None else _with_images(rows, task.image, where, gaps)


def _check_text(rows: datasets.Dataset, name: str, where: str, gaps_allowed: bool) -> None:
    import pyarrow as pa

    column = rows.select_columns([name]).with_format("arrow")[:].column(name)
    gaps = np.flatnonzero(np.asarray(column.is_null(nan_is_null=True)))
    if len(gaps) and not gaps_allowed:
        raise DataError(
            f"{where}: row {gaps[0]} has no text in column {name!r} ({len(gaps)} of {len(rows)} rows). "
            "Fill in the text or remove these rows."
        )
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise DataError(f"{where}: column {name!r} holds {column.type}, not text. Correct `text`, or convert it.")


def _with_images(rows: datasets.Dataset, name: str, where: str, gaps_allowed: bool) -> datasets.Dataset:
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
    if len(gaps) and not gaps_allowed:
        raise DataError(f"{where}: row {gaps[0]} has no image in column {name!r}. Remove the {len(gaps)} such rows.")
    return rows


def _needs_files(rows: datasets.Dataset, name: str, where: str) -> None:
    first = rows[0][name]
    if isinstance(first, str) and "://" not in first and not Path(first).is_file():
        raise DataError(
            f"{where}: column {name!r} holds text, and row 0 of it ({first[:80]!r}) is not the path of an image file. "
            "Correct `image`, or make the paths absolute."
        )


UNLABELLED = -1  # the Hub's test splits
OUTSIDE = -2


def label_names_of(rows: datasets.Dataset, task: Task, where: str) -> tuple[str, ...]:
    """The class names: those of the task, else of the column's ClassLabel, else its sorted values.

    Raises:
        DataError: if the column is not one of classes, or there is only one name.
    """
    if task.problem_type != CLASSIFICATION:
        return target_names(rows, task, where)
    names = task.label_names or _names_of_column(rows, task.label, where)
    if len(set(names)) != len(names):
        raise DataError(f"{where}: label_names hold a name twice: {_listed(names)}.")
    if len(names) < 2:
        raise DataError(
            f"{where}: column {task.label!r} has only one class ({_listed(names)}); a classifier needs two or more."
        )
    return tuple(names)


def own_names(rows: datasets.Dataset, task: Task, called: Sequence[str] | None, where: str) -> tuple[str, ...]:
    """The column's own classes in their order: its ClassLabel's names, or its sorted values.

    Numbers without names count through `called` or the task's label names; where there are neither, they are names.
    """
    feature, names = rows.features[task.label], called or task.label_names
    numbers = not getattr(feature, "names", None) and feature.dtype not in ("string", "large_string", "bool")
    return tuple(names) if numbers and names else _names_of_column(rows, task.label, where)


def class_indices(
    rows: datasets.Dataset, task: Task, names: Sequence[str], where: str
) -> Shaped[np.ndarray, "rows ..."]:
    """The class of each row as an index into `names`; of other problem types what `targets` gives.

    ClassLabel and text columns are mapped by name. Integers are indices when the task names its labels (unless
    the names are the numbers themselves), else they are the names.

    Raises:
        DataError: naming the first row without a label or with one outside the names.
    """
    if task.problem_type != CLASSIFICATION:
        return targets(rows, task, names, where)
    column = label_column(rows, task.label, where)
    values, known = _values_and_names(rows, task, column, names)
    missing = np.asarray(column.is_null())
    if known is None or values.dtype.kind == "i":
        missing = missing | (values == UNLABELLED)
    if missing.any():
        raise _unlabelled(missing, where, task.label)
    if known is None:
        indices = np.where((values >= 0) & (values < len(names)), values, OUTSIDE)
    else:
        indices = _looked_up(values, known, names)
    if (indices == OUTSIDE).any():
        row = int(np.flatnonzero(indices == OUTSIDE)[0])
        raise _outside(row, _told(rows, task.label, values[row]), names, where, task)
    return indices.astype(np.int64)


def label_column(rows: datasets.Dataset, name: str, where: str) -> pa.ChunkedArray:
    """The label column as Arrow has it, other columns left alone."""
    import pyarrow as pa

    column = rows.select_columns([name]).with_format("arrow")[:].column(name)
    column = _whole_numbers(column)
    kind = column.type
    text = pa.types.is_string(kind) or pa.types.is_large_string(kind)
    if not (text or pa.types.is_integer(kind) or pa.types.is_boolean(kind)):
        hint = f" {_fraction(column)} is no whole number." if pa.types.is_floating(kind) else ""
        raise DataError(
            f"{where}: label column {name!r} holds {kind}; expected text, integers or ClassLabel.{hint} "
            "Name another column with `label`, or convert this one."
        )
    return column


def _whole_numbers(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column of floats as integers, where all are whole: what they become where cells are empty, or in JSON."""
    import pyarrow as pa
    import pyarrow.compute as pc

    if not pa.types.is_floating(column.type):
        return column
    known = pc.if_else(pc.is_nan(column), None, column).cast(pa.float64())
    whole = pc.all(pc.equal(known, pc.floor(known))).as_py()  # None: of nothing
    return known.cast(pa.int64()) if whole is not False and _is_finite(known) else column


def _is_finite(column: pa.ChunkedArray) -> bool:
    import pyarrow.compute as pc

    return pc.all(pc.less(pc.abs(column), 2.0**53)).as_py() is not False


def _fraction(column: pa.ChunkedArray) -> str:
    """A value that is no whole number."""
    return next((f"{v:g}" for v in column.to_pylist() if v is not None and v % 1 != 0), "a number")


def _names_of_column(rows: datasets.Dataset, name: str, where: str) -> tuple[str, ...]:
    from datasets import ClassLabel

    feature = rows.features[name]
    if isinstance(feature, ClassLabel) and feature.names:
        return tuple(feature.names)
    counted = [entry.values() for entry in label_column(rows, name, where).drop_null().value_counts().to_pylist()]
    counts = {str(value): count for value, count in counted if value != UNLABELLED or isinstance(value, bool)}
    values = sorted(value for value, _ in counted)  # as numbers, where they are
    return one_of_each((str(value) for value in values if str(value) in counts), counts)


def _values_and_names(
    rows: datasets.Dataset, task: Task, column: pa.ChunkedArray, names: Sequence[str]
) -> tuple[np.ndarray, Sequence[str] | None]:
    """The column as an array, and the name of each integer in it (None: they are indices into `names`)."""
    from datasets import ClassLabel

    feature = rows.features[task.label]
    if feature.dtype in ("string", "large_string"):
        return np.asarray(column.to_pylist(), dtype=object), ()
    if feature.dtype == "bool":
        return np.asarray([str(value) for value in column.to_pylist()], dtype=object), ()
    values = np.asarray([UNLABELLED if value is None else value for value in column.to_pylist()], dtype=np.int64)
    if isinstance(feature, ClassLabel) and feature.names:
        return values, tuple(feature.names)
    numbers = all(name.lstrip("-").isdigit() for name in names)
    return values, () if task.label_names is None or numbers else None


def _looked_up(values: np.ndarray, known: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Indices into `names` of values that are names, or indices into `known` where that is not empty."""
    place = index_by_label(names)

    def index(name: object) -> int:
        found = place(name)
        return OUTSIDE if found is None else found

    if known:
        of_code = np.asarray([index(name) for name in known])
        inside = (values >= 0) & (values < len(known))
        return np.where(inside, of_code[np.where(inside, values, 0)], OUTSIDE)
    return np.asarray([index(value) for value in values], dtype=np.int64)


def _told(rows: datasets.Dataset, name: str, value: Any) -> str:
    names = getattr(rows.features[name], "names", None)
    if names and 0 <= value < len(names):
        return repr(names[value])
    return repr(value[:80] if isinstance(value, str) else int(value))


def _unlabelled(missing: np.ndarray, where: str, name: str) -> DataError:
    row = int(np.flatnonzero(missing)[0])
    every = "all of them" if missing.all() else f"{int(missing.sum())} of {len(missing)}"
    return DataError(
        f"{where}: row {row} has no label in column {name!r} (empty or -1; {every}). "
        "Choose a split that is labelled, or remove these rows."
    )


def _outside(row: int, value: str, names: Sequence[str], where: str, task: Task) -> DataError:
    return DataError(
        f"{where}: row {row} has label {value} in column {task.label!r}, which is outside the names "
        f"({_listed(names)}). Correct `label_names`, or the row."
    )


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"{name:.40}" for name in names[:10])
    return f"{shown}, ... {len(names)} in all" if len(names) > 10 else shown
