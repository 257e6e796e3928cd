"""Pictures of one cascade: where rows exit, latency, reliability, and a sheet of images by exit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.costs import UNITS
from hf_soups.plots.canvas import bare_figure, finish, label_axes, new_figure, new_panels, save_figure
from hf_soups.plots.fitting import shortened
from hf_soups.plots.looks import BLUE, GREEN, GREY, PURPLE, VERMILION
from hf_soups.wording import amount

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL.Image import Image

TALLEST = 96  # pixels of a shown image
WIDTH, HEIGHT = 0.95, 1.55  # inches of an image with its words
LETTERS = 28  # of a line beside a bar


@dataclass(frozen=True, slots=True)
class Bin:
    """The rows whose most probable class has a probability in (low, high]."""

    low: float
    high: float
    rows: int
    confidence: float | None  # mean of them; None without rows
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class LatencyBar:
    """Seconds of an example: at batch 1, which is latency, and at each member's best batch, which is throughput."""

    kind: str  # "single" or "cascade"
    name: str
    seconds_batch_1: float  # of a cascade: the members that its rows met, on average
    seconds: float
    worst_batch_1: float  # of a row that meets every member
    worst: float
    hardware: str


@dataclass(frozen=True, slots=True)
class Exit:
    """The rows that exit at one stage."""

    stage: int  # 1 is the first member
    member: str
    rows: int
    share: float  # of all rows
    accuracy: float | None  # of these rows; None without rows or labels
    cost: float | None  # of each of them


@dataclass(frozen=True, slots=True)
class SheetImage:
    """An image with its answer below it; a wrong one gets a frame."""

    image: Image | None  # None: it cannot be decoded
    caption: str
    wrong: bool


@dataclass(frozen=True, slots=True)
class SheetRow:
    """The images of one exit."""

    title: str
    images: tuple[SheetImage, ...]


def draw_bins(bins: Sequence[Bin], path: str | Path, *, error: float, name: str) -> tuple[Path, ...]:
    """Write a reliability diagram as PNG, and its bins as CSV beside it; both paths.

    Args:
        bins: of equal width.
        path: the PNG file.
        error: expected calibration error, in [0, 1].
        name: of the model, for the title.
    """
    figure, axes = new_figure()
    rows, width = sum(b.rows for b in bins), 1 / len(bins)
    filled = [b for b in bins if b.rows]
    middles, shares = [(b.low + b.high) / 2 for b in filled], [b.rows / rows for b in filled]
    accuracy = [b.accuracy for b in filled if b.accuracy is not None]
    confidence = [b.confidence for b in filled if b.confidence is not None]
    axes.bar(middles, accuracy, width=0.92 * width, color=BLUE, alpha=0.75, label="accuracy", zorder=2)
    axes.bar(middles, shares, width=0.4 * width, color=GREY, label="share of the rows", zorder=3)
    axes.scatter(
        confidence, accuracy, marker="D", s=28, color=VERMILION, label="mean confidence and accuracy", zorder=4
    )
    axes.plot([0, 1], [0, 1], color="#444444", lw=1, ls="--", label="confidence = accuracy")
    axes.set_xlim(-0.02, 1.02)  # room for whole marks at the ends
    axes.set_ylim(-0.02, 1.02)
    across, up = f"confidence: probability of the answer, {len(bins)} bins", f"share of right answers, {rows} rows"
    label_axes(axes, across, up, f"{name}: ECE {100 * error:.1f} x 100")
    return finish(figure, path, [asdict(b) for b in bins])


def draw_latency(bars: Sequence[LatencyBar], path: str | Path) -> tuple[Path, ...]:
    """Write the bars as PNG, latency on the left and throughput on the right, and the numbers as CSV; both paths."""
    figure, (left, right) = new_panels(2)
    _latencies(left, bars, [(b.seconds_batch_1, b.worst_batch_1) for b in bars])
    _latencies(right, bars, [(b.seconds, b.worst) for b in bars])
    left.set_xlabel("ms an example, one at a time", fontsize=9)
    right.set_xlabel("ms an example, at each member's best batch", fontsize=9)
    _one_below_another(left, right, [bar.name.replace(" -> ", " ->\n") for bar in bars])
    left.set_title(f"Latency: {bars[0].hardware}", fontsize=9, loc="left")
    right.set_title("Throughput", fontsize=9, loc="left")
    return finish(figure, path, [asdict(bar) for bar in bars])


def _latencies(axes: Axes, bars: Sequence[LatencyBar], seconds: Sequence[tuple[float, float]]) -> None:
    for i, (bar, (mean, worst)) in enumerate(zip(bars, seconds, strict=True)):
        cascade = bar.kind == "cascade"
        label = "cascade, average over rows" if cascade else "single model"
        colour = PURPLE if cascade else GREY
        axes.barh(i, 1000 * mean, height=_thick(len(bars)), color=colour, alpha=0.85, label=label)
        if cascade:
            axes.plot([1000 * mean, 1000 * worst], [i, i], color=PURPLE, lw=1.2, marker="|", label="at worst")
        axes.annotate(f" {1000 * mean:.3g}", (1000 * mean, i), xytext=(0, 7), textcoords="offset points", fontsize=8)
    axes.set_xlim(0, 1200 * (max(worst for _, worst in seconds) or 1))


def draw_exits(exits: Sequence[Exit], path: str | Path, *, unit: str = "") -> tuple[Path, ...]:
    """Write share of rows and accuracy by exit stage as PNG, and the numbers as CSV beside it; both paths."""
    figure, (left, right) = new_panels(2)
    thick = _thick(len(exits))
    left.barh(range(len(exits)), [100 * e.share for e in exits], height=thick, color=BLUE, alpha=0.8)
    for i, e in enumerate(exits):
        cost = "" if e.cost is None else f", {amount(e.cost) if e.cost >= 1 else format(e.cost, '.3g')} each"
        left.annotate(f" {100 * e.share:.1f}{cost}", (100 * e.share, i), va="center", fontsize=8)
    left.set_xlim(0, 135)  # room for the words
    left.set_xticks([0, 25, 50, 75, 100])
    left.set_xlabel("% of the rows" + (f"; cost: {UNITS.get(unit, unit)}" if unit else ""), fontsize=9)
    known = [(i, 100 * e.accuracy) for i, e in enumerate(exits) if e.accuracy is not None]
    right.barh([i for i, _ in known], [a for _, a in known], height=thick, color=GREEN, alpha=0.8)
    for i, accuracy in known:
        plain = {"facecolor": "white", "edgecolor": "none", "pad": 1.0}  # the line of all rows may pass behind it
        right.annotate(f"{accuracy:.1f}", (accuracy, i), xytext=(5, 0), textcoords="offset points", va="center",
                       fontsize=8, bbox=plain, zorder=6)  # fmt: skip
    if known:
        whole = accuracy_of_all(exits)
        right.axvline(whole, color=VERMILION, lw=1.5, ls="--", label=f"all rows: {whole:.1f}")
    right.set_xlim(0, 115)
    right.set_xlabel("accuracy x 100 of the rows that exit there", fontsize=9)
    left.set_title("Rows by exit", fontsize=11, loc="left")
    right.set_title("Accuracy by exit", fontsize=11, loc="left")
    _one_below_another(left, right, [f"exit {e.stage}" + (f"\n{e.member}" if e.member else "") for e in exits])
    return finish(figure, path, [asdict(e) for e in exits])


def accuracy_of_all(exits: Sequence[Exit]) -> float:
    """Accuracy x 100 of the rows of all exits together."""
    return sum(100 * e.share * e.accuracy for e in exits if e.accuracy is not None)


def _thick(bars: int) -> float:
    return min(0.7, 0.15 * bars + 0.1)


def _one_below_another(left: Axes, right: Axes, names: Sequence[str]) -> None:
    """Bars with their names at the left, the first on top."""
    lines = ["\n".join(shortened(line, LETTERS) for line in name.split("\n")) for name in names]
    left.set_yticks(range(len(names)), lines, fontsize=8)
    inches = 0.13 * sum(1.5 + line.count("\n") for line in lines)  # what the names take
    left.figure.set_figheight(max(left.figure.get_figheight(), 1.2 + inches))  # type: ignore[union-attr]  # no subfigures here
    right.set_yticks(range(len(names)), [""] * len(names))
    for axes in (left, right):
        axes.set_ylim(len(names) - 0.4, -0.6)


def draw_sheet(rows: Sequence[SheetRow], path: Path, *, columns: int) -> Path:
    """Write a PNG with one row of images for each exit; its path."""
    figure = bare_figure(WIDTH * columns, HEIGHT * len(rows))
    edge = 0.05 / columns  # a title is wider than its image: no automatic layout
    figure.subplots_adjust(edge, 0.28 / len(rows), 1 - edge, 1 - 0.16 / len(rows), wspace=0.1, hspace=0.75)
    for i, row in enumerate(rows):
        for column in range(columns):
            axes = figure.add_subplot(len(rows), columns, i * columns + column + 1)
            _bare(axes)
            if column == 0:
                cell = axes.get_position(original=True)  # a wide image's own axes end below the tall ones'
                figure.text(cell.x0, cell.y1 + 0.05 / len(rows), row.title, fontsize=8)
            if column < len(row.images):
                _show(axes, row.images[column])
    save_figure(figure, path)
    return path


def _show(axes: Axes, shown: SheetImage) -> None:
    if shown.image is None:
        axes.text(0.5, 0.5, "cannot be\ndecoded", ha="center", va="center", fontsize=6, transform=axes.transAxes)
    else:
        small = shown.image.copy()
        small.thumbnail((TALLEST, TALLEST))
        axes.imshow(np.asarray(small))
    axes.set_xlabel(shown.caption, fontsize=5.5, labelpad=1.5, color=VERMILION if shown.wrong else "black")
    for spine in axes.spines.values():
        spine.set(visible=shown.wrong, color=VERMILION, linewidth=2)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    for spine in axes.spines.values():
        spine.set(visible=False, color=GREY)


def draw_coverage_risk(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]], path: str | Path, *, name: str
) -> tuple[Path, ...]:
    """Write the share of wrong answers by that of rows answered as PNG, and the points as CSV; both paths.

    Args:
        curves: coverages and risks, by what the rows are.
        path: the PNG file.
        name: of the cascade, for the title.
    """
    figure, axes = new_figure()
    rows: list[dict[str, float | str]] = []
    for (role, (coverages, risks)), colour in zip(curves.items(), (BLUE, VERMILION), strict=False):
        axes.plot([100 * c for c in coverages], [100 * r for r in risks], color=colour, lw=1.6, label=role)
        rows += [{"rows": role, "coverage": c, "risk": r} for c, r in zip(coverages, risks, strict=True)]
    axes.set_xlim(0, 101)
    axes.set_ylim(bottom=0)
    label_axes(axes, "answered, % of the rows", "wrong, % of the answers given", f"{name}: the rest is for a human")
    return finish(figure, path, rows)
