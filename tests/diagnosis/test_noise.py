"""What differs by chance, against the formulas of sampling."""

from __future__ import annotations

import math

import numpy as np
import pytest

from hf_soups.diagnosis.measure import difference_by_chance, ensemble_by_chance, score_of_shares
from hf_soups.ensembles import mean_logits
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions

ROWS = 2000
LABELS = np.random.default_rng(0).integers(2, size=ROWS)


def coins(right: float, seed: int) -> Predictions:
    """Answers that are right on a random share of the rows, all equally sure."""
    hit = np.random.default_rng(seed).uniform(size=ROWS) < right
    answer = np.where(hit, LABELS, 1 - LABELS)
    return Predictions.from_probs(np.where(np.arange(2) == answer[:, None], 0.8, 0.2), labels=LABELS)


def test_two_models_differ_by_what_the_variance_of_their_disagreement_says() -> None:
    a, b = coins(0.8, 1), coins(0.8, 2)
    disagree = np.mean((a.answers == LABELS) != (b.answers == LABELS))
    expected = 1.96 * math.sqrt(disagree / ROWS)
    # a percentile of 1,000 resamples is known to about 5%; three times that
    assert difference_by_chance(a, [b], METRICS["accuracy"]) == pytest.approx(expected, rel=0.15)


def test_the_same_answers_never_differ_and_one_run_has_none_to_differ_from() -> None:
    a = coins(0.8, 1)
    assert difference_by_chance(a, [a, a], METRICS["nll"]) == 0
    assert difference_by_chance(a, [], METRICS["accuracy"]) == 0


def test_an_ensemble_of_equals_differs_from_them_by_nothing() -> None:
    a, others = coins(0.8, 1), [coins(0.8, i) for i in range(3)]
    assert ensemble_by_chance(mean_logits([a, a]), [a, a], METRICS["accuracy"]) == 0
    assert ensemble_by_chance(mean_logits(others), others, METRICS["accuracy"]) > 0


@pytest.mark.parametrize("seed", [1, 2])
def test_class_shares_score_the_majority_and_the_entropy(seed: int) -> None:
    share = LABELS.mean()
    assert score_of_shares(coins(0.8, seed), METRICS["accuracy"]) == pytest.approx(max(share, 1 - share))
    entropy = -share * math.log(share) - (1 - share) * math.log(1 - share)
    assert score_of_shares(coins(0.8, seed), METRICS["nll"]) == pytest.approx(entropy, rel=1e-6)
