"""What metrics read of labelled predictions: labels, marks of 0 and 1, numbers, probabilities; and sums by row."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float64, Int64, Real, Shaped
from numpy.typing import ArrayLike

from hf_soups.errors import PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.predictions import Predictions

Statistics = Real[np.ndarray, "examples statistics"]
Sums = Real[np.ndarray, "*resamples statistics"]
Values = Float64[np.ndarray, "*resamples"]


def labels_of(p: Predictions, *others: ProblemType) -> Shaped[np.ndarray, "examples ..."]:
    """The labels of classification, or of another problem type that is named."""
    if p.problem_type not in (CLASSIFICATION, *others):
        raise _other_type(p)
    return any_labels(p)


def any_labels(p: Predictions) -> Shaped[np.ndarray, "examples ..."]:
    """The labels of any problem type, at least one row."""
    labels = p.needs_labels()
    if not len(p):
        raise PredictionsError(f"the predictions {p.model or ''} hold no rows, so there is nothing to score.")
    return labels


def numbers_of(p: Predictions) -> Float64[np.ndarray, " examples"]:
    """The labels of a regression."""
    if p.problem_type != REGRESSION:
        raise _other_type(p)
    return any_labels(p)


def marks_of(p: Predictions) -> tuple[Statistics, Statistics]:
    """0 and 1 of each class or label of each row: what is true, and what is answered."""
    labels = labels_of(p, MULTI_LABEL)
    if p.problem_type == MULTI_LABEL:
        return labels.astype(np.uint8), p.answers.astype(np.uint8)
    return one_hot(labels, p.classes), one_hot(p.answers, p.classes)


def _other_type(p: Predictions) -> PredictionsError:
    return PredictionsError(
        f"the predictions {p.model or ''} are of problem type {p.problem_type!r}, which this metric does not score: "
        "`METRICS` says for each metric what it is for (`problem_types`)."
    )


def probabilities_of(p: Predictions) -> Float64[np.ndarray, "examples classes"]:
    """In float64 and summing to 1 within its rounding, which scikit-learn asks for."""
    probs = np.exp(p.log_probs.astype(np.float64))
    return np.asarray(probs / probs.sum(axis=1, keepdims=True))


def by_decision(p: Predictions) -> Predictions:
    """A multi-label problem with each label of each row as a row of two classes; another one as it is."""
    return p.decisions if p.problem_type == MULTI_LABEL else p


def by_row(statistics: Real[np.ndarray, "decisions statistics"], rows: int) -> Statistics:
    """Sums over each row's labels."""
    return np.asarray(statistics.reshape(rows, -1, statistics.shape[1]).sum(axis=1))


def one_hot(classes: Int64[np.ndarray, " examples"], count: int) -> Statistics:
    """0 and 1 of each class."""
    rows = np.zeros((len(classes), count), dtype=np.uint8)
    rows[np.arange(len(classes)), classes] = 1
    return rows


def divided(above: ArrayLike, below: ArrayLike) -> Values:
    """Quotients, 0 where the divisor is 0."""
    a, b = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    return np.divide(a, b, out=np.zeros_like(a), where=b != 0)


def mean_value(sums: Sums) -> Values:
    """The mean of what each row adds, from sums of it and of one."""
    return divided(sums[..., 0], sums[..., -1])
