"""Checks of the rows before anything is trained on them: classes, spellings, empty texts, rows in two splits at once.

What cannot be used at all is an error where it is read; here is what is read without an error and seldom meant.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_soups.data.images import cells, encoding
from hf_soups.data.split import ROWS_AT_ONCE, Split, Splits
from hf_soups.errors import DataWarning
from hf_soups.files.digests import fast_digest
from hf_soups.recipe.task import Task

SHOWN = 10  # classes or spellings that are listed
BLANK = (("",), ("", ""))  # rows without text, of which there may be several
IMAGES_COMPARED = 20_000  # rows of images at most in which equal ones are looked for: all of their bytes are read


@dataclass(frozen=True, slots=True)
class DataCheck:
    """What the rows of a task hold."""

    label_names: tuple[str, ...]
    rows: Mapping[str, int]  # by role
    counts: Mapping[str, tuple[int, ...]]  # by role: rows of each class; none where labels are numbers
    warnings: tuple[str, ...]

    def lines(self) -> list[str]:
        """Rows and classes in words, then the warnings."""
        rows = ", ".join(f"{count} {role}" for role, count in self.rows.items())
        classes = [f"classes: {self._classes()}"] if any(self.counts.values()) else []
        return [f"rows: {rows}", *classes, *(f"warning: {line}" for line in self.warnings)]

    def _classes(self) -> str:
        numbers = list(zip(*self.counts.values(), strict=True))
        named = [f"{_short(n)} {'/'.join(map(str, k))}" for n, k in zip(self.label_names, numbers, strict=True)]
        of_roles = f" ({'/'.join(self.counts)})"
        if len(named) <= SHOWN:
            return ", ".join(named) + of_roles
        train = self.counts["train"]
        few, many = int(np.argmin(train)), int(np.argmax(train))
        return f"{len(named)}, from {named[few]} to {named[many]}{of_roles}"


def checked(splits: Splits, task: Task) -> DataCheck:
    """Look at all rows of train, select and report."""
    names = splits.label_names
    parts = {"train": splits.train, "select": splits.select, "report": splits.report}
    counts = {role: _counts(part.labels, len(names)) for role, part in parts.items()}
    found = [
        *_without_rows(counts, names),
        *_spellings(parts, task),
        *_without_text(parts, task),
        *_in_two_splits(parts, task),
    ]
    return DataCheck(names, {role: len(part) for role, part in parts.items()}, counts, tuple(found))


def _counts(labels: np.ndarray, classes: int) -> tuple[int, ...]:
    """Rows of each class; where a row has several labels, of each of them."""
    if labels.dtype.kind == "f":
        return ()
    of_class = labels.sum(axis=0) if labels.ndim == 2 else np.bincount(labels, minlength=classes)
    return tuple(int(count) for count in of_class)


def warn_of_rows(splits: Splits, task: Task) -> None:
    """Say what is seldom meant, as warnings."""
    for line in checked(splits, task).warnings:
        warnings.warn(line, DataWarning, stacklevel=2)


def _without_rows(counts: Mapping[str, Sequence[int]], names: Sequence[str]) -> Iterator[str]:
    for role, of_class in counts.items():
        absent = [_short(name) for name, count in zip(names, of_class, strict=bool(of_class)) if not count]
        if absent:
            why = {"train": "it cannot be learned", "select": "choices do not see it"}.get(role, "no score sees it")
            yield f"{role} has no row of {_listed(absent)}: {why}."


def _spellings(parts: Mapping[str, Split], task: Task) -> Iterator[str]:
    """Labels that are one but for blanks around them or capitals."""
    found: dict[str, Counter[str]] = {}
    for part in parts.values():
        if getattr(part.rows.features.get(task.label), "dtype", None) not in ("string", "large_string"):
            return
        for label, count in Counter(part.rows[task.label][:]).items():
            found.setdefault(label.strip().casefold(), Counter())[label] += count
    for spelled in found.values():
        if len(spelled) > 1:
            ways = _listed([f"{_short(label)} ({count} rows)" for label, count in spelled.most_common()])
            yield f"labels in column {task.label!r} that differ by blanks or capitals alone: {ways}. Write them alike."


def _without_text(parts: Mapping[str, Split], task: Task) -> Iterator[str]:
    for role, part in parts.items():
        for column in task.text:
            empty = [i for i, text in enumerate(part.rows[column][:]) if not text.strip()]
            if empty:
                yield (
                    f"{len(empty)} of {len(part)} {role} rows have no text in column {column!r}, or blanks alone (the "
                    f"first: row {part.row_ids[empty[0]]} of {part.source}). Fill them in or remove them."
                )


def _in_two_splits(parts: Mapping[str, Split], task: Task) -> Iterator[str]:
    """Rows of train that are in select or report too, and of select in report: what was seen scores too well."""
    if task.kind == "image" and sum(map(len, parts.values())) > IMAGES_COMPARED:
        return
    keys = {role: list(_keys(part, task)) for role, part in parts.items()}
    for earlier, later in (("train", "select"), ("train", "report"), ("select", "report")):
        seen = set(keys[earlier])
        twice = [i for i, key in enumerate(keys[later]) if key in seen and key not in BLANK]
        if twice:
            what = "image" if task.kind == "image" else "text"
            yield (
                f"{len(twice)} of {len(keys[later])} {later} rows have the {what} of a {earlier} row (the first: row "
                f"{parts[later].row_ids[twice[0]]} of {parts[later].source}), so their scores are too good. Remove "
                "them from one of the two."
            )


def _keys(part: Split, task: Task) -> Iterator[Hashable]:
    """What is equal for equal rows; blanks around a text do not count."""
    if task.kind != "image":
        columns = [part.rows[name][:] for name in task.columns]
        yield from (tuple(text.strip() for text in texts) for texts in zip(*columns, strict=True))
        return
    (name,) = task.columns
    for start in range(0, len(part), ROWS_AT_ONCE):
        for cell in cells(part.rows, name, start, start + ROWS_AT_ONCE):
            yield fast_digest([encoding(cell)])


def _short(name: str) -> str:
    return repr(name if len(name) <= 40 else f"{name[:40]}...")


def _listed(words: Sequence[str]) -> str:
    more = f" and {len(words) - SHOWN} more" if len(words) > SHOWN else ""
    return ", ".join(words[:SHOWN]) + more
