"""Further metrics: averages of F1, balanced accuracy, rankings (ROC AUC, average precision), and of regressions."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.metrics.rows import Statistics, Sums, Values, divided, labels_of, marks_of, numbers_of, one_hot
from hf_soups.predictions import Predictions


def _f1(labels: ArrayLike, answers: ArrayLike, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, average=average, zero_division=0))


SAME = 1e-14  # a variance that is less of the mean square is rounding


def f1_micro(labels: ArrayLike, answers: ArrayLike) -> float:
    """F1 of all classes or labels counted together."""
    return _f1(labels, answers, "micro")


def f1_weighted(labels: ArrayLike, answers: ArrayLike) -> float:
    """Mean of the F1 of each class or label, weighted by the rows that have it."""
    return _f1(labels, answers, "weighted")


def f1_micro_rows(p: Predictions) -> Statistics:
    """True positives, true + predicted, of all classes together."""
    true, said = marks_of(p)
    return np.stack([(true & said).sum(axis=1), (true + said).sum(axis=1)], axis=1).astype(np.int64)


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
    from sklearn.metrics import balanced_accuracy_score

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="y_pred contains classes not in y_true")  # they count as wrong
        return float(balanced_accuracy_score(labels, answers))


def balanced_accuracy_rows(p: Predictions) -> Statistics:
    """Of each class, true positives; then true."""
    true, said = one_hot(labels_of(p), p.classes), one_hot(p.answers, p.classes)
    return np.concatenate([true & said, true], axis=1)


def balanced_accuracy_value(sums: Sums) -> Values:
    """From the sums of `balanced_accuracy_rows`."""
    both, true = np.split(sums, 2, axis=-1)
    return divided(divided(both, true).sum(axis=-1), (true > 0).sum(axis=-1))


def roc_auc(p: Predictions) -> float:
    """Area under the ROC curve in [0, 1]: of the second of two classes, else the mean over classes or labels.

    As scikit-learn's `roc_auc_score` (one class against the rest, macro average). A class or label that no row has, or
    that every row has, is left out of the mean; NaN where that are all.

    >>> p = Predictions.from_probs([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], labels=[0, 1, 0])
    >>> roc_auc(p)
    0.5
    """
    from sklearn.metrics import roc_auc_score

    return _mean_of_columns(p, roc_auc_score)


def average_precision(p: Predictions) -> float:
    """Average precision in [0, 1]: of the second of two classes, else the mean over classes or labels (mAP).

    As scikit-learn's `average_precision_score` (macro average), but a class or label that no row has, or that every
    row has, is left out of the mean; NaN where that are all.

    >>> p = Predictions.from_probs([[0.9, 0.1], [0.4, 0.6], [0.3, 0.7]], labels=[0, 1, 0])
    >>> average_precision(p)
    0.5
    """
    from sklearn.metrics import average_precision_score

    return _mean_of_columns(p, average_precision_score)


def _mean_of_columns(p: Predictions, of_column: Callable[..., float]) -> float:
    marks, scores = marks_of(p)[0], p.probs
    if p.problem_type == CLASSIFICATION and p.classes == 2:
        marks, scores = marks[:, 1:], scores[:, 1:]
    both = np.flatnonzero(marks.any(axis=0) & ~marks.all(axis=0))
    return float(np.mean([of_column(marks[:, i], scores[:, i]) for i in both])) if len(both) else math.nan


def pearson(p: Predictions) -> float:
    """Pearson's correlation of answers and labels in [-1, 1]; 0 where either never varies.

    >>> p = Predictions.from_logits([1.0, 2.0, 4.0], labels=[2.0, 4.0, 8.0], problem_type="regression")
    >>> round(pearson(p), 6)
    1.0
    """
    from scipy.stats import pearsonr

    return _correlation(p, pearsonr)


def spearman(p: Predictions) -> float:
    """Spearman's rank correlation of answers and labels in [-1, 1]; 0 where either never varies."""
    from scipy.stats import spearmanr

    return _correlation(p, spearmanr)


def _correlation(p: Predictions, of_two: Callable[..., Any]) -> float:
    labels, answers = numbers_of(p), p.answers
    if len(labels) < 2 or np.ptp(labels) == 0 or np.ptp(answers) == 0:
        return 0.0
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="An input array is nearly constant")
        return float(of_two(labels, answers).statistic)


def pearson_rows(p: Predictions) -> Statistics:
    """Label, answer, their squares and their product, one."""
    x, y = numbers_of(p), p.answers
    return np.stack([x, y, x * x, y * y, x * y, np.ones(len(p))], axis=1)


def pearson_value(sums: Sums) -> Values:
    """From the sums of `pearson_rows`; 0 where either never varies, up to rounding."""
    x, y, xx, yy, xy, rows = (sums[..., i] for i in range(6))
    covariance, variances = rows * xy - x * y, (rows * xx - x * x, rows * yy - y * y)
    varies = (variances[0] > SAME * rows * xx) & (variances[1] > SAME * rows * yy)
    return divided(np.where(varies, covariance, 0.0), np.sqrt(np.abs(variances[0] * variances[1])))


def pearson_spearman(p: Predictions) -> float:
    """The mean of Pearson's and Spearman's correlation, as GLUE scores STS-B."""
    return (pearson(p) + spearman(p)) / 2


def rmse(p: Predictions) -> float:
    """The root of the mean squared error, in the labels' unit.

    >>> rmse(Predictions.from_logits([[1.0], [2.0]], labels=[4.0, -2.0], problem_type="regression")).__round__(4)
    3.5355
    """
    from sklearn.metrics import root_mean_squared_error

    return float(root_mean_squared_error(numbers_of(p), p.answers))


def rmse_rows(p: Predictions) -> Statistics:
    """Squared error, one."""
    return np.stack([np.square(numbers_of(p) - p.answers), np.ones(len(p))], axis=1)


def rmse_value(sums: Sums) -> Values:
    """From the sums of `rmse_rows`."""
    return np.asarray(np.sqrt(divided(sums[..., 0], sums[..., 1])))
