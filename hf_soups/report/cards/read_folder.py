"""Reading a soup's or cascade's folder into the facts of its card, and what somebody said in an earlier card."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files.downloads import is_repo_id, refuse_links_out
from hf_soups.files.reading import is_there, read_json, read_text
from hf_soups.recipe.origin import RECIPE_FILE, recipe_kept, recipe_text
from hf_soups.report.cards.card_facts import CardFacts, Said, hub_ids
from hf_soups.report.cards.soups import soup_facts
from hf_soups.soups.soup_record import SOUP_FILE, SoupRecord, read_soup

if TYPE_CHECKING:
    from huggingface_hub import ModelCard

    from hf_soups.recipe import Recipe


def facts_of(folder: Path, recipe: Recipe | None = None) -> CardFacts:
    """What the files of a soup or cascade say.

    Args:
        folder: with config.json, and soup.json for a soup.
        recipe: of a soup; default: the one that its folder keeps.
    Raises:
        InputError: if the folder is neither, a record cannot be read, or a link leads out of it.
    """
    refuse_links_out(folder)
    config = json_of(folder / "config.json", folder)
    if config.get("model_type") == "cascade":
        from hf_soups.cascades.running.config import read_cascade
        from hf_soups.report.cards.cascades import cascade_facts
        from hf_soups.report.cards.data import data_of_task

        facts = _whole(lambda: cascade_facts(folder, read_cascade(folder)), folder / "config.json")
        return facts if recipe is None or facts.data is not None else replace(facts, data=data_of_task(recipe.task))
    record, known = _soup_of(folder), recipe or recipe_kept(folder)
    # as it lies there: later versions may know further keys
    shown = "" if known is None else recipe_text(known) if recipe else text_of(folder / RECIPE_FILE)
    return _whole(lambda: soup_facts(folder, record, config, known, _in_a_fence(shown)), folder / SOUP_FILE)


def data_set_of(facts: CardFacts, said: Said, folder: Path) -> str | None:
    """The id of the data set on the Hub: as the recipe names it, or as somebody said."""
    known = () if facts.data is None else hub_ids([(facts.data.path, facts.data.revision)], folder)
    return next(iter(known), None) or said.data_set or None


def said_before(folder: Path) -> Said:
    """What the folder's card says that no file holds; of a card that cannot be read, nothing."""
    path = folder / "README.md"
    if not path.is_file():
        return Said()
    try:
        told: dict[str, Any] = card_at(path).data.to_dict()  # type: ignore[no-untyped-call]
    except HfSoupsError:
        return Said()
    listed = {key: _listed(told.get(key)) for key in ("license", "language", "datasets", "base_model")}
    ids = {key: [i for i in listed[key] if is_repo_id(i)] for key in ("datasets", "base_model")}
    return Said(
        next(iter(listed["license"]), ""), tuple(listed["language"]), next(iter(ids["datasets"]), ""),
        tuple(ids["base_model"]),
    )  # fmt: skip


def card_at(path: Path) -> ModelCard:
    """The card in a file.

    Raises:
        InputError: if it or its metadata cannot be read.
    """
    from huggingface_hub import ModelCard

    from hf_soups.files.plain_yaml import check_front_matter

    text = text_of(path)
    try:
        check_front_matter(path)
        return ModelCard(text)
    except HfSoupsError:
        raise
    except Exception as error:  # yaml's and the Hub's own alike
        raise InputError(f"{path}: its metadata cannot be read ({str(error)[:200]}). Write the card again.") from error


def json_of(path: Path, folder: Path) -> Mapping[str, Any]:
    """A record of the folder.

    Raises:
        InputError: if it is missing or cannot be read.
    """
    if not is_there(path):
        raise InputError(
            f"{folder} holds no {path.name}, so it is neither a soup nor a cascade. Name a folder that "
            "`hf-soups cook` or `hf-soups cascade build` wrote."
        )
    return read_json(path, again="Make the folder again.")


def _soup_of(folder: Path) -> SoupRecord:
    json_of(folder / SOUP_FILE, folder)  # where there is none it says what is wanted
    return read_soup(folder)


def text_of(path: Path) -> str:
    """The text of a file.

    Raises:
        InputError: if it cannot be read.
    """
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file.") from error


def _whole(read: Callable[[], CardFacts], file: Path) -> CardFacts:
    try:
        return read()
    except HfSoupsError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InputError(
            f"{file} is no whole record of a soup or cascade ({type(error).__name__}: {error}). Make the folder again."
        ) from error


def _in_a_fence(text: str) -> str:
    """Text that cannot end a block of code: a folder, and so its recipe, can come from anywhere."""
    return text.replace("```", "'''")


def _listed(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(v) for v in value] if isinstance(value, list) else [str(value)]
