"""Rows: the split that a pool's members answer, from a data set's path or from a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.errors import DataError, InputError
from hf_soups.pool.store import PoolData

if TYPE_CHECKING:
    import datasets

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

LABELS = ("label", "labels")
IMAGES = ("image", "img")


@dataclass(frozen=True)
class Wanted:
    """Which rows, as the user names them; what is None is found in the data."""

    data: str | None = None  # Hub id, Hub-layout folder, imagefolder, parquet or csv files
    split: str | None = None
    config: str | None = None
    revision: str | None = None
    kind: str | None = None  # text, text-pair or image
    text: tuple[str, ...] = ()
    image: str | None = None
    label: str | None = None
    label_names: tuple[str, ...] | None = None
    limit: int | None = None  # a stratified subset of this many rows
    max_length: int = 128  # tokens
    recipe: str | Path | None = None  # gives task and data instead
    overrides: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelledRows:
    """A labelled split with the task it belongs to."""

    task: Task
    data: Data
    split: Split
    called: str  # the split, as the user calls it

    @property
    def about(self) -> PoolData:
        """What pool.json says of it."""
        return PoolData(
            path=self.task.path,
            split=self.called,
            config=self.task.config,
            revision=self.task.revision,
            rows=len(self.split),
            fingerprint=self.split.fingerprint,
            columns=self.task.columns,
            label=self.task.label,
            max_length=None if self.task.kind == "image" else self.data.max_length,
        )


def load_rows(wanted: Wanted) -> LabelledRows:
    """The rows, with labels.

    Raises:
        InputError: if neither data nor a recipe is given, or both.
        DataError: if rows cannot be found or read, or it is not clear which columns are meant.
    """
    if (wanted.data is None) == (wanted.recipe is None):
        raise InputError("give either data (--data, with --split) or a recipe that names them (--recipe).")
    return _of_recipe(wanted) if wanted.recipe is not None else _of_data(wanted)


def _of_recipe(wanted: Wanted) -> LabelledRows:
    from hf_soups.data import load_report, load_splits
    from hf_soups.recipe import load_recipe

    assert wanted.recipe is not None
    recipe = load_recipe(wanted.recipe, wanted.overrides)
    name = wanted.split or "select"
    alone = load_report(recipe.task, recipe.data) if name == "report" else None  # train may be large, and far
    answered = load_splits(recipe.task, recipe.data).answered if alone is None else {name: alone}
    if name not in answered:
        raise InputError(f"{wanted.recipe}: no split {name!r} to answer; there are: {', '.join(answered)}.")
    return LabelledRows(recipe.task, recipe.data, _limited(answered[name], wanted.limit), name)


def _of_data(wanted: Wanted) -> LabelledRows:
    from hf_soups.data import Split, load_dataset_split
    from hf_soups.data.labels import checked_columns, class_indices, label_names_of
    from hf_soups.data.sources import source_name
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

    assert wanted.data is not None
    split = wanted.split or "train"
    place = {"path": wanted.data, "config": wanted.config, "revision": wanted.revision}
    found = load_dataset_split(Task(kind="image", image="image", **place), split)
    where = source_name(Task(kind="image", image="image", **place), split)
    columns = task_columns(found, wanted, where)
    if columns["label"] is None:
        raise DataError(
            f"{where}: no label column among {', '.join(found.column_names)}. A pool is scored, so its rows need "
            "labels: name the column (--label). To answer rows without labels, predict with one model or cascade."
        )
    task = Task(**place, **columns, label_names=wanted.label_names, train=split, report=split)
    rows = checked_columns(found, task, where)
    names = label_names_of(rows, task, where)
    labels = class_indices(rows, task, names, where)
    made = Split.of("report", rows, np.arange(len(labels), dtype=np.int64), labels, names, where)
    return LabelledRows(task, Data(max_length=wanted.max_length), _limited(made, wanted.limit), split)


def _limited(split: Split, limit: int | None) -> Split:
    from hf_soups.data.split import stratified_rows

    if limit is None or limit >= len(split):
        return split
    if limit < 1:
        raise InputError(f"a limit of {limit} rows; expected 1 or more.")
    return split.take(stratified_rows(split.labels, limit, 0, stream=0))


def task_columns(rows: datasets.Dataset, wanted: Wanted, where: str) -> dict[str, Any]:
    """Kind and columns of a task on these rows: those that are named, else the only ones that can be meant.

    Raises:
        DataError: if a column is missing, or several could be meant.
    """
    named = [*wanted.text, *filter(None, (wanted.image, wanted.label))]
    missing = [name for name in named if name not in rows.column_names]
    if missing:
        raise DataError(f"{where}: no column {missing[0]!r}; there are: {', '.join(rows.column_names)}.")
    label = wanted.label or _label_of(rows)
    images = [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]
    image = wanted.image or _preferred(images, IMAGES)
    if wanted.kind == "image" or (wanted.kind is None and not wanted.text and (wanted.image or images)):
        if image is None:
            raise _unclear("image", images, where, rows.column_names)
        return {"kind": "image", "image": image, "label": label}
    texts = [name for name, feature in rows.features.items() if _is_text(feature) and name != label]
    text = wanted.text or _texts(texts, wanted.kind)
    if not text:
        raise _unclear("text", texts, where, rows.column_names)
    return {"kind": "text" if len(text) == 1 else "text-pair", "text": text, "label": label}


def _label_of(rows: datasets.Dataset) -> str | None:
    classes = [name for name, feature in rows.features.items() if type(feature).__name__ == "ClassLabel"]
    named = next((name for name in LABELS if name in rows.column_names), None)
    return named or (classes[0] if len(classes) == 1 else None)


def _preferred(names: Sequence[str], known: Sequence[str]) -> str | None:
    return next((name for name in known if name in names), names[0] if len(names) == 1 else None)


def _texts(names: Sequence[str], kind: str | None) -> tuple[str, ...]:
    """The text columns, if there are just as many as the kind needs."""
    if "text" in names and kind != "text-pair":
        return ("text",)
    wanted = {"text": 1, "text-pair": 2}.get(kind or "", len(names))
    return tuple(names) if len(names) == wanted and len(names) in (1, 2) else ()


def _is_text(feature: Any) -> bool:
    return getattr(feature, "dtype", None) in ("string", "large_string")


def _unclear(kind: str, found: Sequence[str], where: str, columns: Sequence[str]) -> DataError:
    told = f"{len(found)} {kind} columns ({', '.join(found)})" if found else f"no {kind} column"
    return DataError(
        f"{where}: {told} among {', '.join(columns)}, so it is not clear what the models read. Name it (--{kind} "
        "COLUMN, twice for pairs of texts)."
    )
