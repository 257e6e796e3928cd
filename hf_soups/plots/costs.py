"""Score against cost: every single model, the ensembles and the frontier of cascades in one picture."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.frontier import Frontier, is_ensemble, pareto
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER
from hf_soups.costs import UNITS
from hf_soups.errors import InputError
from hf_soups.files.writing import write_csv
from hf_soups.metrics import METRICS, traits_of
from hf_soups.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    WIDE,
    cost_axis,
    legend_below,
    new_figure,
    save_figure,
    scale_of,
    unit_of,
)
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LARGEST = 8  # members of the ensembles that are added
PLANS = 40  # of the frontier that are drawn when each is scored anew
LOOKS = {
    "single": ("o", GREY, 60),
    "soup": ("D", ORANGE, 70),
    "ensemble": ("^", GREEN, 60),
    "cascade": ("*", VERMILION, 90),
}
NAMED = 12  # singles that are named beside their point; more would cover one another


@dataclass(frozen=True, slots=True)
class CostPoint:
    """One answerer with its score, in the metric's own sign, and its average cost of an example."""

    kind: str  # "single", "soup", "ensemble" or "cascade"
    name: str
    cost: float
    score: float
    worst_cost: float
    thresholds: tuple[float, ...] = ()
    score_low: float | None = None  # lower confidence bound, where the search gave one
    chosen: bool = False


@dataclass(frozen=True, slots=True)
class CostPicture:
    """What one picture of scores against costs shows."""

    points: tuple[CostPoint, ...]
    metric: str
    unit: str
    rows: int
    role: str  # of the rows: "select" or "report"


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
    """
    named = metric or frontier.best_single.metric
    shown = [frontier.plans[i] for i in frontier.printed(PLANS)] if report else list(frontier.pareto())
    cascades = [p for p in shown if len(p.members) > 1 and not is_ensemble(p)]
    ensembles = list(pareto(frontier.ensembles or [p for p in frontier.plans if is_ensemble(p)]))
    known = [set(e.members) for e in ensembles]
    ensembles += [p for p in _of_the_best(frontier) if set(p.members) not in known] if report else []
    if plan is not None and plan not in (*frontier.singles, *ensembles, *cascades):
        cascades.append(plan)
    everything = (*frontier.singles, *ensembles, *cascades)
    points = tuple(_point(p, named, report, chosen=p == plan) for p in everything)
    points = tuple(replace(p, kind="soup") if p.kind == "single" and p.name in soups else p for p in points)
    some = frontier.best_single
    rows = some.rows if report is None else len(report[some.members[0]])
    return CostPicture(points, named, some.unit, rows, "select" if report is None else "report")


def within_cost(points: Iterable[tuple[float, float]], *, better: bool) -> list[tuple[float, float]]:
    """Cost and score of the best within each cost, up to the largest cost.

    Args:
        points: costs and scores.
        better: whether higher scores are better.

    >>> within_cost([(1, 0.5), (2, 0.4), (3, 0.6), (4, 0.6)], better=True)
    [(1, 0.5), (3, 0.6), (4, 0.6)]
    """
    sign, best = (1 if better else -1), list[tuple[float, float]]()
    ordered = sorted(points, key=lambda p: (p[0], -sign * p[1]))
    for cost, score in ordered:
        if not best or sign * score > sign * best[-1][1]:
            best.append((cost, score))
    return [*best, (ordered[-1][0], best[-1][1])]


def draw_cost_picture(picture: CostPicture, path: str | Path) -> tuple[Path, ...]:
    """Write the picture as PNG, and its points as CSV beside it; both paths."""
    figure, axes = new_figure()
    scale = scale_of(picture.metric)
    by_kind = {kind: [p for p in picture.points if p.kind == kind] for kind in LOOKS}
    _stairs(axes, picture.points, scale, traits_of(picture.metric).sign > 0)
    for kind, (marker, colour, size) in LOOKS.items():
        found = by_kind[kind]
        if found:
            axes.scatter(
                [p.cost for p in found], [scale * p.score for p in found], marker=marker, s=size, color=colour,
                edgecolors="white", linewidths=0.6, zorder=3, label=_counted(kind, len(found)),
            )  # fmt: skip
    _bounds(axes, by_kind["cascade"], scale)
    _named(axes, [*by_kind["single"], *by_kind["soup"]], scale)
    _chosen(axes, picture, scale)
    if max(p.cost for p in picture.points) > WIDE * min(p.cost for p in picture.points) > 0:
        axes.set_xscale("log")
    cost_axis(axes)
    axes.set_xlabel(f"{UNITS.get(picture.unit, picture.unit or 'cost')}, average over rows")
    axes.set_ylabel(f"{picture.role}: {unit_of(picture.metric)}, {picture.rows} rows")
    axes.margins(x=0.08, y=0.1)
    legend_below(axes)
    at = Path(path)
    save_figure(figure, at)
    write_csv(at.with_suffix(".csv"), [_row(picture, p) for p in picture.points])
    return at, at.with_suffix(".csv")


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


def _point(plan: Plan, metric: str, report: Mapping[str, Predictions] | None, *, chosen: bool) -> CostPoint:
    kind = "single" if len(plan.members) == 1 else "ensemble" if is_ensemble(plan) else "cascade"
    about: dict[str, Any] = {
        "kind": kind,
        "name": (" + " if kind == "ensemble" else " -> ").join(plan.members),
        "worst_cost": plan.worst_cost,
        "thresholds": plan.thresholds,
        "chosen": chosen,
    }
    known = METRICS.get(metric)
    if report is None:
        sign = traits_of(metric).sign  # a plan's losses are negated
        low = None if plan.score_low is None else sign * plan.score_low
        return CostPoint(cost=plan.average_cost, score=sign * plan.score, score_low=low, **about)
    if known is None:
        raise InputError(f"the metric {metric!r} cannot be computed by its name; known: {', '.join(METRICS)}.")
    answered = plan.apply(report)
    assert answered.costs is not None
    return CostPoint(cost=float(answered.costs.mean()), score=known.compute(answered), **about)


def _stairs(axes: Axes, points: Sequence[CostPoint], scale: float, better: bool) -> None:
    """The best score within each average cost."""
    best = within_cost(((p.cost, scale * p.score) for p in points), better=better)
    axes.step(*zip(*best, strict=True), where="post", color=BLUE, lw=1.5, label="best of these within a cost")


def _bounds(axes: Axes, cascades: Sequence[CostPoint], scale: float) -> None:
    told = [p for p in cascades if p.score_low is not None]
    if told:
        low = [scale * p.score_low for p in told if p.score_low is not None]
        top = [scale * p.score for p in told]
        axes.vlines([p.cost for p in told], low, top, color=VERMILION, lw=1, alpha=0.4, label="down to the lower bound")


def _named(axes: Axes, singles: Sequence[CostPoint], scale: float) -> None:
    for point in singles if len(singles) <= NAMED else ():
        axes.annotate(
            point.name, (point.cost, scale * point.score), textcoords="offset points", xytext=(5, -9), fontsize=8,
            color="#555555",
        )  # fmt: skip


def _chosen(axes: Axes, picture: CostPicture, scale: float) -> None:
    for point in (p for p in picture.points if p.chosen):
        axes.scatter(
            [point.cost], [scale * point.score], marker="o", s=260, facecolors="none", edgecolors=PURPLE, lw=1.8,
            zorder=5, label=f"chosen: {point.name}",
        )  # fmt: skip


def _counted(kind: str, count: int) -> str:
    words = "single model" if kind == "single" else kind
    return f"{count} {words}" + ("" if count == 1 else "s")


def _row(picture: CostPicture, point: CostPoint) -> dict[str, Any]:
    return {
        "kind": point.kind,
        "name": point.name,
        "thresholds": " ".join(map(repr, point.thresholds)),
        "average_cost": point.cost,
        "worst_cost": point.worst_cost,
        "unit": picture.unit,
        "metric": picture.metric,
        "score": point.score,
        "score_low": point.score_low,
        "role": picture.role,
        "rows": picture.rows,
        "chosen": point.chosen,
    }
