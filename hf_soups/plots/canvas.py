"""Figures of README size on matplotlib's Agg canvas, without pyplot's global state; the scatters of scores.

This package knows points alone: whoever owns a leaderboard, a plan or a diagnosis makes them, for the PNG and the page.
"""

from __future__ import annotations

import functools
import io
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import InputError
from hf_soups.files.writing import write_csv, write_file
from hf_soups.metrics import traits_of
from hf_soups.plots.fitting import fit
from hf_soups.plots.looks import GREY, METHODS, STYLES, looks_apart
from hf_soups.wording import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


WIDE = 5.0  # costs that differ by more than this factor are drawn on a logarithmic axis
SPREAD = 80.0  # beyond it a panel has no room for three numbers a decade
APART = 8  # soups, ensembles or cascades that each have a look of their own; more are drawn alike
FORMATS = ("png", "svg")
_also: ContextVar[str] = ContextVar("_also", default="png")  # the format that is written beside PNG, if it is another


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
    across = f"select: {unit_of(metric)}, {rows[0]} rows, used to choose"
    title = "Report against select score; bars: 95% intervals"
    label_axes(axes, across, f"report: {_of(metric, rows[1])}", title)
    return finished(figure)


def shift_vs_report(
    points: Sequence[Point], path: str | Path, *, metric: str, shift: str, rows: tuple[int, int]
) -> tuple[Path, ...]:
    """Score out of distribution against score in distribution, as the Model soups paper draws robustness; the paths.

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
    return finish(figure, path)


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
        axes.plot(x, y, marker=METHODS["greedy"][0], color=METHODS["greedy"][1], ms=9, lw=2, label="joined", zorder=4)
    if refused:
        x, y = [t.ingredients for t in refused], [scale * t.score for t in refused]
        axes.scatter(x, y, marker="x", color=GREY, s=45, label="tried, left out", zorder=3)
    if bounds:
        x, y = [t.ingredients for t in bounds], [scale * t.score for t in bounds]
        better, label = (("v", "at most"), ("^", "at least"))[traits_of(metric).sign < 0]
        axes.scatter(x, y, marker=better, color=GREY, s=30, label=f"tried, left out ({label} this)", zorder=3)
    looks = looks_apart(("soup", name) for name in marks or ())
    for name, (ingredients, score) in (marks or {}).items():
        marker, colour = looks["soup", name]
        axes.scatter([ingredients], [scale * score], marker=marker, color=colour, s=90, label=name, zorder=5)
    whole_numbers(axes)
    label_axes(axes, "ingredients in the mixture", f"{role}: {_of(metric, rows)}", title)
    axes.margins(x=0.08, y=0.12)
    finish(figure, path)


def _scattered(points: Sequence[Point], metric: str, diagonal: str) -> tuple[Figure, Axes]:
    """All points in the style of their kind, with the line on which both scores are equal."""
    figure, axes = new_figure()
    scale = scale_of(metric)
    counts = Counter(point.kind for point in points)
    looks = looks_apart((p.kind, p.name) for p in points if counts[p.kind] <= APART)
    runs = [point for point in points if point.kind == "run"]
    if runs:  # below the rest
        x, y = [scale * p.select for p in runs], [scale * p.report for p in runs]
        _dots(axes, x, y, *STYLES["run"], "single run")
    others = [point for point in points if point.kind != "run"]
    for point in sorted(others, key=lambda p: (list(STYLES).index(p.kind), p.name)):
        *look, size = STYLES[point.kind]
        marker, colour = looks.get((point.kind, point.name), look)
        _interval(axes, point, colour, scale)
        label = _legend(point, counts[point.kind])
        _dots(axes, [scale * point.select], [scale * point.report], marker, colour, size, label)
    equal_line(axes, diagonal)
    return figure, axes


def _dots(
    axes: Axes, x: Sequence[float], y: Sequence[float], marker: str, colour: str, size: float, label: str
) -> None:
    axes.scatter(
        x, y, marker=marker, s=size, color=colour, edgecolors="white", linewidths=0.8, zorder=4, label=label
    )  # fmt: skip


def _interval(axes: Axes, point: Point, colour: str, scale: float) -> None:
    # not for runs, which would hide the picture: theirs have about one width, which the others show
    if point.report_low is not None and point.report_high is not None:
        low, high = scale * point.report_low, scale * point.report_high
        axes.vlines(scale * point.select, low, high, color=colour, lw=1.4, alpha=0.55)


def _legend(point: Point, count: int) -> str:
    own = {"best on select": f"best on select ({point.name})"}
    return own.get(point.kind, point.name if count <= APART else f"{count} {point.kind}s")


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
        axes.ticklabel_format(useOffset=False)  # 99.99, not 0.09 with "+9.99e1" in a corner
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

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


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
        """Write a PNG or SVG file, as the path ends, and the numbers as CSV beside it; the paths."""
        save_figure(self.figure, Path(path))
        written = _files_of(Path(path))
        if self.rows:
            written += (Path(path).with_suffix(".csv"),)
            write_csv(written[-1], self.rows)
        return written

    def __repr__(self) -> str:
        return (
            f"Picture({len(self.rows)} points; save(PATH) writes it)" if self.rows else "Picture(save(PATH) writes it)"
        )

    def _repr_png_(self) -> bytes:
        drawn = io.BytesIO()
        _write(self.figure, drawn, form="png")
        return drawn.getvalue()


def finished(figure: Figure, rows: Sequence[Mapping[str, Any]] = ()) -> Picture:
    """The figure with one legend below all axes and everything in its place, and `rows`, its numbers."""
    fit(figure)
    return Picture(figure, tuple(rows))


def finish(figure: Figure, path: str | Path, rows: Sequence[Mapping[str, Any]] = ()) -> tuple[Path, ...]:
    """Write what `finished` makes; the paths."""
    return finished(figure, rows).save(path)


@contextmanager
def also_written_as(form: str) -> Iterator[None]:
    """Write every picture in this format too, beside its PNG, which cards show.

    Raises:
        InputError: if it is neither "png" nor "svg".
    """
    if form not in FORMATS:
        raise InputError(f"pictures as {form!r}; expected {' or '.join(FORMATS)}.")
    before = _also.set(form)
    try:
        yield
    finally:
        _also.reset(before)


def _files_of(path: Path) -> tuple[Path, ...]:
    """The path itself, and beside a PNG file the one in the further format."""
    form = path.suffix.lower().removeprefix(".") or "png"
    if form not in FORMATS:
        raise InputError(f"{path}: pictures are written as PNG or SVG. End the name with .png or .svg.")
    return (path,) if form == _also.get() or form != "png" else (path, path.with_suffix(f".{_also.get()}"))


def save_figure(figure: Figure, path: Path) -> None:
    """Write a PNG or SVG file, as the path ends, whole or not at all; and one in the format that is wanted too."""
    for file in _files_of(path):
        form = file.suffix.lower().removeprefix(".") or "png"
        write_file(file, functools.partial(_write, figure, form=form))


def _write(figure: Figure, target: Any, *, form: str) -> None:
    # no metadata: the same scores make the same bytes, whatever the version of matplotlib says about itself
    if form == "png":  # drawn once; figure.savefig draws twice
        figure.canvas.print_png(target, metadata={"Software": None})  # type: ignore[attr-defined]  # of the Agg canvas
        return
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "hf_soups"}):
        figure.savefig(target, format=form, metadata={"Date": None, "Creator": None})
