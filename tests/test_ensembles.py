"""Ensembles of predictions, against direct sums in float64."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.ensembles import ensemble, geometric_mean, mean, mean_logits
from hf_soups.errors import PredictionsError
from hf_soups.predictions import Predictions

ROUNDING = 2e-7  # float32 probabilities near 1: half a unit in the last place is 6e-8, and there are a few roundings


def members(seed: int, count: int = 3, rows: int = 7, classes: int = 4) -> tuple[list[np.ndarray], list[Predictions]]:
    random = np.random.default_rng(seed)
    logits = [random.normal(0, 3, (rows, classes)) for _ in range(count)]
    labels = random.integers(0, classes, rows)
    ids = random.permutation(100)[:rows]
    made = [
        Predictions.from_logits(z, labels=labels, row_ids=ids, data="d", model=f"m{i}") for i, z in enumerate(logits)
    ]
    return logits, made


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_mean_is_the_mean_of_probabilities(seed: int, count: int) -> None:
    logits, made = members(seed, count)
    np.testing.assert_allclose(mean(made).probs, np.mean([softmax(z) for z in logits], axis=0), atol=ROUNDING)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_geometric_mean_is_the_softmax_of_the_mean_logits(seed: int, count: int) -> None:
    logits, made = members(seed, count)
    # log-probabilities of up to about -30 are stored with a spacing of 2e-6
    np.testing.assert_allclose(geometric_mean(made).probs, softmax(np.mean(logits, axis=0)), atol=3e-6)
    assert mean_logits is geometric_mean


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric"]))
def test_rows_in_another_order_are_joined_by_their_ids(seed: int, combine: str) -> None:
    _, made = members(seed)
    shuffled = [p.take(np.random.default_rng(seed + i).permutation(len(p))) for i, p in enumerate(made)]
    straight, joined = ensemble(made, combine), ensemble([made[0], *shuffled[1:]], combine)
    np.testing.assert_array_equal(joined.log_probs, straight.log_probs)
    np.testing.assert_array_equal(joined.row_ids, made[0].row_ids)
    np.testing.assert_array_equal(joined.labels, made[0].labels)


def test_an_ensemble_of_one_answers_as_its_member() -> None:
    _, (only,) = members(0, count=1)
    np.testing.assert_allclose(mean([only]).log_probs, only.log_probs, atol=1e-5)
    np.testing.assert_allclose(geometric_mean([only]).log_probs, only.log_probs, atol=1e-5)


def test_an_ensemble_says_what_it_is_of_and_keeps_the_data() -> None:
    _, made = members(0, count=2)
    assert mean(made).model == "mean of m0, m1"
    assert mean(made).data == "d"


def test_other_rows_are_refused() -> None:
    _, made = members(0, count=2)
    with pytest.raises(PredictionsError, match="do not hold the same rows: 1 missing"):
        mean([made[0], made[1].take(np.arange(6))])


def test_no_member_and_an_unknown_combination_are_refused() -> None:
    with pytest.raises(PredictionsError, match="at least one member"):
        mean([])
    with pytest.raises(PredictionsError, match="cannot combine by 'vote'; expected 'mean' or 'geometric'"):
        ensemble(members(0)[1], "vote")
