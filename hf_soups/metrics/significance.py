"""Significance: whether two answerers differ on the same rows by more than chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics.bootstrap import percentile_interval
from hf_soups.metrics.metric import METRICS, Metric, resampled_values
from hf_soups.predictions import Predictions


@dataclass(frozen=True, slots=True)
class McNemar:
    """Rows that only one of two answerers got right, and how surprising their numbers are."""

    only_a: int
    only_b: int
    p_value: float  # two-sided, exact


@dataclass(frozen=True, slots=True)
class PairedDifference:
    """A metric of A less that of B on the same rows, in the metric's own units and sign."""

    difference: float
    low: float  # of the percentile interval
    high: float
    p_value: float  # two-sided


def mcnemar(a: Predictions, b: Predictions) -> McNemar:
    """McNemar's exact test: of the rows that one got right and the other wrong, is it as often A as B?

    Under the null hypothesis each such row is a fair coin's throw; the p-value is the chance of a split at least as
    uneven. Rows that both got right, or both wrong, say nothing.

    Args:
        a: labelled predictions.
        b: labelled predictions of the same rows, in any order.
    Returns:
        Counts of rows, and the two-sided p-value in (0, 1]; 1 where the two never differ.
    Raises:
        PredictionsError: if there are no labels, or the rows are not the same.
    Source: McNemar 1947, Note on the sampling error of the difference between correlated proportions; in its exact
        form, the binomial test.

    >>> a = Predictions.from_probs([[1, 0], [1, 0], [0, 1]], labels=[0, 0, 0])
    >>> b = Predictions.from_probs([[0, 1], [1, 0], [0, 1]], labels=[0, 0, 0])
    >>> mcnemar(a, b)
    McNemar(only_a=1, only_b=0, p_value=1.0)
    """
    from scipy.stats import binomtest

    first, second = _same_rows(a, b)
    labels = first.needs_labels()
    right_a, right_b = first.answers == labels, second.answers == labels
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if not only_a + only_b:
        return McNemar(0, 0, 1.0)
    return McNemar(only_a, only_b, float(binomtest(only_a, only_a + only_b, 0.5).pvalue))


def paired_bootstrap(
    a: Predictions,
    b: Predictions,
    metric: Metric | str,
    *,
    resamples: int = 10_000,
    seed: int = 0,
    confidence: float = 0.95,
) -> PairedDifference:
    """The difference of a metric between two answerers, with its interval over resampled rows, the same for both.

    The p-value is twice the smaller share of resamples in which the difference is at most, or at least, 0, each count
    raised by one as is usual, and 1 at most: small where the interval of any usual width leaves 0 out.

    Args:
        a: labelled predictions.
        b: labelled predictions of the same rows, in any order.
        metric: a metric, or the name of one in `METRICS`.
        resamples: of the rows; metrics by `evaluate` take at most 200, since each is computed anew.
        seed: of the resamples.
        confidence: the share of resamples inside the interval, in (0, 1).
    Raises:
        PredictionsError: if there are no rows or labels, or the rows are not the same.
        InputError: for an unknown metric, no resamples, or a confidence out of range.
    Source: Efron and Tibshirani 1993, An introduction to the bootstrap, chapters 13 and 15.
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(
            f"confidence is {confidence}, resamples {resamples}; expected a share in (0, 1), and 1 or more."
        )
    if isinstance(metric, str) and metric not in METRICS:
        raise InputError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}.")
    known = METRICS[metric] if isinstance(metric, str) else metric
    first, second = _same_rows(a, b)
    values = np.subtract(*(resampled_values(p, known, resamples, seed) for p in (first, second)))
    more, less = int((values >= 0).sum()), int((values <= 0).sum())
    p_value = min(1.0, 2 * (min(more, less) + 1) / (len(values) + 1))
    difference = known.compute(first) - known.compute(second)
    return PairedDifference(difference, *percentile_interval(values, confidence), p_value)


def _same_rows(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    for p in (a, b):
        if not len(p.needs_labels()):
            raise PredictionsError(f"the predictions {p.model or ''} hold no rows, so there is nothing to compare.")
    return a, b.aligned_to(a)
