"""Exits of cascades on the page: how many rows leave at each member, how right they are there, and what they cost."""

from __future__ import annotations

from collections.abc import Sequence

from hf_soups.costs.unit import UNITS
from hf_soups.report.cascades import Exit, exits_of
from hf_soups.report.frontier import cost_in_words
from hf_soups.report.page.asked import Asked
from hf_soups.report.page.charts import bar_chart
from hf_soups.report.page.parts import Block, Cell, Chart, Section, Table, plain_table


def exit_section(asked: Sequence[Asked]) -> Section | None:
    """The section; None without a cascade."""
    blocks = [_block(cascade, f"exits-{number}") for number, cascade in enumerate(asked, 1)]
    return Section("exits", "Who answers: exits of cascades", tuple(blocks)) if blocks else None


def known_exits(cascade: Asked) -> tuple[Exit, ...]:
    """By stage, of the rows that it answered; without them the shares of the search, whose accuracy is not known."""
    plan = cascade.plan
    if cascade.answers is not None and len(cascade.answers):
        return exits_of(cascade.answers, plan.members)
    return tuple(
        Exit(i, name, round(share * plan.rows), share, None, cost)
        for i, (name, share, cost) in enumerate(zip(plan.members, plan.exit_shares, plan.cost_by_exit, strict=False), 1)
    )


def member_chain(cascade: Asked) -> str:
    """Its members in order."""
    return " → ".join(cascade.plan.members)


def _block(cascade: Asked, name: str) -> Block:
    plan, exits = cascade.plan, known_exits(cascade)
    rows = len(cascade.answers) if cascade.answers is not None else plan.rows
    unit = UNITS.get(plan.unit, plan.unit or "the unit they were given in")
    how = " ".join(
        f"{member} answers what it is sure of by {t:.3g} or more."
        for member, t in zip(plan.members, plan.thresholds, strict=False)
        if t <= 1
    )
    rule = f"Confidence: {plan.rule.confidence}; answers of the members so far: {plan.rule.combine}."
    words = (f"{member_chain(cascade)}. {how} {rule} Costs in {unit}.", *((cascade.note,) if cascade.note else ()))
    if not exits:
        return Block(cascade.name, words=(*words, "Its shares are not recorded."))
    table = _table(exits, name, f"{rows} {cascade.role} rows by exit")
    charts = [_shares(exits, f"{name}-shares", f"Share of {rows} {cascade.role} rows by exit", table)]
    if any(e.accuracy is not None for e in exits):
        charts.append(_accuracy(exits, f"{name}-accuracy", "Accuracy of the rows by exit", table))
    return Block(cascade.name, words=words, charts=tuple(charts))


def _shares(exits: Sequence[Exit], name: str, title: str, table: Table) -> Chart:
    values = [{"name": _stage(e), "value": 100 * e.share, "told": f"{100 * e.share:.1f}%"} for e in exits]
    text = f"{title}. " + ", ".join(f"{v['name']}: {v['told']}" for v in values) + "."
    return Chart(name, title, text, bar_chart(values, axis="% of rows", colour="var(--blue)", text=text), table)


def _accuracy(exits: Sequence[Exit], name: str, title: str, table: Table) -> Chart:
    known = [(e, e.accuracy) for e in exits if e.accuracy is not None]
    values = [{"name": _stage(e), "value": 100 * right, "told": f"{100 * right:.1f}"} for e, right in known]
    whole = sum(100 * e.share * right for e, right in known)
    text = f"{title}. " + ", ".join(f"{v['name']}: {v['told']}" for v in values) + f". All rows: {whole:.1f}, dashed."
    spec = bar_chart(values, axis="accuracy x 100", colour="var(--green)", text=text, line=whole)
    own = plain_table(f"{table.name}-2", title, ("exit", "accuracy"), [[r[0], r[3]] for r in table.rows])
    return Chart(name, f"{title}; all: {whole:.1f}", text, spec, own)


def _table(exits: Sequence[Exit], name: str, caption: str) -> Table:
    rows = [
        [
            Cell(_stage(e), e.stage),
            Cell(str(e.rows), e.rows),
            Cell(f"{100 * e.share:.1f}%", e.share),
            Cell("-" if e.accuracy is None else f"{100 * e.accuracy:.1f}", e.accuracy),
            Cell("-" if e.cost is None else cost_in_words(e.cost), e.cost),
        ]
        for e in exits
    ]
    return plain_table(f"{name}-table", caption, ("exit", "rows", "share", "accuracy x 100", "cost of each"), rows)


def _stage(e: Exit) -> str:
    return f"{e.stage} {e.member}".rstrip()
