"""Plans, costs and exits in the words of the page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Confidence
from hf_soups.costs.unit import UNITS
from hf_soups.demo.journeys import Always, Meeting
from hf_soups.metrics import METRICS
from hf_soups.report.frontier import cost_in_words
from hf_soups.report.words import PERCENT, score_in_words

CONFIDENCES: dict[Confidence, str] = {
    "max": "the largest probability",
    "gap": "the gap between the two largest probabilities",
    "entropy": "1 - entropy / log(classes)",
    "agreement": "the share of members with the same answer",
}


def unit_in_words(unit: str) -> str:
    """What costs count.

    >>> unit_in_words("macs"), unit_in_words("")
    ('MACs per example', 'of cost per example')
    """
    return UNITS.get(unit, f"{unit} per example") if unit else "of cost per example"


def one_unit_in_words(unit: str) -> str:
    """What the cost of a single input counts.

    >>> one_unit_in_words("seconds_batch_1")
    'seconds at batch 1'
    """
    return unit_in_words(unit).replace(" per example", "")


def plan_in_words(plan: Plan) -> str:
    """Members in order, each with the confidence that inputs leave at.

    >>> plan_in_words(Plan(("small", "large"), (0.7790,), (1.0, 5.0)))
    'small, leaving at 0.779 or more, then large'
    >>> plan_in_words(Plan(("small",), (), (1.0,)))
    'small alone'
    """
    if len(plan.members) == 1:
        return f"{plan.members[0]} alone"
    if all(threshold > 1 for threshold in plan.thresholds):
        return f"{', '.join(plan.members[:-1])} and {plan.members[-1]}, all asked for every input"
    parts = [
        name if threshold > 1 else f"{name}, leaving at {_digits(threshold)} or more"
        for name, threshold in zip(plan.members, plan.thresholds, strict=False)
    ]
    return ", then ".join([*parts, plan.members[-1]])


def as_metric(value: float, metric: str) -> float:
    """A score, or a bound of one, as its metric gives it: plans hold losses negated."""
    known = METRICS.get(metric)
    return value if known is None or known.greater_is_better else -value


def score_line(plan: Plan) -> str:
    """The plan's score, on what, and how far it can be trusted.

    >>> score_line(Plan(("a",), (), (1.0,), score=0.9833, rows=300))
    'accuracy 98.3 (x 100) on the 300 rows that the plans were chosen on, so optimistic'
    """
    if math.isnan(plan.score):
        return "not scored"
    scale = " (x 100)" if plan.metric in PERCENT else ""
    rows = f"the {plan.rows} rows" if plan.rows else "the rows"
    bound = ""
    if plan.score_low is not None:
        low = score_in_words(as_metric(plan.score_low, plan.metric), plan.metric)
        bound = f"; lower bound on other rows (95%) {low}"
    score = score_in_words(as_metric(plan.score, plan.metric), plan.metric)
    return f"{plan.metric} {score}{scale} on {rows} that the plans were chosen on, so optimistic{bound}"


def cost_line(cost: float, always: Always, unit: str) -> str:
    """A cost beside that of one member asked for every input.

    >>> cost_line(1.0, Always("large", 5.0), "macs")
    '1 MACs per example, 20% of asking large for every input (5): 80% saved'
    >>> cost_line(6.0, Always("large", 5.0), "macs")
    '6 MACs per example, 120% of asking large for every input (5): 20% more'
    """
    if math.isnan(cost):
        return "cost not known"
    return (
        f"{cost_in_words(cost)} {unit_in_words(unit)}, {share_of(cost, always)} of asking {always.member} for every "
        f"input ({cost_in_words(always.cost)}): {saved_in_words(cost, always)}"
    )


def share_of(cost: float, always: Always) -> str:
    """A cost in per cent of asking one member for every input."""
    return f"{100 * cost / always.cost:.0f}%" if always.cost > 0 else "-"


def saved_in_words(cost: float, always: Always) -> str:
    """What was saved, or spent on top.

    >>> saved_in_words(5.0, Always("large", 5.0))
    'nothing saved'
    """
    saved = always.saved(cost)
    if round(100 * saved) == 0:
        return "nothing saved"
    return f"{100 * saved:.0f}% saved" if saved > 0 else f"{-100 * saved:.0f}% more"


def decision(meeting: Meeting) -> str:
    """Why an input left at a member, or went on.

    >>> import numpy as np
    >>> p = np.array([0.9, 0.1])
    >>> decision(Meeting("small", p.astype(np.float32), p, 0.9, 0.95, 1.0))
    'confidence 0.900, below the threshold of 0.950: asks the next member'
    """
    told = f"confidence {_digits(meeting.confidence)}"
    if meeting.threshold is None:
        return f"{told}; the last member answers whatever its confidence"
    if meeting.threshold > 1:
        return f"{told}; the next member is always asked"
    if meeting.leaves:
        return f"{told}, at or above the threshold of {_digits(meeting.threshold)}: answers"
    return f"{told}, below the threshold of {_digits(meeting.threshold)}: asks the next member"


def place_of(exit: int, members: Sequence[str]) -> str:
    """Where an input left.

    >>> place_of(0, ("small", "large"))
    'small (member 1 of 2)'
    """
    return f"{members[exit]} (member {exit + 1} of {len(members)})"


def _digits(value: float) -> str:
    return f"{value:.3f}"
