"""The axis of costs, alike in every picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_soups.report.table import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 5.0  # costs that differ by more than this factor are drawn on a logarithmic axis
SPREAD = 80.0  # beyond it a panel has no room for three numbers a decade


def cost_axis(axes: Axes) -> None:
    """Costs across the figure with unit prefixes: 390 M; a logarithmic axis has numbers between the decades too.

    Call it when everything is drawn: how many numbers there are room for depends on what the axis holds.
    """
    from matplotlib.ticker import FuncFormatter, LogLocator

    # small costs are seconds, large ones counts
    written = FuncFormatter(lambda value, _: amount(value) if value >= 1 else f"{value:.3g}")
    axes.xaxis.set_major_formatter(written)
    if axes.get_xscale() == "log":
        low, high = axes.get_xlim()
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < SPREAD * low else (1.0, 3.0)))
        axes.xaxis.set_minor_formatter("")
