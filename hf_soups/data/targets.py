"""Labels that are not one class of several: any number of labels a row as 0 and 1, or a number a row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float64, Int64

from hf_soups.errors import DataError
from hf_soups.files.problem_types import REGRESSION

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from hf_soups.recipe.task import Task

WORDS = {"0": 0, "1": 1, "false": 0, "true": 1, "0.0": 0, "1.0": 1}  # cells of a column of one label


def target_names(rows: datasets.Dataset, task: Task, where: str) -> tuple[str, ...]:
    """What the labels are called: of a regression as its column, else as their columns or as the list's values.

    Raises:
        DataError: if the names and the columns do not fit, or the column holds no lists.
    """
    if task.problem_type == REGRESSION:
        return (task.label,)
    if task.labels:
        names = task.label_names or task.labels
        if len(names) != len(task.labels):
            raise DataError(
                f"{where}: {len(names)} label_names for {len(task.labels)} label columns; give one for each."
            )
    else:
        names = task.label_names or _names_in(rows, task, where)
    if not names or len(set(names)) != len(names):
        raise DataError(f"{where}: the labels are {', '.join(names) or 'none'}; expected one or more, each once.")
    return tuple(names)


def targets(
    rows: datasets.Dataset, task: Task, names: Sequence[str], where: str
) -> Int64[np.ndarray, "rows labels"] | Float64[np.ndarray, " rows"]:
    """0 or 1 for each label of each row, or the number of each row.

    Raises:
        DataError: naming the first row whose cell is none of it.
    """
    if task.problem_type == REGRESSION:
        return _numbers(rows, task.label, where)
    if task.labels:
        return np.stack([_yes_or_no(rows, name, where) for name in task.labels], axis=1)
    return _of_lists(rows, task, names, where)


def _numbers(rows: datasets.Dataset, name: str, where: str) -> Float64[np.ndarray, " rows"]:
    import pyarrow as pa

    column = _column(rows, name)
    kind = column.type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise DataError(f"{where}: label column {name!r} holds {kind}, not numbers. A regression needs numbers.")
    values = np.asarray([np.nan if value is None else value for value in column.to_pylist()], dtype=np.float64)
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        raise DataError(
            f"{where}: row {bad[0]} has no number in column {name!r} ({len(bad)} of {len(values)} rows). "
            "Fill in the numbers or remove these rows."
        )
    return values


def _yes_or_no(rows: datasets.Dataset, name: str, where: str) -> Int64[np.ndarray, " rows"]:
    cells = _column(rows, name).to_pylist()
    found = [WORDS.get(str(cell).strip().lower()) for cell in cells]
    if None in found:
        row = found.index(None)
        raise DataError(
            f"{where}: row {row} has {cells[row]!r:.60} in label column {name!r}; expected 0 or 1. A column of several "
            "labels is named with `label`, columns of one label each with `labels`."
        )
    return np.asarray(found, dtype=np.int64)


def _of_lists(rows: datasets.Dataset, task: Task, names: Sequence[str], where: str) -> Int64[np.ndarray, "rows labels"]:
    lists = _lists(rows, task.label, where)
    if _are_marks(lists, task.label_names):
        if any(len(cell) != len(names) for cell in lists):
            raise DataError(
                f"{where}: lists of {len(lists[0])} marks in column {task.label!r} for {len(names)} labels."
            )
        return np.asarray(lists, dtype=np.int64)
    known, codes = {name: i for i, name in enumerate(names)}, _own_names(rows, task.label)
    marks = np.zeros((len(lists), len(names)), dtype=np.int64)
    for row, cell in enumerate(lists):
        for value in cell:
            at = _place(value, known, codes, numbered=task.label_names is not None)
            if at is None:
                raise DataError(
                    f"{where}: row {row} has the label {value!r:.80} in column {task.label!r}, which is none of "
                    f"{', '.join(names[:10])}. Correct `label_names`, or the row."
                )
            marks[row, at] = 1
    return marks


def _place(value: Any, known: dict[str, int], codes: Sequence[str] | None, *, numbered: bool) -> int | None:
    """The label's index: by name, by the name of its code, or by number where the task names the labels."""
    if codes is not None and not isinstance(value, str):
        return known.get(codes[value]) if 0 <= value < len(codes) else None
    if str(value) in known:
        return known[str(value)]
    return int(value) if numbered and isinstance(value, int) and 0 <= value < len(known) else None


def _names_in(rows: datasets.Dataset, task: Task, where: str) -> tuple[str, ...]:
    """The ClassLabel's names, else the sorted values; of lists of 0 and 1 the numbers of their places."""
    own = _own_names(rows, task.label)
    if own is not None:
        return own
    lists = _lists(rows, task.label, where)
    if _are_marks(lists, None):
        return tuple(str(i) for i in range(len(lists[0])))
    return tuple(str(value) for value in sorted({value for cell in lists for value in cell}))


def _are_marks(lists: Sequence[Sequence[Any]], names: Sequence[str] | None) -> bool:
    """Whether each list has one 0 or 1 for every label, rather than the labels of its row."""
    lengths, values = {len(cell) for cell in lists}, {value for cell in lists for value in cell}
    if len(lengths) != 1 or not values <= {0, 1}:
        return False
    if names is not None:
        return lengths == {len(names)}
    return next(iter(lengths)) > 2 or any(isinstance(value, float) for value in values)


def _own_names(rows: datasets.Dataset, name: str) -> tuple[str, ...] | None:
    names = getattr(getattr(rows.features[name], "feature", None), "names", None)
    return tuple(names) if names else None


def _lists(rows: datasets.Dataset, name: str, where: str) -> list[list[Any]]:
    import pyarrow as pa

    column = _column(rows, name)
    if not (
        pa.types.is_list(column.type) or pa.types.is_large_list(column.type) or pa.types.is_fixed_size_list(column.type)
    ):
        raise DataError(
            f"{where}: label column {name!r} holds {column.type}, not lists of labels. For one column of 0 and 1 for "
            "each label name them all with `labels`."
        )
    cells: list[list[Any]] = column.to_pylist()
    gap = next((row for row, cell in enumerate(cells) if cell is None or None in cell), None)
    if gap is not None:
        raise DataError(
            f"{where}: row {gap} has no list of labels in column {name!r}. Give an empty list where a row has none, or "
            "remove the row."
        )
    return cells


def _column(rows: datasets.Dataset, name: str) -> pa.ChunkedArray:
    return rows.select_columns([name]).with_format("arrow")[:].column(name)
