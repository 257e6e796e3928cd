"""A soup or a cascade as a model repo: its whole folder, with weights that are read and a card that is true."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import CONFIGS, PROCESSORS, Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.reading import read_json
from hf_soups.hub.cards import carded
from hf_soups.hub.choosing import CARD, LICENCES, chosen, pictures_of
from hf_soups.hub.contents import Contents, Kind, Stage, replaced
from hf_soups.hub.local_paths import cleaned, told_of
from hf_soups.prompts import WORDS_KEY
from hf_soups.recipe_kept import RECIPE_FILE
from hf_soups.report.board_kept import BOARD_FILE
from hf_soups.report.card import README, run_snippet
from hf_soups.report.cards.board import BOARD_PICTURE
from hf_soups.report.cards.evidence import EVIDENCE_FILE, PICTURES
from hf_soups.report.cards.facts import PIPELINES
from hf_soups.report.cards.soups import PICTURE
from hf_soups.soups.record import SOUP_FILE
from hf_soups.weights.files import INDEX, SINGLE

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
        place = "from hf_soups.families.word_classifier import WordClassifier"
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
