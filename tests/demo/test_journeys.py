"""A journey tells what happened to an input; its numbers are those of the rule, computed here in another way."""

from __future__ import annotations

import numpy as np
import pytest

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Rule
from hf_soups.demo.journeys import Always, journeys, totals
from hf_soups.demo.views import cost_line, decision, plan_in_words, score_line
from hf_soups.predictions import Predictions

SMALL = [[0.9, 0.1], [0.6, 0.4], [0.3, 0.7]]
LARGE = [[0.8, 0.2], [0.1, 0.9], [0.2, 0.8]]
PLAN = Plan(("small", "large"), (0.75,), (1.0, 5.0), unit="macs")


def logs(probs: list[list[float]]) -> np.ndarray:
    return Predictions.from_probs(probs).log_probs


def stages_of(plan: Plan) -> list[tuple[np.ndarray, np.ndarray]]:
    """What a run would have recorded: the first row leaves at once, the others go on."""
    return [(np.arange(3), logs(SMALL)), (np.array([1, 2]), logs(LARGE[1:]))]


def test_a_journey_holds_every_member_that_the_input_met() -> None:
    first, second, third = journeys(PLAN, stages_of(PLAN), 3)
    assert [way.exit for way in (first, second, third)] == [0, 1, 1]
    assert [m.member for m in second.meetings] == ["small", "large"]
    assert [m.leaves for m in second.meetings] == [False, True]
    assert [m.threshold for m in second.meetings] == [0.75, None]
    np.testing.assert_allclose(second.meetings[1].own, [0.1, 0.9], rtol=1e-6)
    np.testing.assert_allclose(second.meetings[1].combined, [0.35, 0.65], rtol=1e-6)  # the mean of both
    assert second.meetings[1].confidence == pytest.approx(0.65)
    assert (second.answer, second.probability) == (1, pytest.approx(0.65))
    assert [way.cost for way in (first, second, third)] == [1.0, 6.0, 6.0]


@pytest.mark.parametrize("combine", ["mean", "geometric", "last"])
@pytest.mark.parametrize("confidence", ["max", "gap", "entropy", "agreement"])
def test_answers_and_exits_are_those_of_the_plan_on_stored_predictions(combine: str, confidence: str) -> None:
    random = np.random.default_rng(3)
    probs = {name: random.dirichlet(np.ones(4), 50).astype(np.float32) for name in ("small", "large")}
    stored = {name: Predictions.from_probs(p) for name, p in probs.items()}
    plan = Plan(("small", "large"), (0.45,), (1.0, 5.0), Rule(combine, confidence))  # type: ignore[arg-type]
    told = plan.apply(stored)
    assert told.exits is not None
    on = np.flatnonzero(told.exits == 1)
    stages = [(np.arange(50), stored["small"].log_probs)]
    stages += [(on, stored["large"].log_probs[on])] if len(on) else []
    ways = journeys(plan, stages, 50)
    assert [way.exit for way in ways] == told.exits.tolist()
    np.testing.assert_array_equal(np.stack([way.log_probs for way in ways]), told.log_probs)
    assert all(m.leaves == (m is way.meetings[-1]) for way in ways for m in way.meetings)


def test_totals_count_exits_and_costs() -> None:
    told = totals(journeys(PLAN, stages_of(PLAN), 3), PLAN)
    assert (told.exits, told.cost, told.count) == ((1, 2), 13.0, 3)
    assert told.shares == (pytest.approx(1 / 3), pytest.approx(2 / 3))
    assert Always("large", 5.0).saved(told.average_cost) == pytest.approx(1 - 13 / 15)


def test_meeting_every_member_is_said_to_cost_more() -> None:
    assert cost_line(6.0, Always("large", 5.0), "macs").endswith("(5): 20% more")
    assert cost_line(5.0, Always("large", 5.0), "seconds").endswith("nothing saved")
    assert cost_line(float("nan"), Always("large", 5.0), "macs") == "cost not known"


def test_words_of_plans_and_decisions() -> None:
    both = Plan(("a", "b", "c"), (NEVER, NEVER), (1.0, 1.0, 1.0))
    assert plan_in_words(both) == "a, b and c, all asked for every input"
    some = Plan(("a", "b", "c"), (NEVER, 0.5), (1.0, 1.0, 1.0))
    assert plan_in_words(some) == "a, then b (answers at confidence 0.500 or more), then c"
    first = journeys(some, [(np.array([0]), logs(SMALL[:1]))], 1)[0]
    assert decision(first.meetings[0]) == "confidence 0.900; the next member is always asked"
    loss = Plan(("a",), (), (1.0,), score=-0.25, score_low=-0.5, metric="nll", rows=40)
    assert score_line(loss).startswith("nll 0.2500 on the 40 rows")
    assert score_line(loss).endswith("95% lower bound on new rows: 0.5000")
    assert score_line(Plan(("a",), (), (1.0,))) == "not scored"
