"""Which files of a folder are sent: those that hf_soups writes there and a model needs, and what the user names.

Whatever else lies beside them (logs, optimizer states, tables, keys) is listed and stays here.
"""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from hf_soups.errors import InputError
from hf_soups.hub.contents import LeftOut, LocalFile, shown
from hf_soups.report.card import README
from hf_soups.run_folder import PREDICTIONS
from hf_soups.weights.links import leads_out, places_of

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


def chosen(
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
