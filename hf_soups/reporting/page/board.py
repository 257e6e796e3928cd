"""The leaderboard on the page; before it what was chosen, and on what; at the end what limits the figures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

from hf_soups.leaderboard import Leaderboard
from hf_soups.leaderboard.table import board_columns, notes, row_name
from hf_soups.metrics import METRICS, score, traits_of
from hf_soups.plots.canvas import Point, scale_of, unit_of
from hf_soups.reporting.frontier_table import threshold_in_words
from hf_soups.reporting.page.charts import interval_chart
from hf_soups.reporting.page.html import Block, Cell, Chart, Fact, Section, losses, page_table
from hf_soups.reporting.page.sources import ReportContent, ShownCascade
from hf_soups.reporting.page.verdict import Choice
from hf_soups.soups.ingredients import NOT_KEPT_OUT
from hf_soups.wording import cost_in_words, interval_in_words, score_in_words

DRAWN = 40  # rows of the picture; more would not be legible
FACTS = {"best on select": "Best single model", "soup": "Soup", "ensemble": "Ensemble", "cascade": "Cascade"}
SMALL = 1000  # rows; with fewer the standard error of 90% accuracy is above one point
ROLES = (
    "Select rows are the validation rows: members, weights and thresholds are chosen on them. Report rows are the test "
    "rows: they were not looked at when choosing."
)


def leaderboard_section(content: ReportContent) -> Section | None:
    """Every column, sortable, and the report scores with their intervals; of no finished run it says so."""
    board = content.board
    if board is None:
        return None
    if not board.scored:
        words = ("No run has finished yet, so there is nothing to score.",)
        return Section("leaderboard", "Leaderboard", (Block(words=words),))
    words = (
        f"Scores are {unit_of(board.metric)}, in brackets 95% intervals by row, on {board.select_rows} "
        f"select rows and {board.report_rows} report rows. Click a heading to sort, again to reverse.",
    )
    columns = board_columns(board)
    table = page_table(
        "leaderboard-table",
        f"Every run, soup, ensemble and cascade of {board.folder}",
        [c.title for c in columns],
        [[Cell(c.full_text(row) or "-", c.value(row)) for c in columns] for row in board.scored],
        strong=[i for i, row in enumerate(board.scored) if row.kind in ("soup", "best on select")],
        lower=[c.title for c in columns if c.lower],
    )
    return Section("leaderboard", "Leaderboard", (Block(words=words, table=table), _intervals(board)))


def _intervals(board: Leaderboard) -> Block:
    points = [p for p in board.points() if _drawable(p)]
    # the best on select is drawn as that alone, not as a run again
    points = [p for p in points if not (p.kind == "run" and p.name == board.best_name)][:DRAWN]
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
            "shown": f"{score_in_words(p.report, metric)} {interval_in_words(p.report_low, p.report_high, metric)}",
        }
        for p in points
    ]
    words = f"Report scores with their 95% intervals, {board.report_rows} rows"
    text = (
        f"{words}, one line for each of {len(values)} models. The best on select, {points[0].name}, reaches "
        f"{values[0]['shown']}; where intervals overlap, a difference can be chance."
    )
    cells = [[Cell.words(v["name"]), Cell.words(v["kind"]), Cell(v["shown"], v["score"])] for v in values]
    table = page_table(
        "intervals-table", words, ("model", "kind", "report [95%]"), cells, left=2, lower=losses(metric, "report [95%]")
    )
    spec = interval_chart(values, axis=f"report: {unit_of(metric)}", text=text)
    return Block("Scores with intervals", charts=(Chart("intervals", words, text, spec, table),))


def _drawable(point: Point) -> bool:
    known = (point.report, point.report_low, point.report_high)
    return all(value is not None and math.isfinite(value) for value in known)


# What was chosen


def chosen_section(content: ReportContent, choice: Choice) -> Section:
    """What to ship; key figures of each kind's best on select, and in words on which rows it was chosen."""
    board = content.board
    shown = [cascade.row_name for cascade in content.cascades]
    facts = [*(_facts(board, shown) if board is not None else ()), *map(_fact_of_cascade, content.cascades)]
    words = [ROLES, *(_choices(board) if board is not None else ()), *map(_choice_of_cascade, content.cascades)]
    block = Block(lead=choice.words, facts=tuple(facts), listed=tuple(words))
    return Section("chosen", "What was chosen, and on what", (block,))


def _facts(board: Leaderboard, elsewhere: Sequence[str]) -> Iterator[Fact]:
    for kind, title in FACTS.items():
        row = next((row for row in board.scored if row.kind == kind and row.name not in elsewhere), None)
        if row is not None:
            ends = interval_in_words(row.report_low, row.report_high, board.metric)
            gain = f"; {row.gain}" if row.gain else ""
            text = f"{row_name(row)}: {board.metric} on report {ends}{gain}"
            yield Fact(title, score_in_words(row.report, board.metric), text)


def _fact_of_cascade(cascade: ShownCascade) -> Fact:
    plan, title = cascade.plan, f"Cascade {cascade.name}"
    most, known = plan.costs[-1], METRICS.get(plan.metric)
    if cascade.answers is None or cascade.answers.costs is None or known is None:
        share = f"; {plan.average_cost / most:.2f}x the cost of {plan.members[-1]}" if most else ""
        value = traits_of(plan.metric).sign * plan.score  # a plan's losses are negated
        text = f"{cascade.chain}: {plan.metric} on the select rows of the search{share}"
        return Fact(title, score_in_words(value, plan.metric), text)
    found, cost = score(cascade.answers, known), float(cascade.answers.costs.mean())
    share = f", {cost / most:.2f}x the cost of {plan.members[-1]}" if most else ""
    ends = interval_in_words(found.low, found.high, plan.metric)
    text = f"{cascade.chain}: {plan.metric} on {cascade.role} {ends}; {cost_in_words(cost)} a row{share}"
    return Fact(title, score_in_words(found.value, plan.metric), text)


def _choices(board: Leaderboard) -> Iterator[str]:
    scored = board.scored
    if not scored:
        yield "No run has finished yet: nothing was chosen."
        return
    optimistic = any(row.status == "optimistic" for row in scored)
    apart = "" if any(NOT_KEPT_OUT in note for note in board.notes) else ", which no run was trained on"
    yield (
        f"Choices were made by {board.metric} on the {board.select_rows} select rows{apart}. The "
        f"{board.report_rows} report rows were not looked at when choosing"
        + (", except for rows marked optimistic." if optimistic else ".")
    )
    yield f"The best single model on select is {board.best_name}; gains are over it."
    for row in scored:
        if row.made_of:
            yield f"{row.name}: {row.made_of}."
        if row.status == "optimistic":
            yield f"{row.name} was chosen on the report rows: its report score is too good."


def _choice_of_cascade(cascade: ShownCascade) -> str:
    plan = cascade.plan
    thresholds = ", ".join(map(threshold_in_words, plan.thresholds))
    return (
        f"{cascade.name}: {cascade.chain}, thresholds {thresholds}. Members and thresholds were chosen by "
        f"{plan.metric} on {plan.rows or 'an unknown number of'} select rows; shown here are {cascade.rows} "
        f"{cascade.role} rows."
    )


# What limits the figures


def limit_section(content: ReportContent) -> Section:
    """What the figures cannot say, and what is missing."""
    words = list(_limits(content))
    if content.board is not None:
        chosen = [f"{row.name}: {row.made_of}" for row in content.board.rows]  # the page begins with them
        words += [note for note in notes(content.board) if note not in chosen]
    if not content.cascades:
        words.append("There is no cascade here, so no exits and no examples are shown.")
    return Section("limits", "Limits and notes", (Block(listed=tuple(dict.fromkeys(words))),))


def _limits(content: ReportContent) -> Iterator[str]:
    board = content.board
    if board is not None and board.select_rows:
        yield from _standard_errors(board)
        yield "Scores on select are too good for what was chosen there, the more so the more mixtures were tried."
    if board is None or not board.shifts:
        yield "All scores hold for rows like those they were measured on; nothing was measured on other data."
    for some in content.answered:
        if some.role == "select" and some.frontier.plans:
            yield f"{some.name}: its scores are of the rows that it was chosen on, so they are too good."


def _standard_errors(board: Leaderboard) -> Iterator[str]:
    if not traits_of(board.metric).counts_rows:
        return
    best = board.rows[0]
    for role, rows, value in (("Select", board.select_rows, best.select), ("Report", board.report_rows, best.report)):
        if rows < SMALL and value is not None:
            error = score_in_words(math.sqrt(value * (1 - value) / rows), board.metric)
            yield f"{role} has {rows} rows: the standard error of {best.name}'s {board.metric} is {error} points."
