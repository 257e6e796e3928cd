"""What the card of a soup says, from its soup.json and config.json."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hf_soups.errors import InputError
from hf_soups.leaderboard.table import BOARD_FILE, load_board
from hf_soups.metrics import traits_of
from hf_soups.recipe import Recipe
from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY
from hf_soups.recipe.task import SHIFT
from hf_soups.report.cards.board import best_single, board_note, board_table, costs_table, own_row
from hf_soups.report.cards.card_facts import (
    OURS,
    PIPELINES,
    CardFacts,
    CardScore,
    classes_in_words,
    hub_ids,
    report_first,
    rows_in_words,
)
from hf_soups.report.cards.data import data_of_task
from hf_soups.report.cards.markdown import MISSING, MarkdownTable
from hf_soups.soups.soup_record import SOUP_FILE, SoupRecord
from hf_soups.wording import score_in_words

PICTURE = "score_by_ingredients.png"  # as cooking draws it for greedy
FEW = 2000  # select rows: below, a difference of one point is within twice the standard error


def soup_facts(
    folder: Path,
    record: SoupRecord,
    config: Mapping[str, Any],
    recipe: Recipe | None = None,
    recipe_shown: str = "",
) -> CardFacts:
    """Facts of a soup.

    Args:
        folder: where it lies.
        record: what soup.json holds.
        config: what config.json holds.
        recipe: of its ingredients, where it is known.
        recipe_shown: the same as YAML.
    Raises:
        InputError: if it is no classifier of images or texts, or its leaderboard is of another soup.
    """
    record.check_weights(folder)
    tag, short, board = _pipeline_tag(folder, config), short_names(record), load_board(folder)
    own = None if board is None else own_row(board, record, folder)
    sources = [(i.source, i.revision) for i in record.ingredients]
    repos = hub_ids(sources, folder)
    start = hub_ids([(recipe.model, recipe.revision)], folder) if recipe is not None and not repos else ()
    method, scores = record.method, _scores(record)
    compared = [board_table(board)] if board is not None else []
    costs = [costs_table(board, own)] if board is not None and own is not None else []
    tables = [
        _results(record, scores, None if board is None else best_single(board)),
        *compared,
        _selection(record, short),
        _ingredients(record, short, repos),
        *costs,
    ]
    notes = _notes(folder, record)
    kind = recipe.task.kind if recipe is not None else "image" if tag == "image-classification" else "text"
    return CardFacts(
        record=SOUP_FILE,
        about=_about(record, classes_in_words(kind, record.label_names or ())),
        library="transformers",
        pipeline_tag=tag,
        tags=tuple(filter(None, ("hf_soups", "model-soup", "merge", method))),
        base_models=repos or start,
        metric=record.metric,
        scores=scores,
        tables=tuple(t for t in tables if t.rows),
        limits=_limits(record, scores),
        cascade=False,
        ours=any(name in OURS for name in config.get("architectures") or ()),
        words=WORDS_KEY in config,
        pair=kind == "text-pair" or "{text_pair}" in str(config.get(PROMPT_KEY, "")),
        notes=notes if board is None else {**notes, "Leaderboard": board_note(board)},
        data=None if recipe is None else data_of_task(recipe.task, _rows(record)),
        recipe=recipe_shown,
    )


def _about(record: SoupRecord, classes: str) -> str:
    count, pool = len(record.models), record.pool
    of = f"{count} of {len(pool)}" if len(pool) > count else f"{count}"
    models = "one fine-tuned model" if count == 1 else f"{of} fine-tuned models"
    models += " and of what they were fine-tuned from" if len(record.ingredients) > count else ""
    return (
        f"A model soup: one model whose weights are a linear combination of {models} of one architecture "
        f"(method `{record.method or 'by hand'}`). {classes} It runs like any of its ingredients and costs no more "
        "than one."
    )


def short_names(record: SoupRecord) -> dict[str, str]:
    """How each name of the pool is shown: names that are whole paths lose the folders that they share.

    >>> short_names(SoupRecord((), pool=("/a/x/run", "/a/y/run")))
    {'/a/x/run': 'x/run', '/a/y/run': 'y/run'}
    """
    names = [*record.pool, *(i.name for i in record.ingredients)]
    paths = sorted({name for name in names if Path(name).is_absolute()})
    if not paths:
        return {name: name for name in names}
    root = os.path.commonpath(paths) if len(paths) > 1 else str(Path(paths[0]).parent)
    return {name: os.path.relpath(name, root) if name in paths else name for name in names}


def _pipeline_tag(folder: Path, config: Mapping[str, Any]) -> str:
    architectures = [str(a) for a in config.get("architectures") or ()]
    tags = [tag for end, tag in PIPELINES.items() if any(a.endswith(end) for a in architectures)]
    if WORDS_KEY in config:
        return "text-classification"
    if not tags:
        raise InputError(
            f"{folder / 'config.json'}: the model is {', '.join(architectures) or 'of no named architecture'}; cards "
            f"are made for {' and '.join(PIPELINES)}. Fine-tune it with a head, or write its README.md by hand."
        )
    return tags[0]


def _scores(record: SoupRecord) -> tuple[CardScore, ...]:
    """Every score on whole splits, report first; what could not be computed is left out."""
    chosen_on, rows = _chosen_on(record), _rows(record)
    roles = [r for r in record.scores if r in ("select", "report") or r.startswith(SHIFT)]
    return tuple(
        CardScore(metric, float(value), role, optimistic=role == chosen_on, rows=rows.get(role))
        for role in sorted(roles, key=report_first)
        for metric, value in record.scores[role].items()
        if value is not None and math.isfinite(value)
    )


def _rows(record: SoupRecord) -> dict[str, int]:
    """By role, the rows that were answered."""
    return {role: measured.rows for role, measured in record.measured.items()}


def _results(record: SoupRecord, scores: Sequence[CardScore], best: Mapping[str, str] | None) -> MarkdownTable:
    rows: dict[str, dict[str, str]] = {}
    metrics = tuple(dict.fromkeys(s.metric for s in scores))
    for score in scores:
        empty = {"Rows": rows_in_words(score.role, score.optimistic), **dict.fromkeys(metrics, MISSING)}
        row = rows.setdefault(score.role, empty)
        row[score.metric] = score_in_words(score.value, score.metric)
    for role, row in rows.items():
        if (measured := record.measured.get(role)) and record.metric:
            ends = [score_in_words(end, record.metric) for end in (measured.low, measured.high)]
            row |= {"95% interval": f"{ends[0]} to {ends[1]}", "Number of rows": str(measured.rows)}
    shown = list(rows.values())
    if shown and best is not None:
        shown.insert(1 if "report" in rows else 0, dict(best))
    table = MarkdownTable.of("Results", [_in_order(row, record.metric) for row in shown])
    return table if best is None else replace(table, other_records={best["Rows"]: BOARD_FILE})


def _in_order(row: dict[str, str], metric: str | None) -> dict[str, str]:
    """The interval behind its score."""
    first = ("Rows", str(metric), "95% interval")
    return {key: row[key] for key in (*first, *row) if key in row}


def _chosen_on(record: SoupRecord) -> str | None:
    """The rows that something was chosen on: uniform soups and the like are scored there, but not chosen."""
    looked = record.steps or record.learned or record.batchnorm or record.optimistic
    return record.selected_on if looked else None


def _selection(record: SoupRecord, short: Mapping[str, str]) -> MarkdownTable:
    chosen_on, metric, role = _chosen_on(record), record.metric, record.selected_on
    told: dict[str, Any] = {"method": record.method or "by hand"}
    told["chosen on"] = f"{chosen_on} rows, by {metric}" if chosen_on else "nothing: no score was looked at"
    if role is not None and metric is not None:
        rows, score = record.select_rows, record.score
        told[f"{role} rows"] = rows
        if best := record.best_single:
            name = short.get(best.name, best.name)
            told[f"best single model on {role} rows"] = f"{name}: {score_in_words(best.score, metric)}"
        if traits_of(metric).counts_rows and score is not None and rows:
            error = math.sqrt(score * (1 - score) / rows)
            told[f"standard error of the score on {role} rows"] = score_in_words(error, metric)
    told |= {"models in the pool": len(record.pool)} if record.pool else {}
    told |= {"mixtures tried": len(record.steps)} if record.steps else {}
    for number, why in enumerate(record.whys):
        told["why" if not number else f"why ({number + 1})"] = _without_paths(why, short)
    return MarkdownTable.of_values("How it was chosen", told)


def _without_paths(text: str, short: Mapping[str, str]) -> str:
    for name in sorted(short, key=len, reverse=True):
        text = text.replace(name, short[name])
    return text


def _ingredients(record: SoupRecord, short: Mapping[str, str], repos: Sequence[str]) -> MarkdownTable:
    rows = []
    for told in record.ingredients:
        where = "@".join(filter(None, (told.source, told.revision))) if told.source in repos else MISSING
        rows.append((short[told.name], f"{told.coefficient:.6g}", where, told.sha256))
    return MarkdownTable("Ingredients", ("Ingredient", "Coefficient", "Hub", "SHA-256 of the weights"), tuple(rows))


def _notes(folder: Path, record: SoupRecord) -> dict[str, str]:
    told = {}
    if (folder / PICTURE).is_file():
        told["How it was chosen"] = f"![Score by number of ingredients]({PICTURE})"
    if record.coefficients_by_tensor is not None:
        told["Ingredients"] = (
            f"Each tensor has coefficients of its own, in `{SOUP_FILE}`; here is their mean over all parameters."
        )
    return told


def _limits(record: SoupRecord, scores: Sequence[CardScore]) -> tuple[str, ...]:
    roles = {s.role for s in scores}
    told, chosen_on, rows = [], _chosen_on(record), record.select_rows
    if not scores:
        told.append("It was not scored when it was made: measure it on rows of your own before you use it.")
    if chosen_on and rows < FEW:
        told.append(
            "Few rows chose it: differences within the intervals above are what chance alone makes, and other rows "
            "might have chosen another mixture."
        )
    if chosen_on:
        told.append(
            "Scores on the rows it was chosen on are too good, the more so the fewer rows and the more mixtures were "
            "tried; a small lead over the best single model may be chance."
        )
    if record.optimistic:
        told.append(
            "It was chosen on the report rows, so no score here comes from rows that it has not been fitted to."
        )
    if any(role.startswith(SHIFT) for role in roles):
        told.append("Of other distributions only the shifts above were measured; on others it may do worse.")
    else:
        told.append("On data of another distribution it was not measured.")
    told.append("Averaging weights does not calibrate: check its probabilities before you act on them.")
    return tuple(told)
