"""Metrics of a regression: correlations and the root of the mean squared error."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from hf_soups.metrics.labelled import Statistics, Sums, Values, divided, numbers_of
from hf_soups.predictions import Predictions

SAME = 1e-14  # a variance that is less of the mean square is rounding


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
    return math.sqrt(np.average(np.square(numbers_of(p) - p.answers)))


def rmse_rows(p: Predictions) -> Statistics:
    """Squared error, one."""
    return np.stack([np.square(numbers_of(p) - p.answers), np.ones(len(p))], axis=1)


def rmse_value(sums: Sums) -> Values:
    """From the sums of `rmse_rows`."""
    return np.asarray(np.sqrt(divided(sums[..., 0], sums[..., 1])))
