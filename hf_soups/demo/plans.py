"""The plans that the page's slider moves along: those stored in the cascade, or those of a frontier's file."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.cascades.frontier_file import load_frontier
from hf_soups.cascades.plan import Plan
from hf_soups.demo.journeys import Always
from hf_soups.errors import InputError

if TYPE_CHECKING:
    from hf_soups.cascades.running.config import CascadeConfig


def plans_of(config: CascadeConfig, frontier: str | Path | None = None) -> tuple[Plan, ...]:
    """The plans over a cascade's members, the cheapest first; of two that run alike only one.

    Args:
        config: of the cascade; the plan as built is always among them.
        frontier: a file of further plans instead of those that the cascade stores.
    Raises:
        InputError: if no plan of the file is over these members at these costs.
    """
    built = config.built
    further = config.plans if frontier is None else _fitting(config, Path(frontier))
    known = {plan.way: plan for plan in further if math.isfinite(plan.average_cost)} | {built.way: built}
    return tuple(sorted(known.values(), key=_dearness))


def dearest(config: CascadeConfig) -> Always:
    """What the plans' costs are held against: the last member of the cascade as built, asked for every input."""
    return Always(config.built.members[-1], config.built.costs[-1])


def _dearness(plan: Plan) -> tuple[float, float]:
    average = plan.average_cost if math.isfinite(plan.average_cost) else math.inf
    return average, plan.worst_cost


def _fitting(config: CascadeConfig, path: Path) -> list[Plan]:
    """Plans that the members at hand can follow, costed as the cascade as built."""
    built, plans = config.built, load_frontier(path).plans
    own = dict(zip(built.members, built.costs, strict=True))
    fitting = [
        plan
        for plan in plans
        if (plan.unit, plan.hardware) == (built.unit, built.hardware)
        and all(own.get(name) == cost for name, cost in zip(plan.members, plan.costs, strict=True))
    ]
    if not fitting:
        raise InputError(
            f"{path}: none of its {len(plans)} plans is over the cascade's members ({', '.join(built.members)}) at "
            "their costs. Give the frontier that the cascade was built from, or leave it out: the cascade stores plans."
        )
    return fitting
