"""The exhaustive search against brute force, and what it says of input that it cannot use."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.cascades.search.exhaustive import search_cascades
from hf_soups.costs import Cost
from hf_soups.errors import HfSoupsError, InputError, PredictionsError, RecipeError
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions
from tests.cascades.brute_force import all_reached, costs_of, pool_of, reached_by, unbeaten

pytestmark = pytest.mark.usefixtures("compiled_search")

SEEDS = st.integers(0, 2**20)
EVERY = 64  # thresholds: more than rows, so that the grid holds every confidence


@pytest.mark.parametrize("combine", ["mean", "geometric", "last"])
@pytest.mark.parametrize("confidence", ["max", "gap", "entropy", "agreement"])
@given(seed=SEEDS, models=st.integers(3, 4), rows=st.integers(10, 30), classes=st.integers(2, 5), coarse=st.booleans())
@settings(max_examples=6, deadline=None)
def test_the_frontier_is_that_of_brute_force(
    combine: Any, confidence: Any, seed: int, models: int, rows: int, classes: int, coarse: bool
) -> None:
    pool = pool_of(seed, models, rows, classes, coarse=coarse)
    costs = costs_of(seed, pool)
    found = search_cascades(pool, costs, max_members=3, combine=combine, confidence=confidence, grid=EVERY)
    assert reached_by(found) == unbeaten(all_reached(pool, costs, 3, combine, confidence))


@given(seed=SEEDS, rows=st.integers(10, 18), coarse=st.booleans())
@settings(max_examples=5, deadline=None)
def test_the_frontier_of_four_members_is_that_of_brute_force(seed: int, rows: int, coarse: bool) -> None:
    pool = pool_of(seed, 4, rows, 4, coarse=coarse)
    costs = costs_of(seed, pool)
    found = search_cascades(pool, costs, grid=EVERY)
    assert reached_by(found) == unbeaten(all_reached(pool, costs, 4, "mean", "max"))


def same(one: Any, other: Any) -> bool:
    return bool(np.allclose(one, other, rtol=0, atol=2e-9)) if len(one) == len(other) else False


@pytest.mark.parametrize("metric", ["f1", "nll"])
@given(seed=SEEDS, rows=st.integers(10, 25))
@settings(max_examples=5, deadline=None)
def test_other_metrics_give_the_frontier_of_brute_force(metric: str, seed: int, rows: int) -> None:
    pool = pool_of(seed, 3, rows, 2)
    costs = costs_of(seed, pool)
    found = search_cascades(pool, costs, max_members=3, metric=metric, grid=EVERY)
    assert same(reached_by(found), unbeaten(all_reached(pool, costs, 3, "mean", "max", metric)))


@given(seed=SEEDS, rows=st.integers(20, 60), grid=st.integers(2, 20))
@settings(max_examples=6, deadline=None)
def test_both_ways_of_searching_agree(seed: int, rows: int, grid: int) -> None:
    """The compiled search for accuracy, and plain sums over the grid for any metric."""
    pool = pool_of(seed, 4, rows, 5)
    costs = costs_of(seed, pool)
    any_metric = replace(METRICS["accuracy"], name="share of hits")  # another object: not known to be accuracy
    fast, plain = (search_cascades(pool, costs, metric=metric, grid=grid) for metric in ("accuracy", any_metric))
    assert reached_by(fast) == reached_by(plain)


def test_five_members_are_searched_too() -> None:
    pool = pool_of(5, 5, 6, 3)
    costs = costs_of(5, pool)
    found = search_cascades(pool, costs, max_members=5, grid=6)
    assert reached_by(found) == unbeaten(all_reached(pool, costs, 5, "mean", "max"))


@pytest.mark.parametrize("combine", ["mean", "last"])
def test_every_plan_reaches_what_it_says(combine: Any) -> None:
    pool = pool_of(11, 5, 400, 6, rise=0.1)
    costs = costs_of(11, pool)
    temperatures = {"model 1": 1.7, "model 4": 0.6}
    found = search_cascades(pool, costs, combine=combine, temperatures=temperatures, grid=12)
    assert max(len(plan.members) for plan in found.plans) == 4
    for plan in (*found.plans, *found.singles, *found.ensembles):
        done = plan.apply(pool)
        assert done.exits is not None
        assert done.costs is not None
        assert plan.score == (done.answers == done.labels).mean()
        assert plan.average_cost == pytest.approx(done.costs.mean(), rel=1e-12)
        assert plan.exit_shares == tuple(np.bincount(done.exits, minlength=len(plan.members)) / len(done))


def test_plans_of_the_best_classes_only_reach_what_they_say_at_any_temperature() -> None:
    pool = {name: TopKPredictions.of(p, 4) for name, p in pool_of(28, 3, 300, 12, rise=0.1).items()}
    found = search_cascades(pool, costs_of(28, pool), temperatures={"model 0": 1.3, "model 2": 0.7}, grid=12)
    assert len(found) > 3
    for plan in found.plans:
        done = plan.apply(pool)
        assert done.exits is not None
        assert plan.score == (done.answers == done.labels).mean()
        assert plan.exit_shares == tuple(np.bincount(done.exits, minlength=len(plan.members)) / len(done))


def test_no_plan_beats_another() -> None:
    pool = pool_of(12, 5, 300, 6, rise=0.1)
    reached = reached_by(search_cascades(pool, costs_of(12, pool), grid=16))
    assert reached == unbeaten(reached)


def test_threads_do_not_change_the_result() -> None:
    pool = pool_of(13, 6, 900, 10, rise=0.1)
    costs = costs_of(13, pool)
    one, several = (search_cascades(pool, costs, grid=12, threads=threads) for threads in (1, 3))
    assert one == several


def test_a_worst_cost_leaves_out_what_costs_more_and_nothing_else() -> None:
    pool = pool_of(14, 4, 40, 5)
    costs = costs_of(14, pool)
    limit = costs["model 1"] + costs["model 2"]
    free, bounded = (search_cascades(pool, costs, grid=EVERY, max_worst_cost=most) for most in (None, limit))
    assert reached_by(bounded) == [reached for reached in reached_by(free) if reached[2] <= limit + 1e-9]
    assert 1 < len(bounded) < len(free)
    assert len(bounded.singles) == 4


def test_singles_and_ensembles_stand_the_best_first() -> None:
    pool = pool_of(15, 4, 200, 5, rise=0.1)
    found = search_cascades(pool, costs_of(15, pool), grid=8)
    accuracies = {name: float((p.answers == p.labels).mean()) for name, p in pool.items()}
    assert [plan.score for plan in found.singles] == sorted(accuracies.values(), reverse=True)
    assert {plan.members[0]: plan.score for plan in found.singles} == accuracies
    assert found.best_ensemble is not None
    assert found.best_ensemble.score == max(plan.score for plan in found.ensembles)
    assert all(set(plan.thresholds) == {2.0} for plan in found.ensembles)


def test_rows_in_another_order_are_joined_by_id() -> None:
    pool = pool_of(16, 3, 50, 4)
    costs = costs_of(16, pool)
    turned = {name: p.take(np.random.default_rng(m).permutation(50)) for m, (name, p) in enumerate(pool.items())}
    assert reached_by(search_cascades(turned, costs)) == reached_by(search_cascades(pool, costs))


def test_the_labels_of_one_model_are_enough() -> None:
    pool = pool_of(17, 3, 50, 4)
    costs = costs_of(17, pool)
    bare = {name: replace(p, labels=None) if name != "model 2" else p for name, p in pool.items()}
    assert search_cascades(bare, costs) == search_cascades(pool, costs)


def test_losses_are_negated_and_costs_keep_their_unit() -> None:
    pool = pool_of(18, 3, 60, 4)
    costs = {name: Cost(c, "macs") for name, c in costs_of(18, pool).items()}
    found = search_cascades(pool, costs, metric="brier", grid=8)
    assert found.best_single.score < 0
    assert (found.best_single.metric, found.best_single.unit, found.best_single.rows) == ("brier", "macs", 60)


def test_progress_goes_from_nothing_to_all() -> None:
    pool = pool_of(19, 3, 60, 4)
    told: list[tuple[float, str]] = []
    search_cascades(pool, costs_of(19, pool), grid=8, progress=lambda share, what: told.append((share, what)))
    shares = [share for share, _ in told]
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert list(dict.fromkeys(what for _, what in told)) == ["answers", "grid", "polish", "counting"]


def with_nan(p: Predictions) -> Predictions:
    log_probs = p.log_probs.copy()
    log_probs[7, 1] = np.nan
    return replace(p, log_probs=log_probs)


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        (lambda p: p.take(np.arange(30)), PredictionsError, "do not hold the same rows: 20 missing"),
        (lambda p: replace(p, row_ids=p.row_ids + 1), PredictionsError, "1 missing .*1 extra"),
        (lambda p: replace(p, labels=(p.labels + 1) % 4), PredictionsError, "the data differ"),
        (lambda p: replace(p, log_probs=p.log_probs[:, :3]), PredictionsError, "other labels"),
        (lambda p: replace(p, data="other"), PredictionsError, "other data"),
        (with_nan, PredictionsError, "hold NaN"),
    ],
)
def test_predictions_that_do_not_go_together_are_refused(change: Any, error: type[HfSoupsError], says: str) -> None:
    pool = {name: replace(p, data="these") for name, p in pool_of(20, 3, 50, 4).items()}
    pool["model 1"] = change(pool["model 1"])
    with pytest.raises(error, match=says):
        search_cascades(pool, costs_of(20, pool))


def test_a_pool_without_labels_is_refused() -> None:
    pool = {name: replace(p, labels=None) for name, p in pool_of(21, 3, 50, 4).items()}
    with pytest.raises(PredictionsError, match="no labels"):
        search_cascades(pool, costs_of(21, pool))


@pytest.mark.parametrize("models", [0, 1])
def test_a_pool_of_one_or_none_is_refused(models: int) -> None:
    pool = pool_of(22, models, 50, 4)
    with pytest.raises(PredictionsError, match=f"a pool of {models} model.*nothing to search"):
        search_cascades(pool, costs_of(22, pool))


def test_no_rows_are_refused() -> None:
    pool = {name: p.take([]) for name, p in pool_of(23, 2, 10, 3).items()}
    with pytest.raises(PredictionsError, match="no rows"):
        search_cascades(pool, costs_of(23, pool))


@pytest.mark.parametrize(
    ("costs", "says"),
    [
        ({"model 0": 1.0}, "no cost of model 1"),
        ({"model 0": 1.0, "model 1": -2.0}, "a cost of -2.0"),
        ({"model 0": 1.0, "model 1": Cost(2.0, "macs")}, "plain numbers.*MACs|plain numbers.*macs"),
        ({"model 0": Cost(1.0, "seconds", "CPU"), "model 1": Cost(2.0, "seconds", "GPU")}, "on CPU.*on GPU"),
    ],
)
def test_costs_that_cannot_be_added_are_refused(costs: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says):
        search_cascades(pool_of(24, 2, 10, 3), costs)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"max_members": 0}, "max_members is 0"),
        ({"metric": "recall"}, "unknown metric 'recall'"),
        ({"combine": "median"}, "combine is 'median'"),
        ({"confidence": "luck"}, "confidence is 'luck'"),
        ({"grid": 1}, "grid is 1; expected"),
        ({"grid": ()}, r"grid is \(\); expected"),
        ({"threads": 0}, "0 threads"),
        ({"temperatures": {"model 9": 2.0}}, "temperatures of model 9, which the pool lacks"),
        ({"temperatures": {"model 0": 0.0}}, "temperature of model 0 is 0.0"),
        ({"max_worst_cost": 0.1}, "max_worst_cost is 0.1, but the cheapest model costs"),
        ({"max_worst_cost": float("nan")}, "max_worst_cost is nan"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], says: str) -> None:
    pool = pool_of(25, 2, 10, 3)
    with pytest.raises((InputError, RecipeError), match=says):
        search_cascades(pool, costs_of(25, pool), **options)


def test_a_pool_too_large_to_try_everything_is_refused_at_once() -> None:
    pool = pool_of(26, 300, 4, 2)
    with pytest.raises(InputError, match=r"300 models .* sets of members.*`beam`, or `streeter`"):
        search_cascades(pool, costs_of(26, pool))


@pytest.mark.parametrize("costs", [[0.0, 0.0, 0.0], [0.0, 1.0, 2.0], [3.0, 3.0, 3.0], [1e-9, 1.0, 1e9]])
def test_free_equal_and_far_apart_costs_are_searched(costs: list[float]) -> None:
    pool = pool_of(29, 3, 25, 4, rise=0.1)
    priced = dict(zip(pool, costs, strict=True))
    found = search_cascades(pool, priced, max_members=3, grid=EVERY)
    expected = unbeaten(all_reached(pool, priced, 3, "mean", "max"))
    np.testing.assert_allclose(reached_by(found), expected, rtol=1e-9, atol=1e-8)


@pytest.mark.parametrize(("rows", "classes"), [(1, 3), (33, 1), (2, 2)])
def test_the_smallest_pools_are_searched(rows: int, classes: int) -> None:
    pool = pool_of(30, 3, rows, classes)
    costs = costs_of(30, pool)
    found = search_cascades(pool, costs, max_members=3)
    assert reached_by(found) == unbeaten(all_reached(pool, costs, 3, "mean", "max"))


def test_one_member_at_most_gives_the_models_that_none_beats() -> None:
    pool = pool_of(27, 4, 100, 5)
    costs = costs_of(27, pool)
    found = search_cascades(pool, costs, max_members=1)
    assert reached_by(found) == unbeaten(all_reached(pool, costs, 1, "mean", "max"))
