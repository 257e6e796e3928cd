"""Answers, labels and row ids as people have them: pandas' columns, names of classes, rounded numbers, one score a row.

pandas and polars are not imported: what they give is known by what it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from numpy.typing import ArrayLike

from hf_soups.errors import PredictionsError
from hf_soups.files.problem_types import MULTI_LABEL, REGRESSION, ProblemType

SUM_TOLERANCE = 1e-3  # float16 probabilities of 1,000 classes sum to 1 within about 5e-4
MOST_DIGITS = 4  # decimals at which probabilities still count as rounded
MOST_ROUNDED = 0.05  # by so much the sum of rounded probabilities may be off at most
EXACT = 1e-6  # float32 numbers are decimals within this


def column_names(values: Any) -> tuple[str, ...] | None:
    """The names of the columns of a table, if they are texts."""
    columns = getattr(values, "columns", None)
    names = () if columns is None else tuple(columns)
    return names if names and all(isinstance(name, str) for name in names) else None


def in_order_of(names: Sequence[str] | None, values: ArrayLike) -> ArrayLike:
    """A table whose columns are called as the classes, with its columns in their order; anything else as it is."""
    own, wanted = column_names(values) or (), [name.strip().casefold() for name in names or ()]
    place = {name.strip().casefold(): i for i, name in enumerate(own)}
    if not own or len(place) != len(own) or sorted(place) != sorted(wanted):
        return values
    return np.asarray(values)[:, [place[name] for name in wanted]]


def probabilities_of(probs: ArrayLike, names: Sequence[str] | None) -> Float64[np.ndarray, "examples classes"]:
    """Probabilities by row and class; one number a row is that of the second of two classes.

    Raises:
        PredictionsError: if they have another shape, or a value is no probability.
    """
    p = _numbers(probs, "probabilities")
    bad = ~np.isfinite(p) | (p < 0)
    if bad.any():
        row = int(np.flatnonzero(bad.reshape(len(p), -1).any(axis=1))[0])
        shown = np.atleast_1d(p[row]).tolist()[:8]
        raise PredictionsError(f"row {row} holds a negative or non-finite probability: {shown}.")
    if p.ndim == 2 and p.shape[1] == 1 and (len(names or ()) == 2 or (np.abs(p - 1) > SUM_TOLERANCE).any()):
        p = p[:, 0]  # as Keras' sigmoid gives them
    if p.ndim == 1:
        if (p > 1).any():
            row = int(np.flatnonzero(p > 1)[0])
            raise PredictionsError(
                f"row {row} has the score {p[row]:.4g}; one number a row is the probability of the second of two "
                "classes, in [0, 1]. If these are logits, use from_logits."
            )
        return np.stack([1 - p, p], axis=1)
    return p


def logits_of(logits: ArrayLike) -> Float64[np.ndarray, "examples classes"]:
    """Logits by row and class; one number a row is that of the second of two classes, the first having 0."""
    z = _numbers(logits, "logits")
    return np.stack([np.zeros_like(z), z], axis=1) if z.ndim == 1 else z


def _numbers(values: ArrayLike, what: str) -> np.ndarray:
    try:
        found = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise PredictionsError(f"{what} are not all numbers ({error}); expected numbers (examples, classes).") from None
    if found.ndim not in (1, 2):
        raise PredictionsError(
            f"{what} have shape {found.shape}; expected (examples, classes), or one number a row for two classes."
        )
    return found


def normalised(
    p: Float64[np.ndarray, "examples classes"], *, normalise: bool, tolerance: float | None
) -> Float64[np.ndarray, "examples classes"]:
    """Each row divided by its sum, which must be 1 within a tolerance unless any sum is allowed.

    Raises:
        PredictionsError: naming the first row whose sum is another.
    """
    sums = p.sum(axis=1, keepdims=True)
    allowed = sum_tolerance(p) if tolerance is None else tolerance
    off = sums <= 0 if normalise else np.abs(sums - 1) > allowed + EXACT
    if off.any():
        row = int(np.flatnonzero(off)[0])
        way = (
            "nothing is left to normalise"
            if normalise
            else "not 1. If these are logits, use from_logits; if probabilities were rounded or left out, allow it "
            f"(tolerance={allowed:.3g} now, or normalise=True)"
        )
        raise PredictionsError(f"row {row} sums to {sums[row, 0]:.4f}, {way}.")
    return np.asarray(p / sums)


def sum_tolerance(p: Float64[np.ndarray, "examples classes"]) -> float:
    """By how much sums of probabilities may differ from 1: more where all of them are rounded to a few decimals.

    >>> round(sum_tolerance(np.array([[0.33, 0.33, 0.33]])), 4), sum_tolerance(np.array([[0.33333, 0.66667]]))
    (0.015, 0.001)
    """
    for digits in range(1, MOST_DIGITS + 1):
        if (np.abs(p - np.round(p, digits)) <= EXACT).all():
            return float(max(SUM_TOLERANCE, min(p.shape[1] * 0.5 * 10.0**-digits, MOST_ROUNDED)))
    return SUM_TOLERANCE


def named_labels(
    labels: ArrayLike | None, names: Sequence[str] | None, classes: int
) -> tuple[ArrayLike | None, tuple[str, ...] | None]:
    """Labels as class indices where they are names of classes, and these names.

    A categorical column of pandas names the classes itself, in the order of its categories.

    Raises:
        PredictionsError: if a label is missing or no class has its name.
    """
    known = None if names is None else tuple(names)
    if labels is None:
        return None, known
    values = _plain(labels)
    own = _categories(labels)
    if known is None and own is not None and len(own) == classes:
        known = own
    if values.dtype.kind not in "OU":
        return labels if values.dtype.kind == "V" else values, known
    if known is None:
        raise PredictionsError(
            f"labels are {values.dtype}; expected class indices, which are integers, or names of classes together with "
            "label_names in the order of the columns (of scikit-learn: classes_)."
        )
    return _by_name(values, known), known


def _by_name(values: np.ndarray, names: Sequence[str]) -> Int64[np.ndarray, " labels"]:
    """The index of each label's name; where case or blanks around it differ, the only name that fits."""
    index = {name: i for i, name in enumerate(names)}
    loose: dict[str, int | None] = {}
    for i, name in enumerate(names):
        loose[name.strip().casefold()] = None if name.strip().casefold() in loose else i
    found = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values.tolist()):
        at = index.get(value, loose.get(str(value).strip().casefold()))
        if at is None:
            raise PredictionsError(
                f"row {row} has the label {value!r}, which is none of the classes: {', '.join(map(repr, names[:8]))}"
                f"{', ...' if len(names) > 8 else ''}."
            )
        found[row] = at
    return found


def class_indices_of(labels: ArrayLike) -> Int64[np.ndarray, " labels"]:
    """Labels as class indices, also where a table keeps whole numbers as floats.

    Raises:
        PredictionsError: if they are anything else.
    """
    y = _plain(labels)
    if y.size and y.dtype.kind == "f" and np.isfinite(y).all() and (y == np.round(y)).all():
        y = y.astype(np.int64)
    if y.size and y.dtype.kind not in "iub":
        raise PredictionsError(f"labels are {y.dtype}; expected class indices, which are integers.")
    return y.astype(np.int64)


def ids_of(row_ids: ArrayLike | Sequence[str]) -> np.ndarray:
    """Row ids as int64 or as text.

    Raises:
        PredictionsError: if they are neither.
    """
    ids = _plain(row_ids)
    if ids.dtype.kind in "iu" or not ids.size:
        return ids.astype(np.int64)
    if ids.dtype.kind == "U":
        return ids
    raise PredictionsError(f"row ids are {ids.dtype}; expected integers or text.")


def _plain(values: Any) -> np.ndarray:
    """An array in a type of NumPy's own: objects that are all text, or all whole numbers, as such.

    Raises:
        PredictionsError: naming the first row that holds nothing.
    """
    found = np.asarray(values)
    if found.dtype.kind not in "OTf":  # T: NumPy's own texts of any length
        return found
    items = found.ravel().tolist()
    empty = next((i for i, item in enumerate(items) if is_missing(item)), None)
    if empty is not None:
        raise PredictionsError(f"row {empty} holds nothing where a label or row id is expected.")
    if found.dtype.kind == "f":
        return found
    if all(isinstance(item, str) for item in items) or all(isinstance(item, bool | int) for item in items):
        return np.asarray(items).reshape(found.shape)
    return found


def is_missing(value: Any) -> bool:
    """Whether a cell of a table is empty: None, NaN, or what pandas puts there.

    >>> is_missing(None), is_missing(float("nan")), is_missing("")
    (True, True, False)
    """
    odd = type(value).__name__ in ("NAType", "NaTType")
    return value is None or odd or (isinstance(value, float) and value != value)


def _categories(labels: Any) -> tuple[str, ...] | None:
    """The categories of a categorical column of pandas, in their order, if they are texts."""
    at = getattr(labels, "cat", labels)
    categories = getattr(at, "categories", None)
    found = () if categories is None else tuple(categories)
    return found if found and all(isinstance(name, str) for name in found) else None


def label_probabilities_of(values: ArrayLike) -> Float64[np.ndarray, "examples labels"]:
    """Probabilities of labels of which a row may have any number.

    Raises:
        PredictionsError: if they have another shape, or a value is no probability.
    """
    probs = _numbers(values, "probabilities")
    if probs.ndim != 2:
        raise PredictionsError(f"probabilities have shape {probs.shape}; expected (examples, labels).")
    if not ((probs >= 0) & (probs <= 1)).all():
        row, label = np.argwhere(~((probs >= 0) & (probs <= 1)))[0]
        raise PredictionsError(
            f"row {row} has the probability {probs[row, label]:.4g} for label {label}; expected 0 to 1. If these are "
            "logits, use from_logits."
        )
    return probs


def checked_labels(labels: ArrayLike, shape: tuple[int, int], of_type: ProblemType) -> np.ndarray:
    """The labels of rows whose answers have that shape, as the problem type has them."""
    n, classes = shape
    if of_type == REGRESSION:
        numbers = np.asarray(labels, dtype=np.float64)
        if numbers.shape != (n,) or not np.isfinite(numbers).all():
            raise PredictionsError(
                f"labels of shape {numbers.shape} for {n} rows; expected one finite number for each."
            )
        return numbers
    y = class_indices_of(labels)
    if of_type == MULTI_LABEL:
        if y.shape != (n, classes) or (y.size and not (0 <= y.min() <= y.max() <= 1)):
            raise PredictionsError(
                f"labels of shape {y.shape} for {n} rows of {classes} labels; expected 0 or 1 of each."
            )
        return y
    if y.shape != (n,):
        raise PredictionsError(f"{y.size} labels for {n} rows.")
    if n and (y.min() < 0 or y.max() >= classes):
        raise PredictionsError(f"labels lie in {y.min()}..{y.max()}, but there are {classes} classes.")
    return y


def rows_of(numbers: ArrayLike) -> Float64[np.ndarray, "rows columns"]:
    """A number a row, or several."""
    z = np.asarray(numbers, dtype=np.float64)
    z = z[:, None] if z.ndim == 1 else z
    if z.ndim != 2:
        raise PredictionsError(f"logits have shape {z.shape}; expected (examples, classes).")
    return z
