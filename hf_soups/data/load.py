"""From a task to its splits: checked columns and labels, select and report cut by seed; and rows of shifts.

A shift may have some of the task's classes only, in another order, or several that are one class of the task.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int64, Shaped

from hf_soups.data.labels import checked_columns, class_indices, label_names_of, own_names
from hf_soups.data.sources import MissingSplit, load_dataset_split, source_name
from hf_soups.data.split import Role, Split, Splits, problem_type_of_labels, strata, stratified_rows
from hf_soups.data.unreadable import readable
from hf_soups.errors import DataError, DataWarning
from hf_soups.files.label_names import index_by_label
from hf_soups.files.problem_types import CLASSIFICATION, REGRESSION

if TYPE_CHECKING:
    import datasets

    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task


Ids = Int64[np.ndarray, " some"]
SELECT, TRAIN, REPORT = range(3)  # streams of the seed
REPORT_OF_TRAIN, SELECT_OF_REPORT = 4, 5  # after that of shifts


def load_splits(task: Task, data: Data) -> Splits:
    """Train, select and report rows of a task, and those of its shifts.

    Select is cut from train by `data.seed`, stratified: `select_fraction` of its rows, at least `select_minimum`,
    but never more than half, and never the last row of a class; or it is what `task.select` names. Where the data have
    no split but train, and the recipe names none, report is cut from it first, which a warning says. `train_rows` and
    `report_rows` then cut stratified subsets; select does not depend on them, nor do the shifts.

    Raises:
        DataError: if rows cannot be found or read, or columns, labels or texts are not what the task says.
    """
    train, report = load_dataset_split(task, task.train), _own_report(task)
    select = load_dataset_split(task, task.select) if isinstance(task.select, str) else None
    splits = splits_from_datasets(task, train, report, data, select)
    shifts = {name: load_shift(task, name, splits.label_names, data.seed) for name in task.shifts}
    splits = replace(splits, shifts=shifts)
    if data.on_error == "stop":
        return splits
    return Splits(
        readable(splits.train, task),
        readable(splits.select, task),
        readable(splits.report, task),
        {name: readable(split, task) for name, split in splits.shifts.items()},
    )


def load_report(task: Task, data: Data) -> Split | None:
    """The report rows as `load_splits` gives them, without reading train; None where train must be read for them."""
    rows, where = _own_report(task), source_name(task, task.report)
    if rows is None:
        return None
    rows = checked_columns(rows, task, where, gaps=data.on_error == "skip")
    if not _names_are_known(rows, task):
        return None  # only train knows the classes
    source = _Source.of(task, task.report, rows, gaps=data.on_error == "skip")
    split = source.part("report", _report_ids(source, _select_of_report(task, source, source.ids, data)[1], data))
    return split if data.on_error == "stop" else readable(split, task)


def labelled_split(rows: datasets.Dataset, task: Task, where: str, *, gaps: bool = False) -> Split:
    """All rows of a data set in memory, called `where` in errors, in the role of report.

    Raises:
        DataError: if columns, labels or texts are not what the task says.
    """
    source = _Source.of(task, task.report, rows, gaps=gaps, where=where)
    return source.part("report", source.ids)


def _names_are_known(rows: datasets.Dataset, task: Task) -> bool:
    """Whether the classes or labels follow from the recipe and the columns, without all values of train."""
    if task.label_names is not None or task.labels or task.problem_type == REGRESSION:
        return True
    feature = rows.features[task.label]
    return bool(getattr(getattr(feature, "feature", feature), "names", None))


def _own_report(task: Task) -> datasets.Dataset | None:
    """The rows that are looked at once; None where the data have none but train's and the recipe names none."""
    try:
        return load_dataset_split(task, task.report)
    except MissingSplit as missing:
        if "report" not in task.model_fields_set and set(missing.there) <= {task.train, "train"}:
            return None
        raise


@dataclass(frozen=True, eq=False)
class _Source:
    """The rows of one split of a data set, checked, with the class of each."""

    rows: datasets.Dataset
    labels: Shaped[np.ndarray, "rows ..."]
    names: tuple[str, ...]
    where: str

    @classmethod
    def of(
        cls,
        task: Task,
        split_name: str,
        rows: datasets.Dataset,
        names: tuple[str, ...] | None = None,
        *,
        gaps: bool = False,
        where: str = "",
    ) -> _Source:
        """Checked; the classes are those of the column unless they are known, and only with `gaps` may inputs lack."""
        where = where or source_name(task, split_name)
        rows = checked_columns(rows, task, where, gaps=gaps)
        known = names or label_names_of(rows, task, where)
        return cls(rows, class_indices(rows, task, known, where), known, where)

    @property
    def ids(self) -> Int64[np.ndarray, " rows"]:
        """Of all rows."""
        return np.arange(len(self.labels), dtype=np.int64)

    def drawn(self, among: Ids, size: int, seed: int, stream: int, *, leave_one: bool = False) -> Ids:
        """Some of these rows, each class with its share."""
        some: Ids = among[stratified_rows(strata(self.labels[among]), size, seed, stream=stream, leave_one=leave_one)]
        return some

    def part(self, role: Role, ids: Ids) -> Split:
        """These rows in a role."""
        return Split.of(role, self.rows.select(ids), ids, self.labels[ids], self.names, self.where)


def splits_from_datasets(
    task: Task,
    train: datasets.Dataset,
    report: datasets.Dataset | None,
    data: Data,
    select: datasets.Dataset | None = None,
) -> Splits:
    """As `load_splits`, from data sets that are already in memory; without shifts.

    Args:
        task: names columns and labels; `task.select` says where select is taken.
        train: its label column gives the classes.
        report: None: cut from train.
        data: how rows are cut.
        select: the rows of the split that `task.select` names, if it names one.
    """
    if task.train == task.report:
        message = f"report is the split {task.report!r}, as train: its scores say nothing about unseen rows."
        warnings.warn(message, DataWarning, stacklevel=2)
    gaps = data.on_error == "skip"
    source = _Source.of(task, task.train, train, gaps=gaps)
    reported = source if report is None else _Source.of(task, task.report, report, source.names, gaps=gaps)
    ids, held = (source.ids, reported.ids) if report is not None else _report_of_train(source, data)
    if select is not None:
        chosen_on = _Source.of(task, str(task.select), select, source.names, gaps=gaps)
        of_select = chosen_on.ids
    elif task.select is not None:
        chosen_on = reported
        of_select, held = _select_of_report(task, reported, held, data)
    else:
        chosen_on = source
        of_select = ids[select_rows(source.labels[ids], data, source.where)]
        ids = np.setdiff1d(ids, of_select)
    if data.train_rows is not None:
        ids = source.drawn(ids, data.train_rows, data.seed, TRAIN)
    _needs_two_classes(source.labels[ids], source.names, source.where)
    return Splits(
        train=source.part("train", ids),
        select=chosen_on.part("select", of_select),
        report=reported.part("report", _report_ids(reported, held, data)),
    )


def _report_of_train(source: _Source, data: Data) -> tuple[Ids, Ids]:
    """The rows that stay train, and those that are cut from it for the report; a warning says so."""
    rows, share = len(source.labels), data.report_fraction
    held = source.drawn(source.ids, round(share * rows), data.seed, REPORT_OF_TRAIN, leave_one=True)
    if not len(held):
        raise DataError(
            f"{source.where}: there are no other rows for the report, and of {rows} none can be spared. Give more rows "
            "or name others as `report` in the recipe's task."
        )
    message = (
        f"{source.where}: there are no other rows for the report, so {len(held)} of its {rows} rows are cut from it by "
        f"data.seed, each class with its share (data.report_fraction: {share:g}). Name others as `report` in the task."
    )
    warnings.warn(message, DataWarning, stacklevel=4)
    return np.setdiff1d(source.ids, held), held


def _select_of_report(task: Task, source: _Source, held: Ids, data: Data) -> tuple[Ids, Ids]:
    """The report rows that are chosen on, if `task.select` is a share of them, and those that stay report."""
    if not isinstance(task.select, float):
        return held[:0], held
    chosen = source.drawn(held, round(task.select * len(held)), data.seed, SELECT_OF_REPORT, leave_one=True)
    if not len(chosen):
        raise DataError(
            f"{source.where}: a share of {task.select:g} of {len(held)} rows leaves none to choose on. Give more rows."
        )
    return chosen, np.setdiff1d(held, chosen)


def _report_ids(source: _Source, held: Ids, data: Data) -> Ids:
    return held if data.report_rows is None else source.drawn(held, data.report_rows, data.seed, REPORT)


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
    places = [index_by_label(label_names)(name) for name in called]
    lacking = [name for code, name in enumerate(called) if places[code] is None and (codes == code).any()]
    if lacking:
        raise DataError(
            f"{where}: holds rows of {', '.join(map(repr, lacking))}, which the task lacks. The shift's classes: "
            f"{', '.join(called)}; the task's: {', '.join(label_names)}. Give the shift `label_names`: the task's name "
            "of each of its own classes, in their order; or remove those rows."
        )
    of_code = np.asarray([-1 if place is None else place for place in places], dtype=np.int64)
    return np.asarray(of_code[codes])
