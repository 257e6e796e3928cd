"""What subsets answer: by the few classes that can win, by all classes, and by plain NumPy."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.cascades.compiled import compiled
from hf_soups.cascades.grid import bins_of, thresholds_of
from hf_soups.cascades.rule import Committee, Rule
from hf_soups.cascades.search.candidates import Entries, checked_entries
from hf_soups.cascades.search.subsets import Numbering, States, compute_states, find_candidates
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions
from tests.cascades.brute_force import costs_of, pool_of

pytestmark = pytest.mark.usefixtures("compiled_search")

SEEDS = st.integers(0, 2**20)


def entries_of(pool: dict[str, Predictions], rule: Rule | None = None, metric: Any = "accuracy") -> Entries:
    return checked_entries(pool, costs_of(0, pool), rule or Rule(), metric)


def hits_of(states: States) -> np.ndarray:
    return np.stack([states.statistics_of(n)[:, 0] for n in range(len(states.numbering))])


def near_ties(seed: int, models: int, rows: int, classes: int, apart: float) -> dict[str, Predictions]:
    """Models whose two best classes differ by `apart` of a probability, in turn one and the other ahead."""
    rng = np.random.default_rng(seed)
    labels, found = rng.integers(classes, size=rows), {}
    for m in range(models):
        probs = rng.dirichlet(np.full(classes, 0.3), size=rows) * 0.3
        other = (labels + 1 + rng.integers(classes - 1, size=rows)) % classes
        lead = rng.choice([-apart, 0.0, apart], size=rows)
        probs[np.arange(rows), labels] += 0.35 + lead / 2
        probs[np.arange(rows), other] += 0.35 - lead / 2
        found[f"model {m}"] = Predictions.from_probs(probs, labels=labels)
    return found


@pytest.mark.parametrize("combine", ["mean", "last"])
@given(seed=SEEDS, models=st.integers(2, 6), rows=st.integers(1, 80), classes=st.sampled_from([2, 5, 300]))
@settings(max_examples=8, deadline=None)
def test_few_classes_give_what_all_classes_give(combine: Any, seed: int, models: int, rows: int, classes: int) -> None:
    entries = entries_of(pool_of(seed, models, rows, classes, rise=0.1), Rule(combine))
    all_classes = replace(entries, metric=replace(METRICS["accuracy"]))  # not known to be accuracy: the plain way
    few, plain = (compute_states(e, min(models, 4), threads=1) for e in (entries, all_classes))
    np.testing.assert_array_equal(few.confidence, plain.confidence)
    np.testing.assert_array_equal(hits_of(few), hits_of(plain))


@pytest.mark.parametrize("apart", [0.0, 1e-8, 1e-6, 1e-3])
@pytest.mark.parametrize("classes", [2, 40])
def test_near_and_exact_ties_are_decided_as_by_all_classes(apart: float, classes: int) -> None:
    entries = entries_of(near_ties(3, 5, 300, classes, apart))
    all_classes = replace(entries, metric=replace(METRICS["accuracy"]))
    few, plain = (compute_states(e, 4, threads=1) for e in (entries, all_classes))
    np.testing.assert_array_equal(hits_of(few), hits_of(plain))
    np.testing.assert_array_equal(few.confidence, plain.confidence)


def test_coarse_probabilities_tie_often_and_still_agree() -> None:
    pool = pool_of(4, 5, 500, 6, coarse=True)
    top = np.sort(pool["model 0"].probs + pool["model 1"].probs, axis=1)
    assert (top[:, -1] - top[:, -2] < 1e-6).sum() >= 10
    entries = entries_of(pool)
    few, plain = (
        compute_states(e, 3, threads=1) for e in (entries, replace(entries, metric=replace(METRICS["accuracy"])))
    )
    np.testing.assert_array_equal(hits_of(few), hits_of(plain))


@given(seed=SEEDS, models=st.integers(2, 7), classes=st.sampled_from([3, 30, 300]))
@settings(max_examples=10, deadline=None)
def test_no_class_that_is_left_out_is_ever_the_answer(seed: int, models: int, classes: int) -> None:
    entries = entries_of(pool_of(seed, models, 60, classes, rise=0.1))
    deepest = min(models, 3)
    found = find_candidates(entries, deepest, threads=1)
    probs = np.stack([np.exp(p.log_probs.astype(np.float64)) for p in entries.predictions])
    for row in range(entries.rows):
        mine = found.probs[found.start[row] : found.start[row + 1]]
        np.testing.assert_array_equal(found.probs[found.label[row]], probs[:, row, entries.labels[row]])
        for size in range(1, deepest + 1):
            for members in combinations(range(models), size):
                best = mine[:, members].sum(axis=1).max()
                assert best == pytest.approx(probs[list(members), row].sum(axis=0).max(), rel=1e-15)
    assert found.widest == np.diff(found.start).max()


def test_most_classes_are_left_out() -> None:
    rng = np.random.default_rng(0)
    labels = rng.integers(300, size=50)
    sure = 6 * np.eye(300)[labels]
    pool = {f"model {m}": Predictions.from_logits(sure + rng.normal(size=(50, 300)), labels=labels) for m in range(4)}
    assert np.diff(find_candidates(entries_of(pool), 4, threads=1).start).mean() < 10


def test_all_subsets_are_there_once() -> None:
    numbering = Numbering.of(6, 4, Rule())
    assert list(numbering.keys) == [c for size in (1, 2, 3, 4) for c in combinations(range(6), size)]
    assert numbering.asked == 6 + 15 + 20
    assert numbering.chain((4, 0, 2)) == (numbering[(4,)], numbering[(0, 4)], numbering[(0, 2, 4)])


@pytest.mark.parametrize("combine", ["mean", "geometric", "last"])
@pytest.mark.parametrize("confidence", ["max", "gap", "entropy", "agreement"])
def test_states_are_what_committees_answer(combine: Any, confidence: Any) -> None:
    pool = pool_of(7, 4, 70, 4, rise=0.1)
    entries = entries_of(pool, Rule(combine, confidence))
    states = compute_states(entries, 3, threads=2)
    for members in [(2,), (3, 1), (0, 3, 2), (1, 2, 0)]:
        committee = Committee(entries.rule)
        for m in members:
            committee = committee.joined(entries.predictions[m].log_probs)
        number = states.numbering[members]
        if len(members) < 3 or number < states.numbering.asked:
            np.testing.assert_array_equal(states.confidence[number], committee.confidence())
        hit = committee.log_probs().argmax(axis=1) == entries.labels
        np.testing.assert_array_equal(states.statistics_of(number)[:, 0], hit)


def test_statistics_of_other_metrics_are_those_of_the_ensemble() -> None:
    pool = pool_of(8, 3, 40, 4)
    states = compute_states(entries_of(pool, metric="brier"), 2, threads=2)
    mean = Predictions.from_probs((pool["model 0"].probs + pool["model 2"].probs) / 2, labels=pool["model 0"].labels)
    rows = METRICS["brier"].row_statistics
    assert rows is not None
    np.testing.assert_allclose(states.statistics_of(states.numbering[(0, 2)]), rows(mean), atol=1e-6)


def test_threads_do_not_change_states() -> None:
    entries = entries_of(pool_of(9, 5, 4000, 6, rise=0.1))
    one, three = (compute_states(entries, 3, threads=threads) for threads in (1, 3))
    np.testing.assert_array_equal(one.confidence, three.confidence)
    np.testing.assert_array_equal(hits_of(one), hits_of(three))


def test_predictions_may_be_mapped_from_files_or_hold_the_best_classes_only(tmp_path: Path) -> None:
    pool = pool_of(10, 3, 90, 20)
    mapped = {}
    for name, p in pool.items():
        p.save(tmp_path / name)
        mapped[name] = Predictions.load(tmp_path / name, mapped=True)
    plain, from_files = (compute_states(entries_of(some), 3, threads=2) for some in (pool, mapped))
    np.testing.assert_array_equal(plain.confidence, from_files.confidence)
    all_kept = {name: TopKPredictions.of(p, 20) for name, p in pool.items()}
    np.testing.assert_array_equal(plain.confidence, compute_states(entries_of(all_kept), 3, threads=2).confidence)


@given(seed=SEEDS, rows=st.integers(1, 200), count=st.integers(2, 40), ties=st.booleans())
@settings(max_examples=40, deadline=None)
def test_bins_say_which_thresholds_keep_a_row(seed: int, rows: int, count: int, ties: bool) -> None:
    confidence = np.random.default_rng(seed).random(rows, dtype=np.float32)
    if ties:
        confidence = (np.round(confidence * 6) / 6).astype(np.float32)
    thresholds = thresholds_of(confidence, count)
    bins = bins_of(confidence, thresholds)
    for place, threshold in enumerate(thresholds):
        np.testing.assert_array_equal(bins <= place, confidence < np.float32(threshold))
    assert thresholds[-1] == 2
    assert (np.diff(thresholds) >= 0).all()
    distinct = np.unique(confidence)
    if len(distinct) <= count:  # then every split of the rows is there
        assert len(np.unique(thresholds)) == len(distinct)
    assert not np.isin(thresholds.astype(np.float32), distinct[:1]).any()


def test_thresholds_are_even_quantiles() -> None:
    confidence = np.arange(1000, dtype=np.float32) / 1000
    kept = [(confidence < np.float32(t)).sum() for t in thresholds_of(confidence, 10)]
    assert kept == [100, 200, 300, 400, 500, 600, 700, 800, 900, 1000]


def test_a_threshold_lies_between_neighbours_even_where_nothing_is_between_them() -> None:
    low = np.float32(0.5)
    high = np.nextafter(low, np.float32(1))
    (threshold, never) = thresholds_of(np.array([low, high]), 2)
    assert np.float32(threshold) == high
    assert never == 2


def test_code_is_compiled_where_it_cannot_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a read-only installation of a user without a home."""
    real = numba.njit

    def nowhere_to_write(*functions: Any, **options: Any) -> Any:
        if options.get("cache"):
            raise RuntimeError("cannot cache function 'doubled': no locator available")
        return real(*functions, **options)

    real(lambda x: x)(1)  # what numba compiles for itself when it first compiles anything

    monkeypatch.setattr(numba, "njit", nowhere_to_write)

    def doubled(x: int) -> int:
        return 2 * x

    assert compiled(doubled)(4) == 8
    assert type(compiled(doubled)) is not type(doubled)
