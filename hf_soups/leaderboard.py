"""Leaderboard: every run, the best on select, the soups and the ensemble in one table, made from files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cook.pool import Run, find_runs, task_of
from hf_soups.ensembles import geometric_mean
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import Metric, expected_calibration_error, metric_for, negative_log_likelihood, score
from hf_soups.predictions import Predictions
from hf_soups.report.words import difference_in_words
from hf_soups.run_folder import PREDICTIONS

if TYPE_CHECKING:
    from rich.console import RenderableType

KINDS = ("best on select", "soup", "ensemble", "run")
SCORED = ("finished", "optimistic")  # optimistic: chosen on the report rows


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the leaderboard; scores as the metric gives them, not x 100."""

    kind: str  # one of KINDS
    name: str
    status: str  # "finished", or why there are no scores
    reason: str = ""
    ingredients: int | None = None
    pool: int | None = None  # how many there were to choose from
    select: float | None = None
    select_low: float | None = None  # 95% bootstrap interval by row
    select_high: float | None = None
    report: float | None = None
    report_low: float | None = None
    report_high: float | None = None
    report_gain: float | None = None  # over the best on select
    gain: str = ""  # the same in words
    report_nll: float | None = None
    report_ece: float | None = None
    parameters: int | None = None
    macs: int | None = None  # multiply-adds per example
    train_seconds: float | None = None  # of all ingredients together
    device: str = ""  # that the training seconds were measured on


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """The rows, the best on select first, then soups, the ensemble and single runs, each kind by select score."""

    rows: tuple[Row, ...]
    metric: str
    select_rows: int
    report_rows: int
    folder: str

    def to_rich(self) -> RenderableType:
        """A table that fits the terminal's width, from 80 columns up."""
        from hf_soups.report.table import LeaderboardTable

        return LeaderboardTable(self)

    def save(self, folder: str | Path) -> tuple[Path, ...]:
        """Write leaderboard.csv, leaderboard.parquet and, if anything is scored, leaderboard.png; their paths."""
        from hf_soups.report.table import save_csv, save_parquet

        at = Path(folder)
        save_csv(self.rows, at / "leaderboard.csv")
        save_parquet(self.rows, at / "leaderboard.parquet")
        written = (at / "leaderboard.csv", at / "leaderboard.parquet")
        if not any(row.report is not None for row in self.rows):
            return written
        return (*written, self._plot(at / "leaderboard.png"))

    def _plot(self, path: Path) -> Path:
        from hf_soups.report.plots import Point, report_vs_select

        points = [
            Point(row.kind, name_with_count(row), row.select, row.report, row.report_low, row.report_high)
            for row in self.rows
            if row.select is not None and row.report is not None
        ]
        report_vs_select(points, path, metric=self.metric, rows=(self.select_rows, self.report_rows))
        return path


def name_with_count(row: Row) -> str:
    """The row's name with its number of ingredients: "greedy soup of 3"."""
    return f"{row.name} of {row.ingredients}" if row.kind in ("soup", "ensemble") and row.ingredients else row.name


def build_leaderboard(folder: str | Path, *, resamples: int = 1000) -> Leaderboard:
    """Score everything under a sweep's folder from its cached predictions; no model is loaded.

    Args:
        folder: a sweep's folder, or one that holds run folders.
        resamples: bootstrap resamples of each interval.
    Raises:
        InputError: if there is no run in the folder.
    """
    at = Path(folder)
    runs = find_runs(at)
    if not runs:
        raise InputError(f"{at}: no runs here. Give the folder of a sweep (it holds plan.json and run folders).")
    metric = metric_for(task_of(at, runs))
    answered, rows = _read_runs(runs)
    ordered = sorted(answered, key=lambda a: _rank(metric, a.select))
    scored = [a.scored(metric, resamples) for a in ordered]
    if not scored:
        return Leaderboard(tuple(rows), metric.name, 0, 0, str(at))
    best = replace(scored[0], kind="best on select")
    others = [soup.scored(metric, resamples) for soup in _soups(at, answered, rows)]
    if len(ordered) > 1:
        others.append(_mean_logits(ordered).scored(metric, resamples))
    n = len(answered[0].report)
    gained = [_with_gain(row, best, metric.name, n) for row in (*others, *scored)]
    unscored = [row for row in rows if row.kind == "soup"] + [row for row in rows if row.kind == "run"]
    ranked = sorted(gained, key=lambda row: (KINDS.index(row.kind), _rank_of(metric, row.select)))
    return Leaderboard((best, *ranked, *unscored), metric.name, len(answered[0].select), n, str(at))


@dataclass(frozen=True, eq=False)
class _Answered:
    """Something with predictions of both splits, and the row that says what it is."""

    row: Row
    select: Predictions
    report: Predictions

    def scored(self, metric: Metric, resamples: int) -> Row:
        select, report = (score(p, metric, resamples=resamples) for p in (self.select, self.report))
        return replace(
            self.row,
            select=select.value,
            select_low=select.low,
            select_high=select.high,
            report=report.value,
            report_low=report.low,
            report_high=report.high,
            report_nll=negative_log_likelihood(self.report),
            report_ece=expected_calibration_error(self.report),
        )


def _read_runs(runs: Sequence[Run]) -> tuple[list[_Answered], list[Row]]:
    """The runs that answered, and a row for each of the others."""
    answered: list[_Answered] = []
    rows: list[Row] = []
    for run in runs:
        row = _run_row(run)
        if not run.finished:
            rows.append(row)
            continue
        try:
            answered.append(_Answered(row, *_both(run.folder / PREDICTIONS, answered)))
        except PredictionsError as error:
            rows.append(replace(row, status="unusable predictions", reason=str(error)))
    return answered, rows


def _run_row(run: Run) -> Row:
    if run.record is None:
        return Row("run", run.name, run.status, run.reason)
    about = {key: getattr(run.record, key) for key in ("parameters", "macs", "train_seconds", "device")}
    return Row("run", run.name, run.status, run.reason, **about)


def _both(folder: Path, others: Sequence[_Answered]) -> tuple[Predictions, Predictions]:
    """Predictions of select and report, with the rows in the order of those read before."""
    select = Predictions.load(folder / "select.safetensors")
    report = Predictions.load(folder / "report.safetensors")
    if others:
        return select.aligned_to(others[0].select), report.aligned_to(others[0].report)
    return select, report


def _soups(sweep: Path, answered: Sequence[_Answered], rows: list[Row]) -> list[_Answered]:
    """The soups cooked from this sweep; those that cannot be read any more join `rows` with the reason."""
    found = []
    for pointer in sorted((sweep / "soups").glob("*.json")):
        row = Row("soup", f"{pointer.stem} soup", "finished")
        try:
            told = json.loads(pointer.read_text(encoding="utf-8"))
            folder = (pointer.parent / told["path"]).resolve()
            record = json.loads((folder / "soup.json").read_text(encoding="utf-8"))
            predictions = _both(folder / told.get("predictions", PREDICTIONS), answered)
            found.append(_Answered(_soup_row(row, record, answered), *predictions))
        except (OSError, ValueError, KeyError, PredictionsError) as error:
            rows.append(replace(row, status="gone", reason=f"{error}. Cook it again."))
    return found


def _soup_row(row: Row, record: Mapping[str, Any], answered: Sequence[_Answered]) -> Row:
    names = [i["name"] for i in record["ingredients"]]
    runs = {a.row.name: a.row for a in answered}
    members = [runs[name] for name in names if name in runs]
    optimistic = bool(record.get("optimistic"))
    return replace(
        row,
        status="optimistic" if optimistic else "finished",
        reason="chosen on the report rows, so its report score is too good" if optimistic else "",
        ingredients=len(names),
        pool=len(record.get("pool", [])) or None,
        parameters=members[0].parameters if members else None,
        macs=members[0].macs if members else None,
        train_seconds=_sum([m.train_seconds for m in members]) if len(members) == len(names) else None,
        device=_devices(members),
    )


def _mean_logits(answered: Sequence[_Answered]) -> _Answered:
    members = [a.row for a in answered]
    row = Row(
        "ensemble",
        "mean-logit ensemble",
        "finished",
        ingredients=len(members),
        pool=len(members),
        parameters=_sum([m.parameters for m in members]),
        macs=_sum([m.macs for m in members]),
        train_seconds=_sum([m.train_seconds for m in members]),
        device=_devices(members),
    )
    return _Answered(row, geometric_mean([a.select for a in answered]), geometric_mean([a.report for a in answered]))


def _with_gain(row: Row, best: Row, metric: str, rows: int) -> Row:
    assert row.report is not None
    assert best.report is not None
    words = difference_in_words(row.report, best.report, metric, rows)
    return replace(row, report_gain=row.report - best.report, gain=words)


def _rank(metric: Metric, predictions: Predictions) -> float:
    return _rank_of(metric, metric.compute(predictions))


def _rank_of(metric: Metric, value: float | None) -> float:
    """Smaller is better; NaN and None come last. Report scores are never ranked."""
    if value is None or math.isnan(value):
        return math.inf
    return -value if metric.greater_is_better else value


def _sum(values: Sequence[Any]) -> Any:
    """The sum, or None when a part of it is not known."""
    return None if any(v is None for v in values) else sum(values)


def _devices(rows: Sequence[Row]) -> str:
    return " + ".join(sorted({row.device for row in rows if row.device}))
