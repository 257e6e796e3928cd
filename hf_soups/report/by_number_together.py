"""Several sweeps' scores by number in one picture: three starts, two models, with and without mixup."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from hf_soups.errors import InputError
from hf_soups.report.by_number import NumberPoint, called, panels_of, points_of, rows_of
from hf_soups.report.curves import LOOKS
from hf_soups.report.plots import legend_below, new_panels, save_figure, scale_of, unit_of
from hf_soups.report.table import write_csv

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from hf_soups.diagnosis.by_number import ByNumber

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
