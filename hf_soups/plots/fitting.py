"""Fitting a picture before it is saved: names beside points, legend, titles and ticks get places of their own.

Sizes of texts are known only once they are measured. So everything is laid out once, in points and shares of the
figure, and stays there: PNG and SVG are the same picture.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.backends.backend_agg import RendererAgg
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.text import Annotation, Text

Box = tuple[float, float, float, float]  # left, bottom, right, top in pixels
NAME = "name of a point"  # the mark of annotations that are placed here
LONGEST = 30  # letters of a name beside a point
IN_LEGEND = 44  # letters of a line of the legend
ROWS = 3  # lines of a legend that the figure's height has room for
LINE = 0.19  # inches that each further one adds
AWAY = (0.0, 1.1, 2.3, 3.6)  # heights of a letter between a marker and its name; beyond the first a line joins them
SIDES = (
    (1, -0.6), (1, 0), (-1, 0), (1, 0.6), (-1, -0.6), (-1, 0.6), (0, -1), (0, 1), (1, -1), (1, 1), (-1, -1), (-1, 1),
)  # fmt: skip


def shortened(name: str, longest: int) -> str:
    """A name of at most so many characters.

    >>> shortened("a-very-long-name", 9)
    'a-very-l…'
    """
    return name if len(name) <= longest else name[: longest - 1] + "…"


def names_at(spots: Iterable[tuple[float, float, str]]) -> dict[tuple[float, float], str]:
    """What is written at each place: points at the same place share one line.

    >>> names_at([(1, 2, "run_07"), (1, 2, "run_09")])
    {(1, 2): 'run_07, run_09'}
    >>> names_at([(1, 2, name) for name in "abcd"])
    {(1, 2): 'a, b and 2 more'}
    """
    at: dict[tuple[float, float], list[str]] = {}
    for x, y, name in spots:
        at.setdefault((x, y), []).append(shortened(name, LONGEST))
    ordered = {place: sorted(names) for place, names in at.items()}
    return {
        place: ", ".join(names) if len(names) < 4 else f"{names[0]}, {names[1]} and {len(names) - 2} more"
        for place, names in ordered.items()
    }


def name_points(axes: Axes, names: Mapping[tuple[float, float], str]) -> None:
    """Write names beside their points; `fit` finds the places, and leaves out what has none."""
    for place, name in names.items():
        written = axes.annotate(name, place, xytext=(5, -9), textcoords="offset points", fontsize=8, color="#444444",
                                gid=NAME, zorder=6)  # fmt: skip
        written.set_in_layout(False)


def add_legend(figure: Figure) -> None:
    """One legend below all axes, where it covers no point, in as many columns as fit; long lines are shortened."""
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(shortened(label, IN_LEGEND), handle)
    if not handles:
        return
    for columns in (3, 2, 1):
        legend = figure.legend(
            handles.values(), handles.keys(), loc="outside lower center", ncols=columns, frameon=False, fontsize=9
        )
        if columns == 1 or legend.get_window_extent(_renderer(figure)).width < 0.97 * figure.bbox.width:
            break
        legend.remove()
    lines = math.ceil(len(handles) / columns)
    figure.set_figheight(figure.get_figheight() + LINE * max(0, lines - ROWS))


def fit(figure: Figure) -> None:
    """Lay the figure out, once and for all."""
    add_legend(figure)
    engine = figure.get_layout_engine()
    assert engine is not None
    engine.execute(figure)
    if _wrap_titles(figure):
        engine.execute(figure)
    figure.set_layout_engine("none")  # it would do the same again, at every draw
    for axes in figure.axes:
        _thin(axes, _renderer(figure))
        _place_names(axes, _renderer(figure))


def _renderer(figure: Figure) -> RendererAgg:
    renderer: RendererAgg = figure.canvas.get_renderer()  # type: ignore[attr-defined]  # of the Agg canvas
    return renderer


def _wrap_titles(figure: Figure) -> bool:
    """Break titles and the names of axes that are longer than their axes; whether there were any."""
    wrapped = False
    for axes in figure.axes:
        width, height = axes.bbox.width, axes.bbox.height
        for text, room in ((axes.title, width), (axes._left_title, width), (axes.xaxis.label, width),  # type: ignore[attr-defined]  # no public name
                           (axes.yaxis.label, height)):  # fmt: skip
            wrapped |= _wrap(text, room, _renderer(figure))
    return wrapped


def _wrap(text: Text, room: float, renderer: RendererAgg) -> bool:
    written = text.get_text()
    left, bottom, right, top = _box(text, renderer) if written else (0.0, 0.0, 0.0, 0.0)
    long = max(right - left, top - bottom)
    if long <= room or "\n" in written:
        return False
    text.set_text(textwrap.fill(written, max(8, int(0.97 * len(written) * room / long))))
    return True


def _thin(axes: Axes, renderer: RendererAgg) -> None:
    """Hide numbers along an axis that would touch the one before or say the same; names of bars all stay."""
    from matplotlib.ticker import FixedFormatter

    for axis, low, high in ((axes.xaxis, 0, 2), (axes.yaxis, 1, 3)):
        if isinstance(axis.get_major_formatter(), FixedFormatter):
            continue
        shown = tick_labels(axis)
        last, said = -math.inf, ""
        for box, text in sorted(((_box(text, renderer), text) for text in shown), key=lambda each: each[0][low]):
            text.set_visible(box[low] >= last + 2 and text.get_text() != said)  # 1.01 M again says nothing
            last, said = (box[high], text.get_text()) if text.get_visible() else (last, said)


def tick_labels(axis: Axis) -> list[Text]:
    """The numbers and names along an axis that are drawn; of an axis that was laid out."""
    axis.get_tightbbox()  # which makes the ticks
    low, high = sorted(axis.get_view_interval())
    room = 1e-9 * (high - low)
    ticks = [tick for tick in axis.get_major_ticks() if low - room <= tick.get_loc() <= high + room]
    return [tick.label1 for tick in ticks if tick.label1.get_visible() and tick.label1.get_text()]


def _box(text: Text, renderer: RendererAgg) -> Box:
    left, bottom, right, top = text.get_window_extent(renderer).extents
    return float(left), float(bottom), float(right), float(top)


def _place_names(axes: Axes, renderer: RendererAgg) -> None:
    """Give each name the first free place around its point, the rightmost points first; without one it goes."""
    named: list[Annotation] = [text for text in axes.texts if text.get_gid() == NAME]  # type: ignore[misc]  # only annotations have it
    if not named:
        return
    inside = tuple(map(float, axes.bbox.extents))
    taken, lines = np.array([*marker_boxes(axes)]).reshape(-1, 4), _line_points(axes)
    point = axes.figure.dpi / 72
    for text in named:
        x, y = axes.transData.transform(text.xy)
        left, bottom, right, top = _box(text, renderer)
        best: tuple[int, float, float, float] | None = None
        for i, (away, across, up) in enumerate((a, *side) for a in AWAY for side in SIDES):
            box = _beside(x, y, (right - left, top - bottom), away, across, up, 6 * point)
            if not _within(box, inside) or _overlaps(box, taken):
                continue
            crossed = 3 * int(_holds(box, lines)) + i  # a place near by is worth crossing a line
            if best is None or crossed < best[0]:
                best = crossed, box[0], box[1], away
            if best[0] <= i:
                break
        text.remove()
        if best is None:
            continue
        _, left_at, bottom_at, away = best
        taken = np.vstack([taken, (left_at, bottom_at, left_at + right - left, bottom_at + top - bottom)])
        joined = {"arrowstyle": "-", "color": "#999999", "lw": 0.6, "shrinkA": 0, "shrinkB": 3} if away else None
        axes.annotate(text.get_text(), text.xy, xytext=((left_at - x) / point, (bottom_at - y) / point),
                      textcoords="offset points", ha="left", va="bottom", fontsize=8, color="#444444", gid=NAME,
                      zorder=6, arrowprops=joined).set_in_layout(False)  # fmt: skip


def _beside(x: float, y: float, size: tuple[float, float], away: float, across: float, up: float, gap: float) -> Box:
    """Where a text of this size is, beside a point in a direction."""
    width, height = size
    distance = gap + away * height
    left = x + distance if across > 0 else x - distance - width if across < 0 else x - width / 2
    bottom = y - height / 2 + up * (distance + height / 2)
    return left, bottom, left + width, bottom + height


def marker_boxes(axes: Axes) -> Iterator[Box]:
    """The boxes of all markers in pixels."""
    from matplotlib.collections import PathCollection

    point = axes.figure.dpi / 72
    for drawn in axes.collections:
        if isinstance(drawn, PathCollection):
            half = point * math.sqrt(max(drawn.get_sizes(), default=0)) / 2
            for x, y in axes.transData.transform(np.ma.filled(drawn.get_offsets(), np.nan).reshape(-1, 2)):
                yield x - half, y - half, x + half, y + half
    for line in axes.lines:
        if line.get_marker() not in (None, "None", "", " "):
            half = point * line.get_markersize() / 2
            for x, y in axes.transData.transform(line.get_xydata()):
                yield x - half, y - half, x + half, y + half


def _line_points(axes: Axes) -> np.ndarray:
    """Points along all lines and bars, a few pixels apart."""
    from matplotlib.collections import LineCollection

    paths = [_as_drawn(line) for line in axes.lines]
    paths += [np.asarray(one) for each in axes.collections if isinstance(each, LineCollection)
              for one in each.get_segments()]  # fmt: skip
    found: list[np.ndarray] = []
    for path in paths:
        pixels = axes.transData.transform(path)
        pixels = pixels[np.isfinite(pixels).all(axis=1)]
        for (x0, y0), (x1, y1) in itertools.pairwise(pixels):
            count = 2 + int(min(500, math.hypot(x1 - x0, y1 - y0) / 4))
            found.append(np.column_stack([np.linspace(x0, x1, count), np.linspace(y0, y1, count)]))
    return np.concatenate(found) if found else np.empty((0, 2))


def _as_drawn(line: Line2D) -> np.ndarray:
    path = np.asarray(line.get_xydata())
    if line.get_drawstyle() != "steps-post":
        return path
    return np.column_stack([np.repeat(path[:, 0], 2)[1:], np.repeat(path[:, 1], 2)[:-1]])


def _within(box: Box, outer: Sequence[float]) -> bool:
    return box[0] >= outer[0] + 1 and box[1] >= outer[1] + 1 and box[2] <= outer[2] and box[3] <= outer[3]


def _overlaps(box: Box, taken: np.ndarray) -> bool:
    free = (taken[:, 2] < box[0]) | (taken[:, 0] > box[2]) | (taken[:, 3] < box[1]) | (taken[:, 1] > box[3])
    return not bool(free[~np.isnan(taken).any(axis=1)].all())


def _holds(box: Box, points: np.ndarray) -> bool:
    x, y = points[:, 0], points[:, 1]
    return bool(((x > box[0]) & (x < box[2]) & (y > box[1]) & (y < box[3])).any())
