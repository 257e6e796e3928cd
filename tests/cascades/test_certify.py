"""Risk control: certificates are wrong as seldom as they say, and given where they should be."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from hf_soups.cascades import Plan, Rule
from hf_soups.cascades.certify import Claim, best_bet, certified, certify, loss_p_value, rows_to_certify, safe_path
from hf_soups.cascades.stages import Stages
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS
from tests.cascades.pools import random_pool

PLAN = Plan(("small", "big"), (0.5,), (1.0, 4.0))
BIG_IS_RIGHT = 0.9


def drawn(rng: np.random.Generator, rows: int) -> tuple[Stages, np.ndarray]:
    """The small model is right with a chance of (1 + confidence) / 2, the big one with 0.9 whatever the row."""
    confidence = rng.random(rows).astype(np.float32)
    small, big = rng.random(rows) < (1 + confidence) / 2, rng.random(rows) < BIG_IS_RIGHT
    statistics = tuple(np.stack([hit, np.ones(rows, bool)], axis=1).astype(np.uint8) for hit in (small, big))
    costs = (np.full(rows, 1.0), np.full(rows, 5.0))
    return Stages(confidence[None], statistics, costs, METRICS["accuracy"]), big


def true_loss(threshold: float) -> float:
    """Of accuracy against the big model: the integral of 0.9 - (1 + c) / 2 over confidences from the threshold to 1."""
    t = min(max(threshold, 0.0), 1.0)
    return (BIG_IS_RIGHT - 0.5) * (1 - t) - (1 - t**2) / 4


def naive(stages: Stages, right: np.ndarray, max_loss: float) -> float | None:
    """The cheapest threshold whose loss on these very rows is small enough."""
    fitting = []
    for (threshold,) in safe_path(stages, right, max_loss):
        hits = stages.at_exits(stages.exits((threshold,)))[0][:, 0]
        if (right - hits.astype(float)).mean() <= max_loss:
            fitting.append(threshold)
    return min(fitting, default=None)


def test_certificates_are_wrong_no_more_often_than_delta_and_naive_choices_are() -> None:
    rng, draws, claim = np.random.default_rng(0), 100, Claim("big", 0.02, 0.1)
    given = wrong = naive_wrong = 0
    for seed in range(draws):
        stages, right = drawn(rng, 600)
        found = certified(PLAN, stages, right, claim, seed=seed)
        if found.plan is not None:
            given += 1
            wrong += true_loss(found.plan.thresholds[0]) > claim.max_loss
        chosen = naive(stages, right, claim.max_loss)
        naive_wrong += chosen is not None and true_loss(chosen) > claim.max_loss
    allowed = draws * claim.delta + 3 * np.sqrt(draws * claim.delta * (1 - claim.delta))
    assert wrong <= allowed
    assert naive_wrong > allowed
    assert given > 0.8 * draws  # and it is of use


def test_with_many_rows_the_cheapest_safe_threshold_is_nearly_reached() -> None:
    stages, right = drawn(np.random.default_rng(1), 40_000)
    found = certified(PLAN, stages, right, Claim("big", 0.02, 0.05))
    assert found.plan is not None
    cheapest = min(t for t in np.linspace(0, 1, 1001) if all(true_loss(u) <= 0.02 for u in np.linspace(t, 1, 200)))
    assert cheapest <= found.plan.thresholds[0] <= cheapest + 0.15
    assert found.plan.average_cost < 5
    assert found.rows == 20_000
    assert "Certified with probability 0.95: at most 2 points of accuracy lost against big" in found.in_words()


def test_p_values_below_a_level_are_no_more_frequent_than_it_at_the_largest_loss_allowed() -> None:
    rng = np.random.default_rng(0)
    minus, plus, rows, draws = 0.04, 0.06, 200, 3000
    counts = rng.multinomial(rows, [minus, 1 - minus - plus, plus], size=draws)
    for bet in (0.2, 0.6):
        p = np.array([loss_p_value(c, plus - minus, bet) for c in counts])
        for level in (0.05, 0.2):
            assert (p <= level).mean() <= level + 3 * np.sqrt(level * (1 - level) / draws)
        assert p.min() < 0.3  # and it is no constant


def test_less_variable_losses_need_fewer_rows() -> None:
    calm, wild = np.zeros(1000), np.zeros(1000)
    wild[:200], wild[200:400] = 1, -1
    claim = Claim("big", 0.02, 0.05)
    needed = [rows_to_certify(losses, claim) for losses in (calm, wild)]
    assert needed[0] is not None
    assert needed[1] is not None
    assert 10 * needed[0] < needed[1]
    assert rows_to_certify(np.full(100, 1.0), claim) is None
    assert best_bet(calm, 500, claim) > best_bet(wild, 500, claim)


def test_nothing_is_certified_on_a_few_rows_and_how_many_would_do_is_told() -> None:
    stages, right = drawn(np.random.default_rng(3), 60)
    found = certified(PLAN, stages, right, Claim("big", 0.01, 0.05))
    assert not found.certified
    assert found.rows_needed is not None
    assert found.rows_needed > 60
    assert f"About {found.rows_needed} rows in all would do" in found.in_words()


def test_a_cascade_that_loses_too_much_is_never_certified() -> None:
    rng = np.random.default_rng(5)
    stages, _ = drawn(rng, 4000)
    always = np.ones(4000, dtype=bool)  # a reference that neither member comes near
    found = certified(PLAN, stages, always, Claim("oracle", 0.01, 0.05))
    assert not found.certified
    assert found.rows_needed is None
    assert "for any number of rows" in found.in_words()


def test_thresholds_are_certified_from_predictions_and_score_as_the_plan_says() -> None:
    pool, _ = random_pool(4, rows=2000, seed=1)
    plan = Plan(("m1", "m3"), (0.5,), (3.0, 7.0), Rule("mean"))
    found = certify(plan, pool, max_loss=0.05, delta=0.1)
    assert found.claim.reference == "all members together"
    assert found.plan is not None
    assert found.plan.rows == 1000
    assert found.plan.average_cost < 10
    done = found.plan.apply(pool)
    everything = replace(plan, thresholds=(2.0,)).apply(pool)
    assert (everything.answers == everything.labels).mean() - (done.answers == done.labels).mean() < 0.05
    against_one = certify(plan, pool, reference="m2", max_loss=0.05, delta=0.1)
    assert against_one.claim.reference == "m2"
    assert against_one.plan is not None


def test_the_members_own_last_is_the_reference_where_members_answer_alone() -> None:
    pool, _ = random_pool(4, rows=600, seed=1)
    found = certify(Plan(("m1", "m3"), (0.5,), (3.0, 7.0), Rule("last")), pool, max_loss=0.1)
    assert found.claim.reference == "m3"


def test_the_split_is_the_seeds_and_the_rows_order_is_the_first_members() -> None:
    pool, _ = random_pool(3, rows=800, seed=1)
    plan = Plan(("m0", "m2"), (0.5,), (1.0, 5.0))
    mixed = {**pool, "m1": pool["m1"].take(np.random.default_rng(0).permutation(800))}
    one, other = (certify(plan, p, reference="m1", max_loss=0.1, seed=4) for p in (pool, mixed))
    assert one == other


@pytest.mark.parametrize("name", ["max_loss", "delta"])
@pytest.mark.parametrize("value", [0, 1, -0.1, 5])
def test_shares_outside_0_to_1_are_refused(name: str, value: float) -> None:
    pool, _ = random_pool(2, rows=10)
    with pytest.raises(InputError, match=f"{name} is {value}; expected a share between 0 and 1"):
        certify(Plan(("m0", "m1"), (0.5,), (1.0, 3.0)), pool, **{name: value})


def test_bad_input_is_told() -> None:
    pool, _ = random_pool(2, rows=10)
    plan = Plan(("m0", "m1"), (0.5,), (1.0, 3.0))
    with pytest.raises(PredictionsError, match="no predictions of the reference 'huge'; there are: m0, m1"):
        certify(plan, pool, reference="huge")
    with pytest.raises(InputError, match="a plan of 1 members"):
        certify(Plan(("m0",), (), (1.0,)), pool)
    with pytest.raises(InputError, match="10 rows cannot be split"):
        certify(plan, pool, ordering_share=1.0)
    with pytest.raises(PredictionsError, match="hold no labels"):
        certify(plan, {k: replace(p, labels=None) for k, p in pool.items()})
