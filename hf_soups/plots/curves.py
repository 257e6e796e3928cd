"""Curves of ensembles: score against the number of copies and against cost, several architectures in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.costs import UNITS
from hf_soups.ensembles.curves import Curve
from hf_soups.errors import InputError
from hf_soups.files.writing import write_csv
from hf_soups.plots.canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PURPLE,
    VERMILION,
    cost_axis,
    legend_below,
    new_panels,
    save_figure,
    scale_of,
    unit_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

LOOKS = (("o", BLUE), ("s", ORANGE), ("^", GREEN), ("D", VERMILION), ("P", PURPLE), ("X", "#56B4E9"), ("v", GREY))


def draw_member_curves(curves: Sequence[Curve], path: str | Path) -> tuple[Path, ...]:
    """Write the picture as PNG, and every point as CSV beside it; both paths.

    Left: score against the number of members; right: against the cost of an example, the single models (filled) among
    the ensembles. Lines are the means over subsets, bands reach from the worst to the best subset.

    Raises:
        InputError: if there is no curve, or they are not of one metric, unit and number of rows.
    """
    if len({(c.metric, c.unit, c.rows, c.combine) for c in curves}) != 1:
        raise InputError(
            f"{len(curves)} curves; expected one or more, all of one metric, unit of cost, combination and set of rows."
        )
    from matplotlib.ticker import MaxNLocator

    figure, (left, right) = new_panels(2)
    for i, curve in enumerate(curves):
        marker, colour = LOOKS[i % len(LOOKS)]
        _line(left, [p.members for p in curve.points], curve, marker, colour)
        _line(right, [p.cost for p in curve.points], curve, marker, colour)
    first = curves[0]
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.set_xlabel("members")
    left.set_ylabel(f"{unit_of(first.metric)}, {first.rows} rows")
    right.set_xlabel(UNITS.get(first.unit, first.unit or "cost"))
    if min(p.cost for c in curves for p in c.points) > 0:
        right.set_xscale("log")
    cost_axis(right)
    right.tick_params(labelleft=False)
    right.sharey(left)
    left.set_title(f"ensembles by {first.combine}, filled: single models", fontsize=10, loc="left")
    legend_below(left)
    at = Path(path)
    save_figure(figure, at)
    write_csv(at.with_suffix(".csv"), [row for curve in curves for row in _rows(curve)])
    return at, at.with_suffix(".csv")


def _line(axes: Axes, x: Sequence[float], curve: Curve, marker: str, colour: str) -> None:
    scale = scale_of(curve.metric)
    mean = [scale * p.mean for p in curve.points]
    axes.fill_between(
        x, [scale * p.low for p in curve.points], [scale * p.high for p in curve.points], color=colour, alpha=0.15, lw=0
    )
    axes.plot(x, mean, color=colour, marker=marker, mfc="white", ms=6, lw=1.6, zorder=3)
    axes.plot(x[:1], mean[:1], color=colour, marker=marker, ms=7, lw=1.6, zorder=4, label=curve.name or "one model")


def _rows(curve: Curve) -> list[dict[str, Any]]:
    about = {"model": curve.name, "combine": curve.combine, "metric": curve.metric, "rows": curve.rows}
    return [
        {
            **about,
            "members": p.members,
            "subsets": p.subsets,
            "mean": p.mean,
            "low": p.low,
            "high": p.high,
            "cost": p.cost,
            "unit": curve.unit,
        }
        for p in curve.points
    ]
