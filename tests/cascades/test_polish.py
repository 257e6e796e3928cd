"""Polish: sweeps against counting each threshold by itself, and that it only ever adds to what was found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.pareto import Known, Points, nondominated
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Rule
from hf_soups.cascades.search import exhaustive as searching
from hf_soups.cascades.search import plain
from hf_soups.cascades.search.candidates import Entries, checked_entries
from hf_soups.cascades.search.exhaustive import search_cascades
from hf_soups.cascades.search.polish import SWEEP_ROWS, Chain
from hf_soups.cascades.search.subsets import compute_states
from tests.cascades.brute_force import all_reached, costs_of, pool_of, reached_by, unbeaten

pytestmark = pytest.mark.usefixtures("compiled_search")

SEEDS = st.integers(0, 2**20)


def searched(polished_rows: int, seed: int, rows: int = 60, **options: Any) -> Frontier:
    pool = pool_of(seed, 4, rows, 5, rise=0.2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(searching, "POLISHED_ROWS", polished_rows)
        return search_cascades(pool, costs_of(seed, pool), **options)


@given(seed=SEEDS, grid=st.integers(2, 6))
@settings(max_examples=8, deadline=None)
def test_polish_never_makes_a_frontier_worse(seed: int, grid: int) -> None:
    rough, polished = (searched(rows, seed, grid=grid) for rows in (0, 10**8))
    for plan in rough.plans:
        assert any(
            other.score >= plan.score
            and other.average_cost <= plan.average_cost + 1e-9
            and other.worst_cost <= plan.worst_cost + 1e-9
            for other in polished.plans
        )


@given(seed=SEEDS)
@settings(max_examples=5, deadline=None)
def test_a_coarse_grid_is_attained_by_real_cascades(seed: int) -> None:
    pool = pool_of(seed, 3, 24, 4, rise=0.2)
    costs = costs_of(seed, pool)
    found = reached_by(search_cascades(pool, costs, max_members=3, grid=3))
    assert set(found) <= set(all_reached(pool, costs, 3, "mean", "max"))
    assert found == unbeaten(found)


def test_polish_finds_what_a_coarse_grid_misses() -> None:
    rough, polished = (searched(rows, 3, rows=500, grid=3) for rows in (0, 10**8))
    assert len(polished) > 1.5 * len(rough)
    beaten = set(reached_by(rough)) - set(reached_by(polished))
    assert beaten


@pytest.mark.parametrize("sweeps", [10, 40])
def test_polish_ends_when_its_allowance_is_spent(sweeps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    done, real = [0], Chain.swept

    def counting(self: Chain, entries: Entries, points: Points, known: Known) -> Points:
        done[0] += self.thresholds * len(points)
        return real(self, entries, points, known)

    monkeypatch.setattr(Chain, "swept", counting)
    searched(sweeps * (500 + SWEEP_ROWS), 5, rows=500, grid=6)
    assert sweeps / 2 <= done[0] <= sweeps * 1.2 + 3  # each round rounds to whole plans


def entries_of(seed: int, metric: str = "accuracy") -> Entries:
    pool = pool_of(seed, 3, 40, 2 if metric == "f1" else 4)
    return checked_entries(pool, costs_of(seed, pool), Rule(), metric)


@pytest.mark.parametrize("metric", ["accuracy", "f1", "nll"])
@pytest.mark.parametrize("stage", [0, 1])
def test_a_sweep_is_every_threshold_counted_by_itself(metric: str, stage: int) -> None:
    entries = entries_of(7, metric)
    states = compute_states(entries, 3, threads=1)
    chain = Chain.of(entries, states, (1, 0, 2))
    fixed = np.array([[0.75, 0.7]])
    point = Points(
        np.array([[1, 0, 2]], dtype=np.int16), fixed, np.zeros(1), np.zeros(1), entries.worst(np.array([[1, 0, 2]]))
    )
    nothing_known = Known.of(point.worst, 0.0)
    swept = chain.swept(entries, point, nothing_known)
    moved = np.delete(np.arange(2), stage)[0]
    of_stage = np.flatnonzero(swept.thresholds[:, moved] == fixed[0, moved])
    predictions = dict(zip(entries.names, entries.predictions, strict=True))
    best = -np.inf
    for threshold in sorted({*chain.confidence[stage].tolist(), NEVER}):
        thresholds = [0.75, 0.7]
        thresholds[stage] = threshold
        score, cost = counted(entries, predictions, tuple(thresholds))
        if score > best and threshold > min(chain.confidence[stage]):
            near = np.abs(swept.average[of_stage] - cost) < 1e-9
            assert swept.score[of_stage][near].max() >= score - 1e-9
        best = max(best, score)
    for at in range(len(swept)):
        score, cost = counted(entries, predictions, tuple(swept.thresholds[at]))
        assert (swept.score[at], swept.average[at]) == pytest.approx((score, cost))


def counted(entries: Entries, predictions: Any, thresholds: tuple[float, ...]) -> tuple[float, float]:
    """By running the cascade."""
    names = tuple(entries.names[m] for m in (1, 0, 2))
    plan = Plan(names, thresholds, tuple(entries.costs[[1, 0, 2]].tolist()))
    done = plan.apply(predictions)
    assert done.costs is not None
    score = entries.metric.compute(done)
    return entries.metric.sign * score, float(done.costs.mean())


@given(seed=SEEDS, count=st.integers(1, 60), coarse=st.booleans())
@settings(max_examples=60, deadline=None)
def test_nondominated_is_what_comparing_all_pairs_leaves(seed: int, count: int, coarse: bool) -> None:
    points = np.random.default_rng(seed).random((3, count))
    if coarse:
        points = np.round(points * 4)
    kept = set(nondominated(*points).tolist())
    score, average, worst = points
    for i in range(count):
        no_worse = (score >= score[i]) & (average <= average[i]) & (worst <= worst[i])
        better = no_worse & ((score > score[i]) | (average < average[i]) | (worst < worst[i]))
        equal_before = (no_worse & ~better)[:i].any()
        assert (i in kept) == (not better.any() and not equal_before)


def test_costs_that_differ_by_rounding_are_equal() -> None:
    average = np.array([0.1 + 0.2, 0.3])
    assert average[0] != average[1]
    assert nondominated(np.ones(2), average, np.ones(2)).tolist() == [0]


@given(seed=SEEDS)
@settings(max_examples=30, deadline=None)
def test_what_is_known_leaves_out_only_what_is_beaten_or_equalled(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = [rng.random(200), rng.random(200), 1 + rng.integers(6, size=200).astype(float)]
    points = Points(np.zeros((200, 2), np.int16), np.zeros((200, 1)), *columns)
    known = Known.of(points.worst, 0.0).with_points(points.take(np.arange(100)))
    tried = set(known.may_be_new(*columns).tolist())
    for i in set(range(200)) - tried:
        assert any(
            columns[0][j] >= columns[0][i] and columns[1][j] <= columns[1][i] and columns[2][j] <= columns[2][i]
            for j in range(100)
        )
    assert len(tried) < 150


@pytest.mark.parametrize("rows", [1, 31, 64, 65, 200])
@pytest.mark.parametrize("members", [(1,), (2, 0), (1, 0, 2)])
def test_hits_counted_by_bits_are_those_of_the_rule(rows: int, members: tuple[int, ...]) -> None:
    pool = pool_of(rows, 3, rows, 4)
    entries = checked_entries(pool, costs_of(rows, pool), Rule(), "accuracy")
    chain = Chain.of(entries, compute_states(entries, 3, threads=1), members)
    rng, stages = np.random.default_rng(rows), len(members) - 1
    occurring = np.stack([rng.choice([*c.tolist(), 0.0, NEVER], 300) for c in chain.confidence] or [[]], axis=-1)
    thresholds = occurring.reshape(-1, stages) if stages else np.zeros((1, 0))  # more plans than are done at once
    sums, shares = chain.reached(thresholds)
    for at in range(0, len(thresholds), 17):
        exits = plain.exits_at(chain.confidence, thresholds[at].astype(np.float32))
        assert sums[at].tolist() == chain.statistics[exits, :, np.arange(rows)].sum(axis=0).tolist()
        assert shares[at].tolist() == (np.bincount(exits, minlength=len(members)) / rows).tolist()
