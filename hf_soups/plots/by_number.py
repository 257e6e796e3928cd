"""Scores by number of models as pictures, numbers and text, of one sweep or several."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import InputError
from hf_soups.files.writing import write_csv
from hf_soups.plots.canvas import (
    BLUE,
    GREEN,
    ORANGE,
    VERMILION,
    legend_below,
    new_panels,
    save_figure,
    scale_of,
    unit_of,
)
from hf_soups.plots.curves import LOOKS
from hf_soups.recipe.task import SHIFT
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from rich.console import RenderableType

    from hf_soups.diagnosis.by_number import ByNumber, SubsetScore


KIND_LOOKS = {  # the same marker and colour as in the leaderboard's pictures
    "best on select": ("o", BLUE),
    "uniform soup": ("D", VERMILION),
    "greedy soup": ("s", ORANGE),
    "mean-logit ensemble": ("^", GREEN),
}
APART = 0.009  # between the bars of one size, in shares of the axis
SHIFTS = "shifts"  # the plain mean over several, subset by subset


@dataclass(frozen=True, slots=True)
class NumberPoint:
    """All subsets of one size: the mean of their scores and the two extremes, in the metric's own sign."""

    what: str
    role: str  # report, shift-<name>, or SHIFTS
    models: int
    subsets: int
    mean: float
    low: float
    high: float
    ingredients: float  # in the mixture, the mean over subsets


def points_of(scores: Sequence[SubsetScore]) -> tuple[NumberPoint, ...]:
    """The curves of all roles; of several shifts also their mean. Subsets that answer NaN are left out."""
    sound = [s for s in scores if not math.isnan(s.score)]
    by_place: dict[tuple[str, str, int], list[tuple[float, int]]] = {}
    for s in sound:
        by_place.setdefault((s.role, s.what, len(s.runs)), []).append((s.score, s.ingredients))
    shifts = {s.role for s in scores if s.role.startswith(SHIFT)}
    if len(shifts) > 1:
        for (what, runs), each in _by_subset(sound).items():
            if len(each) == len(shifts):
                mean = sum(s.score for s in each) / len(each)
                by_place.setdefault((SHIFTS, what, len(runs)), []).append((mean, each[0].ingredients))
    places = sorted(by_place, key=lambda p: (p[0] != "report", p[0], list(KIND_LOOKS).index(p[1]), p[2]))
    return tuple(_point(*place, by_place[place]) for place in places)


def _by_subset(scores: Sequence[SubsetScore]) -> Mapping[tuple[str, tuple[str, ...]], list[SubsetScore]]:
    found: dict[tuple[str, tuple[str, ...]], list[SubsetScore]] = {}
    for s in scores:
        if s.role.startswith(SHIFT):
            found.setdefault((s.what, s.runs), []).append(s)
    return found


def _point(role: str, what: str, models: int, found: Sequence[tuple[float, int]]) -> NumberPoint:
    values = [value for value, _ in found]
    mean = math.fsum(values) / len(values)
    ingredients = sum(count for _, count in found) / len(found)
    return NumberPoint(what, role, models, len(values), mean, min(values), max(values), ingredients)


def write_all(made: ByNumber, folder: Path) -> tuple[Path, ...]:
    """Write by_number.png, its points as by_number.csv and every subset as subsets.csv; the paths."""
    points = points_of(made.scores)
    picture, table, subsets = (folder / name for name in ("by_number.png", "by_number.csv", "subsets.csv"))
    about = {"metric": made.metric.name}
    write_csv(table, [{**asdict(p), **about, "rows": rows_of(made, p.role)} for p in points])
    write_csv(subsets, [_subset_row(s) for s in made.scores])
    draw(points, made, picture)
    return picture, table, subsets


def rows_of(made: ByNumber, role: str) -> int:
    """Number of rows that a role's scores are of; of several shifts all of theirs."""
    return made.rows.get(role) or sum(n for name, n in made.rows.items() if name.startswith(SHIFT))


def _subset_row(s: SubsetScore) -> dict[str, Any]:
    told = {"what": s.what, "role": s.role, "models": len(s.runs), "score": s.score, "ingredients": s.ingredients}
    return {**told, "runs": " ".join(sorted(s.runs))}


def draw(points: Sequence[NumberPoint], made: ByNumber, path: Path) -> None:
    """Draw score against the number of models; beside report the shift, or the mean over several, if there is one."""
    from matplotlib.ticker import MaxNLocator

    roles = panels_of(points)
    figure, panels = new_panels(len(roles))
    for axes, role in zip(panels, roles, strict=True):
        for what in KIND_LOOKS:
            _line(axes, [p for p in points if (p.role, p.what) == (role, what)], scale_of(made.metric.name))
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("runs in the subset; bars: worst to best subset")
        axes.set_ylabel(f"{unit_of(made.metric.name)}, {rows_of(made, role)} rows")
        axes.set_title(called(role), fontsize=11, loc="left")
        axes.margins(x=0.04, y=0.08)
    legend_below(panels[0])
    save_figure(figure, path)


def panels_of(points: Sequence[NumberPoint]) -> list[str]:
    """Report, and one panel for what is out of distribution."""
    there = list(dict.fromkeys(p.role for p in points))
    shifted = SHIFTS if SHIFTS in there else next((role for role in there if role.startswith(SHIFT)), None)
    return ["report", *([shifted] if shifted else [])]


def called(role: str) -> str:
    """A role as titles name it."""
    return {"report": "report", SHIFTS: "mean over the shifts"}.get(role, role.removeprefix(SHIFT))


def _line(axes: Axes, points: Sequence[NumberPoint], scale: float) -> None:
    """The mean over subsets, on bars from the worst subset to the best."""
    if not points:
        return
    marker, colour = KIND_LOOKS[points[0].what]
    # bars of one size stand side by side: bands of four curves would hide each other
    aside = APART * (list(KIND_LOOKS).index(points[0].what) - (len(KIND_LOOKS) - 1) / 2)
    x = [p.models + aside * points[-1].models for p in points]
    axes.vlines(x, [scale * p.low for p in points], [scale * p.high for p in points], color=colour, lw=1.4, alpha=0.45)
    axes.plot(
        x, [scale * p.mean for p in points], color=colour, marker=marker, mec="white", ms=7, lw=1.6,
        label=points[0].what, zorder=3,
    )  # fmt: skip


def to_rich(made: ByNumber) -> RenderableType:
    """The picture's curves as tables: the mean over the subsets of a size, and in brackets the worst and the best."""
    from rich.console import Group

    points = points_of(made.scores)
    return Group(*(_table([p for p in points if p.role == role], made) for role in panels_of(points)))


def _table(points: Sequence[NumberPoint], made: ByNumber) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    role = points[0].role
    title = f"{called(role)}: {unit_of(made.metric.name)}, {rows_of(made, role)} rows; mean [worst, best] subset"
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title=Text(title), title_justify="left")
    curves = {what: found for what in KIND_LOOKS if (found := {p.models: p for p in points if p.what == what})}
    for column in ("runs", "subsets", *curves):
        table.add_column(column, justify="right", no_wrap=True)
    for models in sorted({p.models for p in points}):
        there = [found.get(models) for found in curves.values()]
        subsets = max(p.subsets for p in there if p is not None)
        table.add_row(str(models), str(subsets), *(_cell(p, made.metric.name) for p in there))
    return table


def _cell(point: NumberPoint | None, metric: str) -> str:
    if point is None:
        return "-"
    mean, low, high = (score_in_words(v, metric) for v in (point.mean, point.low, point.high))
    return mean if point.subsets == 1 else f"{mean} [{low}, {high}]"


SOUP, BEST = "uniform soup", "best on select"


def names_apart(folders: Sequence[Path]) -> tuple[str, ...]:
    """What tells paths apart: the last part in which all of them differ.

    >>> names_apart([Path("out/zero-shot/runs"), Path("out/linear-probe/runs")])
    ('zero-shot', 'linear-probe')
    """
    for depth in range(1, min(len(f.parts) for f in folders) + 1):
        names = tuple(f.parts[-depth] for f in folders)
        if len(set(names)) == len(names):
            return names
    return tuple(map(str, folders))


def write_together(sweeps: Mapping[str, ByNumber], folder: Path) -> tuple[Path, Path]:
    """Write by_number.png with the uniform soup and the best run of each sweep, and its points as CSV; the paths.

    Raises:
        InputError: if the sweeps are scored by different metrics.
    """
    metrics = {name: made.metric.name for name, made in sweeps.items()}
    if len(set(metrics.values())) > 1:
        told = ", ".join(f"{name} by {metric}" for name, metric in metrics.items())
        raise InputError(f"the sweeps have no metric in common ({told}), so one picture cannot show them.")
    points = {name: points_of(made.scores) for name, made in sweeps.items()}
    picture, table = folder / "by_number.png", folder / "by_number.csv"
    write_csv(table, [{"sweep": name, **asdict(p)} for name, each in points.items() for p in each])
    _draw(points, next(iter(sweeps.values())), picture)
    return picture, table


def _draw(points: Mapping[str, Sequence[NumberPoint]], first: ByNumber, path: Path) -> None:
    from matplotlib.ticker import MaxNLocator

    scale = scale_of(first.metric.name)
    roles = [
        role for role in panels_of(next(iter(points.values()))) if all(_has(each, role) for each in points.values())
    ]
    figure, panels = new_panels(len(roles))
    for axes, role in zip(panels, roles, strict=True):
        for (name, each), (marker, colour) in zip(points.items(), LOOKS * len(points), strict=False):
            of_role = [p for p in each if p.role == role]
            _line_of(axes, [p for p in of_role if p.what == SOUP], scale, colour, marker, "-", f"{name}: {SOUP}")
            _line_of(axes, [p for p in of_role if p.what == BEST], scale, colour, ".", ":", f"{name}: {BEST}")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("runs in the subset")
        axes.set_ylabel(f"{unit_of(first.metric.name)}, {rows_of(first, role)} rows")
        axes.set_title(called(role), fontsize=11, loc="left")
    legend_below(panels[0])
    save_figure(figure, path)


def _has(points: Sequence[NumberPoint], role: str) -> bool:
    return any(p.role == role for p in points)


def _line_of(
    axes: Axes, points: Sequence[NumberPoint], scale: float, colour: str, marker: str, style: str, label: str
) -> None:
    """The mean over subsets."""
    x, y = [p.models for p in points], [scale * p.mean for p in points]
    axes.plot(x, y, color=colour, marker=marker, mec="white", ms=7, lw=1.5, ls=style, label=label)
