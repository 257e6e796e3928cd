"""Drift: seldom seen where rows are alike, seen where they are not, with intervals that hold the truth."""

from __future__ import annotations

import numpy as np
import pytest

from hf_soups.cascades.drift import AnswersSeen, drift_of
from hf_soups.cascades.plan import Plan
from hf_soups.errors import InputError
from hf_soups.metrics.significance import shares_p_value
from tests.cascades.pools import random_pool

PLAN = Plan(("m0", "m2"), (0.6,), (1.0, 5.0), unit="macs")
LABELS = ("a", "b", "c")


def drawn(rng: np.random.Generator, rows: int, deferred: float = 0.3, a: float = 0.3, sure: float = 4.0) -> AnswersSeen:
    labels = rng.choice(LABELS, rows, p=[a, 0.5, 0.5 - a])
    return AnswersSeen.count(2, rng.random(rows) < deferred, labels.tolist(), rng.beta(sure, 1.0, rows))


def test_rows_of_one_kind_are_seldom_said_to_differ() -> None:
    rng, draws, level = np.random.default_rng(0), 400, 0.05
    alarms = sum(drift_of(PLAN, drawn(rng, 500), drawn(rng, 300), level).differs for _ in range(draws))
    assert alarms <= draws * level + 3 * np.sqrt(draws * level)


@pytest.mark.parametrize(
    ("changed", "named"), [({"deferred": 0.45}, "exits"), ({"a": 0.15}, "labels"), ({"sure": 2.0}, "confidence")]
)
def test_what_differs_is_named_alone(changed: dict[str, float], named: str) -> None:
    rng = np.random.default_rng(1)
    found = drift_of(PLAN, drawn(rng, 1000), drawn(rng, 1000, **changed))
    assert [one.name for one in found.compared if one.p_value <= found.level] == [named]
    assert f"differ from the 1000 select rows in {named} (p = " in found.in_words()
    assert "No drift seen" not in found.in_words()


def test_the_interval_of_the_cost_holds_the_truth_about_95_times_in_100() -> None:
    rng, draws = np.random.default_rng(2), 400
    inside = 0
    for _ in range(draws):
        low, high = drift_of(PLAN, drawn(rng, 400), drawn(rng, 400, deferred=0.4)).cost_difference
        inside += low <= 0.1 * 5.0 <= high
    assert 0.95 * draws - 3 * np.sqrt(draws * 0.05) <= inside <= draws


def test_a_simulation_is_counted_as_its_rows_are_answered() -> None:
    pool, _ = random_pool(3, rows=200)
    answers = PLAN.apply(pool)
    seen = AnswersSeen.of(PLAN, answers)
    assert answers.exits is not None
    assert seen.exits == tuple(np.bincount(answers.exits, minlength=2))
    assert seen.labels == {str(i): int((answers.answers == i).sum()) for i in range(3)}
    assert (sum(seen.scores), seen.rows, seen.abstained) == (200, 200, None)
    found = drift_of(PLAN, seen, seen)
    assert answers.costs is not None
    assert found.average_costs == pytest.approx((answers.costs.mean(),) * 2)
    assert not found.differs


def test_p_values_are_holms() -> None:
    rng = np.random.default_rng(3)
    then, now = drawn(rng, 300), drawn(rng, 300, deferred=0.4)
    raw = {"exits": (now.exits, then.exits), "confidence": (now.scores, then.scores)}
    alone = {name: shares_p_value(*counts) for name, counts in raw.items()}
    labels = [[seen.labels[name] for name in LABELS] for seen in (now, then)]
    alone["labels"] = shares_p_value(*labels, ordered=False)
    found = {one.name: one.p_value for one in drift_of(PLAN, then, now).compared}
    ordered, largest = sorted(alone, key=alone.__getitem__), 0.0
    for rank, name in enumerate(ordered):
        largest = max(largest, min(1.0, (3 - rank) * alone[name]))
        assert found[name] == pytest.approx(largest)


def test_a_label_that_is_new_counts_and_a_single_model_has_no_exits_to_compare() -> None:
    then = AnswersSeen.count(1, [0] * 500, ["a"] * 500, [0.9] * 500)
    now = AnswersSeen.count(1, [0] * 500, ["a"] * 400 + ["b"] * 100, [0.9] * 500)
    found = drift_of(Plan(("m",), (), (1.0,)), then, now)
    assert [one.name for one in found.compared] == ["labels", "confidence"]
    assert found.differs


def test_nothing_to_compare_is_refused() -> None:
    seen = AnswersSeen((10, 10))
    with pytest.raises(InputError, match="there are no answers to compare"):
        drift_of(PLAN, seen, AnswersSeen((0, 0)))
    with pytest.raises(InputError, match="the level is 2; expected"):
        drift_of(PLAN, seen, seen, 2)
