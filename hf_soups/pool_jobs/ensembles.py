"""Every ensemble of a pool in one table: all members combined in each way, and members chosen greedily on select."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from hf_soups.costs import UNITS, Cost, one_unit
from hf_soups.ensembles import Combine, Selection, ensemble, member_curves, select_ensemble
from hf_soups.files.problem_types import REGRESSION
from hf_soups.metrics import Metric, Score, metric_named, score
from hf_soups.pool import read_pool
from hf_soups.pool.report_rows import ReportRows, holds_report_rows, refuse_report_rows, select_and_report
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import METRIC_OF

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType


@dataclass(frozen=True, slots=True)
class EnsembleRow:
    """One answerer: a single model or an ensemble."""

    name: str
    members: int
    cost: float  # of one example, all members together; NaN: not known
    select: Score
    report: Score | None


@dataclass(frozen=True, slots=True)
class EnsemblesResult:
    """The best single model, ensembles of all members, the selected ensemble, and pictures that were drawn."""

    rows: tuple[EnsembleRow, ...]
    selection: Selection
    metric: str
    unit: str
    counts: tuple[int, int]  # rows of select and of report
    pictures: tuple[Path, ...] = ()
    optimistic: bool = False  # select are report rows

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich import box
        from rich.table import Table

        from hf_soups.wording import cost_in_words

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        for title in ("", "members", "select", "[95%]", *(("report", "[95%]") if self.counts[1] else ()), "cost"):
            table.add_column(title, justify="left" if not title else "right")
        for row in self.rows:
            cells = [row.name, str(row.members), *self._scored(row.select)]
            cells += self._scored(row.report) if row.report is not None else []
            table.add_row(*cells, "-" if math.isnan(row.cost) else cost_in_words(row.cost))
        yield table
        weights = ", ".join(f"{name} {weight:.2f}" for name, weight in self.selection.weights.items())
        yield f"selected: {weights}"
        report = f"; report: {self.counts[1]}, not looked at when choosing" if self.counts[1] else ""
        costs = f" Costs in {UNITS.get(self.unit, self.unit)}." if self.unit else " Costs are not known of all members."
        yield f"{self.metric}; select: {self.counts[0]} rows, chosen on{report}.{costs}"
        if self.optimistic:
            yield "Optimistic: members were chosen on report rows, so their scores are too good."

    def _scored(self, scored: Score) -> list[str]:
        from hf_soups.wording import score_in_words

        low, high = (score_in_words(end, self.metric) for end in (scored.low, scored.high))
        return [score_in_words(scored.value, self.metric), f"{low}, {high}"]


def pool_ensembles(
    folder: str | Path,
    *,
    members: Sequence[str] = (),
    metric: str | None = None,
    cost: str | None = None,
    temperatures: bool = False,
    rounds: int = 50,
    combine: str = "mean",
    report: str | ReportRows = None,
    seed: int = 0,
    curves: str | Path | None = None,
    allow_selection_on_report: bool = False,
) -> EnsemblesResult:
    """Score ensembles of a pool's members.

    Args:
        folder: of the pool.
        members: of the pool, to combine; default: all.
        metric: a name in METRICS; default: accuracy, of many labels a row f1_micro, of a regression pearson.
        cost: the unit of costs; default: macs, or the first that all members have.
        temperatures: fit one for each member on the rows to choose on, and divide its logits by it.
        rounds: of the greedy selection with replacement.
        combine: how the selected members, and those of the curves, are combined.
        report: rows to report on; as text see `report_rows`.
        seed: of the draw of report rows.
        curves: a folder for the picture of score against the number of members, by architecture (names that differ
            after the last "-", "_", "/" or "@" are copies of one).
        allow_selection_on_report: choose members on a pool of report rows.
    Raises:
        SelectionOnReport: if it is a pool of report rows, and that is not allowed.
        InputError: if the call makes no sense for this pool.
        PredictionsError: if the predictions cannot be joined or scored.
    """
    from hf_soups.predictions.calibration import fit_temperatures

    pool = read_pool(folder)
    refuse_report_rows(pool, "hf-soups ensemble", allowed=allow_selection_on_report)
    metric = metric or METRIC_OF[pool.data.problem_type]
    known = metric_named(metric)
    parts = select_and_report(pool, report, seed)
    names = list(members or parts.select)
    for name in names:
        pool.member(name)
    select = {name: parts.select[name] for name in names}
    known_costs = cost is not None or curves is not None or bool(pool.shared_units(names))
    by_name = pool.costs(pool.unit(cost, names), names) if known_costs else {}
    costs, kind = one_unit(by_name)
    fitted = fit_temperatures(select) if temperatures else {}
    selection = select_ensemble(select, metric, rounds=rounds, combine=combine, temperatures=fitted)
    table = _Scored(known, select, parts.report, costs)
    best = max(names, key=lambda name: known.sign * known.compute(select[name]))
    rows = [table.row(f"best single: {best}", [best], lambda answers: answers[best])]
    scaled = [fitted.get(name, 1.0) for name in names]
    for way in ("mean",) if pool.data.problem_type == REGRESSION else get_args(Combine):
        rows.append(table.row(way, names, _combined(names, way, scaled)))
    rows.append(table.row("selected", list(selection.weights), selection.apply))
    shown = {name: (parts.report or select)[name] for name in names}
    drawn = () if curves is None else _curves(shown, by_name, metric, combine, Path(curves))
    counts = len(select[best]), 0 if parts.report is None else len(parts.report[best])
    optimistic = holds_report_rows(pool.data.split) and parts.report is None
    return EnsemblesResult(tuple(rows), selection, metric, kind.unit, counts, drawn, optimistic)


@dataclass(frozen=True)
class _Scored:
    metric: Metric
    select: Mapping[str, Predictions]
    report: Mapping[str, Predictions] | None
    costs: Mapping[str, float]

    def row(
        self, name: str, members: Sequence[str], answer: Callable[[Mapping[str, Predictions]], Predictions]
    ) -> EnsembleRow:
        report = None if self.report is None else score(answer(self.report), self.metric)
        cost = sum(self.costs.get(m, math.nan) for m in members)
        return EnsembleRow(name, len(members), cost, score(answer(self.select), self.metric), report)


def _combined(
    names: Sequence[str], way: str, temperatures: Sequence[float]
) -> Callable[[Mapping[str, Predictions]], Predictions]:
    return lambda known: ensemble([known[name] for name in names], way, temperatures=temperatures)


def _curves(
    rows: Mapping[str, Predictions], costs: Mapping[str, Cost], metric: str, combine: str, out: Path
) -> tuple[Path, ...]:
    from hf_soups.pool_jobs.pictures import draw_member_curves

    made = member_curves(rows, {name: costs[name] for name in rows}, metric=metric, combine=combine)
    return draw_member_curves(made, out / "score_vs_members.png")
