"""Scores by number of models as points, and these as a picture, CSV files and a table; of one sweep or several."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import InputError
from hf_soups.files.writing import write_csv
from hf_soups.metrics import Metric
from hf_soups.plots.canvas import scale_of, unit_of
from hf_soups.plots.curves import CURVE_LOOKS, CurvePanel, MeanCurve, draw_curves
from hf_soups.plots.looks import look_of
from hf_soups.recipe.task import SHIFT
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from rich.console import RenderableType

BEST, UNIFORM, GREEDY, ENSEMBLE = "best on select", "uniform soup", "greedy soup", "mean-logit ensemble"
KIND_LOOKS = {  # the same marker and colour as in the leaderboard's pictures
    BEST: look_of("best on select"),
    UNIFORM: look_of("soup", UNIFORM),
    GREEDY: look_of("soup", GREEDY),
    ENSEMBLE: look_of("ensemble", ENSEMBLE),
}
SHIFTS = "shifts"  # the plain mean over several, subset by subset


@dataclass(frozen=True, slots=True)
class SubsetScore:
    """What one subset of the runs scores on one set of rows, in the metric's own sign."""

    what: str  # BEST, UNIFORM, GREEDY or ENSEMBLE
    role: str  # report or shift-<name>
    runs: tuple[str, ...]
    score: float  # NaN: the mixture answers NaN
    ingredients: int  # of the soup; greedy may have kept fewer than there are runs


@dataclass(frozen=True)
class ByNumber:
    """All that was scored, and the folder that holds it."""

    metric: Metric
    rows: Mapping[str, int]  # by role
    scores: tuple[SubsetScore, ...]
    notes: tuple[str, ...]
    folder: Path
    files: tuple[Path, ...] = ()

    def rows_of(self, role: str) -> int:
        """Number of rows that a role's scores are of; of several shifts all of theirs."""
        return self.rows.get(role) or sum(n for name, n in self.rows.items() if name.startswith(SHIFT))

    def unit(self, role: str) -> str:
        """What a role's scores are of."""
        return f"{unit_of(self.metric.name)}, {self.rows_of(role)} rows"

    def to_rich(self) -> RenderableType:
        """The picture's curves as tables: the mean over the subsets of a size, and in brackets the worst and best."""
        from rich.console import Group

        points = points_of(self.scores)
        return Group(*(_table([p for p in points if p.role == role], self) for role in panels_of(points)))


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
    of_shifts: dict[tuple[str, tuple[str, ...]], list[SubsetScore]] = {}
    for s in sound:
        by_place.setdefault((s.role, s.what, len(s.runs)), []).append((s.score, s.ingredients))
        if s.role.startswith(SHIFT):
            of_shifts.setdefault((s.what, s.runs), []).append(s)
    shifts = {s.role for s in scores if s.role.startswith(SHIFT)}
    for (what, runs), each in of_shifts.items() if len(shifts) > 1 else ():
        if len(each) == len(shifts):
            mean = sum(s.score for s in each) / len(each)
            by_place.setdefault((SHIFTS, what, len(runs)), []).append((mean, each[0].ingredients))
    places = sorted(by_place, key=lambda p: (p[0] != "report", p[0], list(KIND_LOOKS).index(p[1]), p[2]))
    return tuple(_point(*place, by_place[place]) for place in places)


def _point(role: str, what: str, models: int, found: Sequence[tuple[float, int]]) -> NumberPoint:
    values = [value for value, _ in found]
    mean = math.fsum(values) / len(values)
    ingredients = sum(count for _, count in found) / len(found)
    return NumberPoint(what, role, models, len(values), mean, min(values), max(values), ingredients)


def panels_of(points: Iterable[NumberPoint]) -> list[str]:
    """The roles that are shown: report, and one panel for what is out of distribution."""
    there = list(dict.fromkeys(p.role for p in points))
    shifted = SHIFTS if SHIFTS in there else next((role for role in there if role.startswith(SHIFT)), None)
    return ["report", *([shifted] if shifted else [])]


def _title(role: str) -> str:
    return {"report": "report", SHIFTS: "mean over the shifts"}.get(role, role.removeprefix(SHIFT))


def write_results(made: ByNumber) -> tuple[Path, ...]:
    """Write by_number.png, its points as by_number.csv and every subset as subsets.csv; the paths."""
    points, metric = points_of(made.scores), made.metric.name
    across = "runs in the subset; bars: worst to best subset"
    panels = []
    for role in panels_of(points):
        of_role = [p for p in points if p.role == role]
        curves = [
            _curve([p for p in of_role if p.what == what], what, look, metric) for what, look in KIND_LOOKS.items()
        ]
        panels.append(CurvePanel(tuple(c for c in curves if c.x), across, made.unit(role), _title(role)))
    rows = [{**asdict(p), "metric": metric, "rows": made.rows_of(p.role)} for p in points]
    subsets = made.folder / "subsets.csv"
    write_csv(subsets, [_subset_row(s) for s in made.scores])
    return (*draw_curves(panels, made.folder / "by_number.png", rows), subsets)


def write_together(sweeps: Mapping[str, ByNumber], folder: Path) -> tuple[Path, ...]:
    """Write by_number.png with the uniform soup and the best run of each sweep, and its points as CSV; the paths.

    Raises:
        InputError: if the sweeps are scored by different metrics.
    """
    metrics = {name: made.metric.name for name, made in sweeps.items()}
    if len(set(metrics.values())) > 1:
        named = ", ".join(f"{name} by {metric}" for name, metric in metrics.items())
        raise InputError(f"the sweeps have no metric in common ({named}), so one picture cannot show them.")
    points, first = {name: points_of(made.scores) for name, made in sweeps.items()}, next(iter(sweeps.values()))
    panels = []
    for role in panels_of(next(iter(points.values()))):
        if all(any(p.role == role for p in each) for each in points.values()):
            curves = tuple(c for i, name in enumerate(points) for c in _two(name, i, role, points[name], first.metric))
            panels.append(CurvePanel(curves, "runs in the subset", first.unit(role), _title(role)))
    rows = [{"sweep": name, **asdict(p)} for name, each in points.items() for p in each]
    return draw_curves(panels, folder / "by_number.png", rows)


def _two(name: str, number: int, role: str, points: Sequence[NumberPoint], metric: Metric) -> Iterable[MeanCurve]:
    """The uniform soup of a sweep, and dotted its best run."""
    marker, colour = CURVE_LOOKS[number % len(CURVE_LOOKS)]
    for what, look, line in ((UNIFORM, marker, "-"), (BEST, ".", ":")):
        of = [p for p in points if (p.role, p.what) == (role, what)]
        yield _curve(of, f"{name}: {what}", (look, colour), metric.name, spread="none", line=line)


def _curve(points: Sequence[NumberPoint], name: str, look: tuple[str, str], metric: str, **style: Any) -> MeanCurve:
    scale = scale_of(metric)
    mean, low, high = (tuple(scale * getattr(p, key) for p in points) for key in ("mean", "low", "high"))
    return MeanCurve(name, tuple(float(p.models) for p in points), mean, low, high, look, **style)


def _subset_row(s: SubsetScore) -> dict[str, Any]:
    about = {"what": s.what, "role": s.role, "models": len(s.runs), "score": s.score, "ingredients": s.ingredients}
    return {**about, "runs": " ".join(sorted(s.runs))}


def _table(points: Sequence[NumberPoint], made: ByNumber) -> RenderableType:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    role = points[0].role
    title = f"{_title(role)}: {made.unit(role)}; mean [worst, best] subset"
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
