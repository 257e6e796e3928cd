"""Shifts: report rows of another distribution, whose classes are matched with the task's by name.

A shift may have some of the task's classes only, in another order, or several that are one class of the task.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from hf_soups.data.columns import checked_columns
from hf_soups.data.labels import class_indices, own_names
from hf_soups.data.sources import load_dataset_split, source_name
from hf_soups.data.split import Split
from hf_soups.data.strata import stratified_rows
from hf_soups.errors import DataError

if TYPE_CHECKING:
    import datasets

    from hf_soups.tasks import Task

SUBSET = 3  # stream of the seed, after those of load.py


def load_shift(task: Task, name: str, label_names: Sequence[str], seed: int) -> Split:
    """The rows of one of the task's shifts, in the task's columns and classes.

    Args:
        task: that lists the shift.
        name: of the shift.
        label_names: the task's classes, in the order of the models' logits.
        seed: of the subset, where the shift has `rows`.
    Raises:
        DataError: if rows cannot be found or read, or hold a class that the task lacks; it names the shift.
    """
    at = task.of_shift(name)
    try:
        return shift_from_dataset(task, name, load_dataset_split(at, at.report), label_names, seed)
    except DataError as error:
        raise DataError(f"task.shifts.{name}: {error}") from error


def shift_from_dataset(task: Task, name: str, rows: datasets.Dataset, label_names: Sequence[str], seed: int) -> Split:
    """As `load_shift`, from a data set that is already in memory."""
    at, shift = task.of_shift(name), task.shifts[name]
    where = source_name(at, at.report)
    rows = checked_columns(rows, at, where)
    labels = shift_labels(rows, at, shift.label_names, label_names, where)
    answerable = tuple(np.unique(labels).tolist()) if shift.only_its_classes else None
    ids = np.arange(len(labels), dtype=np.int64)
    if shift.rows is not None:
        ids = stratified_rows(labels, shift.rows, seed, stream=SUBSET)
    mine, wanted = (*at.columns, at.label), (*task.columns, task.label)
    renamed = {old: new for old, new in zip(mine, wanted, strict=True) if old != new}
    if renamed:  # models are fed from the task's columns
        rows = rows.rename_columns(renamed)
    return Split.of("shift", rows.select(ids), ids, labels[ids], tuple(label_names), where, answerable)


def shift_labels(
    rows: datasets.Dataset, at: Task, called: Sequence[str] | None, label_names: Sequence[str], where: str
) -> Int64[np.ndarray, " rows"]:
    """The class of each row as an index into `label_names`.

    Args:
        rows: with the label column as it came.
        at: the shift's place, see `Task.of_shift`.
        called: what the task calls each of the shift's classes, in their order; default: as they are called there.
        label_names: the task's classes.
        where: names the rows in errors.
    Raises:
        DataError: if a row has no label or is of a class that the task lacks; lists the classes of both.
    """
    own = own_names(rows, at, called, where)
    called = called or own
    if len(called) != len(own):
        raise DataError(
            f"{where}: label_names holds {len(called)} names ({', '.join(called)}), but column {at.label!r} has "
            f"{len(own)} classes ({', '.join(own)}). Give the task's name of each of them, in this order."
        )
    codes = class_indices(rows, at.model_copy(update={"label_names": tuple(own)}), own, where)
    index = {name: i for i, name in enumerate(label_names)}
    lacking = [name for code, name in enumerate(called) if name not in index and (codes == code).any()]
    if lacking:
        raise DataError(
            f"{where}: holds rows of {', '.join(map(repr, lacking))}, which the task lacks. The shift's classes: "
            f"{', '.join(called)}; the task's: {', '.join(label_names)}. Give the shift `label_names`: the task's name "
            "of each of its own classes, in their order; or remove those rows."
        )
    of_code = np.asarray([index.get(name, -1) for name in called], dtype=np.int64)
    return np.asarray(of_code[codes])
