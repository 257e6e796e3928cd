"""Scores against costs: single models, soups, ensembles and cascades as points, and the best score within each cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.costs import UNITS
from hf_soups.plots.canvas import (
    APART,
    WIDE,
    Picture,
    cost_axis,
    finished,
    label_axes,
    new_figure,
    scale_of,
    unit_of,
)
from hf_soups.plots.fitting import name_points, names_at
from hf_soups.plots.looks import BLUE, INK, STYLES, Look, looks_apart, method_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SIZES = {"single": 55, "soup": 75, "ensemble": 65, "cascade": 55}  # in square points
LOOKS = {kind: STYLES.get(kind, STYLES["run"])[:2] for kind in SIZES}
NAMED = 12  # places of singles that are named; of more only those that nothing cheaper reaches


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
    best = [(cost, scale * score) for cost, score in picture.best_within_cost()]
    axes.step(*zip(*best, strict=True), where="post", color=BLUE, lw=1.5, zorder=2, label="best of these within a cost")
    _intervals(axes, picture.points, scale)
    for kind in LOOKS:
        _scatter(axes, kind, [p for p in picture.points if p.drawn_as == kind], scale)
    _bounds(axes, picture.points, scale)
    _names(axes, picture.points, best, scale)
    for point in picture.points:
        if point.chosen:
            axes.scatter(
                [point.cost], [scale * point.score], marker="o", s=260, facecolors="none", edgecolors=INK, lw=1.6,
                zorder=5, label=f"chosen: {point.name}",
            )  # fmt: skip
    if spans_decades([p.cost for p in picture.points]):
        axes.set_xscale("log")
    cost_axis(axes)
    across = f"{UNITS.get(picture.unit, picture.unit or 'cost')}, average over rows"
    up, title = f"{picture.role}: {unit_of(picture.metric)}, {picture.rows} rows", "Score against cost"
    label_axes(axes, across, up, title + ("; bars: 95% intervals" if _known(picture.points) else ""))
    axes.margins(x=0.08, y=0.1)
    return finished(figure, [_row(picture, p) for p in picture.points])


def _scatter(axes: Axes, kind: str, points: Sequence[CostPoint], scale: float) -> None:
    """Soups and ensembles that are few each in the look of their method; all others in that of their kind."""
    looks = _own_looks(points)
    if looks:
        for (_, name), look in looks.items():
            _drawn(axes, [p for p in points if p.name == name], look, SIZES[kind], scale, name)
    elif points:
        words = "single model" if kind == "single" else kind
        label = f"{len(points)} {words}{'s' * (len(points) > 1)}"
        _drawn(axes, points, LOOKS[kind], SIZES[kind], scale, label)


def _own_looks(points: Sequence[CostPoint]) -> dict[tuple[str, str], Look]:
    """Those of the points of one kind by kind and name; none where they are many, or ensembles of other names."""
    own = all(p.kind == "soup" or (p.kind == "ensemble" and method_of(p.kind, p.name) != "") for p in points)
    return looks_apart((p.kind, p.name) for p in points) if own and len(points) <= APART else {}


def _drawn(axes: Axes, points: Sequence[CostPoint], look: Look, size: float, scale: float, label: str) -> None:
    axes.scatter(
        [p.cost for p in points], [scale * p.score for p in points], marker=look[0], s=size, color=look[1],
        edgecolors="white", linewidths=0.6, zorder=3, label=label,
    )  # fmt: skip


def _known(points: Sequence[CostPoint]) -> list[CostPoint]:
    """Those whose interval is drawn; every single model's would hide the picture."""
    return [p for p in points if p.interval is not None and p.drawn_as != "single"]


def _intervals(axes: Axes, points: Sequence[CostPoint], scale: float) -> None:
    looks = {key: look for kind in LOOKS for key, look in _own_looks([p for p in points if p.kind == kind]).items()}
    for p in _known(points):
        assert p.interval is not None
        low, high = (scale * end for end in p.interval)
        _, colour = looks.get((p.drawn_as, p.name), LOOKS[p.drawn_as])
        axes.vlines(p.cost, low, high, color=colour, lw=1.2, alpha=0.4, zorder=1)


def _names(axes: Axes, points: Sequence[CostPoint], best: Sequence[tuple[float, float]], scale: float) -> None:
    """Single models by name, and soups where there are too many for the legend."""
    soups = sum(p.drawn_as == "soup" for p in points)
    named = [p for p in points if p.drawn_as == "single" or (p.drawn_as == "soup" and soups > APART)]
    names = names_at((p.cost, scale * p.score, p.name) for p in named)
    name_points(axes, names if len(names) <= NAMED else {at: name for at, name in names.items() if at in best})


def _bounds(axes: Axes, points: Sequence[CostPoint], scale: float) -> None:
    known = [(p.cost, scale * p.score_low, scale * p.score) for p in points
             if p.kind == "cascade" and p.score_low is not None]  # fmt: skip
    if known:
        axes.vlines(
            *zip(*known, strict=True), color=LOOKS["cascade"][1], lw=1, alpha=0.5, label="down to the lower bound"
        )


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
