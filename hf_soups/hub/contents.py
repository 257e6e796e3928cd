"""What is pushed: files with their places in the repo, and what the user should be told of them."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
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


FEW = 4  # files of a folder that stay here and are listed one by one
SHOWN = 40  # lines at most of what stays here


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
class LeftOut:
    """A file of the folder that is not pushed."""

    path: str
    size: int  # bytes
    why: str = ""  # where there is more to say than that hf_soups did not write it


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
    left_out: tuple[LeftOut, ...] = ()
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


def listing(files: Sequence[LocalFile], left_out: Sequence[LeftOut]) -> list[str]:
    """What is sent and what stays here, line by line with sizes: of a dry run and before a push alike."""
    lines = [_line(file.size, file.path) for file in files]
    if not left_out:
        return lines
    total = sum(one.size for one in left_out)
    told = f"Not sent: {len(left_out)} files, {total:,} bytes, that are not part of it. --include PATTERN adds some."
    rows = _by_folder(left_out)
    more = [f"  and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    return [*lines, told, *rows[:SHOWN], *more]


def shown(path: str | Path) -> str:
    """A path as it is printed: what no terminal should get, such as line breaks and bytes that are no UTF-8, escaped.

    >>> shown("notes.txt"), shown("a\\nb")
    ('notes.txt', 'a\\\\nb')
    """
    return str(path) if str(path).isprintable() else ascii(str(path))[1:-1]


def _by_folder(left_out: Sequence[LeftOut]) -> list[str]:
    """A line a file; one for a folder of which many stay here."""
    counts = Counter(one.path.split("/")[0] for one in left_out if "/" in one.path)
    lines: dict[str, str] = {}
    for one in left_out:
        top = one.path.split("/")[0]
        if counts[top] <= FEW:
            lines[one.path] = _line(one.size, one.path) + (f" ({one.why})" if one.why else "")
        elif top not in lines:
            size = sum(other.size for other in left_out if other.path.startswith(f"{top}/"))
            lines[top] = _line(size, f"{top}/ ({counts[top]} files{f': {one.why}' if one.why else ''})")
    return list(lines.values())


def _line(size: int, path: str) -> str:
    return f"  {size:>13,} bytes  {shown(path)}"
