"""Settings of the runs on the page: what was drawn or swept for each, beside its scores, and as pictures."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hf_soups.leaderboard.rows import Row
from hf_soups.metrics import traits_of
from hf_soups.plots.canvas import scale_of, unit_of
from hf_soups.plots.costs import spans_decades
from hf_soups.recipe import dotted
from hf_soups.reporting.page.charts import setting_chart
from hf_soups.reporting.page.html import Block, Cell, Chart, PageTable, Section, losses, page_table
from hf_soups.reporting.page.sources import ReportContent
from hf_soups.wording import interval_in_words, score_in_words

LISTED = 200  # runs of the table and the pictures; more would make the page slow
PICTURES = 12
OTHER = ("name", "tracker", "sweep", "task")  # of a recipe, that is no setting of a fine-tune
UNDRAWN = ("seed",)  # last parts of a setting's name: a picture of it would show nothing
Settings = dict[str, Any]  # by dotted name in the recipe


def setting_section(content: ReportContent) -> Section | None:
    """The settings that differ between scored runs; None where none do."""
    if content.sweep is None:
        return None
    board = content.sweep.board
    records = {run.name: run.record for run in content.sweep.found.planned if run.record is not None}
    rows = [row for row in board.scored if row.kind == "run" and row.name in records][:LISTED]
    known = {row.name: settings_of(records[row.name].recipe) for row in rows}
    differing = differing_of(list(known.values()))
    if not differing:
        return None
    scored = [row for row in rows if row.select is not None and math.isfinite(row.select)]
    drawn = [name for name in differing if name.split(".")[-1] not in UNDRAWN][:PICTURES]
    charts = tuple(_chart(i, name, scored, known, board.metric, board.best_name) for i, name in enumerate(drawn, 1))
    total = len(content.sweep.found.runs)
    words = [
        f"What differs between the runs, and what each of them scores. Pictures show {unit_of(board.metric)} on the "
        f"{board.select_rows} select rows."
    ]
    words += [f"The {len(rows)} best on select are shown, of {total} runs."] if len(rows) < total else []
    table = _table(rows, known, differing, board.metric)
    block = Block(words=tuple(words), table=table, charts=charts if scored else ())
    return Section("settings", "Settings of the runs", (block,))


def settings_of(recipe: Mapping[str, Any]) -> Settings:
    """What a fine-tune was set to.

    >>> settings_of({"name": "digits/run_00", "train": {"learning_rate": 0.001, "clip": [1, 2]}})
    {'train.learning_rate': 0.001, 'train.clip': [1, 2]}
    """
    return dotted({name: value for name, value in recipe.items() if name not in OTHER})


def differing_of(known: Sequence[Settings]) -> list[str]:
    """Names of the settings that are not the same in all runs, learning rates first and seeds last."""
    names = dict.fromkeys(name for settings in known for name in settings)
    differing = [name for name in names if len({repr(settings.get(name)) for settings in known}) > 1]
    return sorted(differing, key=lambda name: (name.split(".")[-1] in UNDRAWN, "learning_rate" not in name))


def in_words(name: str) -> str:
    """A setting as a heading names it.

    >>> in_words("train.learning_rate"), in_words("data.seed")
    ('learning rate', 'data seed')
    """
    return name.removeprefix("train.").replace("_", " ").replace(".", " ")


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "-" if value is None else str(value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> Cell:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return Cell(_shown(value), float(value) if number else None if value is None else str(value))


def _table(rows: Sequence[Row], known: Mapping[str, Settings], names: Sequence[str], metric: str) -> PageTable:
    lower = losses(metric, "select", "report")
    cells = [
        [
            Cell.words(row.name),
            *(_cell(known[row.name].get(name)) for name in names),
            Cell(
                f"{score_in_words(row.select, metric)} {interval_in_words(row.select_low, row.select_high, metric)}",
                row.select,
            ),
            Cell(
                f"{score_in_words(row.report, metric)} {interval_in_words(row.report_low, row.report_high, metric)}",
                row.report,
            ),
        ]
        for row in rows
    ]
    titles = ("run", *map(in_words, names), "select", "report")
    return page_table("settings-table", "Settings that differ, and scores", titles, cells, lower=lower)


def _chart(number: int, name: str, rows: Sequence[Row], known: Mapping[str, Settings], metric: str, best: str) -> Chart:
    title, scale = in_words(name), scale_of(metric)
    values: list[dict[str, Any]] = [
        {
            "name": row.name,
            "kind": "best on select" if row.name == best else "run",
            "setting": known[row.name].get(name),
            "score": scale * (row.select or 0.0),
            "shown": score_in_words(row.select, metric),
        }
        for row in rows
    ]
    numbers = all(isinstance(v["setting"], int | float) and not isinstance(v["setting"], bool) for v in values)
    for value in values:
        value["value"] = _shown(value["setting"])
        if not numbers:
            value["setting"] = value["value"]
    log = numbers and bool(values) and _is_log(name, [float(v["setting"]) for v in values])
    words = f"Score on select against {title}"
    text = f"{words}, a point for each of {len(values)} runs. {' '.join(_best_of(values, numbers, metric))}".rstrip()
    spec = setting_chart(values, title=title, axis=f"select: {unit_of(metric)}", text=text, numbers=numbers, log=log)
    cells = [[Cell.words(v["name"]), Cell(v["value"], v["setting"]), Cell(v["shown"], v["score"])] for v in values]
    lower = losses(metric, "select")
    table = page_table(f"setting-{number}-table", words, ("run", title, "select"), cells, lower=lower)
    return Chart(f"setting-{number}", words, text, spec, table)


def _is_log(name: str, values: Sequence[float]) -> bool:
    """Whether the axis is logarithmic: of learning rates, and of numbers that differ by a factor."""
    return min(values) > 0 and ("learning_rate" in name or spans_decades(values))


def _best_of(values: Sequence[Mapping[str, Any]], numbers: bool, metric: str) -> Iterator[str]:
    """In words: the best run's value; and of few values the mean score of each."""
    sign = traits_of(metric).sign
    if values:
        best = max(values, key=lambda v: sign * v["score"])
        yield f"The best, {best['name']}, has {best['value']}: {best['shown']}."
    by_value: dict[str, list[float]] = {}
    for v in sorted(values, key=lambda v: v["setting"] if numbers else str(v["setting"])):
        by_value.setdefault(v["value"], []).append(v["score"])
    if 1 < len(by_value) <= 6 < len(values):
        means = (f"{value}: {sum(scores) / len(scores):.4g}" for value, scores in by_value.items())
        yield f"Mean score by value: {', '.join(means)}."
