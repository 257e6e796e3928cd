"""From a task to its splits: checked columns and labels, select cut from train by seed; and rows of shifts.

A shift may have some of the task's classes only, in another order, or several that are one class of the task.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, Shaped

from hf_soups.data.labels import checked_columns, class_indices, label_names_of, own_names
from hf_soups.data.sources import load_dataset_split, source_name
from hf_soups.data.split import Split, Splits, problem_type_of_labels, strata, stratified_rows
from hf_soups.errors import DataError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL

if TYPE_CHECKING:
    import datasets

    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task


SELECT, TRAIN, REPORT = range(3)  # streams of the seed


def load_splits(task: Task, data: Data) -> Splits:
    """Train, select and report rows of a task, and those of its shifts.

    Select is cut from train by `data.seed`, stratified: `select_fraction` of its rows, at least `select_minimum`,
    but never more than half, and never the last row of a class. `train_rows` and `report_rows` then cut stratified
    subsets; select does not depend on them, nor do the shifts.

    Raises:
        DataError: if rows cannot be found or read, or columns, labels or texts are not what the task says.
    """
    train, report = load_dataset_split(task, task.train), load_dataset_split(task, task.report)
    splits = splits_from_datasets(task, train, report, data)
    shifts = {name: load_shift(task, name, splits.label_names, data.seed) for name in task.shifts}
    return replace(splits, shifts=shifts)


def load_report(task: Task, data: Data) -> Split | None:
    """The report rows as `load_splits` gives them, without reading train; None where only train knows the classes."""
    rows, where = load_dataset_split(task, task.report), source_name(task, task.report)
    rows = checked_columns(rows, task, where)
    if task.problem_type == CLASSIFICATION and task.label_names is None:
        if not getattr(rows.features[task.label], "names", None):
            return None
    elif task.problem_type == MULTI_LABEL and not (task.label_names or task.labels):
        return None
    names = label_names_of(rows, task, where)
    return _report(rows, class_indices(rows, task, names, where), data, names, where)


def splits_from_datasets(task: Task, train: datasets.Dataset, report: datasets.Dataset, data: Data) -> Splits:
    """As `load_splits`, from data sets that are already in memory; without shifts."""
    if task.train == task.report:
        warnings.warn(
            f"report is the split {task.report!r}, as train: its scores say nothing about unseen rows.", stacklevel=2
        )
    named_train, named_report = source_name(task, task.train), source_name(task, task.report)
    train, report = checked_columns(train, task, named_train), checked_columns(report, task, named_report)
    names = label_names_of(train, task, named_train)
    labels = class_indices(train, task, names, named_train)
    report_labels = class_indices(report, task, names, named_report)
    select_ids = select_rows(labels, data, named_train)
    train_ids = np.setdiff1d(np.arange(len(labels), dtype=np.int64), select_ids)
    if data.train_rows is not None:
        train_ids = train_ids[stratified_rows(strata(labels[train_ids]), data.train_rows, data.seed, stream=TRAIN)]
    _needs_two_classes(labels[train_ids], names, named_train)
    return Splits(
        train=Split.of("train", train.select(train_ids), train_ids, labels[train_ids], names, named_train),
        select=Split.of("select", train.select(select_ids), select_ids, labels[select_ids], names, named_train),
        report=_report(report, report_labels, data, names, named_report),
    )


def _report(
    rows: datasets.Dataset, labels: Shaped[np.ndarray, "rows ..."], data: Data, names: tuple[str, ...], where: str
) -> Split:
    ids = np.arange(len(labels), dtype=np.int64)
    if data.report_rows is not None:
        ids = stratified_rows(strata(labels), data.report_rows, data.seed, stream=REPORT)
    return Split.of("report", rows.select(ids), ids, labels[ids], names, where)


def select_rows(labels: Shaped[np.ndarray, "rows ..."], data: Data, where: str) -> Int64[np.ndarray, " select"]:
    """Indices of the rows of train that are kept for choosing."""
    size = min(max(round(data.select_fraction * len(labels)), data.select_minimum), len(labels) // 2)
    chosen = stratified_rows(strata(labels), size, data.seed, stream=SELECT, leave_one=True)
    if not len(chosen):
        raise DataError(
            f"{where}: with {len(labels)} rows, no class has two, so none can be kept for selection. Give more rows."
        )
    return chosen


def _needs_two_classes(labels: Shaped[np.ndarray, "rows ..."], names: tuple[str, ...], where: str) -> None:
    present = np.unique(labels)
    if len(present) < 2 and problem_type_of_labels(labels) != CLASSIFICATION:
        raise DataError(
            f"{where}: the {len(labels)} train rows all have the same labels ({present[0]:g}), so there is nothing to "
            "learn from. Give more rows, or raise `train_rows`."
        )
    if len(present) < 2:
        raise DataError(
            f"{where}: the {len(labels)} train rows are all of one class, {names[present[0]]!r}; "
            "a classifier needs rows of two or more. Give more rows, or raise `train_rows`."
        )


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
    labels = (
        shift_labels(rows, at, shift.label_names, label_names, where)
        if at.problem_type == CLASSIFICATION
        else class_indices(rows, at.model_copy(update={"label_names": tuple(label_names)}), label_names, where)
    )
    answerable = tuple(np.unique(labels).tolist()) if shift.only_its_classes else None
    ids = np.arange(len(labels), dtype=np.int64)
    if shift.rows is not None:
        ids = stratified_rows(strata(labels), shift.rows, seed, stream=SUBSET)
    mine, wanted = (*at.columns, *at.label_columns), (*task.columns, *task.label_columns)
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
