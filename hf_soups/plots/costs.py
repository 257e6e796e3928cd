"""Scores against costs: single models, soups, ensembles and cascades as points, and the best score within each cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.costs import UNITS
from hf_soups.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    WIDE,
    Picture,
    cost_axis,
    finished,
    label_axes,
    new_figure,
    scale_of,
    unit_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = {
    "single": ("o", GREY, 60),
    "soup": ("D", ORANGE, 70),
    "ensemble": ("^", GREEN, 60),
    "cascade": ("*", VERMILION, 90),
}
NAMED = 12  # singles that are named beside their point; more would cover one another


@dataclass(frozen=True, slots=True)
class CostPoint:
    """One model with its score, in the metric's own sign, and its average cost of an example."""

    kind: str  # "single" (of a leaderboard "run" or "best on select"), "soup", "ensemble" or "cascade"
    name: str
    cost: float
    score: float
    worst_cost: float
    thresholds: tuple[float, ...] = ()
    score_low: float | None = None  # lower confidence bound, where the search gave one
    interval: tuple[float, float] | None = None  # 95% of the score, by row
    chosen: bool = False

    @property
    def drawn_as(self) -> str:
        """The key of LOOKS."""
        return self.kind if self.kind in LOOKS else "single"


@dataclass(frozen=True, slots=True)
class CostPicture:
    """What one picture of scores against costs shows; at least one point."""

    points: tuple[CostPoint, ...]
    metric: str
    unit: str
    rows: int
    role: str  # of the rows: "select" or "report"
    higher_is_better: bool = True

    def best_within_cost(self) -> list[tuple[float, float]]:
        """Cost and score of the best within each cost, up to the largest cost."""
        return within_cost(((p.cost, p.score) for p in self.points), better=self.higher_is_better)


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


def spans_decades(costs: Sequence[float]) -> bool:
    """Whether costs differ so much that their axis is logarithmic."""
    return max(costs) > WIDE * min(costs) > 0


def draw_cost_picture(picture: CostPicture, path: str | Path) -> tuple[Path, ...]:
    """Write the picture as PNG, and its points as CSV beside it; both paths."""
    return drawn_costs(picture).save(path)


def drawn_costs(picture: CostPicture) -> Picture:
    """The picture, drawn, with its points as numbers."""
    figure, axes = new_figure()
    scale = scale_of(picture.metric)
    stairs = [(cost, scale * score) for cost, score in picture.best_within_cost()]
    axes.step(*zip(*stairs, strict=True), where="post", color=BLUE, lw=1.5, label="best of these within a cost")
    for kind in LOOKS:
        _scatter(axes, kind, [p for p in picture.points if p.drawn_as == kind], scale)
    _bounds(axes, picture.points, scale)
    for point in picture.points:
        if point.chosen:
            axes.scatter(
                [point.cost], [scale * point.score], marker="o", s=260, facecolors="none", edgecolors=PURPLE, lw=1.8,
                zorder=5, label=f"chosen: {point.name}",
            )  # fmt: skip
    if spans_decades([p.cost for p in picture.points]):
        axes.set_xscale("log")
    cost_axis(axes)
    across = f"{UNITS.get(picture.unit, picture.unit or 'cost')}, average over rows"
    label_axes(axes, across, f"{picture.role}: {unit_of(picture.metric)}, {picture.rows} rows")
    axes.margins(x=0.08, y=0.1)
    return finished(figure, [_row(picture, p) for p in picture.points])


def _scatter(axes: Axes, kind: str, points: Sequence[CostPoint], scale: float) -> None:
    if not points:
        return
    marker, colour, size = LOOKS[kind]
    words = "single model" if kind == "single" else kind
    axes.scatter(
        [p.cost for p in points], [scale * p.score for p in points], marker=marker, s=size, color=colour,
        edgecolors="white", linewidths=0.6, zorder=3, label=f"{len(points)} {words}{'s' * (len(points) > 1)}",
    )  # fmt: skip
    for p in points if kind in ("single", "soup") and len(points) <= NAMED else ():
        at = p.cost, scale * p.score
        axes.annotate(p.name, at, textcoords="offset points", xytext=(5, -9), fontsize=8, color="#555555")


def _bounds(axes: Axes, points: Sequence[CostPoint], scale: float) -> None:
    known = [(p.cost, scale * p.score_low, scale * p.score) for p in points
             if p.kind == "cascade" and p.score_low is not None]  # fmt: skip
    if known:
        axes.vlines(*zip(*known, strict=True), color=VERMILION, lw=1, alpha=0.4, label="down to the lower bound")


def _row(picture: CostPicture, point: CostPoint) -> dict[str, Any]:
    return {
        "kind": point.drawn_as,
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
