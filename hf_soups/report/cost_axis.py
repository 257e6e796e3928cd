"""The axis of costs, alike in every picture."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hf_soups.report.table import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes

WIDE = 5.0  # costs that differ by more than this factor are drawn on a logarithmic axis


def cost_axis(axes: Axes) -> None:
    """Costs across the figure with unit prefixes: 390 M; a logarithmic axis has numbers between the decades too."""
    from matplotlib.ticker import FuncFormatter, LogLocator

    # small costs are seconds, large ones counts
    written = FuncFormatter(lambda value, _: amount(value) if value >= 1 else f"{value:.3g}")
    axes.xaxis.set_major_formatter(written)
    if axes.get_xscale() == "log":
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.xaxis.set_minor_formatter("")
