"""Which columns of a data set are input and label: those that are named, else the only ones that can be meant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from hf_soups.errors import DataError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION

if TYPE_CHECKING:
    import datasets

LABELS = ("label", "labels")
IMAGES = ("image", "img")


class ColumnsWanted(Protocol):
    """What of the columns is named; the rest is found in the data."""

    @property
    def kind(self) -> str | None:
        """Text, text-pair or image; None: as the columns are."""

    @property
    def text(self) -> Sequence[str]:
        """One or two text columns; none: the only ones."""

    @property
    def image(self) -> str | None:
        """A column; None: the only one."""

    @property
    def label(self) -> str | None:
        """A column, or several as "a,b"; None: "label", "labels" or the only one of classes."""


@dataclass(frozen=True, slots=True)
class NamedColumns:
    """`ColumnsWanted` as keywords of a function."""

    kind: str | None = None
    text: Sequence[str] = ()
    image: str | None = None
    label: str | None = None


def task_columns(rows: datasets.Dataset, wanted: ColumnsWanted, where: str) -> dict[str, Any]:
    """Kind and columns of a task on these rows: those that are named, else the only ones that can be meant.

    Raises:
        DataError: if a column is missing, or several could be meant.
    """
    labels = _label_columns(rows, wanted.label)
    named = [*wanted.text, *filter(None, (wanted.image,)), *labels]
    missing = [name for name in named if name not in rows.column_names]
    if missing:
        raise DataError(f"{where}: no column {missing[0]!r}; there are: {', '.join(rows.column_names)}.")
    label = labels[0] if len(labels) == 1 else _label_of(rows) if wanted.label is None else wanted.label
    several = {"labels": labels} if len(labels) > 1 else {}
    images = [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]
    image = wanted.image or _preferred(images, IMAGES)
    if wanted.kind == "image" or (wanted.kind is None and not wanted.text and (wanted.image or images)):
        if image is None:
            raise _unclear("image", images, where, rows.column_names)
        return {"kind": "image", "image": image, "label": label, **several}
    texts = [n for n, feature in rows.features.items() if _is_text(feature) and n not in (label, *labels)]
    text = tuple(wanted.text) or _texts(texts, wanted.kind)
    if not text:
        raise _unclear("text", texts, where, rows.column_names)
    return {"kind": "text" if len(text) == 1 else "text-pair", "text": text, "label": label, **several}


def _label_columns(rows: datasets.Dataset, label: str | None) -> tuple[str, ...]:
    """The label columns that are named: one, or several with commas between them."""
    if label is None or label in rows.column_names:
        return () if label is None else (label,)
    return tuple(name.strip() for name in label.split(",") if name.strip())


def problem_type_of_column(rows: datasets.Dataset, about: Mapping[str, Any]) -> str:
    """Lists and several columns are of many labels a row, and numbers with fractions of a regression."""
    if about.get("labels"):
        return MULTI_LABEL
    feature = rows.features[about["label"]]
    if getattr(feature, "feature", None) is not None:
        return MULTI_LABEL
    if getattr(feature, "dtype", "").startswith("float"):
        values = [v for v in rows.select_columns([about["label"]])[about["label"]] if v is not None]
        return CLASSIFICATION if all(float(v).is_integer() for v in values) else REGRESSION
    return CLASSIFICATION


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
    seen = f"{len(found)} {kind} columns ({', '.join(found)})" if found else f"no {kind} column"
    return DataError(
        f"{where}: {seen} among {', '.join(columns)}, so it is not clear what the models read. Name it (--{kind} "
        "COLUMN, twice for pairs of texts)."
    )
