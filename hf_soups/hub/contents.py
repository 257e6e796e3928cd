"""What of a soup's or cascade's folder goes to the Hub: the model and its evidence, never the leavings of a run."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import Literal

from hf_soups.batch.models import is_cascade
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.run_folder import PREDICTIONS
from hf_soups.soups.folder import SOUP_FILE

Kind = Literal["soup", "cascade"]
LEFT_OUT = {
    "a log": ("*.log", "*.out", "events.out.tfevents.*"),
    "a lock": ("*.lock", ".lock"),
    "a partial file": ("*.part", "*.partial", "*.tmp", "*.incomplete", "*~"),
    # whoever opens one runs what it says; weights are there as safetensors
    "a pickle": ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.joblib"),
    "Python's cache": ("*.pyc",),
}
# The rows' labels need not be public; scores stand in soup.json.
FOLDERS_LEFT_OUT = {PREDICTIONS: "predictions of rows", "__pycache__": "Python's cache", "logs": "logs"}
SHOWN_HIDDEN = (".eval_results",)
ELSEWHERE = {
    "plan.json": "a sweep; push one of its soups, or a cascade built from it",
    "leaderboard.csv": "a leaderboard; push the soup or cascade that you chose from it",
    "pool.json": "a pool of predictions; push a cascade built from it (hf-soups cascade build)",
}


@dataclass(frozen=True)
class LocalFile:
    """A file that is pushed."""

    path: str  # in the repo, with "/"
    size: int  # bytes
    source: Path

    @cached_property
    def sha256(self) -> str:
        """Of its bytes: how the Hub names large files."""
        with self.source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def git_sha(self) -> str:
        """Git's name of its content as a blob: how the Hub names small files."""
        found = hashlib.sha1(b"blob %d\0" % self.size, usedforsecurity=False)
        with self.source.open("rb") as file:
            while chunk := file.read(1 << 20):
                found.update(chunk)
        return found.hexdigest()


@dataclass(frozen=True, slots=True)
class Contents:
    """A folder as it would be pushed."""

    kind: Kind
    files: tuple[LocalFile, ...]  # in order of path
    left_out: tuple[tuple[str, str], ...]  # path and why


def contents(folder: str | Path) -> Contents:
    """Look at a soup's or cascade's folder; the headers of its weights are read, so that no torn file is pushed.

    Raises:
        InputError: if it is neither, or holds a link that leads out of it.
        CheckpointError: if its config or weights are missing or corrupt.
    """
    at = Path(folder).expanduser()
    kind = kind_of(at)
    files: list[LocalFile] = []
    left_out: list[tuple[str, str]] = []
    for path in _walk(at):
        inside = path.relative_to(at).as_posix()
        if why := _why_left_out(inside):
            left_out.append((inside, why))
        else:
            _refuse_outside(path, at)
            files.append(LocalFile(inside, path.stat().st_size, path))
    _check_weights(at, kind, files)
    return Contents(kind, tuple(files), tuple(left_out))


def kind_of(folder: Path) -> Kind:
    """Whether a folder is a soup or a cascade.

    Raises:
        InputError: if it is neither.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. Name the folder of a soup or a cascade.")
    if (folder / SOUP_FILE).is_file():
        return "soup"
    if (folder / "config.json").is_file() and is_cascade(Checkpoint(folder)):
        return "cascade"
    for name, words in ELSEWHERE.items():
        if (folder / name).is_file():
            raise InputError(f"{folder}: {words}.")
    raise InputError(
        f"{folder}: neither a soup (there is no {SOUP_FILE}) nor a cascade (config.json with model_type cascade). Push "
        "a folder that hf-soups cook or hf-soups cascade build wrote."
    )


def _walk(folder: Path) -> list[Path]:
    found: list[Path] = []
    for at, folders, names in os.walk(folder):
        for name in folders:
            _refuse_link(Path(at) / name)
        found += [Path(at) / name for name in names]
    return sorted(found)


def _why_left_out(inside: str) -> str | None:
    *folders, name = inside.split("/")
    for folder in folders:
        if folder in FOLDERS_LEFT_OUT:
            return FOLDERS_LEFT_OUT[folder]
        if folder.startswith(".") and folder not in SHOWN_HIDDEN:
            return "hidden"
    for why, patterns in LEFT_OUT.items():
        if any(fnmatch(name.lower(), pattern) for pattern in patterns):
            return why
    return "hidden" if name.startswith(".") else None


def _refuse_outside(path: Path, folder: Path) -> None:
    if not path.is_file():
        raise InputError(f"{path}: no file, or a link to one that is gone. Remove it.")
    if path.is_symlink() and not path.resolve().is_relative_to(folder.resolve()):
        raise InputError(
            f"{path}: a link to {path.resolve()}, outside the folder that is pushed. Put a copy there, or remove it."
        )


def _refuse_link(folder: Path) -> None:
    if folder.is_symlink():
        raise InputError(f"{folder}: a link to a folder, which a repo cannot hold. Put a copy there, or remove it.")


def _check_weights(folder: Path, kind: Kind, files: list[LocalFile]) -> None:
    """Read every header: a file shorter than its header says is refused before anything is sent."""
    parts = {Path(f.path).parent for f in files if f.path.endswith((".safetensors", "config.json"))}
    if kind == "cascade":
        parts -= {Path()}  # its config has no weights of its own
    for part in sorted(parts):
        _ = Checkpoint(folder / part).tensors
