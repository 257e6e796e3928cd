"""A cascade as a Space: the page that shows it, with the cascade's whole folder in `model/`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from hf_soups.errors import InputError
from hf_soups.hub.contents import Contents, Stage, replaced
from hf_soups.hub.models import without_card
from hf_soups.report.card import README, check_card, run_snippet

PageFiles = Callable[[Path], Mapping[str, str]]  # a cascade's folder -> text by path, app.py and README.md among them
MODEL_FOLDER = "model"


def space_contents(folder: Path, stage: Stage, page: PageFiles, include: Sequence[str] = ()) -> Contents:
    """A cascade's Space as it would be pushed; a card is checked where there is one, and pushed with the cascade.

    Raises:
        InputError: as for a cascade, or from `page`.
    """
    if (folder / README).is_file():
        check_card(folder)
    cascade = without_card(folder, "cascade", stage, include)
    inside = [replace(file, path=f"{MODEL_FOLDER}/{file.path}") for file in cascade.files]
    own = Stage(stage.folder / "page")
    made = [own.text(path, text) for path, text in page(folder).items()]
    if not {"app.py", README} <= {file.path for file in made}:
        raise InputError(f"{folder}: the page that was made for its Space has no app.py or no {README}.")
    return Contents(
        "space", replaced(tuple(inside), made), cascade.left_out, cascade.notes,
        check=cache(lambda: run_snippet(folder)),
    )  # fmt: skip
