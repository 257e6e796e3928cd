"""Greedy selection of ensembles, against a plain loop that builds every ensemble anew."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.ensembles import ensemble, gains, select_ensemble
from hf_soups.ensembles import gains as trials
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from tests.ensembles.pool import pool

COMBINES = ("mean", "geometric", "vote")
OF_CLASSES = sorted(name for name, metric in METRICS.items() if "classification" in metric.problem_types)


def by_plain_loop(
    predictions: dict[str, Predictions], metric: str, rounds: int, combine: str, initial: int
) -> tuple[list[str], list[float]]:
    """The path and its scores, each ensemble made of repeated members."""
    known = METRICS[metric]
    sign = known.sign
    alone = {name: sign * known.compute(ensemble([p], combine)) for name, p in predictions.items()}
    order = sorted(predictions, key=lambda name: (-alone[name], name))
    path: list[str] = []
    scores: list[float] = []
    for step in range(initial + rounds):
        tried = {n: known.compute(ensemble([predictions[m] for m in (*path, n)], combine)) for n in order}
        best = order[step] if step < initial else max(order, key=lambda name: round(sign * tried[name], 10))
        path.append(best)
        scores.append(tried[best])
    return path, scores


@settings(max_examples=12, deadline=None)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["accuracy", "f1_macro", "matthews", "nll", "brier"]),
    st.sampled_from(COMBINES),
    st.integers(1, 3),
)
def test_the_path_is_that_of_a_plain_loop(seed: int, metric: str, combine: str, initial: int) -> None:
    predictions = pool(seed, members=4, rows=30, classes=4)
    found = select_ensemble(predictions, metric, rounds=4, combine=combine, initial=initial)
    path, scores = by_plain_loop(predictions, metric, 4, combine, initial)
    np.testing.assert_allclose(found.scores, scores, atol=1e-6)
    if METRICS[metric].of_answers is not None:
        assert list(found.path) == path


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(OF_CLASSES), st.sampled_from(COMBINES), st.integers(1, 4))
def test_it_never_scores_below_the_best_single_member(seed: int, metric: str, combine: str, initial: int) -> None:
    classes = 2 if "f1" in metric else 3
    predictions = pool(seed, members=4, rows=25, classes=classes)
    found = select_ensemble(predictions, metric, rounds=5, combine=combine, initial=initial)
    sign = METRICS[metric].sign
    alone = [sign * METRICS[metric].compute(ensemble([p], combine)) for p in predictions.values()]
    assert sign * found.score >= max(alone) - 1e-12
    assert found.score == METRICS[metric].compute(found.apply(predictions))


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["accuracy", "nll"]), st.sampled_from(COMBINES))
def test_the_order_of_the_pool_does_not_matter(seed: int, metric: str, combine: str) -> None:
    predictions = pool(seed, members=5, rows=40, classes=3)
    there = select_ensemble(predictions, metric, rounds=6, combine=combine)
    back = select_ensemble(dict(reversed(predictions.items())), metric, rounds=6, combine=combine)
    assert (there.weights, there.path) == (back.weights, back.path)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["mean", "geometric", "vote"]), st.floats(0, 8), st.integers(1, 40))
def test_contested_rows_give_the_answers_of_all_rows_also_for_ties(
    seed: int, combine: str, sharpness: float, values: int
) -> None:
    """Probabilities on a coarse grid, so that equal sums are common; `values` cuts the rows into blocks."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, 40)
    grid = [random.multinomial(4, softmax(sharpness * random.random(5)), 40) / 4 for _ in range(4)]
    predictions = {str(i): Predictions.from_probs(p, labels=labels) for i, p in enumerate(grid)}
    members = trials.Members.of(list(predictions.values()))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gains, "CONTESTED_AT_ONCE", values)
        fast = trials.trial_of(members, METRICS["accuracy"], combine, picks=8)
    assert isinstance(fast, trials.ContestedRows)
    path: list[int] = []
    for joining in random.integers(0, 4, 6).tolist():
        expected = [
            METRICS["accuracy"].compute(ensemble([members.predictions[j] for j in (*path, i)], combine))
            for i in range(4)
        ]
        assert fast.scores().tolist() == expected
        fast.add(joining)
        path.append(joining)


def softmax(z: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(z) / np.exp(z).sum())


def test_a_pool_too_large_to_keep_is_read_again_in_every_round(monkeypatch: pytest.MonkeyPatch) -> None:
    predictions = pool(3, members=4, rows=60, classes=4)
    fast = select_ensemble(predictions, rounds=5)
    monkeypatch.setattr(gains, "LARGEST", 0)
    kinds = trials.trial_of(trials.Members.of(list(predictions.values())), METRICS["accuracy"], "mean", 6)
    assert isinstance(kinds, trials.WholeRows)
    assert select_ensemble(predictions, rounds=5) == fast


def test_rows_in_another_order_and_temperatures_are_heeded() -> None:
    predictions = pool(1, members=3, rows=50, classes=3)
    shuffled = {n: p.take(np.random.default_rng(i).permutation(50)) for i, (n, p) in enumerate(predictions.items())}
    told = {"m0": 0.5, "m2": 2.0}
    found = select_ensemble(shuffled, "nll", rounds=6, temperatures=told)
    scaled = {n: p.at_temperature(told.get(n, 1.0)) for n, p in predictions.items()}
    assert found.weights == select_ensemble(scaled, "nll", rounds=6).weights
    assert found.score == pytest.approx(METRICS["nll"].compute(found.apply(predictions)), abs=1e-12)


def test_a_model_that_is_right_everywhere_stays_alone() -> None:
    predictions = pool(0, members=3, rows=20, classes=3)
    labels = predictions["m0"].needs_labels()
    predictions["oracle"] = Predictions.from_probs(np.eye(3)[labels], labels=labels, row_ids=predictions["m0"].row_ids)
    found = select_ensemble(predictions, rounds=5)
    assert (dict(found.weights), found.score, found.kept) == ({"oracle": 1.0}, 1.0, 1)
    assert len(found.path) == len(found.scores) == 6


def test_what_cannot_be_chosen_from_is_refused() -> None:
    predictions = pool(0, members=2, rows=5, classes=2)
    with pytest.raises(PredictionsError, match="at least one member"):
        select_ensemble({})
    with pytest.raises(PredictionsError, match="hold no labels"):
        select_ensemble({"a": Predictions.from_probs([[0.5, 0.5]])})
    with pytest.raises(PredictionsError, match="hold no rows"):
        select_ensemble({n: p.take([]) for n, p in predictions.items()})
    with pytest.raises(InputError, match="unknown metric 'auc'; known: accuracy"):
        select_ensemble(predictions, "auc")
    with pytest.raises(InputError, match="temperatures of z, which are not among the members m0, m1"):
        select_ensemble(predictions, temperatures={"z": 2.0})
    with pytest.raises(InputError, match="expected 0 or more rounds"):
        select_ensemble(predictions, rounds=-1)
    found = select_ensemble(predictions, rounds=2)
    with pytest.raises(PredictionsError, match="no predictions of m"):
        found.apply({"other": predictions["m0"]})


def test_a_tie_within_rounding_adds_no_member() -> None:
    """A constant changes a correlation by rounding alone, and once joined for that, at the cost of one more model."""
    random = np.random.default_rng(0)
    labels = random.normal(size=60)
    for seed in range(20):
        own = labels + np.random.default_rng(seed).normal(size=60)
        made = {"constant": np.full(60, 0.3), "model": own}
        members = {
            name: Predictions.from_logits(values, labels=labels, problem_type="regression")
            for name, values in made.items()
        }
        assert list(select_ensemble(members, "pearson").weights) == ["model"]
