"""Landscapes: scores along lines between models, against angles, over a plane, and soups against ensembles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.plots.canvas import equal_line, finish, label_axes, new_figure, scale_of, unit_of
from hf_soups.plots.looks import BLUE, GREEN, GREY, ORANGE, VERMILION, WINE, looks_apart

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Rows = Sequence[Mapping[str, Any]]  # the numbers of a picture, for the CSV beside it
COLOURS = (VERMILION, ORANGE, WINE, GREEN)  # of the highest barriers, which are named; blue is without


@dataclass(frozen=True, slots=True)
class ScoreAxis:
    """What scores of a diagnosis are of."""

    metric: str
    rows: int

    @property
    def scale(self) -> float:
        """What scores are multiplied by."""
        return scale_of(self.metric)

    @property
    def unit(self) -> str:
        """The metric as an axis names it."""
        return unit_of(self.metric)

    @property
    def title(self) -> str:
        """Unit and rows."""
        return f"{self.unit}, {self.rows} select rows"


@dataclass(frozen=True, slots=True)
class ScoredLine:
    """Scores at shares of the second of two models, the better one first."""

    at: tuple[float, ...]
    scores: tuple[float, ...]
    barrier: float  # 0 where it is within chance
    name: str  # of the two, with the barrier


@dataclass(frozen=True, slots=True)
class PlanePoint:
    """A model in a plane, or the average of those that span it."""

    x: float
    y: float
    name: str  # with its score


def draw_barriers(lines: Sequence[ScoredLine], of: ScoreAxis, path: Path, rows: Rows) -> tuple[Path, ...]:
    """Score along the line between each pair; the highest barriers are named."""
    figure, axes = new_figure()
    blocked = [line for line in lines if line.barrier > 0]
    named = sorted(blocked, key=lambda line: -line.barrier)[: len(COLOURS)]
    for line in lines:
        if line not in named:
            colour, label = (
                (GREY, "further pairs with a barrier") if line in blocked else (BLUE, "pairs without a barrier")
            )
            axes.plot(line.at, _scaled(line.scores, of), color=colour, alpha=0.55, lw=1.3, label=label)
    for line, colour in zip(named, COLOURS, strict=False):
        y = _scaled(line.scores, of)
        axes.plot(line.at, y, color=colour, lw=2.2, marker="o", ms=4, label=line.name, zorder=4)
        axes.plot([0, 1], [y[0], y[-1]], color=colour, lw=1, ls=":", zorder=3)
    across = "share of the second run (0: the better run alone, 1: the other alone)"
    label_axes(axes, across, of.title, f"Lines between runs: {len(blocked)} of {len(lines)} pairs have a barrier")
    return finish(figure, path, rows)


def draw_angles(
    pairs: Sequence[tuple[float, float, float]], noise: float, of: ScoreAxis, path: Path, rows: Rows
) -> tuple[Path, ...]:
    """Gain of averaging two models against the angle between them: (degrees, gain over mean, gain over better)."""
    figure, axes = new_figure()
    angles = [angle for angle, _, _ in pairs]
    over_mean, over_better = (_scaled([pair[i] for pair in pairs], of) for i in (1, 2))
    axes.axhline(0, color="#BBBBBB", lw=1, zorder=1)
    axes.vlines(angles, over_better, over_mean, color="#CCCCCC", lw=0.8, zorder=2)
    axes.scatter(angles, over_mean, marker="o", color=BLUE, s=55, label="over the mean of the two", zorder=4)
    axes.scatter(
        angles, over_better, marker="D", s=45, facecolors="none", edgecolors=VERMILION, label="over the better",
        zorder=4,
    )  # fmt: skip
    axes.margins(0.06)
    limits = axes.get_ylim()
    axes.axhspan(-of.scale * noise, of.scale * noise, color="#EEEEEE", zorder=0, label="within chance")
    axes.set_ylim(limits)  # the points set the limits: the band may be wider than all that was measured
    across, up = "angle between the two runs at the start, degrees", f"gain of averaging two: {of.unit}"
    label_axes(axes, across, up, "Gain of averaging two runs against their angle")
    return finish(figure, path, rows)


def draw_plane(
    xs: Sequence[float], ys: Sequence[float], scores: Sequence[Sequence[float]], corners: Sequence[PlanePoint],
    centre: PlanePoint, of: ScoreAxis, path: Path, rows: Rows, *, higher_is_better: bool,
) -> tuple[Path, ...]:  # fmt: skip
    """Scores as [y][x] over the plane through three models, with the models and their average marked."""
    figure, axes = new_figure()
    known = np.ma.masked_invalid(of.scale * np.asarray(scores))
    axes.grid(visible=False)
    if known.count():  # nothing to colour where every point answers NaN
        colours = "viridis" if higher_is_better else "viridis_r"
        filled = axes.contourf(xs, ys, known, levels=_levels(known), cmap=colours)
        lines = axes.contour(filled, colors="white", linewidths=0.5, alpha=0.6)
        axes.clabel(lines, list(lines.levels)[::2], fontsize=7, fmt="%.4g")
        figure.colorbar(filled, ax=axes, label=of.title)
    for corner in corners:
        _mark(axes, corner, "o", below=corner.y == 0)
    _mark(axes, centre, "D", below=False)
    axes.set_aspect("equal")
    label_axes(axes, "distance in weights", "distance in weights", "The plane through three runs")
    return finish(figure, path, rows)


def draw_soup_vs_ensemble(
    pairs: Sequence[tuple[float, float]], soups: Sequence[tuple[str, float, float]], best: tuple[str, float],
    of: ScoreAxis, path: Path, rows: Rows,
) -> tuple[Path, ...]:  # fmt: skip
    """Score of averaged weights against score of averaged logits, for the same models.

    Args:
        pairs: ensemble and soup of each two.
        soups: name, ensemble and soup of several.
        best: name and score of the best model alone.
        of: the scores.
        path: the PNG file.
        rows: the numbers, for the CSV beside it.
    """
    figure, axes = new_figure()
    x, y = (_scaled([pair[i] for pair in pairs], of) for i in (0, 1))
    axes.scatter(x, y, color=GREY, s=45, edgecolors="white", label="two runs", zorder=3)
    looks = looks_apart(("soup", name) for name, _, _ in soups)
    for name, ensemble, soup in soups:
        marker, colour = looks["soup", name]
        x, y = [of.scale * ensemble], [of.scale * soup]
        axes.scatter(x, y, marker=marker, color=colour, s=100, edgecolors="white", label=name, zorder=4)
    axes.margins(0.08)
    name, score = best
    axes.axhline(of.scale * score, color="#888888", lw=0.9, ls=":", label=f"best run alone ({name})", zorder=1)
    axes.axvline(of.scale * score, color="#888888", lw=0.9, ls=":", zorder=1)
    equal_line(axes, "soup = ensemble")
    title = "Averaged weights against averaged logits"
    label_axes(axes, f"mean-logit ensemble: {of.title}", f"soup: {of.unit}", title)
    return finish(figure, path, rows)


def _scaled(scores: Sequence[float], of: ScoreAxis) -> list[float]:
    return [of.scale * score for score in scores]


def _levels(scores: np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]) -> Sequence[float]:
    """About twelve round levels over all scores; two where all scores are equal."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(scores.min()), float(scores.max())
    if high - low < 1e-9:
        return [low - 0.5, high + 0.5]
    return [float(level) for level in MaxNLocator(12).tick_values(low, high)]


def _mark(axes: Axes, point: PlanePoint, marker: str, *, below: bool) -> None:
    axes.plot([point.x], [point.y], marker=marker, color="white", mec="black", ms=8, ls="none", zorder=5)
    axes.annotate(
        point.name, (point.x, point.y), xytext=(0, -9 if below else 8), textcoords="offset points", ha="center",
        va="top" if below else "bottom", fontsize=8.5, zorder=6,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
