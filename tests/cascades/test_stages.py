"""Stages and the grid of thresholds over them, against the simulation."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from hf_soups.cascades import NEVER, Plan, Rule
from hf_soups.cascades.grid import best_within, chain_grid, cheapest_at, cuts, refit
from hf_soups.cascades.stages import read_stages
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from tests.cascades.pools import random_pool

RULES = [
    Rule(combine, confidence)
    for combine in ("mean", "geometric", "last")
    for confidence in ("max", "gap", "entropy", "agreement")
]
CHAIN = Plan(("m0", "m2", "m1"), (0.5, 0.5), (1.0, 5.0, 3.0))


@pytest.mark.parametrize("rule", RULES, ids=lambda r: f"{r.combine}-{r.confidence}")
@pytest.mark.parametrize("digits", [None, 1], ids=["", "ties"])
def test_every_cell_of_the_grid_is_what_the_simulation_says(rule: Rule, digits: int | None) -> None:
    pool, _ = random_pool(3, rows=14, seed=2, digits=digits)
    (stages,) = read_stages([replace(CHAIN, rule=rule)], pool, "accuracy")
    grid = chain_grid(stages)
    for cell in range(len(grid.scores)):
        done = replace(CHAIN, rule=rule, thresholds=grid.at(cell)).apply(pool)
        assert grid.scores[cell] == pytest.approx((done.answers == done.labels).mean())
        assert grid.costs[cell] == pytest.approx(done.costs.mean())


@pytest.mark.parametrize("metric", ["f1_macro", "matthews", "nll", "brier", "accuracy_f1"])
def test_any_metric_of_sums_agrees_with_the_simulation(metric: str) -> None:
    pool, _ = random_pool(3, rows=20, classes=2, seed=5)
    (stages,) = read_stages([CHAIN], pool, metric)
    grid, known = chain_grid(stages), METRICS[metric]
    for cell in range(0, len(grid.scores), 7):
        value = known.compute(replace(CHAIN, thresholds=grid.at(cell)).apply(pool))
        assert grid.scores[cell] == pytest.approx(known.sign * value)


def test_rescored_plans_have_the_simulations_numbers() -> None:
    pool, _ = random_pool(4, rows=200, seed=3)
    plans = [
        Plan(("m0", "m1", "m3"), (0.6, 0.7), (1.0, 3.0, 7.0)),
        Plan(("m0", "m1"), (NEVER,), (1.0, 3.0), temperatures=(2.0, 0.5)),
        Plan(("m2",), (), (5.0,)),
    ]
    for plan, stages in zip(plans, read_stages(plans, pool, "accuracy", threads=3), strict=True):
        found, done = stages.rescored(plan), plan.apply(pool)
        assert found.score == pytest.approx((done.answers == done.labels).mean())
        assert found.average_cost == pytest.approx(done.costs.mean())
        assert found.exit_shares == pytest.approx(np.bincount(done.exits, minlength=len(plan.members)) / 200)
        assert found.rows == 200


def test_answers_that_tie_after_rounding_are_the_simulations() -> None:
    # means of two members that differ by less than float32 tells: the lower class wins once they are stored
    a = Predictions.from_probs([[0.3, 0.3, 0.4]], labels=[0])
    near = np.log(np.array([[0.4, 0.4 * (1 + 2e-8), 0.2]]))
    b = replace(a, log_probs=near.astype(np.float32))
    plan = Plan(("a", "b"), (NEVER,), (1.0, 1.0))
    (stages,) = read_stages([plan], {"a": a, "b": b}, "accuracy")
    assert stages.rescored(plan).score == (plan.apply({"a": a, "b": b}).answers == [0]).mean()


def test_rows_in_another_order_are_joined_by_id() -> None:
    pool, _ = random_pool(3, rows=30)
    mixed = {**pool, "m1": pool["m1"].take(np.random.default_rng(0).permutation(30))}
    (one,), (other,) = read_stages([CHAIN], pool, "accuracy"), read_stages([CHAIN], mixed, "accuracy")
    assert np.array_equal(one.confidence, other.confidence)
    assert np.array_equal(one.statistics[1], other.statistics[1])


def test_bad_input_is_told() -> None:
    pool, _ = random_pool(3, rows=10)
    with pytest.raises(PredictionsError, match="no predictions of m1"):
        read_stages([CHAIN], {k: v for k, v in pool.items() if k != "m1"}, "accuracy")
    with pytest.raises(PredictionsError, match="hold no labels"):
        read_stages([CHAIN], {k: replace(v, labels=None) for k, v in pool.items()}, "accuracy")
    with pytest.raises(PredictionsError, match="hold no rows"):
        read_stages([CHAIN], {k: v.take([]) for k, v in pool.items()}, "accuracy")
    with pytest.raises(InputError, match="unknown metric 'speed'"):
        read_stages([CHAIN], pool, "speed")


def test_cuts_part_every_pair_of_distinct_confidences_and_survive_rounding() -> None:
    confidence = np.array([0.5, 0.25, 0.5, 1.0, np.nextafter(np.float32(0.5), np.float32(1))], dtype=np.float32)
    found = cuts(confidence, 100)
    assert found[0] == 0
    assert found[-1] == NEVER
    assert [int((confidence >= t).sum()) for t in found] == [5, 4, 2, 1, 0]
    assert len(cuts(np.linspace(0, 1, 1000, dtype=np.float32), 12)) <= 12


def test_a_long_chain_is_refitted_three_thresholds_at_a_time_and_never_gets_worse() -> None:
    pool, costs = random_pool(6, rows=300, seed=1)
    plan = Plan(tuple(pool), (0.7,) * 5, tuple(costs.values()))
    (stages,) = read_stages([plan], pool, "accuracy")
    before = stages.rescored(plan)
    chosen = stages.rescored(replace(plan, thresholds=refit(stages, best_within(before.average_cost), plan.thresholds)))
    assert chosen.average_cost <= before.average_cost * (1 + 1e-9)
    assert chosen.score > before.score  # thresholds of 0.7 everywhere are not the best on 300 rows
    done = chosen.apply(pool)
    assert chosen.score == pytest.approx((done.answers == done.labels).mean())


def test_picks_keep_their_bound_or_come_nearest() -> None:
    scores, costs = np.array([0.5, 0.7, 0.7, 0.9]), np.array([1.0, 3.0, 2.0, 8.0])
    assert best_within(3.5)(scores, costs) == 2
    assert best_within(0.5)(scores, costs) == 0
    assert cheapest_at(0.6)(scores, costs) == 2
    assert cheapest_at(0.95)(scores, costs) == 3


def test_a_coarse_grid_holds_real_plans() -> None:
    pool, _ = random_pool(3, rows=500, seed=9)
    (stages,) = read_stages([CHAIN], pool, "accuracy")
    grid = chain_grid(stages, cells=200)
    assert len(grid.scores) <= 100
    for cell in itertools.islice(grid.front(), 5):
        found = stages.rescored(replace(CHAIN, thresholds=grid.at(int(cell))))
        assert (found.score, found.average_cost) == pytest.approx((grid.scores[cell], grid.costs[cell]))
