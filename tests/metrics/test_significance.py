"""McNemar's test and the paired bootstrap against counts made by hand and against simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS, mcnemar, paired_bootstrap
from hf_soups.metrics.bootstrap import resampled_rows
from hf_soups.metrics.metric import Metric
from hf_soups.predictions import Predictions


def answering(right: np.ndarray, ids: np.ndarray | None = None) -> Predictions:
    """Predictions of two classes that are right where `right` says so; every label is 0."""
    probs = np.where(np.asarray(right, dtype=bool)[:, None], [0.9, 0.1], [0.1, 0.9])
    return Predictions.from_probs(probs, labels=np.zeros(len(probs), dtype=int), row_ids=ids)


def table(both: int, only_a: int, only_b: int, neither: int) -> tuple[Predictions, Predictions]:
    a = [1] * both + [1] * only_a + [0] * only_b + [0] * neither
    b = [1] * both + [0] * only_a + [1] * only_b + [0] * neither
    return answering(np.array(a)), answering(np.array(b))


def exact(only_a: int, only_b: int) -> float:
    """Every outcome of so many coins, and the share of those as uneven."""
    n, k = only_a + only_b, min(only_a, only_b)
    return min(1.0, 2 * sum(math.comb(n, i) for i in range(k + 1)) / 2**n)


@pytest.mark.parametrize(("only_a", "only_b"), [(0, 0), (1, 0), (5, 0), (3, 9), (10, 10), (40, 21)])
def test_mcnemar_is_the_exact_binomial_test(only_a: int, only_b: int) -> None:
    a, b = table(30, only_a, only_b, 7)
    got = mcnemar(a, b)
    assert (got.only_a, got.only_b) == (only_a, only_b)
    assert got.p_value == pytest.approx(exact(only_a, only_b), rel=1e-9)


def test_mcnemar_on_many_rows_comes_close_to_the_normal_approximation() -> None:
    # with continuity correction, z = (|560 - 440| - 1) / sqrt(1000); Berry-Esseen leaves far less than 10% at 3.8 sigma
    expected = math.erfc((120 - 1) / math.sqrt(1000) / math.sqrt(2))
    assert mcnemar(*table(0, 560, 440, 0)).p_value == pytest.approx(expected, rel=0.1)


def test_mcnemar_does_not_care_who_comes_first() -> None:
    a, b = table(5, 3, 9, 2)
    there, back = mcnemar(a, b), mcnemar(b, a)
    assert (there.only_a, there.only_b, there.p_value) == (back.only_b, back.only_a, back.p_value)


def test_rows_that_both_got_right_or_wrong_do_not_count() -> None:
    assert mcnemar(*table(0, 4, 9, 0)).p_value == mcnemar(*table(500, 4, 9, 300)).p_value


def test_rows_are_joined_by_their_ids() -> None:
    ids, right = np.arange(6), np.array([1, 0, 1, 1, 0, 0])
    order = np.array([3, 1, 0, 5, 4, 2])
    a, shuffled = answering(right, ids), answering(right[order], ids[order])
    assert mcnemar(a, shuffled).p_value == 1
    assert paired_bootstrap(a, shuffled, "accuracy", resamples=50).difference == 0


def test_the_same_answers_differ_by_nothing() -> None:
    a, b = table(10, 0, 0, 5)
    got = paired_bootstrap(a, b, "nll", resamples=200)
    assert (got.difference, got.low, got.high, got.p_value) == (0, 0, 0, 1)


@pytest.mark.parametrize("metric", ["accuracy", "nll", "matthews", "f1_macro"])
def test_swapping_the_two_turns_the_sign(metric: str) -> None:
    random = np.random.default_rng(0)
    probs = random.dirichlet((1, 1), size=(2, 80))
    a, b = (Predictions.from_probs(p, labels=np.arange(80) % 2) for p in probs)
    there, back = (paired_bootstrap(x, y, metric, resamples=400) for x, y in ((a, b), (b, a)))
    assert there.difference == pytest.approx(-back.difference)
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    assert there.p_value == back.p_value
    assert there.difference == pytest.approx(METRICS[metric].compute(a) - METRICS[metric].compute(b))


def test_the_interval_is_that_of_resampled_differences() -> None:
    a, b = table(20, 9, 2, 9)
    got = paired_bootstrap(a, b, "accuracy", resamples=4000, seed=3)
    differences = (a.answers == 0).astype(int) - (b.answers == 0).astype(int)
    drawn = np.random.default_rng(11).choice(differences, size=(20_000, len(differences))).mean(axis=1)
    low, high = np.quantile(drawn, [0.025, 0.975])
    # quantiles of 4,000 draws of a mean of 40 rows: one step is 1/40, and they may fall a step apart
    assert got.low == pytest.approx(low, abs=1 / 40 + 1e-9)
    assert got.high == pytest.approx(high, abs=1 / 40 + 1e-9)
    below = 2 * (drawn <= 0).mean()
    assert got.p_value == pytest.approx(below, abs=4 * math.sqrt(below / 4000) + 2 / 4000)


def test_under_the_null_few_p_values_are_small() -> None:
    random, small, trials = np.random.default_rng(5), 0, 100
    for trial in range(trials):
        right = random.random((2, 100)) < 0.7
        small += (
            paired_bootstrap(answering(right[0]), answering(right[1]), "accuracy", resamples=400, seed=trial).p_value
            < 0.05
        )
    # 5% of 100 trials is 5, one standard deviation 2.2; the bootstrap is a little too bold on 100 rows
    assert small <= 5 + 4 * 2.2


def test_intervals_hold_the_true_difference_about_as_often_as_they_say() -> None:
    random, trials, held = np.random.default_rng(6), 100, 0
    for trial in range(trials):
        both = random.random(150)
        a, b = (answering(both < share) for share in (0.8, 0.7))  # every row that b gets right, a gets right too
        got = paired_bootstrap(a, b, "accuracy", resamples=400, seed=trial)
        held += got.low - 1e-12 <= 0.1 <= got.high + 1e-12
    # 95% of 100 trials are 95, with a standard deviation of 2.2; percentile intervals of 150 rows are a little short
    assert held >= 95 - 0.04 * trials - 4 * 2.2


def test_both_are_scored_on_the_same_resampled_rows() -> None:
    """By the slow way, row by row: the metric itself on the rows that each resample drew."""
    random, labels = np.random.default_rng(2), np.arange(60) % 2
    a, b = (Predictions.from_probs(random.dirichlet((1, 1), size=60), labels=labels) for _ in range(2))
    for name in ("matthews", "nll"):
        drawn = resampled_rows(60, 50, seed=4)
        slow = [METRICS[name].compute(renumbered(a, at)) - METRICS[name].compute(renumbered(b, at)) for at in drawn]
        got = paired_bootstrap(a, b, name, resamples=50, seed=4)
        assert (got.low, got.high) == pytest.approx(tuple(np.quantile(slow, [0.025, 0.975])), abs=1e-9)
        tails = min(sum(value <= 0 for value in slow), sum(value >= 0 for value in slow))
        assert got.p_value == pytest.approx(min(1, 2 * (tails + 1) / 51))


def renumbered(p: Predictions, rows: np.ndarray) -> Predictions:
    return Predictions(p.log_probs[rows], np.arange(len(rows)), p.needs_labels()[rows])


def test_scores_that_differ_in_their_last_bits_only_count_as_equal() -> None:
    plain = METRICS["nll"]
    shaken = iter(np.random.default_rng(0).normal(scale=1e-15, size=1000))
    metric = Metric("shaken", -1, lambda p: plain.compute(p) + float(next(shaken)))
    a, _ = table(10, 3, 3, 4)
    got = paired_bootstrap(a, a, metric, resamples=100)
    assert (got.low, got.high, got.p_value) == (0, 0, 1)


def test_a_metric_that_is_not_a_number_proves_nothing() -> None:
    a, b = table(20, 9, 0, 9)
    nan = Metric("nan", 1, lambda p: math.nan)
    got = paired_bootstrap(a, b, nan, resamples=100)
    assert got.p_value == 1
    assert math.isnan(got.low)


def test_a_metric_without_row_statistics_is_computed_anew() -> None:
    plain = Metric("mine", 1, METRICS["accuracy"].compute)
    a, b = table(20, 9, 2, 9)
    quick = paired_bootstrap(a, b, "accuracy", resamples=200)
    slow = paired_bootstrap(a, b, plain, resamples=10_000)
    assert (slow.low, slow.high, slow.p_value) == pytest.approx((quick.low, quick.high, quick.p_value))


def test_what_cannot_be_compared_is_refused() -> None:
    a, b = table(3, 1, 1, 1)
    with pytest.raises(PredictionsError, match="hold no labels"):
        mcnemar(a, Predictions.from_probs(b.probs))
    with pytest.raises(PredictionsError, match="hold no labels"):
        paired_bootstrap(Predictions.from_probs(a.probs), b, "accuracy")
    with pytest.raises(PredictionsError, match="same rows"):
        mcnemar(a, answering(np.ones(len(a)), np.arange(len(a)) + 100))
    with pytest.raises(InputError, match=r"confidence is 1\.0"):
        paired_bootstrap(a, b, "accuracy", confidence=1.0)
    empty = Predictions.from_probs(np.empty((0, 2)), labels=np.empty(0, dtype=int))
    with pytest.raises(PredictionsError, match="no rows"):
        paired_bootstrap(empty, empty, "accuracy")
    with pytest.raises(InputError, match="unknown metric 'best'"):
        paired_bootstrap(a, b, "best")
    with pytest.raises(InputError, match="resamples 0"):
        paired_bootstrap(a, b, "accuracy", resamples=0)
