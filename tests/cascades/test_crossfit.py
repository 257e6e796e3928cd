"""Cross-fitted scores: honest where the search's own are too good, exact where there is nothing to choose."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_soups.cascades import NEVER, Frontier, Plan, Rule
from hf_soups.cascades.crossfit import accuracy_at_least, cross_fit, cross_fitted, fold_of, thresholds_of_shares
from hf_soups.cascades.frontier import undominated
from hf_soups.cascades.grid import best_within, refit
from hf_soups.cascades.stages import read_stages
from hf_soups.errors import InputError, PredictionsError
from hf_soups.predictions import Predictions
from tests.cascades.pools import random_pool

PAIR = Plan(("m0", "m1"), (0.6,), (1.0, 3.0), metric="accuracy")


def tuned(pool: dict[str, Predictions], plan: Plan = PAIR) -> Plan:
    """The plan with its best thresholds on all rows within its average cost."""
    (stages,) = read_stages([plan], pool, "accuracy")
    pick = best_within(stages.rescored(plan).average_cost)
    return stages.rescored(replace(plan, thresholds=refit(stages, pick, plan.thresholds)))


def frontier_of(pool: dict[str, Predictions]) -> Frontier:
    single = [Plan((name,), (), (1.0 + 2 * i,)) for i, name in enumerate(pool)]
    pairs = [replace(PAIR, thresholds=(t,)) for t in (0.4, 0.5, 0.6, 0.7, NEVER)]
    plans = [*single, *pairs]
    found = [s.rescored(p) for p, s in zip(plans, read_stages(plans, pool, "accuracy"), strict=True)]
    singles = tuple(sorted(found[: len(single)], key=lambda p: -p.score))
    return Frontier(undominated(found), singles, data="rows")


def test_where_there_is_nothing_to_choose_the_score_is_the_plain_one() -> None:
    pool, _ = random_pool(2, rows=80)
    plans = [Plan(("m1",), (), (3.0,)), replace(PAIR, thresholds=(NEVER,))]
    for plan, found in zip(plans, cross_fit(plans, pool), strict=True):
        done = plan.apply(pool)
        hits = int((done.answers == done.labels).sum())
        assert found.score == pytest.approx(hits / 80)
        assert found.average_cost == pytest.approx(done.costs.mean())
        assert found.score_low == pytest.approx(accuracy_at_least(hits, 80))
        assert found.plan == replace(plan, score_low=found.score_low)


def test_held_out_rows_are_scored_with_their_own_folds_thresholds() -> None:
    pool, _ = random_pool(2, rows=90, seed=4)
    plan = tuned(pool)
    (found,) = cross_fit([plan], pool, folds=3, seed=7)
    at, hits = fold_of(90, 3, 7), 0
    for fold, thresholds in enumerate(found.thresholds):
        done = replace(plan, thresholds=thresholds).apply({k: p.take(at == fold) for k, p in pool.items()})
        hits += int((done.answers == done.labels).sum())
        # and they were chosen on the other folds alone
        others = {k: p.take(at != fold) for k, p in pool.items()}
        (stages,) = read_stages([plan], others, "accuracy")
        assert thresholds == refit(stages, best_within(plan.average_cost), ())
    assert found.score == pytest.approx(hits / 90)


def test_the_search_flatters_small_data_and_cross_fitting_does_not() -> None:
    # where confidence says nothing, the best of all thresholds looks better than it is
    gains, honest = [], []
    alone = Plan(("m0", "m1", "m2"), (0.8, 0.8), (1.0, 1.0, 1.0), Rule("last"), metric="accuracy")
    for seed in range(60):
        rng = np.random.default_rng(seed)
        labels = rng.integers(2, size=60)
        pool = {}
        for name in alone.members:
            sure, right = rng.uniform(0.5, 1, size=60), rng.random(60) < 0.7
            of_one = np.where(right == labels, sure, 1 - sure)
            pool[name] = Predictions.from_probs(np.stack([1 - of_one, of_one], axis=1), labels=labels)
        plan = tuned(pool, alone)
        (found,) = cross_fit([plan], pool)
        gains.append(plan.score - 0.7)
        honest.append(found.score - 0.7)
    # every member is right on 0.7 of the rows whatever the thresholds
    error = np.sqrt(0.7 * 0.3 / (60 * 60))
    assert np.mean(gains) > 4 * error
    assert abs(np.mean(honest)) < 3 * error


def test_the_lower_bound_of_accuracy_holds_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    hits = rng.binomial(200, 0.8, size=2000)
    below = np.mean([accuracy_at_least(int(h), 200) <= 0.8 for h in hits])
    assert below >= 0.95 - 3 * np.sqrt(0.95 * 0.05 / 2000)
    assert below < 0.99  # exact, so not much more than 0.95


def test_other_metrics_are_bounded_by_the_bootstrap() -> None:
    pool, _ = random_pool(2, rows=150, classes=2)
    for metric in ("f1", "nll"):
        (found,) = cross_fit([replace(PAIR, metric=metric)], pool, resamples=300)
        assert found.score_low < found.score
    assert found.score < 0  # a loss is negated


def test_the_goal_of_least_cost_keeps_the_score() -> None:
    pool, _ = random_pool(2, rows=400, seed=2)
    plan = tuned(pool)
    by_score, by_cost = (cross_fit([plan], pool, goal=goal)[0] for goal in ("score", "cost"))
    assert by_score.average_cost <= plan.average_cost * 1.1  # on other rows it is about what was allowed
    assert by_cost.score >= plan.score - 0.1


def test_a_frontiers_printed_plans_get_a_bound_and_nothing_else_changes() -> None:
    pool, _ = random_pool(3, rows=120, seed=6)
    frontier = frontier_of(pool)
    found = cross_fitted(frontier, pool, count=3)
    printed = frontier.printed(3)
    for i, plan in enumerate(found.plans):
        assert replace(plan, score_low=None) == frontier.plans[i]
        if i in printed:
            assert plan.score_low is not None
            assert plan.score_low < plan.score
    assert found.best_single.score_low is not None
    assert found.printed(3) == printed


def test_long_chains_are_cross_fitted_too() -> None:
    pool, costs = random_pool(6, rows=200, seed=8)
    plan = Plan(tuple(pool), (0.7,) * 5, tuple(costs.values()), metric="accuracy")
    (found,) = cross_fit([plan], pool, folds=2)
    assert 0.3 < found.score < 1
    assert all(len(t) == 5 for t in found.thresholds)


def test_thresholds_of_shares_let_these_shares_leave() -> None:
    pool, costs = random_pool(3, rows=100)
    (stages,) = read_stages([Plan(tuple(pool), (0.5, 0.5), tuple(costs.values()))], pool, "accuracy")
    exits = stages.exits(thresholds_of_shares(stages, (0.5, 0.2, 0.3)))
    assert np.bincount(exits).tolist() == [50, 20, 30]
    assert stages.exits(thresholds_of_shares(stages, (0.0, 0.0, 1.0))).tolist() == [2] * 100


def test_results_do_not_depend_on_threads() -> None:
    pool, _ = random_pool(2, rows=150)
    assert cross_fit([PAIR], pool, threads=1) == cross_fit([PAIR], pool, threads=3)


@pytest.mark.parametrize("folds", [1, 0, -2, 11])
def test_more_folds_than_rows_or_fewer_than_two_are_refused(folds: int) -> None:
    pool, _ = random_pool(2, rows=10)
    with pytest.raises(InputError, match=f"{folds} folds of 10 rows; expected 2 to 10"):
        cross_fit([PAIR], pool, folds=folds)


def test_bad_input_is_told() -> None:
    pool, _ = random_pool(2, rows=20)
    with pytest.raises(InputError, match="goal is 'speed'"):
        cross_fit([PAIR], pool, goal="speed")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="confidence is 95"):
        cross_fit([PAIR], pool, confidence=95)
    with pytest.raises(InputError, match="plans of several metrics: accuracy, nll"):
        cross_fit([PAIR, replace(PAIR, metric="nll")], pool)
    with pytest.raises(InputError, match="unknown metric 'speed'"):
        cross_fit([replace(PAIR, metric="speed")], pool)
    assert cross_fit([], pool) == ()


def test_a_frontier_of_another_pool_is_refused() -> None:
    pool, _ = random_pool(3, rows=60)
    frontier = frontier_of(pool)
    with pytest.raises(PredictionsError, match="searched on rows, but these predictions are of others"):
        cross_fitted(frontier, {k: replace(p, data="others") for k, p in pool.items()})
    with pytest.raises(PredictionsError, match="searched on 60 rows, but there are predictions of 59"):
        cross_fitted(frontier, {k: p.take(range(59)) for k, p in pool.items()})
    with pytest.raises(PredictionsError, match="a frontier of another pool"):
        cross_fitted(frontier, {"x": pool["m0"]})
