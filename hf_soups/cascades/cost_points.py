"""The points of a frontier's picture of scores against costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from hf_soups.cascades.frontier import Frontier, pareto
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER
from hf_soups.errors import InputError
from hf_soups.metrics import METRICS, traits_of
from hf_soups.plots.costs import CostPicture, CostPoint
from hf_soups.predictions import Predictions

LARGEST = 8  # members of the ensembles that are added
PLANS = 40  # of the frontier that are drawn when each is scored anew


def cost_picture(
    frontier: Frontier,
    *,
    plan: Plan | None = None,
    report: Mapping[str, Predictions] | None = None,
    metric: str | None = None,
    soups: Collection[str] = (),
) -> CostPicture:
    """The singles, the best ensembles for their cost, and the frontier.

    Args:
        frontier: as a search returned it.
        plan: the one that was chosen, drawn with a mark of its own.
        report: all members' predictions of rows that nothing was chosen on, by name. Everything is scored anew on
            them, the frontier at up to 40 plans, and the ensembles of the two, three... best singles join; without them
            the scores are those of the search, which are too good.
        metric: the score's name, if it is not the search's.
        soups: names of the single models that are soups, which get a mark of their own.
    Raises:
        InputError: if there are report rows, and the metric cannot be computed on them.
    """
    best = frontier.best_single
    named = metric or best.metric
    shown = [frontier.plans[i] for i in frontier.printed(PLANS)] if report else list(frontier.pareto())
    cascades = [p for p in shown if len(p.members) > 1 and not p.is_ensemble]
    ensembles = list(pareto(frontier.ensembles or [p for p in frontier.plans if p.is_ensemble]))
    known = [set(e.members) for e in ensembles]
    ensembles += [p for p in _of_the_best(frontier) if set(p.members) not in known] if report else []
    if plan is not None and plan not in (*frontier.singles, *ensembles, *cascades):
        cascades.append(plan)
    points = [_cost_point(p, named, report, chosen=p == plan) for p in (*frontier.singles, *ensembles, *cascades)]
    points = [replace(p, kind="soup") if p.kind == "single" and p.name in soups else p for p in points]
    rows, role = (best.rows, "select") if report is None else (len(report[best.members[0]]), "report")
    better = traits_of(named).sign > 0
    return CostPicture(tuple(points), named, best.unit, rows, role, better)


def _of_the_best(frontier: Frontier) -> list[Plan]:
    """The ensembles of the two to eight singles that were best on select."""
    rule, best = frontier.best_single.rule, frontier.singles[:LARGEST]
    if rule.combine == "last":
        return []  # members of such a cascade answer alone
    return [
        replace(
            best[0],
            members=tuple(p.members[0] for p in best[:count]),
            thresholds=(NEVER,) * (count - 1),
            costs=tuple(p.costs[0] for p in best[:count]),
            temperatures=tuple((p.temperatures or (1.0,))[0] for p in best[:count]),
            exit_shares=(),  # of the single
        )
        for count in range(2, len(best) + 1)
    ]


def _cost_point(plan: Plan, metric: str, report: Mapping[str, Predictions] | None, *, chosen: bool) -> CostPoint:
    kind = "single" if len(plan.members) == 1 else "ensemble" if plan.is_ensemble else "cascade"
    known = METRICS.get(metric)
    if report is None:
        sign = traits_of(metric).sign  # a plan's losses are negated
        cost, score = plan.average_cost, sign * plan.score
        low = None if plan.score_low is None else sign * plan.score_low
    elif known is None:
        raise InputError(f"the metric {metric!r} cannot be computed by its name; known: {', '.join(METRICS)}.")
    else:
        answered = plan.apply(report)
        assert answered.costs is not None
        cost, score, low = float(answered.costs.mean()), known.compute(answered), None
    return CostPoint(kind, plan.in_order, cost, score, plan.worst_cost, plan.thresholds, low, chosen=chosen)
