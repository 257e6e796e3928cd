"""A soup or a cascade as a model repo: its whole folder, with weights that are read and a card that is true."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.reading import read_json
from hf_soups.hub.cards import carded
from hf_soups.hub.contents import Contents, Kind, LocalFile, Stage, replaced
from hf_soups.hub.local_paths import cleaned, told_of
from hf_soups.hub.walking import kept_files
from hf_soups.prompts import WORDS_KEY
from hf_soups.report.card import run_snippet
from hf_soups.report.cards.facts import PIPELINES


def model_contents(folder: Path, kind: Kind, repo_id: str, stage: Stage) -> Contents:
    """A soup or cascade as it would be pushed; the headers of its weights are read, so that no torn file is.

    Raises:
        InputError: if it holds a link that leads out of it, lacks a member, or has a card that is not true.
        CheckpointError: if its config or weights are missing or corrupt.
    """
    bare = without_card(folder, kind, stage)
    card, told = carded(folder, repo_id, stage)
    return Contents(
        kind, replaced(bare.files, card), bare.left_out, (*told, *bare.notes), usage(folder, kind, repo_id),
        check=cache(lambda: run_snippet(folder, name=repo_id)),
    )  # fmt: skip


def without_card(folder: Path, kind: Kind, stage: Stage) -> Contents:
    """The folder as it would be pushed, whatever README.md it has or lacks."""
    files, left_out = kept_files(folder)
    check_weights(folder, kind, files)
    clean = cleaned(files, stage)
    return Contents(kind, replaced(tuple(files), clean), tuple(left_out), told_of(clean))


def check_weights(folder: Path, kind: Kind, files: list[LocalFile]) -> None:
    """Read every header: a file shorter than its header says is refused before anything is sent.

    Raises:
        InputError: if a member that the config names is not there.
        CheckpointError: if weights are missing or corrupt.
    """
    parts = {Path(f.path).parent for f in files if f.path.endswith((".safetensors", "config.json"))}
    if kind == "cascade":
        parts -= {Path()}  # its config has no weights of its own
        absent = sorted(set(_member_folders(folder)) - {part.as_posix() for part in parts})
        if absent:
            raise InputError(
                f"{folder}: config.json names the member {absent[0]!r}, which is not there. Build it again."
            )
    for part in sorted(parts):
        _ = Checkpoint(folder / part).tensors


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
    return [m["subfolder"] for m in members if isinstance(m, dict) and m.get("subfolder") and not m.get("repo")]


def _config(folder: Path) -> dict[str, Any]:
    return read_json(folder / "config.json")
