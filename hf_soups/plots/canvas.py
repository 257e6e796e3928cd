"""Plots as PNG files, drawn on matplotlib's Agg canvas without pyplot's global state; readable at README size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.files.writing import write_file
from hf_soups.metrics import traits_of
from hf_soups.soups.soup import Step
from hf_soups.wording import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


# Okabe and Ito's palette: told apart with any colour vision; marker shapes differ as well.
BLUE, ORANGE, GREEN, VERMILION, PURPLE, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#8C8C8C"
STYLES = {
    "run": ("o", GREY, 45),
    "best on select": ("o", BLUE, 110),
    "soup": ("D", VERMILION, 100),
    "ensemble": ("^", GREEN, 130),
    "cascade": ("*", "#000000", 150),
}
ENSEMBLES = (("^", GREEN), ("v", GREEN), ("<", GREEN))
CASCADES = (("*", "#000000"), ("p", "#000000"))
SOUPS = (("D", VERMILION), ("s", ORANGE), ("P", PURPLE), ("X", "#56B4E9"))


@dataclass(frozen=True, slots=True)
class Point:
    """One answerer with its score on select and on report, and the ends of the report score's interval."""

    kind: str  # a key of STYLES
    name: str
    select: float
    report: float
    report_low: float | None = None
    report_high: float | None = None


def report_vs_select(points: Sequence[Point], path: str | Path, *, metric: str, rows: tuple[int, int]) -> None:
    """Report score against select score of all that answered; `rows` are the numbers of select and report rows."""
    figure, axes = _scattered(points, metric, "select = report")
    axes.set_xlabel(f"select: {unit_of(metric)}, {rows[0]} rows, used to choose")
    axes.set_ylabel(f"report: {unit_of(metric)}, {rows[1]} rows")
    legend_below(axes)
    save_figure(figure, path)


def shift_vs_report(
    points: Sequence[Point], path: str | Path, *, metric: str, shift: str, rows: tuple[int, int]
) -> None:
    """Score out of distribution against score in distribution, as the Model soups paper draws robustness.

    Args:
        points: with the report score in the place of `select`, and the shift's score and interval in that of `report`.
        path: the PNG file.
        metric: the scores' name, for the axes.
        shift: name of the other distribution.
        rows: numbers of report and shift rows.
    """
    figure, axes = _scattered(points, metric, f"report = {shift}")
    axes.set_xlabel(f"report: {unit_of(metric)}, {rows[0]} rows")
    axes.set_ylabel(f"{shift}: {unit_of(metric)}, {rows[1]} rows")
    axes.set_title(f"out of distribution ({shift}) against in distribution", fontsize=11, loc="left")
    legend_below(axes)
    save_figure(figure, path)


def _scattered(points: Sequence[Point], metric: str, diagonal: str) -> tuple[Figure, Axes]:
    """All points in the style of their kind, with the line on which both scores are equal."""
    figure, axes = new_figure()
    scale = scale_of(metric)
    several = {"soup": SOUPS, "ensemble": ENSEMBLES, "cascade": CASCADES}
    looks = {kind: iter(each * len(points)) for kind, each in several.items()}
    # single runs lie below the rest; the others by name, so that a method looks the same in every plot
    for point in sorted(points, key=lambda p: (list(STYLES).index(p.kind), p.name)):
        marker, colour, size = STYLES[point.kind]
        if point.kind in looks:
            marker, colour = next(looks[point.kind])
        _interval(axes, point, colour, scale)
        axes.scatter(
            scale * point.select, scale * point.report, marker=marker, s=size, color=colour, edgecolors="white",
            linewidths=0.8, zorder=3 if point.kind == "run" else 4, label=_legend(point),
        )  # fmt: skip
    equal_line(axes, diagonal)
    return figure, axes


def score_by_ingredients(
    steps: Sequence[Step],
    path: str | Path,
    *,
    metric: str,
    rows: int,
    role: str = "select",
    marks: Mapping[str, tuple[int, float]] | None = None,
    title: str = "",
) -> None:
    """Select score of every mixture that was tried, against its number of ingredients.

    Args:
        steps: as greedy took them.
        path: the PNG file.
        metric: the score's name, for the axis.
        rows: number of rows that the scores are of.
        role: of those rows.
        marks: other mixtures that were measured: name -> (ingredients, score).
        title: one line above the plot.
    """
    from matplotlib.ticker import MaxNLocator

    figure, axes = new_figure()
    scale = scale_of(metric)
    kept = [s for s in steps if s.accepted]
    refused = [s for s in steps if not s.accepted]
    if kept:
        axes.plot(
            [s.ingredients for s in kept], [scale * s.score for s in kept], marker="D", color=VERMILION, ms=8, lw=2,
            label="joined", zorder=4,
        )  # fmt: skip
    if refused:
        axes.scatter(
            [s.ingredients for s in refused], [scale * s.score for s in refused], marker="x", color=GREY, s=45,
            label="tried, left out", zorder=3,
        )  # fmt: skip
    for (name, (ingredients, score)), (marker, colour) in zip((marks or {}).items(), SOUPS[1:], strict=False):
        axes.scatter([ingredients], [scale * score], marker=marker, color=colour, s=90, label=name, zorder=5)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("ingredients in the mixture")
    axes.set_ylabel(f"{role}: {unit_of(metric)}, {rows} rows")
    axes.set_title(title, fontsize=11, loc="left")
    axes.margins(x=0.08, y=0.12)
    legend_below(axes)
    save_figure(figure, path)


def new_figure() -> tuple[Figure, Axes]:
    """A figure of README size and its axes, drawn without pyplot."""
    figure, (axes,) = new_panels(1)
    return figure, axes


def new_panels(columns: int, **options: Any) -> tuple[Figure, list[Axes]]:
    """The same with several axes side by side; `options` are matplotlib's of subplots."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    panels = [figure.add_subplot(1, columns, 1 + i, **options) for i in range(columns)]
    for axes in panels:
        _styled(axes)
    return figure, panels


def _styled(axes: Axes) -> None:
    axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=10)
    axes.xaxis.label.set_fontsize(11)
    axes.yaxis.label.set_fontsize(11)


def _interval(axes: Axes, point: Point, colour: str, scale: float) -> None:
    # every run's interval would hide the picture: the runs' share one width, which the others show
    if point.kind != "run" and point.report_low is not None and point.report_high is not None:
        axes.vlines(
            scale * point.select, scale * point.report_low, scale * point.report_high, color=colour, lw=1.4, alpha=0.55
        )


def equal_line(axes: Axes, label: str) -> None:
    """Where both scores are equal; drawn within the limits that the points set."""
    x, y = axes.get_xlim(), axes.get_ylim()
    low, high = max(x[0], y[0]), min(x[1], y[1])
    if low < high:
        axes.plot([low, high], [low, high], color="#BBBBBB", lw=1, ls="--", zorder=1, label=label)
    axes.set_xlim(x)
    axes.set_ylim(y)


def _legend(point: Point) -> str:
    return {
        "run": "single run",
        "best on select": f"best on select ({point.name})",
    }.get(point.kind, point.name)


def legend_below(axes: Axes) -> None:
    """One legend under the axes, each label once."""
    handles: dict[str, Any] = {}
    for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
        handles.setdefault(label, handle)
    if not handles:
        return
    # below the axes: it never covers a point
    axes.figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)


def scale_of(metric: str) -> float:
    """What scores are multiplied by before they are shown."""
    return traits_of(metric).scale


def unit_of(metric: str) -> str:
    """The metric as an axis names it."""
    return traits_of(metric).unit


def save_figure(figure: Figure, path: str | Path) -> None:
    """Write a PNG file, whole or not at all."""
    # no metadata: the same scores make the same bytes, whatever the version of matplotlib says about itself
    write_file(Path(path), lambda staged: figure.savefig(staged, format="png", metadata={"Software": None}))


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
