"""What is pushed: files with their places in the repo, and what the user should be told of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from hf_soups.weights.digests import git_blob_sha

Kind = Literal["soup", "cascade", "leaderboard", "pool", "space"]
RepoType = Literal["model", "dataset", "space"]
REPO_TYPES: dict[Kind, RepoType] = {
    "soup": "model", "cascade": "model", "leaderboard": "dataset", "pool": "dataset", "space": "space",
}  # fmt: skip
CALLED: dict[Kind, str] = {
    "soup": "soup", "cascade": "cascade", "leaderboard": "leaderboard", "pool": "pool of predictions", "space": "demo",
}  # fmt: skip


@dataclass(frozen=True)
class LocalFile:
    """A file that is pushed."""

    path: str  # in the repo, with "/"
    size: int  # bytes
    source: Path

    @classmethod
    def at(cls, path: str, source: Path) -> LocalFile:
        """A file as it lies on the disk."""
        return cls(path, source.stat().st_size, source)

    @cached_property
    def sha256(self) -> str:
        """Of its bytes: how the Hub names large files."""
        with self.source.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    @cached_property
    def git_sha(self) -> str:
        """Git's name of its content as a blob: how the Hub names small files."""
        return git_blob_sha(self.source)


@dataclass(frozen=True, slots=True)
class Stage:
    """A temporary folder for files that are made for one push: the user's own folder stays as it is."""

    folder: Path

    def place(self, path: str) -> Path:
        """Where a file of that path is to be written."""
        at = self.folder / path
        at.parent.mkdir(parents=True, exist_ok=True)
        return at

    def text(self, path: str, text: str) -> LocalFile:
        """A file of text."""
        at = self.place(path)
        at.write_text(text, encoding="utf-8", newline="\n")
        return LocalFile.at(path, at)


@dataclass(frozen=True, slots=True)
class Contents:
    """A folder as it would be pushed."""

    kind: Kind
    files: tuple[LocalFile, ...]  # in order of path
    left_out: tuple[tuple[str, str], ...] = ()  # path and why
    notes: tuple[str, ...] = ()  # what the user should know of this push
    usage: str = ""  # how to load it, once it is there
    check: Callable[[], object] | None = None  # run before anything is sent; raises what speaks against it

    @property
    def repo_type(self) -> RepoType:
        """The Hub's word for where such a thing goes."""
        return REPO_TYPES[self.kind]

    @property
    def card(self) -> str:
        """The text of README.md; empty where there is none."""
        found = next((file for file in self.files if file.path == "README.md"), None)
        return "" if found is None else found.source.read_text(encoding="utf-8")


def replaced(files: tuple[LocalFile, ...], made: list[LocalFile]) -> tuple[LocalFile, ...]:
    """The files with those of `made` added, or put in the place of the same path."""
    by_path = {file.path: file for file in (*files, *made)}
    return tuple(by_path[path] for path in sorted(by_path))
