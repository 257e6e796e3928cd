"""Model cards: README.md of a soup's or a cascade's folder, every figure taken from the files and checked against them.

A card can be edited by hand; what must stay true is what its tables and its metadata say.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.report.cards.facts import Facts, data_table, hub_ids
from hf_soups.report.cards.markdown import cells_of, code_of
from hf_soups.report.cards.results import (
    EVAL_FILE,
    OURS,
    eval_entries,
    eval_results,
    hub_metrics,
    published,
    stored_values,
)
from hf_soups.report.cards.snippets import run_code, snippet_for
from hf_soups.report.cards.soups import soup_facts
from hf_soups.soups.folder import SOUP_FILE, write_file
from hf_soups.weights.hub import is_repo_id

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from hf_soups.recipe import Recipe
    from hf_soups.tasks import Task

README = "README.md"
TEMPLATES = Path(__file__).with_name("cards")
_MARK = re.compile(r"\n<!-- made by hf_soups ([0-9a-f]{16}) -->\n\Z")


def card_for(folder: str | Path, *, name: str | None = None, recipe: Recipe | None = None) -> ModelCard:
    """The card of a soup or cascade, from what its files hold; nothing is fetched.

    Args:
        folder: with config.json, and soup.json for a soup.
        name: the repo's id that users will load it by, in the title and the code; default: the folder's name.
        recipe: whose task names the data; without it the card names no data set, since the folder does not.
    Raises:
        InputError: if the folder holds neither, its record cannot be read, or `name` is no repo's id.
    """
    from huggingface_hub import ModelCard, ModelCardData

    at, task = Path(folder), recipe.task if recipe is not None else None
    facts, title = _facts(at, task), _title(at, name)
    data_set = _data_set(task, at)
    data = ModelCardData(
        library_name=facts.library,
        pipeline_tag=facts.pipeline_tag,
        tags=list(facts.tags),
        base_model=list(facts.base_models) or None,
        datasets=[data_set] if data_set else None,
        metrics=hub_metrics(facts.metric),
        model_name=title,
        eval_results=eval_results(facts, task, data_set),
        base_model_relation="merge" if facts.base_models else None,
    )
    card: ModelCard = ModelCard.from_template(
        data,
        template_str=(TEMPLATES / "card.md").read_text(encoding="utf-8"),
        title=title,
        about=facts.about,
        tables=[*facts.tables, *([data_table(task, data_set)] if task else [])],
        notes=facts.notes,
        snippet=snippet_for(facts.pipeline_tag, title, cascade=facts.cascade, pair=facts.pair),
        limits=facts.limits,
        citations=(TEMPLATES / "citations.bib").read_text(encoding="utf-8").strip(),
    )
    return card


def write_card(
    folder: str | Path, *, name: str | None = None, recipe: Recipe | None = None, overwrite: bool = False
) -> Path:
    """Write README.md, and `.eval_results/` where the recipe's data set is one of the Hub; the README's path.

    Args:
        folder: as for `card_for`.
        name: as for `card_for`.
        recipe: as for `card_for`.
        overwrite: replace a README.md that was written or changed by hand.
    Raises:
        InputError: if there is such a README.md, or the folder is neither soup nor cascade.
        HfSoupsError: if it cannot be written.
    """
    at, task = Path(folder), recipe.task if recipe is not None else None
    path, text = at / README, str(card_for(at, name=name, recipe=recipe)).rstrip("\n") + "\n"
    if path.exists() and not overwrite and not _is_ours(_read(path)):
        raise InputError(
            f"{path} was written or changed by hand, so it is not replaced. Move it away, or replace it (overwrite)."
        )
    entries = eval_entries(published(_facts(at, task)), task, _data_set(task, at))
    if entries:
        write_file(at / EVAL_FILE, lambda partial: partial.write_text(entries, encoding="utf-8"))
    else:
        (at / EVAL_FILE).unlink(missing_ok=True)  # an earlier card's, which this one does not say
    marked = f"{text}\n<!-- made by hf_soups {_digest(text)} -->\n"
    write_file(path, lambda partial: partial.write_text(marked, encoding="utf-8"))
    return path


def check_card(folder: str | Path) -> None:
    """Compare the figures of README.md, in tables and metadata, with those of the folder's files.

    Sections, rows and metadata that no card is given (of data, of other people's measurements) are not looked at.

    Raises:
        InputError: naming the first figure that differs, is missing, or stands in no file; or if there is no card.
    """
    from huggingface_hub import ModelCard

    at = Path(folder)
    path, true, facts = at / README, card_for(at), _facts(at, None)
    if not path.is_file():
        raise InputError(f"{path}: there is no card. Write one (write_card).")
    try:
        told = ModelCard(_read(path))
    except HfSoupsError:
        raise
    except Exception as error:  # yaml's and the Hub's own alike
        raise InputError(f"{path}: its metadata cannot be read ({str(error)[:200]}). Write the card again.") from error
    for figure, wanted, got in _differences(true, told):
        raise InputError(
            f"{path}: {figure} is {got}, but {facts.record} says {wanted}. Write the card again (write_card)."
        )
    if (at / EVAL_FILE).is_file():
        true_values = [score.value for score in published(facts)]
        wrong = [value for value in stored_values(_read(at / EVAL_FILE)) if value not in true_values]
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

    The code is that of `card_for`, not what README.md holds: a README.md can come from anywhere.

    Raises:
        InputError: if it fails, or as for `card_for`.
    """
    at = Path(folder)
    return run_code(snippet_of(card_for(at, name=name)), at, _title(at, name))


def _facts(folder: Path, task: Task | None) -> Facts:
    config = _json(folder / "config.json", folder)
    if config.get("model_type") == "cascade":
        from hf_soups.cascades.running.config import CascadeConfig
        from hf_soups.report.cards.cascades import cascade_facts

        return _whole(lambda: cascade_facts(folder, CascadeConfig.from_pretrained(folder)), folder / "config.json")
    record, pair = _json(folder / SOUP_FILE, folder), task is not None and task.kind == "text-pair"
    return _whole(lambda: soup_facts(folder, record, config, pair=pair), folder / SOUP_FILE)


def _whole(read: Callable[[], Facts], file: Path) -> Facts:
    try:
        return read()
    except HfSoupsError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{file} is no whole record of a soup or cascade ({type(error).__name__}: {error}). Make the folder again."
        ) from error


def _json(path: Path, folder: Path) -> Mapping[str, Any]:
    if not path.is_file():
        raise InputError(
            f"{folder} holds no {path.name}, so it is neither a soup nor a cascade. Name a folder that "
            "`hf-soups cook` or `hf-soups cascade build` wrote."
        )
    try:
        told = json.loads(_read(path))
    except json.JSONDecodeError as error:
        raise InputError(f"{path} is no valid JSON ({error}). Make the folder again.") from error
    if not isinstance(told, dict):
        raise InputError(f"{path} holds no mapping. Make the folder again.")
    return told


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read ({error}).") from error


def _title(folder: Path, name: str | None) -> str:
    if name is not None and not is_repo_id(name):
        raise InputError(f"{name!r} is no id of a Hub repo; expected 'owner/name', such as 'me/my-soup'.")
    return name or folder.resolve().name


def _data_set(task: Task | None, folder: Path) -> str | None:
    return next(iter(hub_ids([(task.path, task.revision)], folder)), None) if task is not None else None


def _differences(true: ModelCard, told: ModelCard) -> Iterator[tuple[str, Any, Any]]:
    """Each figure of the metadata and of the tables that differs: its name, what is true, and what is told."""
    wanted, got = _metadata(true), _metadata(told)
    for name in [*wanted, *(name for name in got if name not in wanted and OURS.fullmatch(name))]:
        if wanted.get(name) != got.get(name):
            yield f"{name} in the metadata", wanted.get(name, "nothing of it"), got.get(name, "missing")
    cells, found = cells_of(true.text), cells_of(told.text)
    known = {(title, column) for title, _, column in cells}
    for cell in [*cells, *(c for c in found if c not in cells and (c[0], c[2]) in known)]:
        if cells.get(cell) != found.get(cell):
            title, row, column = cell
            figure = f"{column!r} of {row!r} under {title!r}"
            yield figure, cells.get(cell, "nothing of it"), found.get(cell, "missing")


def _metadata(card: ModelCard) -> dict[str, Any]:
    results = getattr(card.data, "eval_results", None) or []
    return {str(result.metric_name): result.metric_value for result in results}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _is_ours(text: str) -> bool:
    """Whether a card is just as it was written."""
    found = _MARK.search(text)
    return found is not None and _digest(text[: found.start()]) == found[1]
