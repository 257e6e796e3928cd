"""A soup or a cascade as a model repo or a Space: its whole folder, weights that are read, a card that is true."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from hf_soups.cascades.evidence import EVIDENCE_FILE, PICTURES
from hf_soups.checkpoint import CONFIGS, PROCESSORS, Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.reading import read_json
from hf_soups.files.weights import INDEX, SINGLE
from hf_soups.hub.contents import CARD, LICENCES, Contents, Kind, LocalFile, Stage, chosen, pictures_of, replaced
from hf_soups.hub.local_paths import cleaned, told_of
from hf_soups.leaderboard.table import BOARD_FILE
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.recipe.prompts import WORDS_KEY
from hf_soups.report.cards.board import BOARD_PICTURE
from hf_soups.report.cards.card import (
    README,
    card_files,
    check_card,
    draw_pictures,
    marked,
    run_snippet,
    unmarked,
    write_card,
)
from hf_soups.report.cards.card_facts import PIPELINES
from hf_soups.report.cards.soups import PICTURE
from hf_soups.soups.soup_record import SOUP_FILE

_TITLE = re.compile(r"^# (.+)$", re.MULTILINE)


def ensured(folder: Path, repo_id: str) -> list[str]:
    """Write a card where there is none; what to tell of it.

    Raises:
        InputError: if the folder's records cannot be read.
        HfSoupsError: if it cannot be written.
    """
    if (folder / README).is_file():
        return []
    write_card(folder, name=repo_id)
    return [f"{folder / README}, the model card, was written for this push. Edit it and push again."]


def carded(folder: Path, repo_id: str, stage: Stage) -> tuple[list[LocalFile], list[str]]:
    """Files of the card to push in place of the folder's own, and what to tell of it; nothing is written there.

    One that was not changed by hand gets the repo's name in place of its own; one that was is pushed as it is. Its
    figures must be those of the files in any case.

    Raises:
        InputError: if a figure of the folder's card is not that of its files.
    """
    if not (folder / README).is_file():
        made = [stage.text(path, text) for path, text in card_files(folder, name=repo_id).items()]
        made += [LocalFile.at(path.name, path) for path in draw_pictures(folder, stage.folder)]
        return made, ["there is no README.md, the model card: a push writes it into the folder first."]
    check_card(folder)
    text = (folder / README).read_text(encoding="utf-8")
    own = unmarked(text)
    if own is not None:
        return [stage.text(README, marked(renamed(own, repo_id)))], []
    if json.dumps(repo_id) in text:
        return [], []
    return [], [f'README.md was changed by hand and its code does not load "{repo_id}": look at it before others do.']


def renamed(card: str, name: str) -> str:
    """A card with another name: in its title, its metadata and its code.

    >>> renamed("# old\\n\\nclassify = pipeline(model=\\"old\\")\\n", "me/new")
    '# me/new\\n\\nclassify = pipeline(model="me/new")\\n'
    """
    head, dashes, body = card.partition("\n---\n") if card.startswith("---\n") else ("", "", card)
    found = _TITLE.search(body)
    if found is None or found[1] == name:
        return card
    old = found[1]
    body = body.replace(found[0], f"# {name}", 1)
    body = body.replace(f"model={json.dumps(old)}", f"model={json.dumps(name)}")
    named = rf"^(- name: |model_name: )['\"]?{re.escape(old)}['\"]?$"
    head = re.sub(named, rf"\g<1>{name}", head, count=1, flags=re.MULTILINE)
    return head + dashes + body


# What hf_soups writes into the folder of a soup or cascade beside the models, and what belongs to each model.
SOUP = (RECIPE_FILE, "steps.csv", PICTURE, BOARD_FILE, BOARD_PICTURE, *CARD)
CASCADE = ("config.json", "handler.py", "requirements.txt", EVIDENCE_FILE, *PICTURES, *CARD)
MODEL = (*CONFIGS, *PROCESSORS, "additional_chat_templates/*.jinja", SOUP_FILE, README, *LICENCES)


def model_contents(folder: Path, kind: Kind, repo_id: str, stage: Stage, include: Sequence[str] = ()) -> Contents:
    """A soup or cascade as it would be pushed; the headers of its weights are read, so that no torn file is.

    Raises:
        InputError: if it holds a link that leads out of it, lacks a member, or has a card that is not true.
        CheckpointError: if its config or weights are missing or corrupt.
    """
    bare = without_card(folder, kind, stage, include)
    card, told = carded(folder, repo_id, stage)
    return Contents(
        kind, replaced(bare.files, card), bare.left_out, (*told, *bare.notes), usage(folder, kind, repo_id),
        check=cache(lambda: run_snippet(folder, name=repo_id)),
    )  # fmt: skip


def without_card(folder: Path, kind: Kind, stage: Stage, include: Sequence[str] = ()) -> Contents:
    """The folder as it would be pushed, whatever README.md it has or lacks."""
    chosen(folder, (), whole=True)  # links first: nothing outside is read
    parts = _member_folders(folder) if kind == "cascade" else ["."]
    own = [*(CASCADE if kind == "cascade" else SOUP), *pictures_of(folder)]
    own += [f"{part}/{name}".removeprefix("./") for part in parts for name in _model_files(folder, part)]
    files, left_out = chosen(folder, own, include, whole=True)
    clean = cleaned(files, stage)
    return Contents(kind, replaced(tuple(files), clean), tuple(left_out), told_of(clean))


def _model_files(folder: Path, part: str) -> list[str]:
    """What belongs to a model; every header of its weights is read: a torn file is refused before anything is sent.

    Raises:
        InputError: if a member that the config names is not there.
        CheckpointError: if weights are missing or corrupt.
    """
    if not (folder / part / "config.json").is_file():
        raise InputError(f"{folder}: config.json names the member {part!r}, which is not there. Build it again.")
    weights = [file.name for file in Checkpoint(folder, subfolder=part).weight_files]
    return [*MODEL, *weights, *([] if weights == [SINGLE] else [INDEX])]


def usage(folder: Path, kind: Kind, repo_id: str) -> str:
    """A line of Python that loads the model; `{revision}` stands where a branch would be named."""
    config = _config(folder)
    if kind == "cascade":
        task = f"cascade-{'image' if config.get('kind') == 'image' else 'text'}-classification"
        return f'import hf_soups; transformers.pipeline("{task}", model="{repo_id}"{{revision}})'
    if WORDS_KEY in config:
        place = "from hf_soups import WordClassifier"
        return f'{place}; WordClassifier.load("{repo_id}"{{revision}})'
    name = str(next(iter(config.get("architectures") or ()), ""))
    task = next((task for ending, task in PIPELINES.items() if name.endswith(ending)), "")
    if task:
        return f'transformers.pipeline("{task}", model="{repo_id}"{{revision}})'
    return f'transformers.AutoModel.from_pretrained("{repo_id}"{{revision}})'


def _member_folders(folder: Path) -> list[str]:
    members = _config(folder).get("members") or []
    inside = [m for m in members if isinstance(m, dict) and m.get("subfolder") and not m.get("repo")]
    return list(dict.fromkeys(str(m["subfolder"]) for m in inside))


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json")


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
