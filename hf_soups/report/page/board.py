"""The leaderboard on the page: every column, sortable, and the report scores with their intervals as a picture."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hf_soups.leaderboard import Leaderboard
from hf_soups.leaderboard.rows import Row
from hf_soups.leaderboard.table import row_name
from hf_soups.plots.canvas import Point, scale_of, unit_of
from hf_soups.report.page.charts import interval_chart
from hf_soups.report.page.html import Block, Cell, Chart, Column, PageTable, Section, plain_table
from hf_soups.wording import amount, score_in_words

DRAWN = 40  # rows of the picture; more would not be told apart


@dataclass(frozen=True, slots=True)
class _Shown:
    title: str
    cell: Callable[[Row], Cell]
    number: bool = True


def leaderboard_section(board: Leaderboard) -> Section:
    """The section; of a sweep without a finished run it says so."""
    rows = [row for row in board.rows if row.report is not None]
    if not rows:
        words = ("No run has finished yet, so there is nothing to score.",)
        return Section("leaderboard", "Leaderboard", (Block(words=words),))
    words = (
        f"Scores are {unit_of(board.metric)}, in brackets 95% bootstrap intervals by row. Select: {board.select_rows} "
        f"rows that were chosen on; report: {board.report_rows} rows that were looked at once. A heading sorts; again, "
        "the other way round.",
    )
    return Section("leaderboard", "Leaderboard", (Block(words=words, table=_table(board, rows)), _picture(board)))


def marked_name(row: Row) -> str:
    """The row's name as the page shows it: marks in words."""
    return row_name(row, " (optimistic)")


def _table(board: Leaderboard, rows: Sequence[Row]) -> PageTable:
    columns = _columns(board)
    return PageTable(
        "leaderboard-table",
        f"Every run, soup, ensemble and cascade of {board.folder}",
        tuple(Column(c.title, c.number) for c in columns),
        tuple(tuple(c.cell(row) for c in columns) for row in rows),
        strong=tuple(i for i, row in enumerate(rows) if row.kind in ("soup", "best on select")),
    )


def _columns(board: Leaderboard) -> list[_Shown]:
    metric = board.metric
    shown = [
        _Shown("model", lambda r: Cell.words(marked_name(r)), number=False),
        _Shown("select", lambda r: _score(r.select, r.select_low, r.select_high, metric)),
        _Shown("report", lambda r: _score(r.report, r.report_low, r.report_high, metric)),
        _Shown("gain on best", lambda r: Cell(r.gain or "-", r.report_gain)),
    ]
    shown += [_Shown(name, lambda r, name=name: _shift(r, name, metric)) for name in board.shifts]  # type: ignore[misc]
    if len(board.shifts) > 1:
        mean = board.shift_mean
        shown.append(_Shown("shifts' mean", lambda r: Cell(score_in_words(mean(r), metric), mean(r))))
    return [
        *shown,
        _Shown("NLL", lambda r: _decimals(r.report_nll, 3)),
        _Shown("ECE", lambda r: Cell(score_in_words(r.report_ece, "ece"), r.report_ece)),
        _Shown("parameters", lambda r: Cell(amount(r.parameters), r.parameters)),
        _Shown("MACs", lambda r: Cell(amount(r.macs), r.macs)),
        _Shown("train s", lambda r: _decimals(r.train_seconds, 0)),
    ]


def interval(low: float | None, high: float | None, metric: str) -> str:
    """An interval in brackets; nothing where it is not known."""
    if low is None or high is None:
        return ""
    return f"[{score_in_words(low, metric)}, {score_in_words(high, metric)}]"


def _score(value: float | None, low: float | None, high: float | None, metric: str) -> Cell:
    return Cell(f"{score_in_words(value, metric)} {interval(low, high, metric)}".rstrip(), value)


def _shift(row: Row, name: str, metric: str) -> Cell:
    found = row.shifts.get(name)
    return Cell("-") if found is None else _score(found.value, found.low, found.high, metric)


def _decimals(value: float | None, digits: int) -> Cell:
    return Cell("-" if value is None else f"{value:.{digits}f}", value)


def _picture(board: Leaderboard) -> Block:
    points = [p for p in board.points() if _drawable(p)]
    # the best on select is drawn as that alone, not as a run again
    points = [p for p in points if not (p.kind == "run" and p.name == points[0].name)][:DRAWN]
    if not points:
        return Block()
    scale, metric = scale_of(board.metric), board.metric
    values: list[dict[str, Any]] = [
        {
            "name": p.name,
            "kind": p.kind,
            "score": scale * p.report,
            "low": scale * (p.report_low or 0),
            "high": scale * (p.report_high or 0),
            "told": f"{score_in_words(p.report, metric)} {interval(p.report_low, p.report_high, metric)}",
        }
        for p in points
    ]
    words = f"Report scores with their 95% intervals, {board.report_rows} rows"
    text = (
        f"{words}, one line for each of {len(values)} models. The best on select, {points[0].name}, reaches "
        f"{values[0]['told']}; where intervals overlap, a difference can be chance."
    )
    cells = [[Cell.words(v["name"]), Cell.words(v["kind"]), Cell(v["told"], v["score"])] for v in values]
    table = plain_table("intervals-table", words, ("model", "kind", "report [95%]"), cells, left=2)
    spec = interval_chart(values, axis=f"report: {unit_of(metric)}", text=text)
    return Block("Scores with intervals", charts=(Chart("intervals", words, text, spec, table),))


def _drawable(point: Point) -> bool:
    known = (point.report, point.report_low, point.report_high)
    return all(value is not None and math.isfinite(value) for value in known)
