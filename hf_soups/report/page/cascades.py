"""Cascades on the page: what each answered, how many rows exit where, and score against cost."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.frontier import Frontier, is_ensemble
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.checkpoint import Checkpoint
from hf_soups.costs import UNITS
from hf_soups.errors import HfSoupsError
from hf_soups.files.downloads import refuse_links_out
from hf_soups.leaderboard import Leaderboard
from hf_soups.metrics import METRICS
from hf_soups.plots.canvas import scale_of, unit_of
from hf_soups.plots.cascades import Exit, accuracy_of_all
from hf_soups.plots.costs import CostPicture, CostPoint
from hf_soups.pool_jobs.pictures import cost_picture, exits_of
from hf_soups.report.frontier_table import threshold_in_words, verdicts
from hf_soups.report.page.board import interval
from hf_soups.report.page.charts import bar_chart, cost_chart
from hf_soups.report.page.html import Block, Cell, Chart, PageTable, Section, plain_table
from hf_soups.report.page.sources import AnsweredPool
from hf_soups.wording import cost_in_words, score_in_words

if TYPE_CHECKING:
    from hf_soups.cascades.running.config import CascadeConfig


@dataclass(frozen=True)
class ShownCascade:
    """A cascade, and its answers where those of its members are at hand."""

    name: str  # its folder, or a plan such as preds/frontier.json#3
    plan: Plan
    answered: AnsweredPool | None = None  # the models that its members are among
    answers: CascadePredictions | None = None
    note: str = ""  # why there are no answers

    @property
    def role(self) -> str:
        """Of the rows that it answered."""
        return self.answered.role if self.answered is not None else "select"


def asked_cascades(folders: Sequence[Path], answered: Sequence[AnsweredPool]) -> tuple[ShownCascade, ...]:
    """The cascades of the folders, then one for each search whose models none of them is made of.

    Raises:
        InputError: if a cascade's config cannot be used.
    """
    built = [_built(folder, answered) for folder in folders]
    used = [b.answered for b in built if b.answered is not None]
    return (*built, *_searched(a for a in answered if not any(a is u for u in used)))


def chosen_plan(frontier: Frontier) -> tuple[int, Plan] | None:
    """The cascade that a frontier stands for: the cheapest at the best single model's score, else the best one."""
    several = [(i, p) for i, p in enumerate(frontier.plans) if len(p.members) > 1 and not is_ensemble(p)]
    matching = [(i, p) for i, p in several if p.score >= frontier.best_single.score]
    if matching:
        return min(matching, key=lambda found: (found[1].average_cost, -found[1].score))
    return max(several, key=lambda found: (found[1].score, -found[1].average_cost), default=None)


def _searched(answered: Iterable[AnsweredPool]) -> Iterator[ShownCascade]:
    for some in answered:
        found = chosen_plan(some.frontier)
        if found is not None:
            index, plan = found
            yield ShownCascade(f"{some.name}#{index}", plan, some, plan.apply(some.shown))


def _built(folder: Path, answered: Sequence[AnsweredPool]) -> ShownCascade:
    from hf_soups.cascades.running.config import read_cascade

    refuse_links_out(folder)
    config = read_cascade(folder)
    plan = config.built
    for some in answered:
        if _same_models(folder, config, some):
            return ShownCascade(str(folder), plan, some, plan.apply(some.shown))
    note = (
        f"{folder}: no pool here holds what its members answered ({', '.join(plan.members)}), so that only the shares "
        "of the search are known. Name the pool that it was built from as well."
    )
    return ShownCascade(str(folder), plan, note=note)


def _same_models(folder: Path, config: CascadeConfig, some: AnsweredPool) -> bool:
    """Whether a pool's members of the same names are the cascade's: at the same cost, copies with the same weights."""
    plan, pool = config.built, some.pool
    if pool is None or any(name not in pool.members for name in plan.members):
        return False
    try:
        costs = tuple(pool.members[name].cost(plan.unit).value for name in plan.members)
        if plan.unit and costs != plan.costs:
            return False
        own = {place.name: place.subfolder for place in config.places if place.repo is None}
        copies = [(pool.members[name].sha256, own[name]) for name in plan.members if own.get(name)]
        return all(not sha256 or sha256 == Checkpoint(folder, subfolder=at).sha256() for sha256, at in copies)
    except HfSoupsError:  # not measured in that unit, or a copy cannot be read
        return False


def exit_section(asked: Sequence[ShownCascade]) -> Section | None:
    """The section; None without a cascade."""
    blocks = [_block(cascade, f"exits-{number}") for number, cascade in enumerate(asked, 1)]
    return Section("exits", "Who answers: exits of cascades", tuple(blocks)) if blocks else None


def known_exits(cascade: ShownCascade) -> tuple[Exit, ...]:
    """By stage, of the rows that it answered; without them the shares of the search, whose accuracy is not known."""
    plan = cascade.plan
    if cascade.answers is not None and len(cascade.answers):
        return exits_of(cascade.answers, plan.members)
    return tuple(
        Exit(i, name, round(share * plan.rows), share, None, cost)
        for i, (name, share, cost) in enumerate(zip(plan.members, plan.exit_shares, plan.cost_by_exit, strict=False), 1)
    )


def member_chain(cascade: ShownCascade) -> str:
    """Its members in order."""
    return " → ".join(cascade.plan.members)


def _block(cascade: ShownCascade, name: str) -> Block:
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


def _shares(exits: Sequence[Exit], name: str, title: str, table: PageTable) -> Chart:
    values = [{"name": _stage(e), "value": 100 * e.share, "told": f"{100 * e.share:.1f}%"} for e in exits]
    text = f"{title}. " + ", ".join(f"{v['name']}: {v['told']}" for v in values) + "."
    return Chart(name, title, text, bar_chart(values, axis="% of rows", colour="var(--blue)", text=text), table)


def _accuracy(exits: Sequence[Exit], name: str, title: str, table: PageTable) -> Chart:
    known = [(e, e.accuracy) for e in exits if e.accuracy is not None]
    values = [{"name": _stage(e), "value": 100 * right, "told": f"{100 * right:.1f}"} for e, right in known]
    whole = accuracy_of_all(exits)
    text = f"{title}. " + ", ".join(f"{v['name']}: {v['told']}" for v in values) + f". All rows: {whole:.1f}, dashed."
    spec = bar_chart(values, axis="accuracy x 100", colour="var(--green)", text=text, line=whole)
    own = plain_table(f"{table.name}-2", title, ("exit", "accuracy"), [[r[0], r[3]] for r in table.rows])
    return Chart(name, f"{title}; all: {whole:.1f}", text, spec, own)


def _table(exits: Sequence[Exit], name: str, caption: str) -> PageTable:
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


def cost_section(
    board: Leaderboard | None, answered: Sequence[AnsweredPool], asked: Sequence[ShownCascade]
) -> Section | None:
    """The section; None where there is nothing with a cost."""
    blocks = [] if board is None else _of_board(board)
    for number, some in enumerate(answered, 1):
        plan = next((a.plan for a in asked if a.answered is some), None)
        blocks.append(_of_search(some, plan, f"cost-{number}"))
    return Section("costs", "Score against cost", tuple(blocks)) if blocks else None


def _of_board(board: Leaderboard) -> list[Block]:
    """A picture of the leaderboard's rows whose multiply-adds are known; none where they are not."""
    picture = board.cost_picture()
    if picture is None:
        return []
    title = f"The leaderboard's report scores against multiply-adds of an example, {board.report_rows} rows"
    return [Block("The sweep", charts=(_chart(picture, "cost-board", title, f"report: {unit_of(board.metric)}"),))]


def _of_search(some: AnsweredPool, plan: Plan | None, name: str) -> Block:
    metric = some.frontier.best_single.metric
    picture = cost_picture(some.frontier, plan=plan, report=some.report if metric in METRICS else None)
    picture = replace(picture, points=tuple(p for p in picture.points if math.isfinite(p.score)))
    axis, chosen, words = unit_of(metric), "", ["Nothing was searched here; these are its single models."]
    if some.frontier.plans:
        axis = f"{picture.role}: {axis}"
        chosen = " that were chosen on" if picture.role == "select" else " that nothing was chosen on"
        words = [f"On the {some.frontier.best_single.rows} rows that were searched on:", *verdicts(some.frontier)]
    title = f"Score ({metric}) against cost on {picture.rows} rows{chosen}"
    said = (*some.notes, " ".join(words))
    if not picture.points:
        return Block(some.name, words=(*said, "No score of it is a number."))
    return Block(some.name, words=said, charts=(_chart(picture, name, title, axis),))


def _chart(picture: CostPicture, name: str, title: str, axis: str) -> Chart:
    values = [_value(point, picture) for point in picture.points]
    sign = 1 if picture.higher_is_better else -1
    top = max(values, key=lambda v: sign * v["score"])
    costs = sorted(v["cost"] for v in values)
    unit_words = UNITS.get(picture.unit, picture.unit or "the unit they were given in")
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
    scale = scale_of(picture.metric)
    stairs = [{"cost": cost, "score": scale * score} for cost, score in picture.best_within_cost()]
    spec = cost_chart(values, stairs, axis=axis, unit=picture.unit, text=text)
    return Chart(name, title, text, spec, plain_table(f"{name}-table", title, titles, rows, left=3))


def _value(point: CostPoint, picture: CostPicture) -> dict[str, Any]:
    """What the chart draws and the table shows of a point."""
    scale, metric = scale_of(picture.metric), picture.metric
    value: dict[str, Any] = {
        "name": point.name,
        "kind": point.kind,
        "cost": point.cost,
        "score": scale * point.score,
        "told": score_in_words(point.score, metric),
        "costs": cost_in_words(point.cost),
        "leaves": " ".join(map(threshold_in_words, point.thresholds)) if point.kind == "cascade" else "",
    }
    value["leaves"] = value["leaves"] or "-"
    if point.worst_cost > point.cost:
        value["costs"] += f", at worst {cost_in_words(point.worst_cost)}"
    if point.interval is not None:
        low, high = point.interval
        value["told"] += f" {interval(low, high, metric)}"
        if point.kind != "run":  # every run's interval would hide the picture
            value |= {"low": scale * low, "high": scale * high}
    return {**value, "chosen": True} if point.chosen else value
