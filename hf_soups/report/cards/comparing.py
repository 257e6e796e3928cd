"""Comparing a card with the one that the files would make: every figure that differs, and where the true one stands."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hf_soups.recipe_kept import RECIPE_FILE
from hf_soups.report.cards.evidence import EVIDENCE_FILE
from hf_soups.report.cards.facts import Facts
from hf_soups.report.cards.markdown import Table, cells_of, code_of
from hf_soups.report.cards.results import OURS

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

Difference = tuple[str, Any, Any, str]  # what it is of, what is true, what is told, and the file that says so
NOTHING, MISSING = "nothing of it", "missing"


def differences(true: ModelCard, told: ModelCard, facts: Facts, tables: Sequence[Table]) -> Iterator[Difference]:
    """Each figure of the metadata and the tables that differs, and the recipe if it does.

    Sections, rows and metadata that no card is given (of data, of other people's measurements) are not looked at.
    """
    wanted, got = _metadata(true), _metadata(told)
    for name in [*wanted, *(name for name in got if name not in wanted and OURS.fullmatch(name))]:
        if wanted.get(name) != got.get(name):
            yield f"{name} in the metadata", wanted.get(name, NOTHING), got.get(name, MISSING), facts.record
    cells, found = cells_of(true.text), cells_of(told.text)
    known = {(title, column) for title, _, column in cells}
    for cell in [*cells, *(c for c in found if c not in cells and (c[0], c[2]) in known)]:
        if cells.get(cell) != found.get(cell):
            title, row, column = cell
            figure = f"{column!r} of {row!r} under {title!r}"
            yield figure, cells.get(cell, NOTHING), found.get(cell, MISSING), _record(facts, tables, title, row)
    recipe = code_of(told.text, "yaml")
    if facts.recipe and (recipe or "").strip() != facts.recipe.strip():
        kept = EVIDENCE_FILE if facts.cascade else RECIPE_FILE
        yield "the recipe", _first_other(facts.recipe, recipe or ""), "another" if recipe else MISSING, kept


def _metadata(card: ModelCard) -> Mapping[str, Any]:
    results = getattr(card.data, "eval_results", None) or []
    return {str(result.metric_name): result.metric_value for result in results}


def _record(facts: Facts, tables: Sequence[Table], title: str, row: str) -> str:
    table = next((table for table in tables if table.title == title), None)
    return facts.record if table is None else table.other_records.get(row) or table.record or facts.record


def _first_other(true: str, told: str) -> str:
    """The first line of the recipe that the card lacks."""
    lines = told.splitlines()
    return next((repr(line.strip()) for line in true.splitlines() if line not in lines), "it in another order")
