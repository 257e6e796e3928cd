"""Running a cascade row by row: each row meets the members it needs, and those that go on are taken together.

The decisions are `simulate`'s: the same committee, the same confidences in float32, the same comparison.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Committee, leaving
from hf_soups.errors import InputError

# a stage and the numbers of the rows that reach it -> that member's natural-log probabilities of these rows
Answer = Callable[[int, Int64[np.ndarray, " rows"]], Float32[np.ndarray, "rows classes"]]


@dataclass(frozen=True, eq=False)
class Answered:
    """What a cascade answered on a batch, and where its rows left."""

    log_probs: Float32[np.ndarray, "rows classes"]
    exits: Int64[np.ndarray, " rows"]  # stage; 0 is the first member
    confidences: Float32[np.ndarray, " rows"]  # at the stage that each row left at


def run_rows(answer: Answer, count: int, plan: Plan) -> Answered:
    """Send `count` rows through the stages of a plan."""
    left: list[tuple[Int64[np.ndarray, " rows"], Float32[np.ndarray, "rows classes"]]] = []
    exits, confidences = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.float32)
    rows, committee, last = np.arange(count), Committee(plan.rule), len(plan.members) - 1
    for stage in range(len(plan.members)):
        committee = committee.joined(answer(stage, rows))
        sure = committee.confidence()
        out = np.ones(len(rows), dtype=bool) if stage == last else leaving(sure, plan.thresholds[stage])
        if not out.any():
            continue
        exits[rows[out]], confidences[rows[out]] = stage, sure[out]
        if out.all():  # nothing is gathered: at batch 1 always so
            left.append((rows, committee.log_probs()))
            break
        left.append((rows[out], committee.take(out).log_probs()))
        rows, committee = rows[~out], committee.take(~out)
    if len(left) == 1:
        return Answered(left[0][1], exits, confidences)
    log_probs = np.empty((count, left[0][1].shape[1]), dtype=np.float32)
    for at, own in left:
        log_probs[at] = own
    return Answered(log_probs, exits, confidences)


def within_budget(plans: tuple[Plan, ...], budget: float) -> Plan:
    """The plan of the highest score that costs at most `budget` on average.

    Args:
        plans: over the members of one cascade, in one unit.
        budget: in shares of what the most expensive member costs alone; 0.5 is half of it.
    Raises:
        InputError: if no plan is so cheap, or the costs of the plans are not known.
    """
    dearest = max(cost for plan in plans for cost in plan.costs)
    known = [plan for plan in plans if np.isfinite(plan.average_cost) and np.isfinite(plan.score)]
    if not known or not dearest > 0:
        raise InputError(
            "this cascade holds no plans with a score and an average cost, so it has no budget to keep to. Build it "
            "from a frontier of `cascade search`."
        )
    fitting = [plan for plan in known if plan.average_cost <= budget * dearest]
    if not fitting:
        least = min(plan.average_cost for plan in known) / dearest
        raise InputError(
            f"a budget of {budget:g} of the most expensive member's cost; the cheapest plan that this cascade holds "
            f"takes {least:.3g}. Give {np.ceil(least * 1000) / 1000:g} or more, or None for the plan as built."
        )
    return max(fitting, key=lambda plan: (plan.score, -plan.average_cost, -plan.worst_cost))
