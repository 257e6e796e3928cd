"""What is pushed: files with their paths in the repo, those that hf_soups writes and those that the user names.

Whatever else is in the folder (logs, optimizer states, tables, keys) is listed and stays here.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Literal

from hf_soups.checkpoint import Checkpoint, names_of
from hf_soups.errors import InputError
from hf_soups.files.digests import git_blob_sha
from hf_soups.files.downloads import leads_out, places_of
from hf_soups.files.reading import visible
from hf_soups.finetune.run_record import PREDICTIONS, RUN_FILE
from hf_soups.pool.entries import is_cascade
from hf_soups.pool.store import POOL_FILE
from hf_soups.reporting.cards.card import README
from hf_soups.soups.soup_record import SOUP_FILE

Kind = Literal["soup", "cascade", "leaderboard", "pool", "space"]
RepoType = Literal["model", "dataset", "space"]
REPO_TYPES: dict[Kind, RepoType] = {
    "soup": "model", "cascade": "model", "leaderboard": "dataset", "pool": "dataset", "space": "space",
}  # fmt: skip
CALLED: dict[Kind, str] = {
    "soup": "soup", "cascade": "cascade", "leaderboard": "leaderboard", "pool": "pool of predictions", "space": "demo",
}  # fmt: skip


BOARD = "leaderboard.csv"
NAMED = 8  # names at most in a message
ELSEWHERE = {
    "plan.json": f"a sweep without {BOARD}. Make it (hf-soups leaderboard {{folder}}), or push one of the soups",
    RUN_FILE: "one fine-tune, which is an ordinary checkpoint: `hf upload` pushes it. Cook a soup of several",
    "frontier.json": "a frontier. Push the pool of predictions it was searched in, or a cascade built from it",
}
LICENCES = tuple(f"{name}{end}" for name in ("LICENSE", "LICENCE", "COPYING", "NOTICE") for end in ("", ".txt", ".md"))
CARD = (README, ".eval_results/*.yaml", *LICENCES)
NOT_ON_THE_HUB = (".git", ".cache")  # folders that its client refuses
# Names of keys, tokens and passwords, in lower case: sent only if the user writes the whole path.
SECRETS = (
    ".env", ".env.*", "*.env", ".netrc", "_netrc", ".npmrc", ".pypirc", ".pgpass", ".htpasswd", ".git-credentials",
    ".gitconfig", ".boto", ".s3cfg", ".ssh", ".aws", ".azure", ".gnupg", ".kube", ".docker", ".huggingface", "gcloud",
    "id_rsa*", "id_dsa*", "id_ecdsa*", "id_ed25519*", "*.pem", "*.key", "*.ppk", "*.p8", "*.p12", "*.pfx", "*.jks",
    "*.keystore", "*.kdbx", "*.gpg", "*.asc", "*private_key*", "*private-key*", "*secret*", "*password*", "*passwd*",
    "*credential*", "*apikey*", "*api_key*", "*api-key*", "service*account*.json", "kaggle.json", "token", "tokens",
    ".token*", "token.*", "*.token", "*_token", "*-token", "*_token.*", "*-token.*", "hf_token*", "stored_tokens",
    "*_history",
)  # fmt: skip
NAME_IT = "it looks like a key, a token or a password: --include sends it only by its whole path"
_PICTURE = re.compile(r"!\[[^\]]*\]\(\s*<?([^)\s>]+)|<img\s[^>]*?src=[\"']([^\"']+)", re.IGNORECASE)
_PICTURES = (".png", ".jpg", ".jpeg", ".gif", ".svg", ".webp")
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
        """A file as it is on the disk."""
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
    heading = f"Not sent: {len(left_out)} files, {total:,} bytes, that are not part of it. --include PATTERN adds some."
    rows = _by_folder(left_out)
    more = [f"  and {len(rows) - SHOWN} more"] if len(rows) > SHOWN else []
    return [*lines, heading, *rows[:SHOWN], *more]


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


def kind_of(folder: Path) -> Kind:
    """Whether a folder is a soup, a cascade, a pool of predictions, or has a leaderboard.

    Raises:
        InputError: if it is none of them.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. Name that of a soup, a cascade, a sweep with its leaderboard or a pool."
        )
    if (folder / SOUP_FILE).is_file():
        return "soup"
    if (folder / "config.json").is_file() and is_cascade(Checkpoint(folder)):
        return "cascade"
    if (folder / POOL_FILE).is_file():
        return "pool"
    if (folder / BOARD).is_file():
        return "leaderboard"
    raise InputError(f"{folder}: {_what_else(folder)}.")


def _what_else(folder: Path) -> str:
    for name, words in ELSEWHERE.items():
        if (folder / name).is_file():
            return words.format(folder=folder)
    inside = [path.parent.name for path in visible(folder, f"*/{SOUP_FILE}")]
    if inside:
        more = f" and {len(inside) - NAMED} more" if len(inside) > NAMED else ""
        return f"a folder of soups. Push one of them: {', '.join(inside[:NAMED])}{more}"
    return (
        f"neither a soup (there is no {SOUP_FILE}), nor a cascade (config.json with model_type cascade), nor a "
        f"leaderboard ({BOARD}), nor a pool of predictions ({POOL_FILE}). Push a folder that hf-soups cook, cascade "
        "build, leaderboard or predict wrote"
    )


def files_to_send(
    folder: Path, own: Iterable[str], include: Sequence[str] = (), *, whole: bool = False
) -> tuple[list[LocalFile], list[LeftOut]]:
    """The files of a folder that are sent, and those that are not.

    Args:
        folder: of what is pushed.
        own: paths in it, or patterns of them, of what belongs to it.
        include: patterns of further files, as in .gitignore: a name at any depth, a path, a folder for all in it.
        whole: everything in it is this thing's own affair, so links are looked for everywhere: a model's folder.
    Raises:
        InputError: if a file to send is none, or a link that leads out of the folder; if a pattern matches nothing.
    """
    include = names_of(include)  # the letters of one pattern could be "*"
    paths, likes = _files(folder, whole), [like.split("/") for like in own]
    sent = {path for path in paths if any(_segments(path.split("/"), like) for like in likes)}
    sent |= {path for pattern in include for path in _included(folder, pattern, paths, sent)}
    left_out = [_left_out(folder, path, include) for path in paths if path not in sent]
    return [inside_file(folder, path) for path in paths if path in sent], left_out


def pictures_of(folder: Path) -> list[str]:
    """Patterns of the pictures that the card in the folder shows."""
    try:
        text = (folder / README).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # there is none, or it is refused later
        return []
    named = (found[1] or found[2] for found in _PICTURE.finditer(text))
    paths = (name.removeprefix("./") for name in named)
    return [glob.escape(path) for path in paths if path.lower().endswith(_PICTURES)]


def inside_file(folder: Path, inside: str) -> LocalFile:
    """One file of a folder.

    Raises:
        InputError: if it is none, or a link that leads out of the folder, or has a name that no repo can hold.
    """
    path = folder / inside
    if not path.is_file():
        raise InputError(f"{shown(path)}: no file, or a link to one that is gone. Remove it.")
    if leads_out(path, places_of(folder)):
        _refuse_link(path)
    try:
        inside.encode()
    except UnicodeEncodeError:
        raise InputError(f"{shown(path)}: its name is no UTF-8, so no repo can hold it. Rename it.") from None
    return LocalFile.at(inside, path)


def _files(folder: Path, whole: bool) -> list[str]:
    """The paths in a folder of all that is no folder, links to folders among them."""
    found: list[Path] = []
    places = places_of(folder)
    for at, folders, names in os.walk(folder):
        links = [name for name in folders if (Path(at) / name).is_symlink()]
        found += [Path(at) / name for name in (*names, *links)]
        for path in (Path(at) / name for name in (*names, *links) if whole):
            if path.is_symlink() and leads_out(path, places):
                _refuse_link(path)
            if path.is_symlink() and path.is_dir():
                raise InputError(
                    f"{shown(path)}: a link to a folder, which a repo cannot hold. Put a copy there, or remove it."
                )
    return sorted(path.relative_to(folder).as_posix() for path in found)


def _refuse_link(path: Path) -> None:
    raise InputError(
        f"{shown(path)}: a link to {shown(os.path.realpath(path))}, outside the folder that is pushed. Put a copy "
        "there, or remove it."
    )


def _included(folder: Path, pattern: str, paths: Sequence[str], wanted: set[str]) -> list[str]:
    """What a pattern of the user's adds; keys and the like only if it is their whole path."""
    found = [path for path in paths if _matches(path, pattern)]
    if not found:
        raise InputError(
            f"--include {pattern!r}: nothing in {folder} matches. Patterns are as in .gitignore, relative to that "
            "folder: notes.txt, '*.csv', data/."
        )
    held_back = [path for path in found if path not in wanted and _held_back(path, pattern)]
    if len(held_back) == len(found):
        raise InputError(f"{shown(folder / held_back[0])}: {_held_back(held_back[0], pattern)}.")
    return [path for path in found if path not in held_back]


def _held_back(path: str, pattern: str) -> str:
    """Why a pattern does not send a path that it matches; empty if it does."""
    parts = path.split("/")
    if any(part in NOT_ON_THE_HUB for part in parts):
        return f"no repo of the Hub holds a file in {' or '.join(NOT_ON_THE_HUB)}"
    return NAME_IT if _is_secret(path) and pattern.removeprefix("./").removeprefix("/") != path else ""


def _is_secret(path: str) -> bool:
    return any(fnmatchcase(part.lower(), like) for part in path.split("/") for like in SECRETS)


def _left_out(folder: Path, path: str, include: Sequence[str]) -> LeftOut:
    why = next((why for pattern in include if _matches(path, pattern) and (why := _held_back(path, pattern))), "")
    if not why and path.split("/")[0] == PREDICTIONS:
        why = "predictions of rows, with their labels"
    return LeftOut(path, (folder / path).lstat().st_size, why)


def _matches(path: str, pattern: str) -> bool:
    parts, wanted = path.split("/"), pattern.removeprefix("./").strip("/").split("/")
    if len(wanted) == 1 and not pattern.startswith("/"):
        return any(fnmatchcase(part, wanted[0]) for part in parts)
    return any(_segments(parts[:end], wanted) for end in range(1, len(parts) + 1))


def _segments(parts: Sequence[str], wanted: Sequence[str]) -> bool:
    """Whether the parts of a path match those of a pattern, one by one; "**" stands for any number of them."""
    if not wanted:
        return not parts
    if wanted[0] == "**":
        return any(_segments(parts[start:], wanted[1:]) for start in range(len(parts) + 1))
    return bool(parts) and fnmatchcase(parts[0], wanted[0]) and _segments(parts[1:], wanted[1:])
