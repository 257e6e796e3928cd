"""Licences of what a soup or a cascade was made of: what its own follows from, where they agree."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_soups.files.downloads import is_repo_id
from hf_soups.recipe import Recipe
from hf_soups.reporting.cards.markdown import metadata_of
from hf_soups.soups.soup_record import SoupRecord

CARD = "README.md"
LICENCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+_-]{0,63}")


@dataclass(frozen=True, slots=True)
class Licences:
    """Those that are known, by the model's name."""

    by_model: dict[str, str]

    @property
    def shared(self) -> str:
        """The one of all; empty where they differ or none is known."""
        found = set(self.by_model.values())
        return found.pop() if len(found) == 1 else ""

    @property
    def doubts(self) -> tuple[str, ...]:
        """A sentence for the card's limits, where they differ."""
        if len(set(self.by_model.values())) < 2:
            return ()
        named = ", ".join(f"{model} ({licence})" for model, licence in self.by_model.items())
        return (f"What it was made of has different licences, of which none can be assumed: {named}.",)


def licences_of(record: SoupRecord, recipe: Recipe | None) -> Licences:
    """The licences in the cards of the ingredients, or, where these have no cards, of the model they started from.

    Folders are read where they are, repos of the Hub in its cache; nothing is fetched.
    """
    found = {i.name: licence_of(i.source, i.revision, i.subfolder) for i in record.ingredients}
    if not any(found.values()) and recipe is not None:
        found = {recipe.model: licence_of(recipe.model, recipe.revision)}
    return Licences({name: licence for name, licence in found.items() if licence})


def licences_at(places: Sequence[tuple[str, str | None, str | None]]) -> Licences:
    """The licences in the cards of models, each a folder or a repo with its revision and its subfolder there."""
    found = {source: licence_of(source, revision, subfolder) for source, revision, subfolder in places}
    named = {source if is_repo_id(source) else Path(source).name: licence for source, licence in found.items()}
    return Licences({name: licence for name, licence in named.items() if licence})


def licence_of(source: str, revision: str | None = None, subfolder: str | None = None) -> str:
    """The licence in a model's card, as the Hub writes it; empty where there is none that can be read."""
    path = _card(source, revision, subfolder)
    if path is None:
        return ""
    values = metadata_of(path)
    named = values.get("license")
    found = str(values.get("license_name") or named) if named == "other" else str(named or "")
    return found if LICENCE.fullmatch(found) else ""  # a card can come from anywhere, and this goes into another one


def _card(source: str, revision: str | None, subfolder: str | None) -> Path | None:
    folder = Path(source).expanduser()
    if folder.is_dir():
        found = folder / (subfolder or "") / CARD
        return found if found.is_file() else None
    if not is_repo_id(source):
        return None
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(source, CARD, revision=revision)
    return Path(cached) if isinstance(cached, str) else None
