"""Intervals hold the truth as often as they say: simulated, where a bootstrap's do not."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.stats

from hf_soups.metrics import METRICS, expected_calibration_error, score
from hf_soups.metrics.closed_intervals import wilson_interval
from hf_soups.predictions import Predictions

TRIALS = 400
LEAST = 0.95 - 3 * np.sqrt(0.95 * 0.05 / TRIALS)  # three standard errors of a share of trials


def high(rng: np.random.Generator, rows: int) -> np.ndarray:
    return 0.5 + 0.5 * rng.beta(4, 1, size=rows)


def even(rng: np.random.Generator, rows: int) -> np.ndarray:
    return rng.uniform(0.5, 1, size=rows)


def near_1(rng: np.random.Generator, rows: int) -> np.ndarray:
    return 1 - 0.5 * rng.beta(0.5, 10, size=rows)


Confidences = Callable[[np.random.Generator, int], np.ndarray]
Right = Callable[[np.ndarray], np.ndarray]
MODELS: dict[str, tuple[Confidences, Right]] = {
    "calibrated, confidences high": (high, lambda c: c),
    "calibrated, confidences even": (even, lambda c: c),
    "calibrated, confidences near 1": (near_1, lambda c: c),
    "3 points too sure": (high, lambda c: c - 0.03),
    "10 points too sure": (high, lambda c: c - 0.1),
    "now too sure, now too little": (even, lambda c: np.clip(c + 0.08 * np.sin(12 * c), 0, 1)),
    "wrong in one bin alone": (even, lambda c: c - 0.25 * ((c > 0.8) & (c < 13 / 15))),
}


def drawn(model: str, rows: int, rng: np.random.Generator) -> Predictions:
    """Rows of two classes, answered with the first."""
    confidences, right = MODELS[model]
    c = confidences(rng, rows)
    return Predictions.from_probs(np.stack([c, 1 - c], axis=1), labels=(rng.random(rows) >= right(c)).astype(np.int64))


def true_error(model: str) -> float:
    """Over the same bins on very many rows, without the chance of hits."""
    confidences, right = MODELS[model]
    c = confidences(np.random.default_rng(7), 400_000)
    bins = np.searchsorted(np.arange(1, 15) / 15, c, side="left")
    return float(np.abs(np.bincount(bins, c - right(c), 15)).sum() / len(c))


@pytest.mark.parametrize("rows", [50, 300, 1000])
@pytest.mark.parametrize("model", MODELS)
def test_the_interval_of_the_calibration_error_holds_the_true_one(model: str, rows: int) -> None:
    rng, truth = np.random.default_rng(rows), true_error(model)
    scores = [score(drawn(model, rows, rng), "ece") for _ in range(TRIALS)]
    inside = sum(s.low - 1e-9 <= truth <= s.high for s in scores) / TRIALS
    assert inside >= LEAST
    assert all(s.low <= s.value <= s.high for s in scores)


@pytest.mark.parametrize("model", MODELS)
def test_the_calibration_error_is_nearer_the_true_one_than_the_sum_of_gaps_seen(model: str) -> None:
    rng, truth = np.random.default_rng(3), true_error(model)
    rows = [drawn(model, 300, rng) for _ in range(TRIALS)]
    debiased, plain = (
        np.mean([expected_calibration_error(p, debiased=way) for p in rows]) - truth for way in (True, False)
    )
    assert abs(debiased) < 0.75 * plain
    assert METRICS["ece"].compute(rows[0]) == expected_calibration_error(rows[0])


def test_the_calibration_interval_narrows_with_the_rows_and_widens_with_the_confidence() -> None:
    rng = np.random.default_rng(0)
    few, many = (score(drawn("10 points too sure", rows, rng), "ece") for rows in (300, 30_000))
    assert many.high - many.low < 0.2 * (few.high - few.low)
    assert many.low > 0.08
    p = drawn("3 points too sure", 300, rng)
    wide, narrow = score(p, "ece", confidence=0.99), score(p, "ece", confidence=0.8)
    assert wide.low <= narrow.low <= narrow.value <= narrow.high < wide.high


@pytest.mark.parametrize(("hits", "rows"), [(0, 5), (5, 5), (1, 3), (2, 300), (297, 300), (10, 40)])
def test_wilsons_interval_is_scipys(hits: int, rows: int) -> None:
    for confidence in (0.8, 0.95):
        ends = scipy.stats.binomtest(hits, rows).proportion_ci(confidence, method="wilson")
        assert wilson_interval(hits, rows, confidence) == pytest.approx((ends.low, ends.high), abs=1e-12)


def of_accuracy(hits: int, rows: int) -> Predictions:
    return Predictions.from_probs([[0.9, 0.1]] * rows, labels=[0] * hits + [1] * (rows - hits))


@pytest.mark.parametrize(("share", "rows"), [(0.99, 100), (0.995, 300), (0.02, 200), (0.7, 20), (0.9, 10)])
def test_accuracys_interval_holds_the_truth_near_the_ends_and_on_few_rows(share: float, rows: int) -> None:
    """Of a bootstrap 0.63, 0.77, 0.90, 0.94 and 0.65 of samples did."""
    inside = 0.0
    for hits in range(rows + 1):
        found = score(of_accuracy(hits, rows), "accuracy", resamples=200)
        inside += scipy.stats.binom.pmf(hits, rows, share) * (found.low <= share <= found.high)
    assert inside >= 0.92


def test_accuracys_interval_is_the_bootstraps_where_that_covers() -> None:
    hits, rows = 85, 100
    found = score(of_accuracy(hits, rows), "accuracy")
    assert (found.low, found.high) != pytest.approx(wilson_interval(hits, rows, 0.95), abs=1e-3)
    assert score(of_accuracy(95, rows), "accuracy").low == pytest.approx(wilson_interval(95, rows, 0.95)[0])
