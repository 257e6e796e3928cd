"""The beam: the exhaustive search when it is wide, never better than it, and exact in what it tells."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.cascades import Frontier, Rule
from hf_soups.cascades.search.beam import Bar, Reached, beam, on_front
from hf_soups.cascades.search.candidates import checked_entries
from hf_soups.cascades.search.exhaustive import search_cascades
from hf_soups.cascades.search.sketch import sketched
from hf_soups.costs import Cost
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from tests.cascades.pools import every_plan, random_pool

Point = tuple[float, float, float]  # score, average cost, worst cost

pytestmark = pytest.mark.usefixtures("compiled_search")


def points_of(frontier: Frontier) -> set[Point]:
    return {(round(p.score, 9), round(p.average_cost, 9), round(p.worst_cost, 9)) for p in frontier.plans}


def brute_force(pool: Mapping[str, Predictions], costs: Mapping[str, float], rule: Rule, most: int) -> set[Point]:
    found = {(round(s, 9), round(c, 9), round(p.worst_cost, 9)) for p, s, c in every_plan(pool, costs, rule, most)}
    return {p for p in found if not any(beats(q, p) for q in found)}


def beats(one: Point, other: Point) -> bool:
    return one != other and one[0] >= other[0] and one[1] <= other[1] and one[2] <= other[2]


@settings(deadline=None, max_examples=8)
@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(1, 9),
    digits=st.sampled_from([None, 1]),
    combine=st.sampled_from(["mean", "geometric", "last"]),
    confidence=st.sampled_from(["max", "gap", "entropy", "agreement"]),
)
def test_a_wide_beam_is_the_exhaustive_search(
    seed: int, rows: int, digits: int | None, combine: str, confidence: str
) -> None:
    pool, costs = random_pool(3, rows=rows, seed=seed, digits=digits)
    found = beam(pool, costs, width=1000, max_members=3, combine=combine, confidence=confidence)
    assert points_of(found) == brute_force(pool, costs, Rule(combine, confidence), 3)


def test_a_narrow_beam_is_never_better_than_a_wide_one() -> None:
    pool, costs = random_pool(7, rows=60, seed=2)
    wide = points_of(beam(pool, costs, width=10_000, max_members=3))
    for width in (1, 4):
        narrow = beam(pool, costs, width=width, max_members=3)
        assert len(narrow) > 3
        for point in points_of(narrow):
            assert not any(beats(point, other) for other in wide)


def test_plans_have_the_simulations_numbers_though_screened_on_a_sketch() -> None:
    pool, costs = random_pool(6, rows=500, classes=20, seed=3)
    found = beam(pool, costs, width=12, max_members=3, rows=100, classes=4, temperatures={"m1": 1.5})
    assert any(len(p.members) == 3 for p in found.plans)
    for plan in found.plans[::7]:
        done = plan.apply(pool)
        assert plan.score == pytest.approx((done.answers == done.labels).mean())
        assert plan.average_cost == pytest.approx(done.costs.mean())
        assert plan.rows == 500
    assert any(p.temperatures for p in found.plans if "m1" in p.members)


def test_a_sketch_finds_nearly_what_all_rows_do() -> None:
    pool, costs = random_pool(6, rows=600, classes=30, seed=4)
    whole = beam(pool, costs, width=12, max_members=3, rows=600, classes=30)
    part = beam(pool, costs, width=12, max_members=3, rows=300, classes=6)
    for budget in (4.0, 8.0, 14.0):
        best, found = whole.best(max_average_cost=budget), part.best(max_average_cost=budget)
        assert best is not None
        assert found is not None
        assert found.score >= best.score - 0.02  # 12 rows


def test_the_frontier_holds_singles_ensembles_and_one_plan_a_point() -> None:
    pool, costs = random_pool(4, rows=80, seed=5)
    found = beam(pool, {n: Cost(c, "macs") for n, c in costs.items()}, max_members=2)
    assert [p.members[0] for p in found.singles] == sorted(
        pool, key=lambda n: (-(pool[n].answers == pool[n].labels).mean(), costs[n])
    )
    assert found.best_ensemble is not None
    done = found.best_ensemble.apply(pool)
    assert found.best_ensemble.score == pytest.approx((done.answers == done.labels).mean())
    assert len(points_of(found)) == len(found)
    assert {(p.unit, p.metric) for p in found.plans} == {("macs", "accuracy")}


def test_worst_cost_is_bounded() -> None:
    pool, costs = random_pool(5, rows=60, seed=6)
    found = beam(pool, costs, max_worst_cost=6.0)
    assert len(found) > 1
    assert all(p.worst_cost <= 6 for p in found.plans)
    assert len(found.singles) == 5


@pytest.mark.parametrize("metric", ["f1_macro", "nll"])
def test_other_metrics_are_searched_too(metric: str) -> None:
    pool, costs = random_pool(2, rows=25, seed=7)
    found, known = beam(pool, costs, metric=metric, max_members=2), METRICS[metric]
    for plan in found.plans:
        value = known.compute(plan.apply(pool))
        assert plan.score == pytest.approx(known.sign * value)


def test_results_do_not_depend_on_threads_and_progress_is_told() -> None:
    pool, costs = random_pool(5, rows=70, seed=8)
    told: list[tuple[float, str]] = []
    other = beam(pool, costs, threads=3, progress=lambda share, what: told.append((share, what)))
    assert beam(pool, costs, threads=1) == other
    assert [what for _, what in told] == ["sketch", "beam", "beam", "beam", "counting"]
    assert [share for share, _ in told] == sorted(share for share, _ in told)
    assert told[-1][0] == 1


def test_a_wide_beam_agrees_with_the_exhaustive_search() -> None:
    pool, costs = random_pool(4, rows=24, seed=11)
    wide = beam(pool, costs, width=1000, max_members=3)
    assert points_of(wide) == points_of(search_cascades(pool, costs, max_members=3, grid=64))
    narrow = beam(pool, costs, width=2, max_members=3)
    for point in points_of(narrow):
        assert not any(beats(point, other) for other in points_of(wide))


def test_a_sketch_keeps_labels_and_each_models_answers() -> None:
    pool, costs = random_pool(4, rows=200, classes=40, seed=9)
    entries = checked_entries(pool, costs, Rule(), "accuracy")
    small = sketched(entries, rows=50, classes=8)
    assert small.log_probs.shape == (4, 50, 8)
    assert not small.exact
    rows = np.sort(np.random.Generator(np.random.PCG64(0)).permutation(200)[:50])
    for member, p in enumerate(pool.values()):
        hits = small.log_probs[member].argmax(axis=1) == small.labels
        assert (hits == (p.answers == p.labels)[rows]).all()
    whole = sketched(entries, rows=200, classes=40)
    assert whole.exact
    assert np.array_equal(whole.log_probs[2], pool["m2"].log_probs)


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=6), min_size=1, max_size=6)
)
def test_points_kept_are_those_that_no_other_beats(chains: list[list[tuple[int, int]]]) -> None:
    points = [
        Reached((i,), float(i % 3), np.array([s for s, _ in c], float), np.array([a for _, a in c], float))
        for i, c in enumerate(chains)
    ]
    everything = {(float(s), float(a), float(i % 3)) for i, c in enumerate(chains) for s, a in c}
    front = {p for p in everything if not any(beats(q, p) for q in everything)}

    def kept(some: list[Reached], masks: list[np.ndarray]) -> list[Point]:
        return [
            (float(s), float(a), p.worst)
            for p, mask in zip(some, masks, strict=True)
            for s, a in zip(p.scores[mask], p.costs[mask], strict=True)
        ]

    found = kept(points, on_front(points))
    assert sorted(found) == sorted(front)
    # what clears the bar of the first holds the rest of the front
    bar = Bar.of(points[:1])
    new = [bar.cleared(p) for p in points[1:]]
    assert bar.levels == [0.0]
    together = kept([points[0], *new], [np.ones(len(p), bool) for p in [points[0], *new]])
    assert front <= set(together)


def test_bad_input_is_told() -> None:
    pool, costs = random_pool(3, rows=20)
    for name in ("width", "max_members", "rows", "classes"):
        with pytest.raises(InputError, match=f"{name} is 0; expected 1 or more"):
            beam(pool, costs, **{name: 0})
    with pytest.raises(InputError, match="grid is 2; expected"):
        beam(pool, costs, grid=2)
    with pytest.raises(InputError, match=r"max_worst_cost is 0\.5, but the cheapest model costs 1: nothing fits"):
        beam(pool, costs, max_worst_cost=0.5)
    with pytest.raises(InputError, match="0 threads"):
        beam(pool, costs, threads=0)
    with pytest.raises(InputError, match="combine is 'vote'"):
        beam(pool, costs, combine="vote")
    with pytest.raises(PredictionsError, match="a pool of 1 model"):
        beam({"m0": pool["m0"]}, costs)
    with pytest.raises(PredictionsError, match="hold no labels"):
        beam({k: replace(p, labels=None) for k, p in pool.items()}, costs)
