"""Significance: whether two answerers differ on the same rows by more than chance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics.bootstrap import percentile_interval, resampled_sums
from hf_soups.metrics.metric import Metric, metric_named, resampled_values
from hf_soups.predictions import Predictions

LEAST = 10  # rows that are expected of each sample in a group; smaller groups are counted together
DIGITS = 12  # differences are rounded to: the last bits of two equal scores depend on the order of their sums


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
    from scipy.special import betainc

    first, second = _same_rows(a, b)
    right_a, right_b = first.hits, replace(second, labels=first.needs_labels()).hits
    only_a, only_b = int((right_a & ~right_b).sum()), int((right_b & ~right_a).sum())
    if not only_a + only_b:
        return McNemar(0, 0, 1.0)
    few, many = sorted((only_a, only_b))
    return McNemar(only_a, only_b, min(1.0, 2 * float(betainc(many, few + 1, 0.5))))  # twice a binomial's tail


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

    The p-value turns the interval round: with b resamples, of which l have a difference <= 0 and m one >= 0, it is
    min(1, 2 (min(l, m) + 1) / (b + 1)), so never 0. Resamples without a difference count on both sides, and so do those
    in which the metric is NaN. It is about 1 less the confidence of the widest interval that leaves 0 out.

    Args:
        a: labelled predictions.
        b: labelled predictions of the same rows, in any order.
        metric: a metric, or the name of one in `METRICS`.
        resamples: of the rows; metrics by `evaluate` take at most 200, since each is computed anew.
        seed: of the resamples; a seed draws the same rows as `score` does.
        confidence: the share of resamples inside the interval, in (0, 1).
    Returns:
        The difference and the ends of its interval in the metric's own units: [0, 0] and p-value 1 for the same answers
        twice; swapping a and b turns the signs.
    Raises:
        PredictionsError: if there are no rows or labels, or the rows are not the same.
        InputError: for an unknown metric, no resamples, or a confidence out of range.
    Source: Efron and Tibshirani 1993, An introduction to the bootstrap: percentile intervals in chapter 13, achieved
        significance levels in chapters 15 and 16.

    >>> a = Predictions.from_probs([[0.9, 0.1], [0.8, 0.2]], labels=[0, 0])
    >>> b = Predictions.from_probs([[0.1, 0.9], [0.2, 0.8]], labels=[0, 0])
    >>> paired_bootstrap(a, b, "accuracy", resamples=99)
    PairedDifference(difference=1.0, low=1.0, high=1.0, p_value=0.02)
    """
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(
            f"confidence is {confidence}, resamples {resamples}; expected a share in (0, 1), and 1 or more."
        )
    known = metric_named(metric)
    first, second = _same_rows(a, b)
    values = np.round(_differences(first, second, known, resamples, seed), DIGITS)
    # said by what they are not, so that NaN counts on both sides
    at_most_0, at_least_0 = int((~(values > 0)).sum()), int((~(values < 0)).sum())
    p_value = min(1.0, 2 * (min(at_most_0, at_least_0) + 1) / (len(values) + 1))
    difference = known.compute(first) - known.compute(second)
    return PairedDifference(difference, *percentile_interval(values, confidence), p_value)


def _differences(
    a: Predictions, b: Predictions, metric: Metric, resamples: int, seed: int
) -> Float64[np.ndarray, " resamples"]:
    """The metric of a less that of b on each resample of their common rows."""
    if metric.row_statistics is None or metric.value is None:
        mine, theirs = (resampled_values(p, metric, resamples, seed) for p in (a, b))
        return np.asarray(mine - theirs)
    # side by side: drawing the rows takes most of the time, and is done once
    mine, theirs = metric.row_statistics(a), metric.row_statistics(b)
    sums = resampled_sums(np.concatenate([mine, theirs], axis=1), resamples, seed)
    columns = mine.shape[1]
    return np.asarray(metric.value(sums[:, :columns]) - metric.value(sums[:, columns:]))


def _same_rows(a: Predictions, b: Predictions) -> tuple[Predictions, Predictions]:
    for p in (a, b):
        if not len(p.needs_labels()):
            raise PredictionsError(f"the predictions {p.model or ''} hold no rows, so there is nothing to compare.")
    return a, b.aligned_to(a)


def shares_p_value(
    one: Sequence[int] | np.ndarray, other: Sequence[int] | np.ndarray, *, ordered: bool = True
) -> float:
    """The probability that two samples of one population differ as much, by chi-squared.

    Args:
        one: rows of each group.
        other: of the other sample, of the same groups.
        ordered: small groups are counted with their neighbours, else all of them together.

    >>> shares_p_value([500, 500], [50, 50])
    1.0
    >>> shares_p_value([600, 400], [500, 500]) < 1e-4
    True
    """
    from scipy.special import chdtrc

    counts = np.stack([np.asarray(sample, dtype=np.float64) for sample in (one, other)])
    if not ordered:
        counts = counts[:, np.argsort(counts.sum(axis=0), kind="stable")]
    counts = _merged(counts)
    if counts.shape[1] < 2:
        return 1.0
    expected = counts.sum(axis=1, keepdims=True) * counts.sum(axis=0) / counts.sum()
    return float(chdtrc(counts.shape[1] - 1, float(((counts - expected) ** 2 / expected).sum())))


def _merged(counts: Float64[np.ndarray, "two groups"]) -> Float64[np.ndarray, "two merged"]:
    """Neighbouring groups put together until each is expected to have `LEAST` rows in the smaller sample."""
    share = counts.sum(axis=1).min() / counts.sum()
    merged: list[np.ndarray] = []
    for group in counts.T:
        if merged and min(merged[-1].sum(), group.sum()) * share < LEAST:
            merged[-1] = merged[-1] + group
        else:
            merged.append(group)
    return np.stack(merged, axis=1)
