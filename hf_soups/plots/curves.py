"""Curves with a spread: the mean over the subsets of a size, from the worst subset to the best, panel by panel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from hf_soups.plots.canvas import cost_axis, finish, label_axes, new_panels, whole_numbers
from hf_soups.plots.looks import BLUE, GREEN, GREY, ORANGE, SKY, VERMILION, WINE

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVE_LOOKS = (
    ("o", BLUE), ("s", ORANGE), ("^", GREEN), ("D", VERMILION), ("P", WINE), ("X", SKY), ("v", GREY),
)  # fmt: skip
APART = 0.009  # between the bars of one size, in shares of the axis


@dataclass(frozen=True, slots=True)
class MeanCurve:
    """One line: at each `x` the mean, the worst and the best, in the unit of the axis."""

    name: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    look: tuple[str, str]  # marker and colour
    spread: Literal["bars", "band", "none"] = "bars"
    line: str = "-"


@dataclass(frozen=True, slots=True)
class CurvePanel:
    """Curves over the same axes; without a name for `y` they are those of the panel to the left."""

    curves: tuple[MeanCurve, ...]
    x: str
    y: str
    title: str = ""
    costs: bool = False  # across the figure, instead of whole numbers


def draw_curves(
    panels: Sequence[CurvePanel], path: str | Path, rows: Sequence[Mapping[str, Any]] = ()
) -> tuple[Path, ...]:
    """Write the panels side by side as PNG, and `rows`, their numbers, as CSV beside it; the paths."""
    figure, places = new_panels(len(panels))
    for axes, panel in zip(places, panels, strict=True):
        for i, curve in enumerate(panel.curves):
            _draw(axes, curve, i - (len(panel.curves) - 1) / 2)
        if panel.costs:
            if min(cost for curve in panel.curves for cost in curve.x) > 0:
                axes.set_xscale("log")
            cost_axis(axes)
        else:
            whole_numbers(axes)
        label_axes(axes, panel.x, panel.y, panel.title)
        if not panel.y:
            axes.tick_params(labelleft=False)
            axes.sharey(places[0])
    return finish(figure, path, rows)


def _draw(axes: Axes, curve: MeanCurve, aside: float) -> None:
    _, colour = curve.look
    x = list(curve.x)
    if curve.spread == "band":
        axes.fill_between(x, curve.low, curve.high, color=colour, alpha=0.15, lw=0)
    elif curve.spread == "bars":
        # bars of one size stand side by side: bands of four curves would hide each other
        x = [at + APART * aside * curve.x[-1] for at in x]
        axes.vlines(x, curve.low, curve.high, color=colour, lw=1.4, alpha=0.45)
    how: dict[str, Any] = {"color": colour, "marker": curve.look[0], "ls": curve.line, "lw": 1.6}
    if curve.spread == "band":  # the first point is a single model: filled
        axes.plot(x, curve.mean, **how, mfc="white", ms=6, zorder=3)
        axes.plot(x[:1], curve.mean[:1], **how, ms=7, zorder=4, label=curve.name)
    else:
        axes.plot(x, curve.mean, **how, mec="white", ms=7, zorder=3, label=curve.name)
