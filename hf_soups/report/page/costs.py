"""Score against cost on the page: what stands in the leaderboard, and what each search found."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from hf_soups.cascades.plan import Plan
from hf_soups.costs.unit import UNITS
from hf_soups.leaderboard import Leaderboard
from hf_soups.metrics import METRICS
from hf_soups.report.costs import CostPicture, CostPoint, cost_picture, within_cost
from hf_soups.report.frontier import cost_in_words, verdicts
from hf_soups.report.page.asked import Asked
from hf_soups.report.page.board import interval, marked_name
from hf_soups.report.page.charts import cost_chart
from hf_soups.report.page.parts import Block, Cell, Chart, Section, plain_table
from hf_soups.report.page.reading import Answered
from hf_soups.report.plots import scale_of, unit_of
from hf_soups.report.words import score_in_words


def cost_section(board: Leaderboard | None, answered: Sequence[Answered], asked: Sequence[Asked]) -> Section | None:
    """The section; None where there is nothing with a cost."""
    blocks = [] if board is None else _of_board(board)
    for number, some in enumerate(answered, 1):
        plan = next((a.plan for a in asked if a.answered is some), None)
        blocks.append(_of_search(some, plan, f"cost-{number}"))
    return Section("costs", "Score against cost", tuple(blocks)) if blocks else None


def _of_board(board: Leaderboard) -> list[Block]:
    """A picture of the leaderboard's rows whose multiply-adds are known; none where they are not."""
    rows = [r for r in board.rows if r.report is not None and math.isfinite(r.report) and r.macs]
    best = next((r.name for r in rows if r.kind == "best on select"), "")
    rows = [r for r in rows if not (r.kind == "run" and r.name == best)]  # it stands there as the best already
    if not rows:
        return []
    scale, known = scale_of(board.metric), METRICS.get(board.metric)
    values = []
    for row in sorted(rows, key=lambda r: ("run", "best on select", "soup", "ensemble", "cascade").index(r.kind)):
        assert row.report is not None
        value: dict[str, Any] = {
            "name": marked_name(row),
            "kind": row.kind,
            "cost": float(row.macs or 0),
            "score": scale * row.report,
        }
        told = (score_in_words(row.report, board.metric), interval(row.report_low, row.report_high, board.metric))
        words = {"told": " ".join(told), "costs": f"{cost_in_words(value['cost'])} MACs", "leaves": "-"}
        if row.kind != "run" and row.report_low is not None and row.report_high is not None:
            value |= {"low": scale * row.report_low, "high": scale * row.report_high}
        values.append({**value, **words})
    better = known.greater_is_better if known is not None else True
    title = f"The leaderboard's report scores against multiply-adds of an example, {board.report_rows} rows"
    axis = f"report: {unit_of(board.metric)}"
    return [Block("The sweep", charts=(_chart(values, "cost-board", title, axis, "macs", better=better),))]


def _of_search(some: Answered, plan: Plan | None, name: str) -> Block:
    metric = some.frontier.best_single.metric
    report = some.report if metric in METRICS else None
    picture = cost_picture(some.frontier, plan=plan, report=report)
    known = METRICS.get(metric)
    better = known.greater_is_better if known is not None else True
    values = [_value(point, picture) for point in picture.points if math.isfinite(point.score)]
    if some.frontier.plans:
        chosen = " that were chosen on" if picture.role == "select" else " that nothing was chosen on"
        words = [f"On the {some.frontier.best_single.rows} rows that were searched on:", *verdicts(some.frontier)]
    else:
        chosen, words = "", ["Nothing was searched here; these are its single models."]
    title = f"Score ({metric}) against cost on {picture.rows} rows{chosen}"
    told = (*some.notes, " ".join(words))
    if not values:
        return Block(some.name, words=(*told, "No score of it is a number."))
    axis = f"{picture.role}: {unit_of(metric)}" if some.frontier.plans else unit_of(metric)
    chart = _chart(values, name, title, axis, picture.unit, better=better)
    return Block(some.name, words=told, charts=(chart,))


def _value(point: CostPoint, picture: CostPicture) -> dict[str, Any]:
    leaves = " ".join("never" if t > 1 else f"{t:.3f}" for t in point.thresholds)
    value: dict[str, Any] = {
        "name": point.name,
        "kind": point.kind,
        "cost": point.cost,
        "score": scale_of(picture.metric) * point.score,
        "told": score_in_words(point.score, picture.metric),
        "costs": f"{cost_in_words(point.cost)}, at worst {cost_in_words(point.worst_cost)}",
        "leaves": leaves if point.kind == "cascade" else "-",
    }
    return {**value, "chosen": True} if point.chosen else value


def _chart(values: Sequence[dict[str, Any]], name: str, title: str, axis: str, unit: str, *, better: bool) -> Chart:
    stairs = _stairs(values, better=better)
    top = max(values, key=lambda v: v["score"] if better else -v["score"])
    costs = sorted(v["cost"] for v in values)
    unit_words = UNITS.get(unit, unit or "the unit they were given in")
    text = (
        f"{title}. {len(values)} models, ensembles and cascades, from {cost_in_words(costs[0])} to "
        f"{cost_in_words(costs[-1])} in {unit_words}. The best score is {top['told']}, of {top['name']} at "
        f"{top['costs']}. The line is the best score within each cost."
    )
    titles = ("model", "kind", "leaves at", "score", "average cost")
    rows = [
        [
            Cell.words(v["name"] + (" (chosen)" if v.get("chosen") else "")), Cell.words(v["kind"]),
            Cell.words(v["leaves"]), Cell(v["told"], v["score"]), Cell(v["costs"], v["cost"]),
        ]
        for v in sorted(values, key=lambda v: (v["cost"], v["score"]))
    ]  # fmt: skip
    table = plain_table(f"{name}-table", title, titles, rows, left=3)
    return Chart(name, title, text, cost_chart(values, stairs, axis=axis, unit=unit, text=text), table)


def _stairs(values: Sequence[dict[str, Any]], *, better: bool) -> list[dict[str, float]]:
    """Cost and score of the best within each cost, up to the largest cost."""
    best = within_cost(((v["cost"], v["score"]) for v in values), better=better)
    return [{"cost": cost, "score": score} for cost, score in best]
