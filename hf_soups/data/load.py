"""From a task to its three splits: checked columns and labels, select cut from train by seed."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64

from hf_soups.data.labels import class_indices, label_names_of
from hf_soups.data.sources import load_dataset_split, quiet, source_name
from hf_soups.data.split import Split, Splits
from hf_soups.data.strata import stratified_rows
from hf_soups.errors import DataError

if TYPE_CHECKING:
    import datasets

    from hf_soups.recipe import Data
    from hf_soups.tasks import Task

SELECT, TRAIN, REPORT = range(3)  # streams of the seed
ROWS_AT_ONCE = 5000


def load_splits(task: Task, data: Data) -> Splits:
    """Train, select and report rows of a task.

    Select is cut from train by `data.seed`, stratified: `select_fraction` of its rows, at least `select_minimum`,
    but never more than half, and never the last row of a class. `train_rows` and `report_rows` then cut stratified
    subsets; select does not depend on them.

    Raises:
        DataError: if rows cannot be found or read, or columns, labels or texts are not what the task says.
    """
    train, report = load_dataset_split(task, task.train), load_dataset_split(task, task.report)
    return splits_from_datasets(task, train, report, data)


def splits_from_datasets(task: Task, train: datasets.Dataset, report: datasets.Dataset, data: Data) -> Splits:
    """As `load_splits`, from data sets that are already in memory."""
    if task.train == task.report:
        warnings.warn(
            f"report is the split {task.report!r}, as train: its scores say nothing about unseen rows.", stacklevel=2
        )
    named_train, named_report = source_name(task, task.train), source_name(task, task.report)
    train, report = _checked(train, task, named_train), _checked(report, task, named_report)
    names = label_names_of(train, task, named_train)
    labels = class_indices(train, task, names, named_train)
    report_labels = class_indices(report, task, names, named_report)
    select_ids = select_rows(labels, data, named_train)
    train_ids = np.setdiff1d(np.arange(len(labels), dtype=np.int64), select_ids)
    if data.train_rows is not None:
        train_ids = train_ids[stratified_rows(labels[train_ids], data.train_rows, data.seed, stream=TRAIN)]
    _needs_two_classes(labels[train_ids], names, named_train)
    report_ids = np.arange(len(report_labels), dtype=np.int64)
    if data.report_rows is not None:
        report_ids = stratified_rows(report_labels, data.report_rows, data.seed, stream=REPORT)
    return Splits(
        train=Split.of("train", train.select(train_ids), train_ids, labels[train_ids], names, named_train),
        select=Split.of("select", train.select(select_ids), select_ids, labels[select_ids], names, named_train),
        report=Split.of(
            "report", report.select(report_ids), report_ids, report_labels[report_ids], names, named_report
        ),
    )


def select_rows(labels: Int64[np.ndarray, " rows"], data: Data, where: str) -> Int64[np.ndarray, " select"]:
    """Indices of the rows of train that are kept for choosing."""
    size = min(max(round(data.select_fraction * len(labels)), data.select_minimum), len(labels) // 2)
    chosen = stratified_rows(labels, size, data.seed, stream=SELECT, leave_one=True)
    if not len(chosen):
        raise DataError(
            f"{where}: with {len(labels)} rows, no class has two, so none can be kept for selection. Give more rows."
        )
    return chosen


def _checked(rows: datasets.Dataset, task: Task, where: str) -> datasets.Dataset:
    """The task's columns alone, of the right types and without gaps."""
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


def _needs_two_classes(labels: Int64[np.ndarray, " rows"], names: tuple[str, ...], where: str) -> None:
    present = np.unique(labels)
    if len(present) < 2:
        raise DataError(
            f"{where}: the {len(labels)} train rows are all of one class, {names[present[0]]!r}; "
            "a classifier needs rows of two or more. Give more rows, or raise `train_rows`."
        )
