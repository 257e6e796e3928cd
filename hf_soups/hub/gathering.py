"""Gathering what a push of a folder sends, by what the folder is."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from hf_soups.errors import InputError
from hf_soups.hub.boards import board_contents
from hf_soups.hub.cards import ensured
from hf_soups.hub.contents import CALLED, Contents, Stage
from hf_soups.hub.kinds import kind_of
from hf_soups.hub.models import model_contents
from hf_soups.hub.pools import pool_contents
from hf_soups.hub.spaces import PageFiles, space_contents
from hf_soups.weights.temporary import temporary_folder


@contextmanager
def gathered(
    folder: str | Path,
    repo_id: str,
    *,
    page: PageFiles | None = None,
    dry_run: bool = False,
    include: Sequence[str] = (),
) -> Iterator[Contents]:
    """A folder as it would be pushed to a repo; files that are made for the push are gone when the block ends.

    Args:
        folder: of a soup, a cascade, a leaderboard or a pool; nothing is written there but a card that is missing.
        repo_id: names the repo in the cards that are made.
        page: make a Space of a cascade, with these files.
        dry_run: do not even write a card.
        include: patterns of further files to send, as in .gitignore.
    Raises:
        InputError: if it is none of them, holds what may not be pushed, or has a card that is not true.
        CheckpointError, PredictionsError: if weights or predictions are missing or corrupt.
    """
    at = Path(folder).expanduser()
    kind = kind_of(at)
    if page is not None and kind != "cascade":
        raise InputError(f"{at} is a {CALLED[kind]}: a Space is made of a cascade. Push it without --space.")
    with temporary_folder("push") as place:
        stage = Stage(place)
        if page is not None:
            yield space_contents(at, stage, page, include)
        elif kind == "pool":
            yield pool_contents(at, repo_id, stage, include)
        elif kind == "leaderboard":
            yield board_contents(at, repo_id, stage, include)
        else:
            told = () if dry_run else tuple(ensured(at, repo_id))
            found = model_contents(at, kind, repo_id, stage, include)
            yield replace(found, notes=(*told, *found.notes))
