"""Model cards: README.md of a soup's or a cascade's folder, every figure taken from the files and checked against them.

A card can be edited by hand; what must stay true is what its tables, its recipe and its metadata say.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.evidence import EVIDENCE_FILE
from hf_soups.errors import InputError
from hf_soups.files.downloads import is_repo_id
from hf_soups.files.writing import write_text
from hf_soups.leaderboard.table import load_board
from hf_soups.recipe.origin import RECIPE_FILE, recipe_text
from hf_soups.report.cards.board import BOARD_PICTURE, has_picture
from hf_soups.report.cards.card_facts import CardFacts, Said
from hf_soups.report.cards.markdown import MarkdownTable, cells_of, code_of, run_code, snippet_for
from hf_soups.report.cards.read_folder import card_at, data_set_of, facts_of, said_before, text_of
from hf_soups.report.cards.results import (
    EVAL_FILE,
    OURS,
    eval_entries,
    eval_results,
    hub_metrics,
    published,
    stored_values,
)

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from hf_soups.recipe import Recipe


Difference = tuple[str, Any, Any, str]  # what it is of, what is true, what is told, and the file that says so
NOTHING, MISSING = "nothing of it", "missing"


def differences(
    true: ModelCard, told: ModelCard, facts: CardFacts, tables: Sequence[MarkdownTable]
) -> Iterator[Difference]:
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


def _record(facts: CardFacts, tables: Sequence[MarkdownTable], title: str, row: str) -> str:
    table = next((table for table in tables if table.title == title), None)
    return facts.record if table is None else table.other_records.get(row) or table.record or facts.record


def _first_other(true: str, told: str) -> str:
    """The first line of the recipe that the card lacks."""
    lines = told.splitlines()
    return next((repr(line.strip()) for line in true.splitlines() if line not in lines), "it in another order")


__all__ = [
    "EVAL_FILE",
    "README",
    "Said",
    "card_files",
    "card_for",
    "check_card",
    "draw_pictures",
    "marked",
    "run_snippet",
    "snippet_of",
    "unmarked",
    "write_card",
]

README = "README.md"
TEMPLATES = Path(__file__).parent
_MARK = re.compile(r"\n<!-- made by hf_soups ([0-9a-f]{16}) -->\n\Z")


def card_for(
    folder: str | Path, *, name: str | None = None, recipe: Recipe | None = None, said: Said | None = None
) -> ModelCard:
    """The card of a soup or cascade, from what its files hold; nothing is fetched.

    Args:
        folder: with config.json, and soup.json for a soup.
        name: the repo's id that users will load it by, in the title and the code; default: the folder's name.
        recipe: of a soup that keeps none, such as one of plain checkpoints; default: recipe.yaml in the folder.
        said: what no file holds, such as the license; what it leaves open is taken from the card that lies there.
    Raises:
        InputError: if the folder holds neither, its records cannot be read or do not agree, or `name` is no repo's id.
    """
    from huggingface_hub import ModelCard, ModelCardData

    at = Path(folder)
    facts, title, told = facts_of(at, recipe), _title(at, name), _said(said, at)
    data_set = data_set_of(facts, told, at)
    base_models = list(dict.fromkeys((*facts.base_models, *told.base_models)))
    data = ModelCardData(
        library_name=facts.library,
        pipeline_tag=facts.pipeline_tag,
        license=told.license or None,
        language=list(told.language) or None,
        tags=list(facts.tags),
        base_model=base_models or None,
        datasets=[data_set] if data_set else None,
        metrics=hub_metrics(facts.metric),
        model_name=title,
        eval_results=eval_results(facts, data_set),
        base_model_relation="merge" if base_models else None,
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_str=(TEMPLATES / "card.md").read_text(encoding="utf-8"),
        title=title,
        about=facts.about,
        tables=_tables(facts, data_set),
        notes=facts.notes,
        snippet=_snippet(facts, title),
        recipe=facts.recipe,
        limits=facts.limits,
        citations=(TEMPLATES / "citations.bib").read_text(encoding="utf-8").strip(),
    )
    return card


def card_files(
    folder: str | Path, *, name: str | None = None, recipe: Recipe | None = None, said: Said | None = None
) -> dict[str, str]:
    """The texts that `write_card` writes, by the file's path in the folder.

    These are README.md, `.eval_results/` where the report score is of a data set of the Hub, and recipe.yaml where a
    recipe is given.

    Args and Raises: as for `card_for`.
    """
    at, told = Path(folder), _said(said, Path(folder))
    text = str(card_for(at, name=name, recipe=recipe, said=told)).rstrip("\n") + "\n"
    facts = facts_of(at, recipe)
    entries = eval_entries(facts, data_set_of(facts, told, at))
    return {
        README: marked(text),
        **({EVAL_FILE.as_posix(): entries} if entries else {}),
        **({RECIPE_FILE: recipe_text(recipe)} if recipe is not None and not facts.cascade else {}),
    }


def draw_pictures(folder: str | Path, into: str | Path) -> list[Path]:
    """Draw what `write_card` draws for a folder's card into another folder, or the same; the paths."""
    board = load_board(Path(folder))
    return [] if board is None or not has_picture(board) else [board.draw(Path(into) / BOARD_PICTURE)]


def write_card(
    folder: str | Path,
    *,
    name: str | None = None,
    recipe: Recipe | None = None,
    said: Said | None = None,
    overwrite: bool = False,
) -> Path:
    """Write what `card_files` lists, and a picture of the leaderboard where the folder keeps one; the README's path.

    Args:
        folder: as for `card_for`.
        name: as for `card_for`.
        recipe: as for `card_for`; the soup's folder keeps it from now on.
        said: as for `card_for`.
        overwrite: replace a README.md that was written or changed by hand.
    Raises:
        InputError: if there is such a README.md, or the folder is neither soup nor cascade.
        HfSoupsError: if it cannot be written.
    """
    at, path = Path(folder), Path(folder) / README
    card_for(at, name=name, recipe=recipe, said=said)  # what can have none is left as it is
    if path.exists() and not overwrite and unmarked(text_of(path)) is None:
        raise InputError(
            f"{path} was written or changed by hand, so it is not replaced. Move it away, or replace it (overwrite)."
        )
    draw_pictures(at, at)
    files = card_files(at, name=name, recipe=recipe, said=said)
    if EVAL_FILE.as_posix() not in files:
        (at / EVAL_FILE).unlink(missing_ok=True)  # an earlier card's, which this one does not say
    for place, text in reversed(files.items()):  # README.md last: where it is, the rest is too
        write_text(at / place, text)
    return path


def check_card(folder: str | Path) -> None:
    """Compare the figures of README.md, in tables and metadata, and its recipe with the folder's files.

    Sections, rows and metadata that no card is given (of data, of other people's measurements) are not looked at.

    Raises:
        InputError: naming the first figure that differs, is missing, or stands in no file; or if there is no card.
    """
    at = Path(folder)
    path, facts, true = at / README, facts_of(at), card_for(at)
    if not path.is_file():
        raise InputError(f"{path}: there is no card. Write one (write_card).")
    tables = _tables(facts, data_set_of(facts, said_before(at), at))
    for figure, wanted, got, record in differences(true, card_at(path), facts, tables):
        raise InputError(f"{path}: {figure} is {got}, but {record} says {wanted}. Write the card again (write_card).")
    if (at / EVAL_FILE).is_file():
        true_values = [score.value for score in published(facts)]
        wrong = [value for value in stored_values(at / EVAL_FILE) if value not in true_values]
        if wrong:
            raise InputError(
                f"{at / EVAL_FILE}: the {facts.metric} on report is {wrong[0]}, but {facts.record} says "
                f"{', '.join(map(str, true_values)) or 'nothing of it'}. Write the card again (write_card)."
            )


def snippet_of(card: ModelCard) -> str:
    """The card's Python code; it loads the model by the card's name, so it runs where a folder of that name lies.

    Raises:
        InputError: if the card has none.
    """
    code = code_of(str(card.text))
    if code is None:
        raise InputError("the card holds no Python code. Write the card again (write_card).")
    return code


def run_snippet(folder: str | Path, *, name: str | None = None) -> str:
    """Run the code of the folder's card against the folder, in a process of its own; what it printed.

    The code is what `card_for` writes, made anew and not read from any text: a README.md, and names that stand in a
    card, can come from anywhere.

    Raises:
        InputError: if it fails, or as for `card_for`.
    """
    at = Path(folder)
    title = _title(at, name)
    return run_code(_snippet(facts_of(at), title), at, title)


def marked(text: str) -> str:
    """A card's text with the line that tells later whether it was changed by hand."""
    return f"{text}\n<!-- made by hf_soups {_digest(text)} -->\n"


def unmarked(text: str) -> str | None:
    """A card just as it was written, without that line; None if it was changed by hand, or made by other means."""
    found = _MARK.search(text)
    return text[: found.start()] if found is not None and _digest(text[: found.start()]) == found[1] else None


def _tables(facts: CardFacts, data_set: str | None) -> list[MarkdownTable]:
    if facts.data is None:
        return list(facts.tables)
    record = EVIDENCE_FILE if facts.cascade else RECIPE_FILE
    counted = EVIDENCE_FILE if facts.cascade else facts.record
    return [*facts.tables, facts.data.table(data_set, record, counted)]


def _snippet(facts: CardFacts, title: str) -> str:
    told = {"cascade": facts.cascade, "pair": facts.pair, "ours": facts.ours, "words": facts.words}
    return snippet_for(facts.pipeline_tag, title, **told)


def _said(said: Said | None, folder: Path) -> Said:
    """What is said now and, where that leaves something open, what the folder's card said before."""
    before = said_before(folder)
    return before if said is None else Said(*(getattr(said, f) or getattr(before, f) for f in Said.__slots__))


def _title(folder: Path, name: str | None) -> str:
    if name is not None and not is_repo_id(name):
        raise InputError(f"{name!r} is no id of a Hub repo; expected 'owner/name', such as 'me/my-soup'.")
    return name or folder.resolve().name


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
