"""Leaderboard: the best on select, soups, ensembles, cascades and every run in one table, made from files alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.display import Displayed
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL
from hf_soups.leaderboard.rows import (
    KINDS,
    Row,
    ScoredModel,
    ScoredModels,
    rank_of,
    read_scored_models,
    search_among,
    with_cascades,
)
from hf_soups.metrics import Metric, also_scored, score, traits_of
from hf_soups.plots.canvas import Picture, Point, report_vs_select, shift_vs_report
from hf_soups.plots.costs import CostPicture, CostPoint, draw_cost_picture
from hf_soups.predictions import Predictions
from hf_soups.progress import Meter
from hf_soups.recipe.task import SHIFT
from hf_soups.wording import difference_in_words, score_in_words

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

__all__ = ["Leaderboard", "Row", "ShiftRows", "build_leaderboard", "leaderboard_of", "name_with_count"]


@dataclass(frozen=True, slots=True)
class ShiftRows:
    """What a shift's column was scored on."""

    rows: int
    present: int  # classes that its rows have
    classes: int  # that the task has


@dataclass(frozen=True, slots=True, repr=False)
class Leaderboard(Displayed):
    """The rows, the best on select first, then soups, ensembles, cascades and runs, each kind by select score."""

    rows: tuple[Row, ...]
    metric: str
    select_rows: int
    report_rows: int
    folder: str = ""
    shifts: Mapping[str, ShiftRows] = field(default_factory=dict)  # by name, in the order of the columns
    notes: tuple[str, ...] = ()  # answers on shifts that cannot be used

    @property
    def scored(self) -> tuple[Row, ...]:
        """The rows that have scores."""
        return tuple(row for row in self.rows if row.report is not None)

    @property
    def best_name(self) -> str:
        """The best on select; nothing where nothing is scored."""
        return self.rows[0].name if self.scored else ""

    def shift_mean(self, row: Row) -> float | None:
        """The plain mean of a row's scores on all shifts; None where one is missing or there are fewer than two."""
        values = [row.shifts[name].value for name in self.shifts if name in row.shifts]
        return sum(values) / len(values) if len(values) == len(self.shifts) > 1 else None

    def to_rich(self) -> RenderableType:
        """A table that fits the terminal's width, from 80 columns up."""
        from hf_soups.leaderboard.table import LeaderboardTable

        return LeaderboardTable(self)

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write leaderboard.csv, .parquet and, if anything is scored, .png, `_<shift>.png` and score_vs_cost.png, .csv.

        Returns:
            The paths; without the last two where no multiply-adds are known.
        """
        from hf_soups.leaderboard.table import save_csv, save_parquet

        at = Path(folder)
        save_csv(self, at / "leaderboard.csv")
        save_parquet(self, at / "leaderboard.parquet")
        written: tuple[Path, ...] = (at / "leaderboard.csv", at / "leaderboard.parquet")
        if not self.scored:
            return written
        written += self.plot().save(at / "leaderboard.png")
        for name, rows in self.shifts.items():
            path, counts = at / f"leaderboard_{name}.png", (self.report_rows, rows.rows)
            written += shift_vs_report(self.shift_points(name), path, metric=self.metric, shift=name, rows=counts)
        picture = self.cost_picture()
        return (*written, *(() if picture is None else draw_cost_picture(picture, at / "score_vs_cost.png")))

    def draw(self, path: Path) -> Path:
        """Draw report score against select score of everything that is scored; the path."""
        self.plot().save(path)
        return path

    def plot(self) -> Picture:
        """Report score against select score of everything that is scored."""
        return report_vs_select(self.points(), metric=self.metric, rows=(self.select_rows, self.report_rows))

    def to_pandas(self) -> pd.DataFrame:
        """All rows and fields, as leaderboard.csv has them."""
        import pandas as pd

        from hf_soups.leaderboard.table import row_values

        return pd.DataFrame([row_values(self, row) for row in self.rows])

    def in_short(self) -> str:
        """How many rows, and the best on select."""
        counts = f"{len(self.rows)} rows, {self.select_rows} select and {self.report_rows} report rows"
        if not self.scored:
            return counts
        best = self.rows[0]
        return f"{counts}; best on select: {best.name}, report {self.metric} {score_in_words(best.report, self.metric)}"

    def _picture(self) -> bytes | None:
        return self.plot()._repr_png_() if self.points() else None

    def points(self) -> list[Point]:
        """Select and report score of everything that is scored."""
        return [
            Point(row.kind, name_with_count(row), row.select, row.report, row.report_low, row.report_high)
            for row in self.scored
            if row.select is not None and row.report is not None
        ]

    def shift_points(self, shift: str) -> list[Point]:
        """Report score, in the place of select, and the score on a shift, in that of report."""
        return [
            Point(row.kind, name_with_count(row), row.report, found.value, found.low, found.high)
            for row in self.rows
            if row.report is not None and (found := row.shifts.get(shift)) is not None
        ]

    def cost_picture(self) -> CostPicture | None:
        """Everything whose multiply-adds are known, by its report score; None where none are known."""
        points = tuple(
            CostPoint(
                row.kind, name_with_count(row) + " (optimistic)" * (row.status == "optimistic"), float(row.macs),
                row.report, float(row.macs), interval=_interval(row),
            )
            for row in self.rows
            if row.macs and row.report is not None and math.isfinite(row.report)
            if not (row.kind == "run" and row.name == self.best_name)  # the best on select is there already
        )  # fmt: skip
        better = traits_of(self.metric).sign > 0
        return CostPicture(points, self.metric, "macs", self.report_rows, "report", better) if points else None


def _interval(row: Row) -> tuple[float, float] | None:
    return None if row.report_low is None or row.report_high is None else (row.report_low, row.report_high)


def name_with_count(row: Row) -> str:
    """The row's name with its number of ingredients: "greedy soup of 3"."""
    counted = row.kind in ("soup", "ensemble", "cascade") and row.ingredients
    return f"{row.name} of {row.ingredients}" if counted else row.name


def build_leaderboard(
    folder: str | Path, *, resamples: int = 1000, cascades: bool = False, report: str = ""
) -> Leaderboard:
    """Score everything under a sweep's folder from its cached predictions; no model is loaded.

    Args:
        folder: a sweep's folder, one that holds run folders, a pool of predictions, or the folder in which
            `hf_soups.leaderboard.answer_checkpoints` has the answers of loose checkpoints.
        resamples: bootstrap resamples of each interval.
        cascades: search cascades among the runs and soups first, on select, and keep them in the folder. Those that
            were kept before are shown without searching again.
        report: of a pool, the rows to report on: a share of its own, such as 0.5 (the default), or another pool.
    Raises:
        InputError: if there is no run in the folder, or cascades are asked for and cannot be searched.
    """
    found = read_scored_models(folder, report=report)
    if cascades:
        search_among(found, folder)
        before = tuple(row for row in found.unscored if row.kind != "cascade")
        found = with_cascades(replace(found, unscored=before), folder)
    return leaderboard_of(found, folder, resamples=resamples)


def leaderboard_of(
    found: ScoredModels, folder: str | Path, *, resamples: int = 1000, progress: bool = False
) -> Leaderboard:
    """The leaderboard of models that were read already; `folder` is where from."""
    metric = found.metric
    if not found.runs:
        return Leaderboard(found.unscored, metric.name, 0, 0, str(Path(folder)), notes=found.notes)
    models, rows = (*found.runs, *found.soups, *found.ensembles, *found.cascades), []
    with Meter("scores", len(models), visible=progress) as meter:
        for model in models:
            rows.append(_scored(model, metric, resamples))
            meter(len(rows))
    scored, others = rows[: len(found.runs)], rows[len(found.runs) :]
    best = replace(scored[0], kind="best on select")
    select, report = len(found.runs[0].select), len(found.runs[0].report)
    gained = [_with_gain(row, best, metric.name, report) for row in (*others, *scored)]
    ranked = sorted(gained, key=lambda row: (KINDS.index(row.kind), rank_of(metric, row.select)))
    unscored = sorted(found.unscored, key=lambda row: KINDS.index(row.kind))
    shown = (best, *ranked, *unscored)
    return Leaderboard(shown, metric.name, select, report, str(Path(folder)), _shift_rows(found), found.notes)


def _scored(model: ScoredModel, metric: Metric, resamples: int) -> Row:
    """Its row with the scores of all its answers."""
    scores = {role: score(p, metric, resamples=resamples) for role, p in model.answers.items()}
    select, report = scores["select"], scores["report"]
    beside = {other.name: other.compute(model.report) for other in also_scored(model.report.problem_type)}
    return replace(
        model.row,
        select=select.value,
        select_low=select.low,
        select_high=select.high,
        report=report.value,
        report_low=report.low,
        report_high=report.high,
        report_nll=beside.get("nll"),
        report_ece=beside.get("ece"),
        shifts={role.removeprefix(SHIFT): found for role, found in scores.items() if role.startswith(SHIFT)},
    )


def _shift_rows(found: ScoredModels) -> dict[str, ShiftRows]:
    rows = {}
    for name in found.shifts:
        answers = next(p for c in (*found.runs, *found.soups) if (p := c.answers.get(f"{SHIFT}{name}")) is not None)
        rows[name] = ShiftRows(len(answers), _present(answers), answers.classes)
    return rows


def _present(answers: Predictions) -> int:
    """How many of the classes, or labels, any row has; of a regression its one number."""
    if answers.problem_type == CLASSIFICATION:
        return len(np.unique(answers.needs_labels()))
    return int(answers.needs_labels().any(axis=0).sum()) if answers.problem_type == MULTI_LABEL else 1


def _with_gain(row: Row, best: Row, metric: str, rows: int) -> Row:
    assert row.report is not None
    assert best.report is not None
    words = difference_in_words(row.report, best.report, metric, rows)
    return replace(row, report_gain=row.report - best.report, gain=words)
