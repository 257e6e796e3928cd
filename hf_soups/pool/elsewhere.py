"""Answers made elsewhere (scikit-learn, an LLM's API, timm, ...) as members of a pool: read, joined by row, checked.

Rows and true labels are those of the pool; where there is none yet, it is made of the labels that are given.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypedDict, Unpack

import numpy as np

from hf_soups.errors import DataError, InputError, PredictionsError
from hf_soups.files.digests import fast_digest
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.pool.answer_columns import ClassColumns, names_from
from hf_soups.pool.answer_files import AnswerFile, Values, find_ids, find_labels, read_answers, values_of
from hf_soups.pool.label_order import doubt
from hf_soups.pool.shards import Processes, alone
from hf_soups.pool.store import POOL_FILE, Member, Pool, PoolData, free_file, read_pool, write_pool
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions

NAMED = 3  # rows that an error names
MADE: dict[str, Callable[..., Predictions]] = {
    "probs": Predictions.from_probs,
    "log-probs": Predictions.from_log_probs,
    "logits": Predictions.from_logits,
}


class AnswersOptions(TypedDict, total=False):
    """The fields of `AnswersWanted`, as keywords of `add_answers`."""

    labels: str | None
    ids: str | None
    values: Values | None
    columns: Sequence[str]
    label_names: Sequence[str]
    assume_label_order: bool
    normalise: bool
    drop_surplus: bool


@dataclass(frozen=True, slots=True)
class AnswersWanted:
    """How a file of answers is to be read; what is None is found in it."""

    labels: str | None = None  # the true labels: a column of the file, or a file (FILE#COLUMN); a new pool needs them
    ids: str | None = None  # of the rows: a column or a file; default: a column of such a name, else the rows' order
    values: Values | None = None  # what the numbers are; default: what they can only be
    columns: Sequence[str] = ()  # of the numbers, one for each class; default: all, joined with the classes by name
    label_names: Sequence[str] = ()  # of the classes, in the order of the columns; default: as the columns are called
    assume_label_order: bool = False  # take columns without names of classes to be in the order of the labels
    normalise: bool = False  # allow rows that do not sum to 1
    drop_surplus: bool = False  # leave out rows that the pool does not have


@dataclass(frozen=True, slots=True)
class AddedMember:
    """A pool with its new member, and what was found out or assumed on the way."""

    pool: Pool
    member: Member
    notes: tuple[str, ...]


@dataclass(frozen=True)
class _Rows:
    """The rows that are answered, in the pool's order."""

    ids: np.ndarray
    labels: np.ndarray  # class indices
    names: tuple[str, ...]


def add_answers(
    folder: str | Path,
    name: str,
    file: str | Path,
    *,
    cost: float | None = None,
    unit: str = "",
    hardware: str = "",
    split: str = "select",
    overwrite: bool = False,
    **how: Unpack[AnswersOptions],
) -> AddedMember:
    """Add answers that were made elsewhere to a pool, which is made where there is none.

    Args:
        folder: of the pool.
        name: of the member.
        file: csv, tsv, parquet, jsonl or npy: a number for each row and class, or for two classes one a row.
        cost: of one example, in `unit`: macs, parameters, seconds, bytes, or a word such as dollars.
        unit: see `cost`.
        hardware: that seconds were measured on.
        split: what the rows are called, in a new pool; "report" for rows that nothing is chosen on.
        overwrite: replace a member of that name.
        how: the file is read, the fields of `AnswersWanted`.
    Raises:
        InputError: if the answers cannot be read, understood or joined with the rows.
    """
    member = Member(name, from_file=Path(file).name)
    if cost is not None:
        member = member.with_cost(cost, unit, hardware)
    given = _Given.read(Path(file), AnswersWanted(**how))
    at = Path(folder)
    with alone(at, Processes()):
        pool = read_pool(at) if (at / POOL_FILE).is_file() else None
        if pool is not None and pool.data.problem_type != CLASSIFICATION:
            raise InputError(
                f"{at}: its rows are of problem type {pool.data.problem_type!r}, and answers made elsewhere can join "
                "pools of one class a row alone. In Python, Predictions.from_probs and from_logits take a problem_type."
            )
        if pool is not None and name in pool.members and not overwrite:
            raise InputError(f"{at} has a member {name!r} already. Give another name, or replace it (--overwrite).")
        if pool is None or not pool.members:
            rows = given.new_rows(at)
            pool = _new_pool(at, rows, split, given)
        else:
            rows = _rows_of(pool)
        p = given.predictions(name, rows, pool)
        return _written(pool, member, p, given)


def set_cost(folder: str | Path, name: str, cost: float, unit: str, hardware: str = "") -> Pool:
    """Say what an example costs a member of a pool.

    Raises:
        InputError: if there is no such pool or member, or it is no cost.
    """
    read_pool(folder)  # before anything is written there
    with alone(Path(folder), Processes()):
        pool = read_pool(folder)
        wider = pool.with_member(pool.member(name).with_cost(cost, unit, hardware))
        write_pool(wider)
    return wider


@dataclass(frozen=True)
class _Given:
    """What a file of answers holds."""

    file: AnswerFile
    wanted: AnswersWanted
    ids: list[Any] | None
    numbers: ClassColumns
    notes: list[str]

    @classmethod
    def read(cls, path: Path, wanted: AnswersWanted) -> _Given:
        """Read a file.

        Raises:
            InputError: if it cannot be read, or holds no numbers.
        """
        notes: list[str] = []
        file = read_answers(path, [text for text in (wanted.labels, wanted.ids) if text])
        ids, used = find_ids(file, wanted.ids, notes)
        numbers = ClassColumns.of(file, wanted.columns, {*used, wanted.labels}, notes)
        if ids is not None and len(ids) != len(numbers):
            raise DataError(f"{path}: {len(numbers)} rows of numbers, but {len(ids)} ids (--ids).")
        return cls(file, wanted, ids, numbers, notes)

    def new_rows(self, pool: Path) -> _Rows:
        """The rows of a pool that is made of this file.

        Raises:
            InputError: if there are no true labels, or the classes have no names.
        """
        if self.wanted.labels is None:
            seen = f": {', '.join(self.file.columns[:8])}" if self.file.columns else ""
            raise InputError(
                f"{pool}: there is no pool yet, so the true labels are needed: --labels FILE, or a column of "
                f"{self.file.path}{seen}."
            )
        ids, labels = find_labels(self.file, self.wanted.labels, self.ids, self.wanted.ids, self.notes)
        names = names_from(self.numbers, self.wanted.label_names, labels, str(self.file.path))
        own = self.ids if self.ids is not None and len(self.ids) == len(labels) else None
        known = ids if ids is not None else own if own is not None else list(range(len(labels)))
        return _Rows(_unique(known, self.wanted.labels), names.indices(labels), names.names)

    def predictions(self, name: str, rows: _Rows, pool: Pool) -> Predictions:
        """The answers to these rows in their order.

        Raises:
            InputError: if rows are missing or too many, or the columns are not those of the classes.
            PredictionsError: if the numbers are not what they are said to be.
        """
        order = self._order(rows)
        if pool.members and self.wanted.labels is not None:
            self._compare_labels(rows, order, pool)
        by_name, numbers = self.numbers.for_classes(
            rows.names, name, self.wanted.label_names, assume_order=self.wanted.assume_label_order, notes=self.notes
        )
        numbers = self._complete(numbers[order], rows)
        kind, why = (self.wanted.values, "") if self.wanted.values else values_of(numbers, self.wanted.normalise)
        if why:
            self.notes.append(f"taken as {kind}: {why}")
        extra = {} if kind == "logits" else {"normalise": self.wanted.normalise}
        try:
            p = MADE[kind](
                numbers, labels=rows.labels, row_ids=rows.ids, label_names=rows.names, data=pool.data.fingerprint,
                model=name, **extra,
            )  # fmt: skip
        except PredictionsError as error:
            raise PredictionsError(f"{self.file.path}, taken as {kind}: {error}") from error
        if self.numbers.of_the_first(rows.names):  # one number a row was taken for the second's
            p = replace(p, log_probs=np.ascontiguousarray(p.log_probs[:, ::-1]))
        return self._sound(p, by_name=by_name)

    def _order(self, rows: _Rows) -> np.ndarray:
        """Which of the file's rows answers each row of the pool."""
        if self.ids is None:
            if len(self.numbers) != len(rows.ids):
                off_by_one = abs(len(self.numbers) - len(rows.ids)) == 1
                header = " A table's first line is its header: has each file one?" if off_by_one else ""
                raise PredictionsError(
                    f"{self.file.path}: {len(self.numbers)} rows for {len(rows.ids)} of the pool, and no ids say which "
                    f"is which. Name a column or file of ids (--ids).{header}"
                )
            self.notes.append("its rows are joined by their order: it has no ids")
            return np.arange(len(rows.ids))
        own = _like(_unique(self.ids, str(self.file.path)), rows.ids)
        missing, surplus = _without(rows.ids, own), _without(own, rows.ids)
        if missing or (surplus and not self.wanted.drop_surplus):
            parts = [f"{len(some)} {word} (first: {', '.join(map(str, some[:NAMED]))})" for some, word in
                     ((missing, "missing"), (surplus, "surplus")) if some]  # fmt: skip
            way = "Answer every row of the pool" if missing else "Leave them out with --drop-surplus"
            raise PredictionsError(f"{self.file.path}: rows by id: {', '.join(parts)}. {way}, or check --ids.")
        if surplus:
            self.notes.append(f"{len(surplus)} rows that the pool does not have are left out (first: {surplus[0]})")
        place = {row: i for i, row in enumerate(own.tolist())}
        return np.asarray([place[row] for row in rows.ids.tolist()], dtype=np.int64)

    def _compare_labels(self, rows: _Rows, order: np.ndarray, pool: Pool) -> None:
        """Labels given for a pool that is there must be the pool's."""
        assert self.wanted.labels is not None
        ids, labels = find_labels(self.file, self.wanted.labels, self.ids, self.wanted.ids, self.notes)
        if ids is not None:
            place = {row: i for i, row in enumerate(_like(_unique(ids, self.wanted.labels), rows.ids).tolist())}
            absent = [row for row in rows.ids.tolist() if row not in place]
            if absent:
                raise DataError(f"{self.wanted.labels}: no label for {len(absent)} rows (first: {absent[0]!r}).")
            order = np.asarray([place[row] for row in rows.ids.tolist()])
        elif len(labels) != len(self.numbers):
            raise DataError(f"{self.wanted.labels}: {len(labels)} labels for {len(self.numbers)} rows.")
        own = names_from(self.numbers, rows.names, labels, self.wanted.labels).indices(labels)[order]
        if not np.array_equal(own, rows.labels):
            row = int(np.flatnonzero(own != rows.labels)[0])
            raise DataError(
                f"{self.wanted.labels}: row {rows.ids[row]} has the label {rows.names[own[row]]!r}, but "
                f"{rows.names[rows.labels[row]]!r} in {pool.folder}: other rows, or in another order. Check --ids."
            )

    def _complete(self, numbers: np.ndarray, rows: _Rows) -> np.ndarray:
        """The numbers, if no row lacks one."""
        lacking = np.isnan(numbers.reshape(len(numbers), -1)).any(axis=1)
        if lacking.any():
            named = ", ".join(map(str, rows.ids[lacking][:NAMED].tolist()))
            raise PredictionsError(
                f"{self.file.path}: {int(lacking.sum())} rows lack a number (first: {named}). Answer them again."
            )
        return numbers

    def _sound(self, p: Predictions, *, by_name: bool) -> Predictions:
        """The predictions, unless their classes look as if they were in another order."""
        wrong = doubt(p)
        if wrong and not by_name and not self.wanted.assume_label_order:
            raise PredictionsError(
                f"{self.file.path}: its columns are taken to be in the order of the classes "
                f"({', '.join(p.label_names or ())}), but {wrong}. Give their order with --label-names, or say that it "
                "is right with --assume-label-order."
            )
        if wrong:
            self.notes.append(f"its columns may be in another order: {wrong}")
        return p


def _rows_of(pool: Pool) -> _Rows:
    first = next(iter(pool.predictions.values()))
    return _Rows(first.row_ids, first.needs_labels(), pool.label_names)


def _new_pool(at: Path, rows: _Rows, split: str, given: _Given) -> Pool:
    ids = [repr(row).encode("utf-8", "surrogatepass") for row in rows.ids.tolist()]
    parts: list[list[Any]] = [ids, [np.ascontiguousarray(rows.labels).data], [name.encode() for name in rows.names]]
    about = PoolData(
        str(given.file.path.resolve()), split, rows=len(rows.ids), fingerprint=fast_digest(parts), label="label"
    )
    return Pool(at, "", about, rows.names)


def _written(pool: Pool, member: Member, p: Predictions, given: _Given) -> AddedMember:
    member = replace(member, file=free_file(pool, member.name), notes=tuple(given.notes))
    (p if pool.top_k is None else TopKPredictions.of(p, pool.top_k)).save(pool.folder / member.file)
    wider = pool.with_member(member)
    write_pool(wider)
    return AddedMember(wider, member, tuple(given.notes))


def _unique(ids: Sequence[Any], where: str) -> np.ndarray:
    found = np.asarray(ids)
    values, counts = np.unique(found, return_counts=True)
    if (counts > 1).any():
        raise DataError(f"{where}: row id {values[counts > 1][0].item()!r} occurs more than once; ids must be unique.")
    return found


def _like(own: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Ids that are numbers as texts, where the others are texts."""
    return own.astype(str) if own.dtype.kind != other.dtype.kind and other.dtype.kind == "U" else own


def _without(ids: np.ndarray, others: np.ndarray) -> list[Any]:
    known = set(others.tolist())
    return [row for row in ids.tolist() if row not in known]
