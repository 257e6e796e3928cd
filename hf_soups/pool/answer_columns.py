"""Columns of numbers as classes: which are meant, which class each stands for, and what the classes are called."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from hf_soups.errors import DataError, IncompatibleCheckpoints, InputError, PredictionsError
from hf_soups.pool.answer_files import IDS, LABELS, AnswerFile
from hf_soups.pool.label_order import LabelMatch, match_labels
from hf_soups.predictions.given import named_labels


@dataclass(frozen=True)
class ClassColumns:
    """Numbers (rows, columns), or one a row, with the columns' names where they have any."""

    numbers: np.ndarray
    names: tuple[str, ...] | None = None

    @classmethod
    def of(
        cls, file: AnswerFile, wanted: Sequence[str], used: Collection[str | None], notes: list[str]
    ) -> ClassColumns:
        """The numbers of a file.

        Args:
            file: an array or a table.
            wanted: names of columns; none: all that hold numbers, or the only one that holds lists of them.
            used: columns that are ids or labels.
            notes: what is left out is added.
        Raises:
            InputError: if there is no such column.
            DataError: if there are no numbers.
        """
        if not file.is_table:
            return cls(_as_numbers(file.values, str(file.path)))
        absent = [name for name in wanted if name not in file.columns]
        if absent:
            raise InputError(f"{file.path}: no column {absent[0]!r}; there are: {', '.join(file.columns)}.")
        kinds = {name: _kind(file.values[name]) for name in wanted or file.columns if name not in used}
        lists = [name for name, kind in kinds.items() if kind == "lists"]
        if len(lists) == 1:
            return cls(_as_numbers(file.values[lists[0]].tolist(), f"{file.path}: column {lists[0]!r}"))
        mappings = [name for name, kind in kinds.items() if kind == "mappings"]
        if len(mappings) == 1:  # as APIs give them: a number by class
            return cls._of_mappings(file.values[mappings[0]].tolist(), f"{file.path}: column {mappings[0]!r}")
        roles = {name.casefold() for name in (*IDS, *LABELS)}
        chosen = [
            name for name, kind in kinds.items() if kind == "numbers" and (wanted or name.casefold() not in roles)
        ]
        if not chosen:
            raise DataError(
                f"{file.path}: no columns of numbers among {', '.join(file.columns)}. Answers need a probability, "
                "log-probability or logit for each class; an answer alone is not enough."
            )
        left = [name for name in kinds if name not in chosen]
        if left:
            notes.append(f"not read: {', '.join(left)}")
        return cls(file.values[chosen].to_numpy(dtype=np.float64), tuple(chosen))

    @classmethod
    def _of_mappings(cls, rows: Sequence[dict[str, Any]], where: str) -> ClassColumns:
        names = tuple(dict.fromkeys(name for row in rows for name in row or ()))
        return cls(_as_numbers([[(row or {}).get(name, np.nan) for name in names] for row in rows], where), names)

    def __len__(self) -> int:
        return len(self.numbers)

    @property
    def count(self) -> int:
        """Numbers of a row."""
        return 1 if self.numbers.ndim == 1 else int(self.numbers.shape[1])

    def for_classes(
        self, names: Sequence[str], who: str, given: Sequence[str], *, assume_order: bool, notes: list[str]
    ) -> tuple[bool, np.ndarray]:
        """Whether the columns are the classes by name, and their numbers in the order of the classes.

        Args:
            names: of the classes.
            who: names the answers in errors.
            given: names of the columns by the user, instead of their own.
            assume_order: take columns without names of classes to be in their order.
            notes: what was matched how is added.
        Raises:
            InputError: if the columns cannot be those of the classes.
        """
        if self.count == 1 and len(names) == 2:
            return self._of_two(names, notes)
        own = self.names if _same_words(given, self.names or ()) else tuple(given)
        if own is not None and len(own) != self.count:
            there = f" ({', '.join(self.names[:8])})" if self.names else ""
            raise InputError(
                f"{who}: {len(own)} label names for {self.count} columns of numbers{there}. Name the columns that are "
                "meant (--columns)."
            )
        if own is None:
            if self.count != len(names):
                raise InputError(f"{who}: {self.count} numbers a row for {len(names)} classes: {', '.join(names[:8])}.")
            notes.append(f"its columns are taken to be in the order of the classes: {', '.join(names[:8])}")
            return False, self.numbers
        match = _matched(own, names, who, assume_order)
        notes += [match.note] if match.note else []
        return match.by_name, match.logits(self.numbers)

    def _of_two(self, names: Sequence[str], notes: list[str]) -> tuple[bool, np.ndarray]:
        """One number a row is the second class's, unless its column is called as the first."""
        own, at = (self.names or ("",))[0], names[0] if self.of_the_first(names) else names[1]
        notes.append(f"one number a row, taken to be of the class {at!r}")
        return own.strip().casefold() == at.strip().casefold(), self.numbers.reshape(-1)

    def of_the_first(self, names: Sequence[str]) -> bool:
        """Whether there is one number a row, of the first of two classes."""
        one = self.count == 1 and len(names) == 2 and self.names is not None
        return one and (self.names or ("",))[0].strip().casefold() == names[0].strip().casefold()


def _same_words(given: Sequence[str], columns: Sequence[str]) -> bool:
    """Whether all names that were given are columns' own: then these say which is which, not the order."""
    return {name.strip().casefold() for name in given} <= {name.strip().casefold() for name in columns} or not given


def _matched(own: Sequence[str], names: Sequence[str], who: str, assume_order: bool) -> LabelMatch:
    """Columns and classes by name, also behind a common beginning such as "prob_", or by number."""
    try:
        return match_labels(own, names, classes=len(own), who=who)
    except IncompatibleCheckpoints:
        short = stripped(own)
        if sorted(short) == sorted(map(str, range(len(names)))):
            return LabelMatch(
                tuple(short.index(str(i)) for i in range(len(names))), len(own), True, "columns by number"
            )
        try:
            return match_labels(short, names, classes=len(own), who=who, assume_order=assume_order)
        except IncompatibleCheckpoints:
            raise InputError(
                f"{who}: its columns ({', '.join(own[:8])}) are not the classes ({', '.join(names[:8])}). Say which "
                "columns are meant (--columns), what they are called in their order (--label-names), or that they are "
                "in the order of the classes (--assume-label-order)."
            ) from None


def stripped(columns: Sequence[str]) -> tuple[str, ...]:
    """Names without what all of them begin or end with.

    >>> stripped(["prob_cat", "prob_cow"]), stripped(["0_p", "1_p"])
    (('cat', 'cow'), ('0', '1'))
    """
    if len(columns) < 2:
        return tuple(columns)
    start, end = _shared(columns), _shared([name[::-1] for name in columns])
    return tuple(name[len(start) : len(name) - len(end)] for name in columns)


def _shared(names: Sequence[str]) -> str:
    """What all begin with, up to its last character that is no letter or digit: "prob_" of prob_cat and prob_cake."""
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    return first[: max((i + 1 for i, c in enumerate(first[:same]) if not c.isalnum()), default=0)]


@dataclass(frozen=True)
class ClassNames:
    """The classes of labels as people wrote them."""

    names: tuple[str, ...]
    where: str

    def indices(self, labels: Sequence[Any]) -> np.ndarray:
        """The class of each label: by name, or the number of a class where the names are none.

        Raises:
            DataError: naming the first label that is of no class.
        """
        numbers = all(isinstance(label, int) for label in labels)
        if numbers and not all(name.strip().isdigit() for name in self.names):
            found = np.asarray(labels, dtype=np.int64)
            bad = np.flatnonzero((found < 0) | (found >= len(self.names)))
            if len(bad):
                raise DataError(
                    f"{self.where}: row {bad[0]} has the label {found[bad[0]]}; expected a number from 0 to "
                    f"{len(self.names) - 1}, or one of {', '.join(self.names[:8])}."
                )
            return found
        try:
            by_name, _ = named_labels([str(label) for label in labels], self.names, len(self.names))
        except PredictionsError as error:
            raise DataError(f"{self.where}: {error} Correct it, or name the classes (--label-names).") from None
        return np.asarray(by_name, dtype=np.int64)


def names_from(columns: ClassColumns, given: Sequence[str], labels: Sequence[Any], where: str) -> ClassNames:
    """The names of the classes: those given, the columns' that the labels use, or the labels' own numbers from 0.

    Raises:
        InputError: if it is not clear which column is which class.
    """
    if given:
        return ClassNames(tuple(given), where)
    known = {str(label).strip().casefold() for label in labels}
    own = columns.names if columns.count > 1 else None
    for names in (own, None if own is None else stripped(own)):
        if names is not None and known <= {name.strip().casefold() for name in names}:
            return ClassNames(names, where)
    if columns.count == 1 and columns.names and columns.names[0].strip().casefold() in known and len(known) == 2:
        spelled = {str(label).strip().casefold(): str(label).strip() for label in labels}
        return ClassNames(tuple(sorted(spelled.values())), where)  # the column is called as one of the two
    if all(isinstance(label, int) for label in labels):
        count = max(columns.count, 2)
        numbered = own is None or sorted(stripped(own)) == sorted(map(str, range(count)))
        return ClassNames(tuple(map(str, range(count))) if numbered else own or (), where)
    raise InputError(
        f"{where}: the labels ({', '.join(sorted(map(str, set(labels)))[:8])}) are not what the columns of numbers are "
        f"called ({', '.join((columns.names or ())[:8]) or 'nothing: an array'}). Give the names of the classes in the "
        "order of the columns (--label-names; of scikit-learn: classes_)."
    )


def _kind(column: Any) -> str:
    """Whether a column holds numbers, lists or mappings of them, or anything else."""
    if column.dtype.kind in "iuf":
        return "numbers"
    first = column.iloc[0] if len(column) else None
    return "lists" if isinstance(first, list | np.ndarray) else "mappings" if isinstance(first, dict) else "other"


def _as_numbers(values: Any, where: str) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: expected a number for each class, as many in each row.") from None
    if found.ndim not in (1, 2):
        raise DataError(f"{where}: an array of shape {found.shape}; expected (rows, classes), or one number a row.")
    return found
