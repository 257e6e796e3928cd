"""Landscapes: the pictures of a diagnosis. Lines between models, angles, a plane, soups against ensembles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    SOUPS,
    VERMILION,
    equal_line,
    legend_below,
    new_figure,
    save_figure,
    scale_of,
    unit_of,
)
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_soups.diagnosis.findings import Findings, RunPair

COLOURS = (VERMILION, ORANGE, PURPLE, GREEN)  # of the highest barriers, which are named; blue is without


def draw_barriers(facts: Findings, path: Path) -> None:
    """Score along the line between each pair, the better run at the left; the highest barriers are named."""
    figure, axes = new_figure()
    scale = scale_of(facts.metric)
    named = sorted(facts.blocked, key=lambda p: -p.line.barrier)[: len(COLOURS)]
    for pair in facts.pairs:
        if pair in named:
            continue
        blocked = pair in facts.blocked
        label = "further pairs with a barrier" if blocked else "pairs without a barrier"
        axes.plot(*_points_of(facts, pair, scale), color=BLUE if not blocked else GREY, alpha=0.55, lw=1.3, label=label)
    for pair, colour in zip(named, COLOURS, strict=False):
        x, y = _points_of(facts, pair, scale)
        label = f"{_from_better(facts, pair)}: {_barrier_in_words(facts, pair)}"
        axes.plot(x, y, color=colour, lw=2.2, marker="o", ms=4, label=label, zorder=4)
        axes.plot([0, 1], [y[0], y[-1]], color=colour, lw=1, ls=":", zorder=3)
    axes.set_xlabel("share of the second run (0: the better run alone, 1: the other alone)")
    axes.set_ylabel(_select(facts))
    title = f"Lines between runs: {len(facts.blocked)} of {len(facts.pairs)} pairs have a barrier"
    axes.set_title(title, fontsize=11, loc="left")
    legend_below(axes)
    save_figure(figure, path)


def draw_angles(facts: Findings, path: Path) -> None:
    """Gain of averaging two runs against the angle between them at the start."""
    figure, axes = new_figure()
    scale = scale_of(facts.metric)
    pairs = [p for p in facts.pairs if p.angle is not None and not math.isnan(p.angle)]
    angles = [float(p.angle or 0) for p in pairs]
    axes.axhline(0, color="#BBBBBB", lw=1, zorder=1)
    over_mean = [scale * p.line.gain_over_mean for p in pairs]
    over_better = [scale * p.line.gain_over_better for p in pairs]
    axes.vlines(angles, over_better, over_mean, color="#CCCCCC", lw=0.8, zorder=2)
    axes.scatter(angles, over_mean, marker="o", color=BLUE, s=55, label="over the mean of the two", zorder=4)
    axes.scatter(
        angles, over_better, marker="D", facecolors="none", edgecolors=VERMILION, s=45, label="over the better",
        zorder=4,
    )  # fmt: skip
    axes.margins(0.06)
    limits = axes.get_ylim()
    axes.axhspan(-scale * facts.noise, scale * facts.noise, color="#EEEEEE", zorder=0, label="within chance")
    axes.set_ylim(limits)  # the points set the limits: the band may be wider than all that was measured
    axes.set_xlabel("angle between the two runs at the start, degrees")
    axes.set_ylabel(f"gain of averaging two: {unit_of(facts.metric)}")
    legend_below(axes)
    save_figure(figure, path)


def draw_plane(facts: Findings, path: Path) -> None:
    """Score over the plane through three runs, with the runs and their average marked."""
    plane = facts.plane
    assert plane is not None, "a diagnosis without a plane has no picture of it"
    figure, axes = new_figure()
    scale = scale_of(facts.metric)
    scores = np.ma.masked_invalid(scale * np.asarray(plane.scores))
    axes.grid(visible=False)
    if scores.count():  # nothing to colour where every point answers NaN
        colours = "viridis" if facts.sign > 0 else "viridis_r"
        filled = axes.contourf(plane.xs, plane.ys, scores, levels=_levels(scores), cmap=colours)
        lines = axes.contour(filled, colors="white", linewidths=0.5, alpha=0.6)
        axes.clabel(lines, list(lines.levels)[::2], fontsize=7, fmt="%.4g")
        figure.colorbar(filled, ax=axes, label=_select(facts))
    for i, (name, (x, y), score) in enumerate(zip(plane.names, plane.corners, plane.corner_scores, strict=True)):
        _mark(axes, x, y, f"{name} {score_in_words(score, facts.metric)}", "o", below=plane.corners[i][1] == 0)
    mean = f"average {score_in_words(plane.mean_score, facts.metric)}"
    _mark(axes, *plane.centre, mean, "D", below=False)
    axes.set_aspect("equal")
    axes.set_xlabel("distance in weights")
    axes.set_ylabel("distance in weights")
    save_figure(figure, path)


def draw_soup_vs_ensemble(facts: Findings, path: Path) -> None:
    """Score of averaged weights against score of averaged logits, for the same runs."""
    figure, axes = new_figure()
    scale = scale_of(facts.metric)
    axes.scatter(
        [scale * p.ensemble for p in facts.pairs], [scale * p.line.middle for p in facts.pairs], color=GREY, s=45,
        edgecolors="white", label="two runs", zorder=3,
    )  # fmt: skip
    several = [m for m in (facts.uniform, *facts.soups) if len(m.members) > 1]
    for mixed, (marker, colour) in zip(several, SOUPS * len(several), strict=False):
        label = f"{mixed.name} ({len(mixed.members)})"
        axes.scatter(
            scale * mixed.ensemble, scale * mixed.soup, marker=marker, color=colour, s=100, edgecolors="white",
            label=label, zorder=4,
        )  # fmt: skip
    axes.margins(0.08)
    best = scale * facts.best.score
    axes.axhline(best, color="#888888", lw=0.9, ls=":", label=f"best run alone ({facts.best.name})", zorder=1)
    axes.axvline(best, color="#888888", lw=0.9, ls=":", zorder=1)
    equal_line(axes, "soup = ensemble")
    axes.set_xlabel(f"mean-logit ensemble: {_select(facts)}")
    axes.set_ylabel(f"soup: {unit_of(facts.metric)}")
    legend_below(axes)
    save_figure(figure, path)


def _points_of(facts: Findings, pair: RunPair, scale: float) -> tuple[list[float], list[float]]:
    """Shares and scores of a line, with the better run first."""
    line = pair.line
    turned = line.sign * line.scores[-1] > line.sign * line.scores[0]
    scores = [scale * score for score in line.scores]
    if not turned:
        return list(line.at), scores
    return [1 - t for t in reversed(line.at)], scores[::-1]


def _from_better(facts: Findings, pair: RunPair) -> str:
    first, second = (facts.single(name) for name in pair.names)
    better = facts.gain(first.score, second.score) >= 0
    return f"{first.name} - {second.name}" if better else f"{second.name} - {first.name}"


def _barrier_in_words(facts: Findings, pair: RunPair) -> str:
    barrier = pair.line.barrier
    return "NaN between" if math.isinf(barrier) else f"barrier {score_in_words(barrier, facts.metric)}"


def _select(facts: Findings) -> str:
    return f"{unit_of(facts.metric)}, {facts.rows} select rows"


def _levels(scores: np.ma.MaskedArray[tuple[int, ...], np.dtype[np.float64]]) -> Sequence[float]:
    """About twelve round levels over all scores; two where all scores are equal."""
    from matplotlib.ticker import MaxNLocator

    low, high = float(scores.min()), float(scores.max())
    if high - low < 1e-9:
        return [low - 0.5, high + 0.5]
    return [float(level) for level in MaxNLocator(12).tick_values(low, high)]


def _mark(axes: Axes, x: float, y: float, text: str, marker: str, *, below: bool) -> None:
    axes.plot([x], [y], marker=marker, color="white", mec="black", ms=8, ls="none", zorder=5)
    axes.annotate(
        text, (x, y), xytext=(0, -9 if below else 8), textcoords="offset points", ha="center",
        va="top" if below else "bottom", fontsize=8.5, zorder=6,
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.5},
    )  # fmt: skip
