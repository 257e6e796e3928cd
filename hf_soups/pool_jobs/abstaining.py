"""What a last threshold does to the plans of a frontier: rows left to a human against wrong answers and cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from hf_soups.cascades.frontier import Frontier, load_frontier
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.selective import (
    CoverageRisk,
    RiskCertificate,
    certify_risk,
    coverage_risk,
)
from hf_soups.costs import UNITS
from hf_soups.display import Displayed
from hf_soups.metrics import metric_named, traits_of
from hf_soups.metrics.closed_intervals import wilson_interval
from hf_soups.pool_jobs.plans import check_frontier, open_plan, unseen_rows
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

COVERAGES = (1.0, 0.99, 0.98, 0.95, 0.9, 0.8, 0.7, 0.5)  # that are shown
CONFIDENCE = 0.95
PICTURE = "coverage_vs_risk.png"


@dataclass(frozen=True, slots=True)
class Given:
    """The answers that are given to some rows: how many, and how often they are wrong."""

    coverage: float  # share of the rows
    risk: float  # share of wrong ones; NaN if none is given
    low: float  # ends of its 95% interval
    high: float
    score: float | None  # of the plan's metric, the larger the better


@dataclass(frozen=True, slots=True)
class AbstainRow:
    """One plan with one last threshold."""

    number: int  # of the plan in the frontier
    plan: Plan  # with `abstain`, and coverage and score on select
    select: Given
    report: Given | None


@dataclass(frozen=True, slots=True, repr=False)
class AbstainResult(Displayed):
    """Thresholds for some coverages, chosen on select and looked at on report; of one plan also its whole curves."""

    rows: tuple[AbstainRow, ...]
    counts: tuple[int, int]  # rows of select and of report
    unit: str
    metric: str
    select: CoverageRisk | None = None  # of one plan
    report: CoverageRisk | None = None

    def in_short(self) -> str:
        """How many thresholds there are, and the area under the curve of one plan."""
        return f"{len(self.rows)} thresholds" if self.select is None else self.select.in_short()

    def to_pandas(self) -> pd.DataFrame:
        """A threshold a row; risks are shares of the answers that are given."""
        import pandas as pd

        sign = traits_of(self.metric).sign
        return pd.DataFrame(
            [{"plan": row.number, "members": row.plan.in_order, **_cells(row, sign)} for row in self.rows]
        )

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        yield self._table()
        chosen = f"Thresholds are chosen on {self.counts[0]} select rows"
        looked = f", answers looked at on {self.counts[1]} report rows" if self.counts[1] else ""
        unit = f" Costs in {UNITS.get(self.unit, self.unit)}." if self.unit else ""
        yield f"{chosen}{looked}. wrong: share of the answers that are given.{unit}"
        for role, curve in (("select", self.select), ("report", self.report)):
            if curve is not None:
                yield f"AURC on {role}: {curve.aurc:.4f} (mean share of wrong answers over all coverages)"
        if self.select is not None and self.rows:
            yield "To use one: hf-soups cascade build ... --abstain THRESHOLD"

    def _table(self) -> Table:
        from rich import box
        from rich.table import Table

        from hf_soups.wording import cost_in_words

        several, shown = self.select is None, self.counts[1] > 0
        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        titles = [*(("#", "members", "cost") if several else ()), "a human below", "answered", "wrong"]
        for title in [*titles, *(("report: answered", "wrong", "[95%]") if shown else ())]:
            table.add_column(title, justify="left" if title == "members" else "right")
        for row in self.rows:
            cells = [str(row.number), row.plan.in_order, cost_in_words(row.plan.average_cost)] if several else []
            cells += [
                "2 (always)" if (below := row.plan.abstain or 0.0) > 1 else f"{below:.6g}",
                f"{row.select.coverage:.1%}",
                _wrong(row.select.risk),
            ]
            if shown and row.report is not None:
                ends = f"{row.report.low:.2%}, {row.report.high:.2%}"
                cells += [f"{row.report.coverage:.1%}", _wrong(row.report.risk), ends]
            table.add_row(*cells)
        return table


def _wrong(risk: float) -> str:
    return "-" if math.isnan(risk) else f"{risk:.2%}"


def _cells(row: AbstainRow, sign: float) -> dict[str, float | None]:
    cells: dict[str, float | None] = {"average_cost": row.plan.average_cost, "abstain": row.plan.abstain}
    for role, given in (("select", row.select), ("report", row.report)):
        if given is not None:
            score = None if given.score is None else sign * given.score
            cells |= {f"{role}_coverage": given.coverage, f"{role}_risk": given.risk, f"{role}_score": score}
            cells |= {f"{role}_low": given.low, f"{role}_high": given.high} if role == "report" else {}
    return cells


def abstain_plan(
    reference: str, *, coverages: Sequence[float] = COVERAGES, out: str | Path | None = None
) -> AbstainResult:
    """Thresholds below which a cascade asks a human, for one plan or a whole frontier.

    Args:
        reference: FILE#NUMBER; or FILE alone, for the plans of a frontier that no other beats in cost, coverage and
            risk at once.
        coverages: shares of the select rows to answer.
        out: a folder for the picture of one plan's risk by coverage, with its CSV.
    Raises:
        InputError: if there is no such plan or pool, or a coverage is no share.
    """
    if "#" not in reference:
        return _of_frontier(Path(reference), coverages)
    opened = open_plan(reference)
    plan, parts = opened.plan, opened.parts
    curve = coverage_risk(plan, parts.select)
    rows = _rows(opened.index, plan, curve, coverages, parts.select, parts.report)
    of_report = None if parts.report is None else coverage_risk(plan, parts.report)
    if out is not None:
        from hf_soups.plots.cascades import draw_coverage_risk

        curves = {
            f"{role}, {c.rows} rows": c for role, c in (("select", curve), ("report", of_report)) if c is not None
        }
        points = {role: (c.coverages.tolist(), c.risks.tolist()) for role, c in curves.items()}
        draw_coverage_risk(points, Path(out) / PICTURE, name=plan.in_order)
    return AbstainResult(rows, _counts(parts.select, parts.report), plan.unit, plan.metric, curve, of_report)


def certify_plan_risk(reference: str, *, max_risk: float, delta: float = 0.05, seed: int = 0) -> RiskCertificate:
    """A last threshold for a plan such as `preds/frontier.json#3` with which at most `max_risk` of answers are wrong.

    Args:
        reference: FILE#NUMBER.
        max_risk: share of wrong answers among those that are given, in (0, 1).
        delta: chance that the certificate is wrong.
        seed: of the split into ordering and test rows.
    Raises:
        InputError: if the search kept no rows back, which a certificate needs.
    """
    opened = open_plan(reference)
    return certify_risk(opened.plan, unseen_rows(opened), max_risk=max_risk, delta=delta, seed=seed)


def _of_frontier(path: Path, coverages: Sequence[float]) -> AbstainResult:
    frontier = load_frontier(path)
    parts = check_frontier(path, frontier, frontier.pool)
    rows: list[AbstainRow] = []
    for number in frontier.printed():
        plan = frontier.plan(number)
        curve = coverage_risk(plan, parts.select)
        rows += _rows(number, plan, curve, coverages, parts.select, parts.report)
    return AbstainResult(
        _unbeaten(rows), _counts(parts.select, parts.report), frontier.best_single.unit, _metric(frontier)
    )


def _metric(frontier: Frontier) -> str:
    return frontier.best_single.metric


def _unbeaten(rows: Sequence[AbstainRow]) -> tuple[AbstainRow, ...]:
    """Those that no other beats on select: less cost, more answers, fewer of them wrong."""
    points = np.array([(r.plan.average_cost, -r.select.coverage, r.select.risk) for r in rows])
    kept = [
        row
        for row, own in zip(rows, points, strict=True)
        if not ((points <= own).all(axis=1) & (points < own).any(axis=1)).any()
    ]
    return tuple(kept)


def _rows(
    number: int,
    plan: Plan,
    curve: CoverageRisk,
    coverages: Sequence[float],
    select: Mapping[str, Predictions],
    report: Mapping[str, Predictions] | None,
) -> tuple[AbstainRow, ...]:
    """A row for each coverage; those that come to the same threshold are one."""
    thresholds = dict.fromkeys(curve.at_coverage(coverage) for coverage in sorted(coverages, reverse=True))
    rows = []
    for threshold in thresholds:
        own = replace(plan, abstain=threshold)
        here, there = _given(own, select), None if report is None else _given(own, report)
        own = replace(own, coverage=here.coverage, score_answered=here.score)
        rows.append(AbstainRow(number, own, here, there))
    return tuple(rows)


def _given(plan: Plan, rows: Mapping[str, Predictions]) -> Given:
    answers, metric = plan.apply(rows), metric_named(plan.metric)
    assert answers.abstained is not None
    given = answers.take(np.flatnonzero(~answers.abstained))
    count = len(given)
    if not count:
        return Given(0.0, math.nan, 0.0, 1.0, None)
    wrong = int((given.answers != given.labels).sum())
    ends = wilson_interval(wrong, count, CONFIDENCE)
    return Given(count / len(answers), wrong / count, *ends, metric.sign * metric.compute(given))


def _counts(select: Mapping[str, Predictions], report: Mapping[str, Predictions] | None) -> tuple[int, int]:
    return len(next(iter(select.values()))), 0 if report is None else len(next(iter(report.values())))
