"""Metrics of labels and answers alone: each with scikit-learn's value, and as sums over rows.

They are computed here: scikit-learn takes longer to import than a leaderboard to make.

The last column of most sums is 1 for each row, so that its sum is the number of rows.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64
from numpy.typing import ArrayLike

from hf_soups.errors import PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, ProblemType
from hf_soups.metrics.closed_intervals import share_interval
from hf_soups.metrics.labelled import Statistics, Sums, Values, divided, labels_of, marks_of, one_hot
from hf_soups.predictions import Predictions

AVERAGES = ("binary", "macro", "micro", "weighted")


def accuracy(labels: ArrayLike, answers: ArrayLike) -> float:
    """Share of the rows that are answered rightly; of many labels a row, of those with all of them right."""
    hit = np.asarray(labels) == np.asarray(answers)
    return float(np.mean(hit.all(axis=1) if hit.ndim == 2 else hit))


def accuracy_rows(p: Predictions) -> Statistics:
    """Hit, one."""
    hit = labels_of(p, MULTI_LABEL) == p.answers
    hit = (hit.all(axis=1) if hit.ndim == 2 else hit).astype(np.uint8)
    return np.stack([hit, np.ones_like(hit)], axis=1)


def accuracy_interval(p: Predictions, confidence: float) -> tuple[float, float] | None:
    """Wilson's, where the bootstrap does not cover; else None."""
    sums = accuracy_rows(p).sum(axis=0, dtype=np.float64)
    return share_interval(float(sums[0]), int(sums[-1]), confidence)


def f1(labels: ArrayLike, answers: ArrayLike, average: str = "binary", pos_label: int = 1) -> float:
    """F1 of the second of two classes, or an average over classes or labels, 0 where it is not defined.

    What else scikit-learn's `f1_score` takes, or refuses, is left to it.
    """
    classes, both, said, true = _counts(labels, answers)
    if pos_label != 1 or average not in AVERAGES or (average == "binary" and not set(classes) <= {0, 1}):
        from sklearn.metrics import f1_score

        return float(f1_score(labels, answers, average=average, pos_label=pos_label, zero_division=0))
    if average == "binary":
        both, said, true = (counts[classes == 1] for counts in (both, said, true))
    if average in ("binary", "micro"):
        both, said, true = (counts.sum(keepdims=True) for counts in (both, said, true))
    each = divided(2.0 * both, true + said)
    weights = true if average == "weighted" and true.any() else None
    return float(np.average(each, weights=weights))


def _counts(labels: ArrayLike, answers: ArrayLike) -> tuple[Int64[np.ndarray, " classes"], ...]:
    """The classes or labels that occur; of each the rows of it answered so, those answered so, and those of it."""
    true, said = np.asarray(labels), np.asarray(answers)
    if true.ndim == 2:
        marks = true.astype(bool), said.astype(bool)
        return np.arange(true.shape[1]), *(m.sum(axis=0) for m in (marks[0] & marks[1], marks[1], marks[0]))
    classes, at = np.unique(np.concatenate([true, said]), return_inverse=True)
    true, said = np.split(at, 2)
    return classes, *(np.bincount(rows, minlength=len(classes)) for rows in (true[true == said], said, true))


def f1_rows(p: Predictions) -> Statistics:
    """True positives, true + predicted positives, hits, one."""
    true, said = two_classes(p) == 1, p.answers == 1
    columns = (true & said, true.astype(np.uint8) + said, true == said, np.ones_like(true))
    return np.stack(columns, axis=1).astype(np.uint8)


def f1_value(sums: Sums) -> Values:
    """From the sums of `f1_rows` and `f1_micro_rows`."""
    return divided(2.0 * sums[..., 0], sums[..., 1])


def accuracy_f1(labels: ArrayLike, answers: ArrayLike) -> float:
    """The mean of accuracy and F1, as GLUE scores MRPC."""
    return (accuracy(labels, answers) + f1(labels, answers)) / 2


def accuracy_f1_value(sums: Sums) -> Values:
    """From the sums of `f1_rows`."""
    return np.asarray((f1_value(sums) + divided(sums[..., 2], sums[..., 3])) / 2)


def f1_macro(labels: ArrayLike, answers: ArrayLike) -> float:
    """Mean F1 of the classes or labels."""
    return f1(labels, answers, average="macro")


def f1_macro_rows(p: Predictions) -> Statistics:
    """Of each class, true positives; then of each class, true + predicted. Of a multi-label problem a 1 behind them."""
    true, said = marks_of(p)
    one = () if p.problem_type == CLASSIFICATION else (np.ones((len(p), 1), dtype=np.uint8),)
    return np.concatenate([true & said, true + said, *one], axis=1)


def f1_macro_value(sums: Sums) -> Values:
    """Over the classes that occur among labels or answers, as scikit-learn does by default; over every label."""
    classes, every = divmod(sums.shape[-1], 2)
    both, either = sums[..., :classes], sums[..., classes : 2 * classes]
    return divided(
        divided(2.0 * both, either).sum(axis=-1), np.float64(classes) if every else (either > 0).sum(axis=-1)
    )


def f1_micro(labels: ArrayLike, answers: ArrayLike) -> float:
    """F1 of all classes or labels counted together."""
    return f1(labels, answers, "micro")


def f1_micro_rows(p: Predictions) -> Statistics:
    """True positives, true + predicted, of all classes together."""
    true, said = marks_of(p)
    return np.stack([(true & said).sum(axis=1), (true + said).sum(axis=1)], axis=1).astype(np.int64)


def f1_weighted(labels: ArrayLike, answers: ArrayLike) -> float:
    """Mean of the F1 of each class or label, weighted by the rows that have it."""
    return f1(labels, answers, "weighted")


def f1_weighted_rows(p: Predictions) -> Statistics:
    """Of each class, true positives; then true + predicted; then true."""
    true, said = marks_of(p)
    return np.concatenate([true & said, true + said, true], axis=1)


def f1_weighted_value(sums: Sums) -> Values:
    """From the sums of `f1_weighted_rows`."""
    both, either, true = np.split(sums, 3, axis=-1)
    return divided((true * divided(2.0 * both, either)).sum(axis=-1), true.sum(axis=-1))


def balanced_accuracy(labels: ArrayLike, answers: ArrayLike) -> float:
    """Mean share of the rows of a class that are answered with it, over the classes that have rows."""
    _, both, _, true = _counts(labels, answers)
    return float(np.mean(both[true > 0] / true[true > 0]))


def balanced_accuracy_rows(p: Predictions) -> Statistics:
    """Of each class, true positives; then true."""
    true, said = one_hot(labels_of(p), p.classes), one_hot(p.answers, p.classes)
    return np.concatenate([true & said, true], axis=1)


def balanced_accuracy_value(sums: Sums) -> Values:
    """From the sums of `balanced_accuracy_rows`."""
    both, true = np.split(sums, 2, axis=-1)
    return divided(divided(both, true).sum(axis=-1), (true > 0).sum(axis=-1))


def matthews(labels: ArrayLike, answers: ArrayLike) -> float:
    """Matthews' correlation of labels and answers; 0 where one of them never varies."""
    _, both, said, true = _counts(labels, answers)
    return float(matthews_value(np.concatenate([true, said, [both.sum(), true.sum()]])))


def matthews_rows(p: Predictions) -> Statistics:
    """Rows with each true class, rows with each answer, hits, one."""
    labels = labels_of(p)
    hit = (labels == p.answers).astype(np.uint8)[:, None]
    return np.concatenate([one_hot(labels, p.classes), one_hot(p.answers, p.classes), hit, np.ones_like(hit)], axis=1)


def matthews_value(sums: Sums) -> Values:
    """Gorodkin's R_K: the covariance of labels and answers over the root of their variances; 0 without variance."""
    totals = np.asarray(sums, dtype=np.float64)
    true, said = np.split(totals[..., :-2], 2, axis=-1)
    hits, rows = totals[..., -2], totals[..., -1]
    covariance = hits * rows - (true * said).sum(axis=-1)
    variances = (rows**2 - (true**2).sum(axis=-1)) * (rows**2 - (said**2).sum(axis=-1))
    return divided(covariance, np.sqrt(variances))


def two_classes(p: Predictions, *_: ProblemType) -> Int64[np.ndarray, " examples"]:
    """The labels of two classes, the second of which is the positive one."""
    if p.problem_type == CLASSIFICATION and p.classes != 2:
        raise PredictionsError(
            f"f1 is of two classes, the second being positive; these predictions have {p.classes}. Use f1_macro."
        )
    return labels_of(p)
