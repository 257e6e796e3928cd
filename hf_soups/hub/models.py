"""A soup or a cascade as a model repo or a Space: its folder with weights that can be read and a checked card."""

from __future__ import annotations

import glob
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from hf_soups.cascades.evidence import EVIDENCE_FILE, PICTURES
from hf_soups.cascades.running.beside import is_our_code
from hf_soups.cascades.running.stored import CODE_FILE, HANDLER_FILE, PROCESSOR_FILE, TOKENIZER_FILE
from hf_soups.checkpoint import CONFIGS, PROCESSORS, Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.onnx import GRAPH, MANIFEST, RECORD
from hf_soups.files.reading import read_json
from hf_soups.files.weights import INDEX, SINGLE
from hf_soups.hub.contents import CARD, LICENCES, Contents, Kind, LocalFile, Stage, files_to_send, pictures_of, replaced
from hf_soups.hub.local_paths import cleaned, note_of
from hf_soups.leaderboard.table import BOARD_FILE
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.reporting.cards.card import README, FolderCard, check_card, run_snippet
from hf_soups.reporting.cards.card_facts import CardFacts
from hf_soups.reporting.cards.markdown import MarkedText
from hf_soups.reporting.cards.soups import BOARD_PICTURE
from hf_soups.soups.sentence_modules import surrounding_files
from hf_soups.soups.soup_record import SOUP_FILE, STEPS_PICTURE

# a cascade's folder -> by path texts, and files to copy; app.py and README.md among them
PageFiles = Callable[[Path], Mapping[str, str | Path]]
MODEL_FOLDER = "model"  # of a Space, with the cascade
# What hf_soups writes into the folder of a soup or cascade beside the models, and what belongs to each model.
SOUP = (RECIPE_FILE, "steps.csv", STEPS_PICTURE, BOARD_FILE, BOARD_PICTURE, *CARD)
CASCADE = (
    "config.json", PROCESSOR_FILE, TOKENIZER_FILE, HANDLER_FILE, "requirements.txt", EVIDENCE_FILE, *PICTURES, *CARD,
)  # fmt: skip
MODEL = (*CONFIGS, *PROCESSORS, "additional_chat_templates/*.jinja", SOUP_FILE, README, *LICENCES)


def model_contents(
    folder: Path, kind: Kind, repo_id: str, stage: Stage, include: Sequence[str] = (), *, write: bool = False
) -> Contents:
    """A soup or cascade as it would be pushed; the headers of its weights are read, so that no torn file is.

    Args:
        folder: of it.
        kind: "soup" or "cascade".
        repo_id: that its card names.
        stage: for files that are made for this push.
        include: patterns of further files.
        write: write a card into the folder where there is none.
    Raises:
        InputError: if it holds a link that leads out of it, lacks a member, or has a card that its files contradict.
        CheckpointError: if its config or weights are missing or corrupt.
    """
    card, notes = None, []
    if write and not (folder / README).is_file():
        card = FolderCard.of(folder, name=repo_id)
        notes = [f"{card.write()}, the model card, was written for this push. Edit it and push again."]
    bare = without_card(folder, kind, stage, include)
    card = card or FolderCard.of(folder, name=repo_id)
    files, more = _card_files(card, stage)
    return Contents(
        kind, replaced(bare.files, files), bare.left_out, (*notes, *more, *bare.notes), _usage(card.facts, repo_id),
        check=cache(lambda: run_snippet(card)),
    )  # fmt: skip


def _card_files(card: FolderCard, stage: Stage) -> tuple[list[LocalFile], list[str]]:
    """Files to push in place of the folder's own card, and what to tell of it; nothing is written in the folder.

    A card that was not changed by hand between its marks is made again with the repo's name; one that was is pushed as
    it is. Its figures must be those of the files in any case.

    Raises:
        InputError: if a figure of the folder's card is not that of its files.
    """
    if not (card.folder / README).is_file():
        made = [stage.text(path, text) for path, text in card.files().items()]
        made += [LocalFile.at(path.name, path) for path in card.draw_pictures(stage.folder)]
        return made, ["there is no README.md, the model card: a push writes it into the folder first."]
    card.check()
    text = (card.folder / README).read_text(encoding="utf-8")
    before = MarkedText.of(text)
    if before is not None and before.untouched:
        return [stage.text(README, card.files(before)[README])], []
    if json.dumps(card.title) in text:
        return [], []
    return [], [f'README.md was changed by hand and its code does not load "{card.title}": check it.']


def without_card(folder: Path, kind: Kind, stage: Stage, include: Sequence[str] = ()) -> Contents:
    """The folder as it would be pushed, whatever README.md it has or lacks."""
    files_to_send(folder, (), whole=True)  # links first: nothing outside is read
    parts = _member_folders(folder) if kind == "cascade" else ["."]
    code = _code_of(folder, include) if kind == "cascade" else ()
    own = [*(CASCADE if kind == "cascade" else SOUP), *code, *pictures_of(folder)]
    own += [f"{part}/{name}".removeprefix("./") for part in parts for name in _model_files(folder, part)]
    files, left_out = files_to_send(folder, own, include, whole=True)
    clean = cleaned(files, stage)
    notes = (*note_of(clean), *(f"{name} is code, which trust_remote_code=True runs for others." for name in code))
    return Contents(kind, replaced(tuple(files), clean), tuple(left_out), notes)


def _code_of(folder: Path, include: Sequence[str]) -> tuple[str, ...]:
    """The code that a cascade's config names; it and the handler for endpoints are as hf_soups wrote them.

    Raises:
        InputError: if it is gone, or one of them is somebody else's and not named by the user.
    """
    named = (CODE_FILE,) if read_json(folder / "config.json").get("auto_map") else ()
    if named and not (folder / CODE_FILE).is_file():
        raise InputError(f"{folder}: config.json names {CODE_FILE}, which is not there. Build it again, with code.")
    for name in (*named, HANDLER_FILE):
        if name not in include and (folder / name).is_file() and not is_our_code(folder / name):
            raise InputError(
                f"{folder / name}: not the code that this version of hf_soups writes, and others would run it. Build "
                f"the cascade again{' with code' if named else ''}, or, if it is your own, send it by --include {name}."
            )
    return named


def _model_files(folder: Path, part: str) -> list[str]:
    """What belongs to a model; every header of its weights is read: a torn file is refused before anything is sent.

    Raises:
        InputError: if a member that the config names is not there.
        CheckpointError: if weights are missing or corrupt.
    """
    if not (folder / part / "config.json").is_file():
        raise InputError(f"{folder}: config.json names the member {part!r}, which is not there. Build it again.")
    weights = [file.name for file in Checkpoint(folder, subfolder=part).weight_files]
    around = surrounding_files(folder / part)
    weights += [RECORD, MANIFEST] if GRAPH in weights else [] if weights == [SINGLE] else [INDEX]
    return [*MODEL, *weights, *map(glob.escape, around)]


def _usage(facts: CardFacts, repo_id: str) -> str:
    """A line of Python that loads the model; `{revision}` stands where a branch would be named."""
    if facts.words:
        place = "from hf_soups import WordClassifier"
        return f'{place}; WordClassifier.load("{repo_id}"{{revision}})'
    start, kind = ("import hf_soups; ", "cascade-") if facts.cascade else ("", "")
    return f'{start}transformers.pipeline("{kind}{facts.pipeline_tag}", model="{repo_id}"{{revision}})'


def _member_folders(folder: Path) -> list[str]:
    members = read_json(folder / "config.json").get("members") or []
    inside = [m for m in members if isinstance(m, dict) and m.get("subfolder") and not m.get("repo")]
    return list(dict.fromkeys(str(m["subfolder"]) for m in inside))


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
    made = [
        own.text(path, found) if isinstance(found, str) else LocalFile.at(path, found)
        for path, found in page(folder).items()
    ]
    if not {"app.py", README} <= {file.path for file in made}:
        raise InputError(f"{folder}: the page that was made for its Space has no app.py or no {README}.")
    return Contents(
        "space", replaced(tuple(inside), made), cascade.left_out, cascade.notes,
        check=cache(lambda: run_snippet(folder)),
    )  # fmt: skip
