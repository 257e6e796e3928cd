"""Metrics of probabilities: losses, calibration, and rankings (ROC AUC, average precision)."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from jaxtyping import Float64

from hf_soups.errors import InputError
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.metrics.closed_intervals import calibration_interval, calibration_rows, debiased_value
from hf_soups.metrics.labelled import Statistics, by_decision, by_row, labels_of, marks_of, probabilities_of
from hf_soups.predictions import Predictions

CLIP = float(np.finfo(np.float64).eps)  # scikit-learn's log_loss: no probability below it, at most 36.04 nats a row
ECE_BINS = 15


def negative_log_likelihood(p: Predictions) -> float:
    """Mean negative log-probability of the true label, in nats, as scikit-learn's `log_loss` has it.

    Probabilities below 2.2e-16 count as 2.2e-16, so one row adds at most 36.04 nats. Of a multi-label problem the mean
    is over every label of every row.

    >>> round(negative_log_likelihood(Predictions.from_probs([[0.5, 0.5], [0.25, 0.75]], labels=[0, 1])), 4)
    0.4904
    """
    return float(np.average(_lost_nats(by_decision(p))))


def nll_rows(p: Predictions) -> Statistics:
    """Lost nats, one."""
    lost = _lost_nats(by_decision(p))
    return by_row(np.stack([lost, np.ones(len(lost))], axis=1), len(p))


def _lost_nats(p: Predictions) -> Float64[np.ndarray, " examples"]:
    of_label = probabilities_of(p)[np.arange(len(p)), labels_of(p)]
    return np.asarray(-np.log(np.clip(of_label, CLIP, 1 - CLIP if p.classes > 1 else 1)))  # of one class 0


def brier(p: Predictions) -> float:
    """Brier score in [0, 2]: the mean over rows of the sum over all classes of the squared error.

    This is Brier's own definition; for two classes it is twice what is computed from the second class alone. Of a
    multi-label problem each label of each row counts as a row of two classes.

    Source: Brier 1950, Verification of forecasts expressed in terms of probability.

    >>> round(brier(Predictions.from_probs([[0.75, 0.25]], labels=[0])), 6)
    0.125
    """
    return float(np.average(_squared_errors(by_decision(p)), axis=0).sum())


def brier_rows(p: Predictions) -> Statistics:
    """Squared errors, one."""
    errors = _squared_errors(by_decision(p)).sum(axis=1)
    return by_row(np.stack([errors, np.ones(len(errors))], axis=1), len(p))


def _squared_errors(p: Predictions) -> Float64[np.ndarray, "examples classes"]:
    errors = probabilities_of(p)
    errors[np.arange(len(p)), labels_of(p)] -= 1
    return np.asarray(np.square(errors))


def expected_calibration_error(p: Predictions, *, bins: int = ECE_BINS, debiased: bool = True) -> float:
    """Expected calibration error of the top label, in [0, 1].

    Args:
        p: labelled predictions; the confidence is the probability of the most probable class.
        bins: equal-width confidence bins over (0, 1], each open below and closed above.
        debiased: take off what chance adds on few rows: the plain error of a calibrated model is above 0.
            Without it, it is the sum of the gaps as they are seen, as most papers have it.
    Raises:
        ValueError: if `bins` < 1, or `p` holds no labels or no rows.
    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3; debiased: Kumar et al. 2019, arXiv:1909.10155.

    >>> expected_calibration_error(Predictions.from_probs([[0.75, 0.25]], labels=[0]))
    0.25
    """
    if bins < 1:
        raise InputError(f"{bins} bins; the calibration error needs at least 1.")
    labels_of(p)
    sums = calibration_rows(p, bins).sum(axis=0)
    return float(debiased_value(sums) if debiased else np.abs(sums[:bins]).sum() / len(p))


def ece_rows(p: Predictions) -> Statistics:
    """See `calibration_rows`."""
    labels_of(p)
    return calibration_rows(p, ECE_BINS)


def ece_interval(p: Predictions, confidence: float) -> tuple[float, float]:
    """See `calibration_interval`."""
    return calibration_interval(p, ECE_BINS, confidence)


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
