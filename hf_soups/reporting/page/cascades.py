"""Cascades on the page: where rows exit, score against cost, and examples of the data by exit."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.cascades.cost_points import cost_picture
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Rule
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.costs import UNITS
from hf_soups.data.split import Split, read_image
from hf_soups.errors import DataError, HfSoupsError
from hf_soups.leaderboard import Leaderboard
from hf_soups.metrics import METRICS
from hf_soups.plots.canvas import scale_of, unit_of
from hf_soups.plots.cascades import Exit, accuracy_of_all
from hf_soups.plots.costs import CostPicture, CostPoint
from hf_soups.pool import Pool
from hf_soups.pool.rows import rows_of_pool
from hf_soups.pool_jobs.pictures import exits_of, named_answer, sureness, surest
from hf_soups.predictions import same_rows
from hf_soups.reporting.frontier_table import threshold_in_words, verdicts
from hf_soups.reporting.page.charts import bar_chart, cost_chart
from hf_soups.reporting.page.html import Block, Cell, Chart, Example, Examples, PageTable, Section, losses, page_table
from hf_soups.reporting.page.sources import AnsweredPool, ReportContent, ShownCascade
from hf_soups.wording import cost_in_words, interval_in_words, score_in_words

if TYPE_CHECKING:
    from PIL.Image import Image

PER_EXIT = 6
LARGEST = 128  # pixels of an image's longer side
SMALL = 64  # up to here an image is kept as it is, without loss
LETTERS = 400  # of a text
HOW = (
    "For each exit, first the wrong answers with the highest probability, at most half of what is shown, then the "
    "right ones. In brackets: the probability of the answer."
)


def exit_section(content: ReportContent) -> Section | None:
    """The section; None without a cascade."""
    blocks = [_exits(cascade, f"exits-{number}") for number, cascade in enumerate(content.cascades, 1)]
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


def plan_in_words(plan: Plan, rule: Rule) -> str:
    """Which member answers when.

    >>> plan_in_words(Plan(("small", "big"), (0.638,), (1.0, 9.0)), Rule("last"))
    'small answers if the largest probability is at least 0.638, otherwise big does. Answers: the last member alone.'
    """
    combined, confidence = rule.in_words()
    stages = [
        f"{member} answers if {confidence} is at least {threshold_in_words(threshold)}"
        for member, threshold in zip(plan.members, plan.thresholds, strict=False)
        if threshold <= 1
    ]
    answer = f"{', otherwise '.join([*stages, plan.members[-1]])} {'does' if stages else 'answers'}."
    human = (
        f" Where even then it is less than {plan.abstain:.3g}, a human is asked." if plan.abstain is not None else ""
    )
    return f"{answer} Answers: {combined}.{human}"


def _exits(cascade: ShownCascade, name: str) -> Block:
    plan, exits = cascade.plan, known_exits(cascade)
    unit = UNITS.get(plan.unit, plan.unit or "the unit they were given in")
    how = f"{cascade.chain}. {plan_in_words(plan, plan.rule)} Costs in {unit}."
    words = tuple(filter(None, (how, cascade.note, _given(cascade))))
    if not exits:
        return Block(cascade.name, words=(*words, "Its shares are not recorded."))
    of_rows = f"{cascade.rows} {cascade.role} rows by exit"
    table = _exit_table(exits, name, of_rows)
    charts = [_shares(exits, f"{name}-shares", f"Share of {of_rows}", table)]
    if any(e.accuracy is not None for e in exits):
        charts.append(_accuracy(exits, f"{name}-accuracy", "Accuracy of the rows by exit", table))
    return Block(cascade.name, words=words, charts=tuple(charts))


def _given(cascade: ShownCascade) -> str:
    """What a last threshold did to the rows; nothing where the plan has none."""
    answers = cascade.answers
    if answers is None or answers.abstained is None or answers.labels is None:
        return ""
    right, given = answers.answers == answers.labels, ~answers.abstained
    wrong = f"; {100 * (1 - right[given].mean()):.2f}% of these answers are wrong" if given.any() else ""
    return (
        f"Answered: {100 * given.mean():.1f}% of {cascade.rows} {cascade.role} rows{wrong}, of answers to all rows "
        f"{100 * (1 - right.mean()):.2f}%. The exits below count every row."
    )


def _shares(exits: Sequence[Exit], name: str, title: str, table: PageTable) -> Chart:
    values = [{"name": _stage(e), "value": 100 * e.share, "shown": f"{100 * e.share:.1f}%"} for e in exits]
    text = f"{title}. " + ", ".join(f"{v['name']}: {v['shown']}" for v in values) + "."
    return Chart(name, title, text, bar_chart(values, axis="% of rows", colour="var(--blue)", text=text), table)


def _accuracy(exits: Sequence[Exit], name: str, title: str, table: PageTable) -> Chart:
    known = [(e, e.accuracy) for e in exits if e.accuracy is not None]
    values = [{"name": _stage(e), "value": 100 * right, "shown": f"{100 * right:.1f}"} for e, right in known]
    whole = accuracy_of_all(exits)
    text = f"{title}. " + ", ".join(f"{v['name']}: {v['shown']}" for v in values) + f". All rows: {whole:.1f}, dashed."
    spec = bar_chart(values, axis="accuracy x 100", colour="var(--green)", text=text, line=whole)
    own = page_table(f"{table.name}-2", title, ("exit", "accuracy"), [[row[0], row[3]] for row in table.rows])
    return Chart(name, f"{title}; all: {whole:.1f}", text, spec, own)


def _exit_table(exits: Sequence[Exit], name: str, caption: str) -> PageTable:
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
    return page_table(
        f"{name}-table",
        caption,
        ("exit", "rows", "share", "accuracy x 100", "cost of each"),
        rows,
        lower=("cost of each",),
    )


def _stage(e: Exit) -> str:
    return f"{e.stage} {e.member}".rstrip()


def cost_section(content: ReportContent) -> Section | None:
    """The section; None where there is nothing with a cost."""
    blocks = [] if content.board is None else _of_board(content.board)
    for number, some in enumerate(content.answered, 1):
        plan = next((cascade.plan for cascade in content.cascades if cascade.answered is some), None)
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
    text = (
        f"{title}. {len(values)} models, ensembles and cascades, from {cost_in_words(costs[0])} to "
        f"{cost_in_words(costs[-1])} in {UNITS.get(picture.unit, picture.unit or 'the unit they were given in')}. The "
        f"best score is {top['shown']}, of {top['name']} at {top['costs']}. The line: the best score within each cost."
    )
    rows = [
        [
            Cell.words(v["name"] + (" (chosen)" if v.get("chosen") else "")),
            Cell.words(v["kind"]),
            Cell.words(v["exits"]),
            Cell(v["shown"], v["score"]),
            Cell(v["costs"], v["cost"]),
        ]
        for v in sorted(values, key=lambda v: (v["cost"], v["score"]))
    ]
    table = page_table(
        f"{name}-table",
        title,
        ("model", "kind", "exits at", "score", "average cost"),
        rows,
        left=3,
        lower=("average cost", *losses(picture.metric, "score")),
    )
    scale = scale_of(picture.metric)
    stairs = [{"cost": cost, "score": scale * score} for cost, score in picture.best_within_cost()]
    return Chart(name, title, text, cost_chart(values, stairs, axis=axis, unit=picture.unit, text=text), table)


def _value(point: CostPoint, picture: CostPicture) -> dict[str, Any]:
    """What the chart draws and the table shows of a point."""
    scale, metric = scale_of(picture.metric), picture.metric
    exits = " ".join(map(threshold_in_words, point.thresholds)) if point.kind == "cascade" else ""
    value: dict[str, Any] = {
        "name": point.name,
        "kind": point.kind,
        "cost": point.cost,
        "score": scale * point.score,
        "shown": score_in_words(point.score, metric),
        "costs": cost_in_words(point.cost),
        "exits": exits or "-",
    }
    if point.worst_cost > point.cost:
        value["costs"] += f", at worst {cost_in_words(point.worst_cost)}"
    if point.interval is not None:
        low, high = point.interval
        value["shown"] += f" {interval_in_words(low, high, metric)}"
        if point.kind != "run":  # every run's interval would hide the picture
            value |= {"low": scale * low, "high": scale * high}
    return {**value, "chosen": True} if point.chosen else value


# Examples by exit, from the data at hand


class RowFinder:
    """Finds splits by fingerprint, in the data of pools and of a sweep's recipe; each is read once."""

    def __init__(self, content: ReportContent) -> None:
        self._content = content
        self._known: dict[str, Split | None] = {}

    def split_of(self, data: str) -> Split | None:
        """The split with that fingerprint; None where it cannot be had any more, or is not the same."""
        if data not in self._known:
            self._known[data] = next((s for s in self._candidates(data) if same_rows(s.fingerprint, data)), None)
        return self._known[data]

    def _candidates(self, data: str) -> Iterator[Split]:
        for pool in self._content.pools:
            if same_rows(pool.data.fingerprint, data) and (found := _of_pool(pool)) is not None:
                yield found
        if self._content.sweep is not None:
            yield from _of_sweep(self._content.sweep.folder).values()


def _of_pool(pool: Pool) -> Split | None:
    try:
        return rows_of_pool(pool)
    except HfSoupsError:
        return None


def _of_sweep(sweep: Path) -> Mapping[str, Split]:
    from hf_soups.data import load_splits
    from hf_soups.recipe.origin import RECIPE_FILE
    from hf_soups.sweep.folder import SweepFolder

    if not (sweep / RECIPE_FILE).is_file():
        return {}
    try:
        recipe = SweepFolder(sweep).recipe()
        return load_splits(recipe.task.model_copy(update={"shifts": {}}), recipe.data).answered
    except HfSoupsError:  # the data is elsewhere
        return {}


def example_section(content: ReportContent, *, per_exit: int = PER_EXIT) -> Section | None:
    """Rows of the data by exit; None without a cascade that answered, or when no example is wanted."""
    shown = [cascade for cascade in content.cascades if cascade.answers is not None and len(cascade.answers)]
    if not shown or per_exit < 1:
        return None
    rows = RowFinder(content)
    blocks = [_block(cascade, rows, per_exit) for cascade in shown]
    return Section("examples", "Examples by exit", (Block(words=(HOW,)), *blocks))


def shown_rows(answers: CascadePredictions, stage: int, count: int) -> list[int]:
    """Positions of the rows to show of a stage: wrong answers, at most half, then right ones; the surest first."""
    sure = surest(answers, stage)
    if answers.labels is None:
        return [int(i) for i in sure[:count]]
    hit = answers.hits[sure]
    wrong = sure[~hit][: max(count // 2, count - int(hit.sum()))]
    return [int(i) for i in (*wrong, *sure[hit][: count - len(wrong)])]


def _block(cascade: ShownCascade, rows: RowFinder, per_exit: int) -> Block:
    answers = cascade.answers
    assert answers is not None
    split = rows.split_of(answers.data)
    if split is None:
        words = "The data of these rows are not at hand (moved, or cannot be read), so none is shown."
        return Block(cascade.name, words=(words,))
    position = {row_id: i for i, row_id in enumerate(split.row_ids.tolist())}
    groups = []
    for stage, member in enumerate(cascade.plan.members):
        chosen = [row for row in shown_rows(answers, stage, per_exit) if answers.row_ids[row].item() in position]
        made = tuple(_example(answers, row, split, position[answers.row_ids[row].item()]) for row in chosen)
        groups.append(Examples(f"Exit {stage + 1}: {member}", _exit_in_words(cascade, stage), made))
    return Block(cascade.name, words=(cascade.chain + ".",), examples=tuple(groups))


def _exit_in_words(cascade: ShownCascade, stage: int) -> str:
    found = known_exits(cascade)[stage]
    right = "" if found.accuracy is None else f"; {100 * found.accuracy:.1f}% of their answers are right"
    return f"{found.rows} of {cascade.rows} {cascade.role} rows exit here{right}."


def _example(answers: CascadePredictions, row: int, split: Split, at: int) -> Example:
    one = answers.take([row])
    about = (
        f"row {answers.row_ids[row]}",
        f"{named_answer(one, one.answers[0])} ({100 * sureness(one, np.arange(1))[0]:.0f}%)",
        "not known" if one.labels is None else named_answer(one, one.labels[0]),
        one.labels is None or bool(one.hits[0]),
    )
    texts = _texts(split, at)
    if texts:
        return Example(*about, texts=texts)
    try:
        uri, size = data_uri(read_image(split, at, edge=LARGEST))
    except DataError:
        return Example(*about, broken="this image cannot be decoded")
    return Example(*about, image=uri, size=size)


def data_uri(image: Image) -> tuple[str, tuple[int, int]]:
    """An image as a data: URI, at most 128 pixels long, and its width and height there."""
    whole = max(image.size) <= SMALL
    small = image if whole else image.copy()
    if not whole:
        small.thumbnail((LARGEST, LARGEST))
    buffer = io.BytesIO()
    small.save(buffer, **({"format": "PNG"} if whole else {"format": "JPEG", "quality": 85}))
    kind = "png" if whole else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}", small.size


def _texts(split: Split, at: int) -> tuple[str, ...]:
    """The texts of a row, cut where they are long; none for an image."""
    features = split.rows.features
    if any(type(feature).__name__ == "Image" for feature in features.values()):
        return ()
    row = split.rows[at]
    return tuple(_cut(str(row[name])) for name in split.rows.column_names[:-1])  # the label is the last column


def _cut(text: str) -> str:
    return text if len(text) <= LETTERS else f"{text[: LETTERS - 1]}…"
