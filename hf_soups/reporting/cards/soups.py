"""What the card of a soup says, from its soup.json, its config.json and the leaderboard that its folder keeps."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION, problem_type_of
from hf_soups.leaderboard.table import BOARD_FILE, load_board, text_cells, training_of
from hf_soups.metrics import traits_of
from hf_soups.recipe import Recipe
from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY
from hf_soups.recipe.task import SHIFT
from hf_soups.reporting.cards.card_facts import (
    OURS,
    PIPELINES,
    CardFacts,
    CardScore,
    DataUsed,
    classes_in_words,
    hub_ids,
    report_first,
    rows_in_words,
)
from hf_soups.reporting.cards.licences import licences_of
from hf_soups.reporting.cards.markdown import MISSING, MarkdownTable
from hf_soups.soups.soup_record import SOUP_FILE, STEPS_PICTURE, SoupRecord
from hf_soups.sweep.plan import make_plan
from hf_soups.wording import score_in_words

if TYPE_CHECKING:
    from hf_soups.leaderboard import Leaderboard
    from hf_soups.leaderboard.board import Row

# keys in citations.bib of methods that are not in the paper on soups
CITED = {"model-stock": "jang2024stock", "wise-ft": "wortsman2022robust", "task-vectors": "ilharco2023editing"}
BOARD_PICTURE = "leaderboard.png"
BEST = "report: the best single model on select"
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
        folder: of the soup.
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
    licences = licences_of(record, recipe)
    method, scores = record.method, _scores(record)
    compared = [board_table(board)] if board is not None else []
    costs = [costs_table(board, own)] if board is not None and own is not None else []
    tables = [
        _results(record, scores, None if board is None else best_single(board)),
        *compared,
        _selection(record, short),
        _ingredients(record, short, repos, {} if recipe is None else drawn_values(recipe)),
        *costs,
        MarkdownTable.of_values("Framework versions", record.versions),
    ]
    notes = _notes(folder, record)
    of_type = CLASSIFICATION if WORDS_KEY in config else problem_type_of(config)
    kind = recipe.task.kind if recipe is not None else "image" if tag == "image-classification" else "text"
    return CardFacts(
        record=SOUP_FILE,
        about=_about(record, classes_in_words(kind, record.label_names or (), of_type)),
        library="transformers",
        pipeline_tag=tag,
        tags=tuple(filter(None, ("hf_soups", "model-soup", "merge", method))),
        base_models=repos or start,
        metric=record.metric,
        scores=scores,
        tables=tuple(t for t in tables if t.rows),
        limits=(*_limits(record, scores, of_type), *licences.doubts),
        relation="merge" if repos else "finetune",
        cites=("wortsman2022soups", *filter(None, (CITED.get(method),))),
        license=licences.shared,
        cascade=False,
        ours=any(name in OURS for name in config.get("architectures") or ()),
        words=WORDS_KEY in config,
        pair=kind == "text-pair" or "{text_pair}" in str(config.get(PROMPT_KEY, "")),
        notes=notes if board is None else {**notes, "Leaderboard": board_note(board)},
        data=None if recipe is None else DataUsed.of_task(recipe.task, _rows(record)),
        recipe=recipe_shown,
        board=board,
        every_label=of_type == MULTI_LABEL,
    )


def _about(record: SoupRecord, classes: str) -> str:
    count, pool = len(record.models), record.pool
    of = f"{count} of {len(pool)}" if len(pool) > count else f"{count}"
    models = "one fine-tuned model" if count == 1 else f"{of} fine-tuned models"
    if not record.ingredients:  # an average that was kept while training
        return (
            f"A model soup: one model whose weights are an average over one training (method `{record.method}`). "
            f"{classes} It runs like any model of its architecture and costs no more."
        )
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
    values: dict[str, Any] = {"method": record.method or "by hand"}
    values["chosen on"] = f"{chosen_on} rows, by {metric}" if chosen_on else "nothing: no score was looked at"
    if role is not None and metric is not None:
        rows, score = record.select_rows, record.score
        values[f"{role} rows"] = rows
        if best := record.best_single:
            name = short.get(best.name, best.name)
            values[f"best single model on {role} rows"] = f"{name}: {score_in_words(best.score, metric)}"
        if traits_of(metric).counts_rows and score is not None and rows:
            error = math.sqrt(score * (1 - score) / rows)
            values[f"standard error of the score on {role} rows"] = score_in_words(error, metric)
    values |= {"models in the pool": len(record.pool)} if record.pool else {}
    values |= {"mixtures tried": len(record.steps)} if record.steps else {}
    for number, why in enumerate(record.whys):
        values["why" if not number else f"why ({number + 1})"] = _without_paths(why, short)
    return MarkdownTable.of_values("How it was chosen", values)


def _without_paths(text: str, short: Mapping[str, str]) -> str:
    for name in sorted(short, key=len, reverse=True):
        text = text.replace(name, short[name])
    return text


def _ingredients(
    record: SoupRecord, short: Mapping[str, str], repos: Sequence[str], drawn: Mapping[str, Mapping[str, Any]]
) -> MarkdownTable:
    """With what the sweep drew for each, by name of the run."""
    way = "SHA-256" if all(one.sha256 for one in record.ingredients) else "Digest"
    rows = []
    for one in record.ingredients:
        where = "@".join(filter(None, (one.source, one.revision))) if one.source in repos else MISSING
        values = {name: f"{value:.4g}" if isinstance(value, float) else str(value)
                  for name, value in drawn.get(one.name, {}).items()}  # fmt: skip
        rows.append(
            {"Ingredient": short[one.name], "Coefficient": f"{one.coefficient:.6g}", **values, "Hub": where,
             f"{way} of the weights": one.sha256 or one.digest}
        )  # fmt: skip
    return MarkdownTable.of("Ingredients", rows)


def drawn_values(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """What the recipe's sweep varies, by run; nothing where it plans none."""
    try:
        return {run.name: {name: run.train[name] for name in run.varied} for run in make_plan(recipe)}
    except HfSoupsError:  # of another version, whose values this one does not take
        return {}


def _notes(folder: Path, record: SoupRecord) -> dict[str, str]:
    notes = {}
    if (folder / STEPS_PICTURE).is_file():
        notes["How it was chosen"] = f"![Score by number of ingredients]({STEPS_PICTURE})"
    if record.coefficients_by_tensor is not None:
        notes["Ingredients"] = (
            f"Each tensor has its own coefficients, in `{SOUP_FILE}`; here is their mean over all parameters."
        )
    return notes


def _limits(record: SoupRecord, scores: Sequence[CardScore], of_type: str) -> tuple[str, ...]:
    roles = {s.role for s in scores}
    limits, chosen_on, rows = [], _chosen_on(record), record.select_rows
    if not scores:
        limits.append("It was not scored when it was made: measure it on rows of your own before you use it.")
    if chosen_on and rows < FEW:
        limits.append(
            "It was chosen on few rows: differences within the intervals above may be chance, and other rows might "
            "have led to another mixture."
        )
    if chosen_on:
        limits.append(
            "Scores on the rows it was chosen on are optimistic, more so with fewer rows and with more mixtures tried; "
            "a small lead over the best single model may be chance."
        )
    if record.optimistic:
        limits.append("It was chosen on the report rows, so every score here is on rows that it was fitted to.")
    if record.select_optimistic:
        limits.append(
            "Its ingredients may have been trained on the select rows: nothing records that these were kept apart, so "
            "the score on them may be too good, and so may the choice look."
        )
    if record.forced:
        limits.append(
            "It was mixed although its ingredients read their input, or compute, in different ways; the first's way "
            "was taken, or one that was named (`forced` in soup.json)."
        )
    if record.vocabulary:
        limits.append("Some rows of its vocabulary are one ingredient's own, not averages (`vocabulary` in soup.json).")
    if any(role.startswith(SHIFT) for role in roles):
        limits.append("Of distribution shifts only the shifts above were measured; on others it may do worse.")
    else:
        limits.append("It was not measured on data of another distribution.")
    if of_type != REGRESSION:
        limits.append("Averaging weights does not calibrate: check its probabilities before you act on them.")
    return tuple(limits)


def own_row(board: Leaderboard, record: SoupRecord, folder: Path) -> Row | None:
    """The soup's own row; None where the leaderboard does not know it.

    Raises:
        InputError: if its report score is not the soup's.
    """
    name, metric = f"{record.method} soup", record.metric
    row = next((row for row in board.rows if row.kind == "soup" and row.name == name), None)
    recorded = record.scores.get("report", {}).get(metric)
    if row is not None and row.report is not None and recorded is not None and row.report != recorded:
        raise InputError(
            f"{folder / BOARD_FILE}: the {metric} of the {name} on report is {row.report}, but soup.json says "
            f"{recorded}. Make it anew: hf-soups leaderboard with the sweep's folder."
        )
    return row


def board_table(board: Leaderboard) -> MarkdownTable:
    """Everything that was compared; single fine-tunes, of which there may be many, when they are asked for."""
    columns, rows = text_cells(board)
    single = sum(row.kind == "run" for row in board.rows if row.report is not None)
    summary = f"the {single} single fine-tunes"
    return MarkdownTable("Leaderboard", columns, rows, record=BOARD_FILE, folded=single, summary=summary)


def has_picture(board: Leaderboard | None) -> bool:
    """Whether a card draws the leaderboard: where anything is scored."""
    return board is not None and any(row.report is not None for row in board.rows)


def board_note(board: Leaderboard) -> str:
    """How to read the leaderboard, and the picture that is written with the card."""
    scale = " x 100" if traits_of(board.metric).percent else ""
    seen = f"\n\n![Report score against select score of everything that was compared]({BOARD_PICTURE})"
    return (
        f"{board.metric}{scale}, with 95% bootstrap intervals over the examples. Choices were made on select rows "
        "alone. Gains are over the model that was best on select; NLL and ECE (x 100) are on report rows. Training "
        f"seconds are the sum over all fine-tunes that a line of the table holds.{seen if has_picture(board) else ''}"
    )


def best_single(board: Leaderboard) -> dict[str, str] | None:
    """The report row of the model that was best on select, for the table of results."""
    best = next((row for row in board.rows if row.kind == "best on select" and row.report is not None), None)
    if best is None:
        return None
    ends = [score_in_words(end, board.metric) for end in (best.report_low, best.report_high)]
    return {
        "Rows": f"{BEST}, {best.name}",
        board.metric: score_in_words(best.report, board.metric),
        "95% interval": f"{ends[0]} to {ends[1]}",
        **{k: score_in_words(v, k) for k, v in (("nll", best.report_nll), ("ece", best.report_ece)) if v is not None},
        "Number of rows": str(board.report_rows),
    }


def costs_table(board: Leaderboard, row: Row) -> MarkdownTable:
    """What the soup costs to run, and what it took to train."""
    runs, seconds, devices = training_of(board.rows)
    values = {
        "parameters": f"{row.parameters:,}" if row.parameters else None,
        "multiply-adds of one row": f"{row.macs:,}" if row.macs else None,
        "hardware of these": "counted, so the same everywhere",
        "training seconds of its ingredients": _seconds(row.train_seconds),
        "training seconds of the whole pool": _seconds(seconds if runs else None),
        "hardware of the seconds": devices if runs else None,
    }
    return MarkdownTable.of_values("Costs", values, record=BOARD_FILE)


def _seconds(value: float | None) -> str | None:
    return None if value is None else f"{value:,.1f}"
