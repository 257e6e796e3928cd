"""What was chosen and on what, as key figures and words; and at the end what limits the figures."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from hf_soups.leaderboard import Leaderboard
from hf_soups.leaderboard.rows import Row
from hf_soups.leaderboard.table import notes
from hf_soups.metrics import METRICS, score, traits_of
from hf_soups.report.page.board import interval, marked_name
from hf_soups.report.page.cascades import ShownCascade, member_chain
from hf_soups.report.page.html import Block, Fact, Section
from hf_soups.report.page.sources import AnsweredPool, ShownSweep
from hf_soups.wording import cost_in_words, score_in_words

KINDS = {"best on select": "Best single model", "soup": "Soup", "ensemble": "Ensemble", "cascade": "Cascade"}
SMALL = 1000  # rows; with fewer the standard error of 90% accuracy is above one point


def chosen_section(sweep: ShownSweep | None, asked: Sequence[ShownCascade]) -> Section:
    """Key figures of each kind's best on select, and in words on which rows it was chosen."""
    board = None if sweep is None else sweep.board
    facts = [*([] if board is None else _facts_of_board(board)), *map(_fact_of_cascade, asked)]
    words = [*([] if board is None else _words_of_board(board)), *_words_of_cascades(asked)]
    return Section("chosen", "What was chosen, and on what", (Block(facts=tuple(facts), listed=tuple(words)),))


def limit_section(sweep: ShownSweep | None, answered: Sequence[AnsweredPool], asked: Sequence[ShownCascade]) -> Section:
    """What the figures cannot say, and what is missing."""
    told = list(_general(sweep, answered))
    if sweep is not None:
        chosen = [f"{row.name}: {row.made_of}" for row in sweep.board.rows]  # the page begins with them
        told += [note for note in notes(sweep.board) if note not in chosen]
    if not asked:
        told.append("There is no cascade here, so no exits and no examples are shown.")
    return Section("limits", "Limits and notes", (Block(listed=tuple(dict.fromkeys(told))),))


def _facts_of_board(board: Leaderboard) -> Iterator[Fact]:
    for kind, title in KINDS.items():
        row = next((r for r in board.rows if r.kind == kind and r.report is not None), None)
        if row is not None:
            value = f"{score_in_words(row.report, board.metric)}"
            ends = interval(row.report_low, row.report_high, board.metric)
            gain = f"; {row.gain}" if row.gain else ""
            yield Fact(title, value, f"{marked_name(row)}: {board.metric} on report {ends}{gain}")


def _fact_of_cascade(cascade: ShownCascade) -> Fact:
    plan, title = cascade.plan, f"Cascade {cascade.name}"
    most = plan.costs[-1]
    if cascade.answers is None or cascade.answers.costs is None or plan.metric not in METRICS:
        share = f"{plan.average_cost / most:.2f}x of {plan.members[-1]}'s cost" if most else ""
        value = score_in_words(traits_of(plan.metric).sign * plan.score, plan.metric)
        return Fact(title, value, f"{member_chain(cascade)}: {plan.metric} on the select rows of the search; {share}")
    found = score(cascade.answers, METRICS[plan.metric])
    cost = float(cascade.answers.costs.mean())
    share = f", {cost / most:.2f}x of {plan.members[-1]} alone" if most else ""
    ends = interval(found.low, found.high, plan.metric)
    text = f"{member_chain(cascade)}: {plan.metric} on {cascade.role} {ends}; {cost_in_words(cost)} a row{share}"
    return Fact(title, score_in_words(found.value, plan.metric), text)


def _words_of_board(board: Leaderboard) -> Iterator[str]:
    scored = [row for row in board.rows if row.report is not None]
    if not scored:
        yield "No run has finished yet: nothing was chosen."
        return
    optimistic = any(row.status == "optimistic" for row in scored)
    yield (
        f"Choices were made by {board.metric} on the {board.select_rows} select rows, which no run was trained on. The "
        f"{board.report_rows} report rows were not looked at when choosing"
        + (", but for what is called optimistic." if optimistic else ".")
    )
    yield f"Of single models {scored[0].name} is the best on select; gains are over it."
    for row in scored:
        if row.made_of:
            yield f"{row.name}: {row.made_of}."
        if row.status == "optimistic":
            yield f"{row.name} was chosen on the report rows: its report score is too good."


def _words_of_cascades(asked: Iterable[ShownCascade]) -> Iterator[str]:
    for cascade in asked:
        plan = cascade.plan
        thresholds = ", ".join("never" if t > 1 else f"{t:.3g}" for t in plan.thresholds)
        yield (
            f"{cascade.name}: {member_chain(cascade)}, leaving at {thresholds}; members and thresholds were chosen by "
            f"{plan.metric} on {plan.rows or 'an unknown number of'} select rows, and what is shown here is of "
            f"{len(cascade.answers) if cascade.answers is not None else plan.rows} {cascade.role} rows."
        )


def _general(sweep: ShownSweep | None, answered: Sequence[AnsweredPool]) -> Iterator[str]:
    if sweep is not None and sweep.board.select_rows:
        yield from _standard_error(sweep.board)
        yield "Scores on select are too good for what was chosen there, the more so the more mixtures were tried."
    if sweep is None or not sweep.board.shifts:
        yield "Everything here holds for rows like those it was measured on; nothing was measured on other data."
    for some in answered:
        if some.role == "select" and some.frontier.plans:
            yield f"{some.name}: its scores are of the rows that it was chosen on, so they are too good."


def _standard_error(board: Leaderboard) -> Iterator[str]:
    best: Row = board.rows[0]
    rows: Mapping[str, Any] = {"select": (board.select_rows, best.select), "report": (board.report_rows, best.report)}
    if not traits_of(board.metric).counts_rows:
        return
    for role, (count, value) in rows.items():
        if count < SMALL and value is not None:
            error = math.sqrt(value * (1 - value) / count)
            yield (
                f"{role.capitalize()} holds {count} rows: one standard error of {best.name}'s {board.metric} there is "
                f"{score_in_words(error, board.metric)} points."
            )
