"""Figures of README size on matplotlib's Agg canvas, without pyplot's global state; the scatters of scores.

This package knows points alone: whoever owns a leaderboard, a plan or a diagnosis makes them, for the PNG and the page.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.files.writing import write_csv, write_file
from hf_soups.metrics import traits_of
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
WIDE = 5.0  # costs that differ by more than this factor are drawn on a logarithmic axis
SPREAD = 80.0  # beyond it a panel has no room for three numbers a decade


@dataclass(frozen=True, slots=True)
class Point:
    """One model with its score on select and on report, and the ends of the report score's interval."""

    kind: str  # a key of STYLES
    name: str
    select: float
    report: float
    report_low: float | None = None
    report_high: float | None = None


@dataclass(frozen=True, slots=True)
class TriedMixture:
    """One mixture that a method tried, in the metric's own sign."""

    candidate: str  # the ingredient that it adds, or takes out
    ingredients: int
    score: float
    best_so_far: float
    was: str  # "kept", "rejected" or "taken out"
    at_best: bool = False  # the score is not worked out: it is surely no better than this


def report_vs_select(points: Sequence[Point], *, metric: str, rows: tuple[int, int]) -> Picture:
    """Report score against select score of all that answered; `rows` are the numbers of select and report rows."""
    figure, axes = _scattered(points, metric, "select = report")
    label_axes(axes, f"select: {unit_of(metric)}, {rows[0]} rows, used to choose", f"report: {_of(metric, rows[1])}")
    return finished(figure)


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
    title = f"out of distribution ({shift}) against in distribution"
    label_axes(axes, f"report: {_of(metric, rows[0])}", f"{shift}: {_of(metric, rows[1])}", title)
    finish(figure, path)


def score_by_ingredients(
    tried: Sequence[TriedMixture],
    path: str | Path,
    *,
    metric: str,
    rows: int,
    role: str = "select",
    marks: Mapping[str, tuple[int, float]] | None = None,
    title: str = "",
) -> None:
    """Score of every mixture that was tried, against its number of ingredients.

    Args:
        tried: in their order.
        path: the PNG file.
        metric: the score's name, for the axis.
        rows: number of rows that the scores are of.
        role: of those rows.
        marks: other mixtures that were measured: name -> (ingredients, score).
        title: one line above the plot.
    """
    figure, axes = new_figure()
    scale = scale_of(metric)
    kept = [t for t in tried if t.was != "rejected"]
    refused = [t for t in tried if t.was == "rejected" and not t.at_best]
    bounds = [t for t in tried if t.at_best]
    if kept:
        x, y = [t.ingredients for t in kept], [scale * t.score for t in kept]
        axes.plot(x, y, marker="D", color=VERMILION, ms=8, lw=2, label="joined", zorder=4)
    if refused:
        x, y = [t.ingredients for t in refused], [scale * t.score for t in refused]
        axes.scatter(x, y, marker="x", color=GREY, s=45, label="tried, left out", zorder=3)
    if bounds:
        x, y = [t.ingredients for t in bounds], [scale * t.score for t in bounds]
        better, label = (("v", "at most"), ("^", "at least"))[traits_of(metric).sign < 0]
        axes.scatter(x, y, marker=better, color=GREY, s=30, label=f"tried, left out ({label} this)", zorder=3)
    for (name, (ingredients, score)), (marker, colour) in zip((marks or {}).items(), SOUPS[1:], strict=False):
        axes.scatter([ingredients], [scale * score], marker=marker, color=colour, s=90, label=name, zorder=5)
    whole_numbers(axes)
    label_axes(axes, "ingredients in the mixture", f"{role}: {_of(metric, rows)}", title)
    axes.margins(x=0.08, y=0.12)
    finish(figure, path)


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


def _interval(axes: Axes, point: Point, colour: str, scale: float) -> None:
    # every run's interval would hide the picture: the runs' share one width, which the others show
    if point.kind != "run" and point.report_low is not None and point.report_high is not None:
        low, high = scale * point.report_low, scale * point.report_high
        axes.vlines(scale * point.select, low, high, color=colour, lw=1.4, alpha=0.55)


def _legend(point: Point) -> str:
    return {"run": "single run", "best on select": f"best on select ({point.name})"}.get(point.kind, point.name)


def _of(metric: str, rows: int) -> str:
    return f"{unit_of(metric)}, {rows} rows"


# What all pictures are made with


def new_figure() -> tuple[Figure, Axes]:
    """A figure of README size and its axes, drawn without pyplot."""
    figure, (axes,) = new_panels(1)
    return figure, axes


def new_panels(columns: int) -> tuple[Figure, list[Axes]]:
    """The same with several axes side by side."""
    figure = bare_figure(7.2, 4.5, layout="constrained")
    panels = [figure.add_subplot(1, columns, 1 + i) for i in range(columns)]
    for axes in panels:
        axes.grid(visible=True, color="#DDDDDD", linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=10)
        axes.xaxis.label.set_fontsize(11)
        axes.yaxis.label.set_fontsize(11)
    return figure, panels


def bare_figure(width: float, height: float, **options: Any) -> Figure:
    """An empty figure of so many inches; `options` are matplotlib's."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=150, **options)
    FigureCanvasAgg(figure)
    return figure


def label_axes(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Name both axes, and the plot in one line above it."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_title(title, fontsize=11, loc="left")


def whole_numbers(axes: Axes) -> None:
    """Ticks across the figure at whole numbers alone."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def equal_line(axes: Axes, label: str) -> None:
    """Where both scores are equal; drawn within the limits that the points set."""
    x, y = axes.get_xlim(), axes.get_ylim()
    low, high = max(x[0], y[0]), min(x[1], y[1])
    if low < high:
        axes.plot([low, high], [low, high], color="#BBBBBB", lw=1, ls="--", zorder=1, label=label)
    axes.set_xlim(x)
    axes.set_ylim(y)


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


def scale_of(metric: str) -> float:
    """What scores are multiplied by before they are shown."""
    return traits_of(metric).scale


def unit_of(metric: str) -> str:
    """The metric as an axis names it."""
    return traits_of(metric).unit


@dataclass(frozen=True, eq=False)
class Picture:
    """A drawn figure and its numbers: notebooks show it, `save` writes both."""

    figure: Figure
    rows: tuple[Mapping[str, Any], ...] = ()

    def save(self, path: str | Path) -> tuple[Path, ...]:
        """Write a PNG file, and the numbers as CSV beside it; the paths."""
        png = Path(path)
        save_figure(self.figure, png)
        if not self.rows:
            return (png,)
        write_csv(png.with_suffix(".csv"), self.rows)
        return png, png.with_suffix(".csv")

    def __repr__(self) -> str:
        return (
            f"Picture({len(self.rows)} points; save(PATH) writes it)" if self.rows else "Picture(save(PATH) writes it)"
        )

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        self.figure.savefig(drawn, format="png")
        return drawn.getvalue()


def finished(figure: Figure, rows: Sequence[Mapping[str, Any]] = ()) -> Picture:
    """The figure with one legend below all axes, and `rows`, its numbers."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(label, handle)
    if handles:  # below the axes: it never covers a point
        figure.legend(handles.values(), handles.keys(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return Picture(figure, tuple(rows))


def finish(figure: Figure, path: str | Path, rows: Sequence[Mapping[str, Any]] = ()) -> tuple[Path, ...]:
    """Write what `finished` makes; the paths."""
    return finished(figure, rows).save(path)


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG file, whole or not at all."""
    # no metadata: the same scores make the same bytes, whatever the version of matplotlib says about itself
    write_file(path, lambda staged: figure.savefig(staged, format="png", metadata={"Software": None}))
