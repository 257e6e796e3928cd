"""The card that a model is pushed with: there is one, it says what the files say, and its code loads the repo."""

from __future__ import annotations

import json
import re
from pathlib import Path

from hf_soups.hub.contents import LocalFile, Stage
from hf_soups.report.card import README, card_files, check_card, draw_pictures, marked, unmarked, write_card

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
