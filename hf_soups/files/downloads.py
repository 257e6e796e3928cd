"""Downloads from the Hub: the files of a commit, checked against the hashes that they are stored under."""

from __future__ import annotations

import logging
import os
import re
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from hf_soups.errors import CheckpointError, HubFailed
from hf_soups.files.digests import git_blob_sha, sha256_of
from hf_soups.files.hub_refusals import check_token, in_short, may_pass, pull_refused, root_of, transport_errors
from hf_soups.files.onnx import GRAPH, RECORD, WEIGHTS
from hf_soups.files.tensorfile import FileStamp, refuse_reading

_CACHED_REPO = re.compile(r"(model|dataset|space)s--.+")  # its folder in the Hub's cache


def places_of(folder: Path) -> tuple[Path, ...]:
    """Where the links of a folder may lead: into itself.

    Of a snapshot in the Hub's cache also into the rest of the repo's folder there, and into the blobs that repos share.
    """
    at = folder.resolve()
    for place in (at, *at.parents):
        if place.name == "snapshots" and _CACHED_REPO.fullmatch(place.parent.name):
            return (place.parent, place.parent.parent / "blobs")
    return (at,)


def leads_out(path: Path, places: tuple[Path, ...]) -> bool:
    """Whether a path, its links followed, lies in none of these places."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return True
    return not any(real.is_relative_to(place) for place in places)


def inside_of(folder: Path, name: str) -> Path:
    """The path of a name that a record of the folder gives.

    Raises:
        CheckpointError: if it leads out of the folder, by its name or by a link.
    """
    if leads_out(folder / name, places_of(folder)):
        _refuse(folder / name, folder)
    return folder / name


def refuse_links_out(folder: Path, *, inside: Path | None = None) -> None:
    """Refuse a folder that is a link, or holds one, that leads out of `inside` (default: the folder itself).

    Raises:
        CheckpointError: naming the first such link.
    """
    whole = folder if inside is None else inside
    places = places_of(whole)
    if leads_out(folder, places):
        _refuse(folder, whole)
    for at, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(at) / name
            if path.is_symlink() and leads_out(path, places):
                _refuse(path, whole)


def _refuse(path: Path, whole: Path) -> None:
    raise CheckpointError(
        f"{path}: leads to {os.path.realpath(path)}, outside {whole}. Nothing outside is read: put a copy there, or "
        "remove it."
    )


# The name of a blob: SHA-256 of what LFS stores, git's hash of anything else.
_SHA256, _GIT = re.compile(r"[0-9a-f]{64}"), re.compile(r"[0-9a-f]{40}")
# what was found right in this process; digests of files touched in the last seconds are not remembered elsewhere
_right: set[tuple[Path, FileStamp]] = set()


@dataclass(frozen=True, slots=True)
class Spoilt:
    """A file whose bytes are not those that the Hub announced."""

    path: Path  # in the snapshot
    blob: Path  # where its bytes lie
    expected: str  # hash
    got: str

    def __str__(self) -> str:
        """What is wrong, in words."""
        return f"{self.path.name} has the hash {self.got[:12]}..., where the Hub has {self.expected[:12]}..."


def spoilt(paths: Iterable[Path]) -> list[Spoilt]:
    """Those files of a snapshot whose bytes have another hash than their name in the cache says.

    A file that is no link into the cache's blobs (on systems without links) tells no hash and is passed over. Digests
    of weights are remembered, so gigabytes are hashed once.

    Raises:
        CheckpointError: if a file cannot be read.
    """
    return [found for path in paths if (found := _looked_at(path)) is not None]


def _looked_at(path: Path) -> Spoilt | None:
    expected = _announced(path)
    if expected is None:
        return None
    try:
        stamp = FileStamp.of(path.stat())
        if (path, stamp) in _right:
            return None
        got = sha256_of({path: stamp}) if _SHA256.fullmatch(expected) else git_blob_sha(path)
    except OSError as error:
        refuse_reading(path, error)
    if got == expected:
        _right.add((path, stamp))
        return None
    return Spoilt(path, path.resolve(), expected, got)


def _announced(path: Path) -> str | None:
    if not path.is_symlink():
        return None
    blob = path.readlink()
    known = blob.parent.name == "blobs" and (_SHA256.fullmatch(blob.name) or _GIT.fullmatch(blob.name))
    return blob.name if known else None


def refuse_spoilt(where: str, found: list[Spoilt]) -> None:
    """Say which files are not to be trusted, and what to do.

    Raises:
        CheckpointError: if there is any.
    """
    if not found:
        return
    said = "; ".join(map(str, found))
    blobs = " and ".join(str(one.blob) for one in found)
    raise CheckpointError(
        f"{where}: the copy in the Hub's cache is not what the Hub has: {said}. A download or the disk went wrong. "
        f"Delete {blobs}, and try again with a connection."
    )


WANTED = (
    "model.safetensors", "model-*.safetensors", "adapter_model.safetensors", "*.json", "*.txt", "*.model", "*.spm",
    "*.codes", "*.tokenizer", "*.jinja",
)  # fmt: skip
WAITS = (1.0, 4.0)  # seconds before another try; the client itself retries within each
_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9_])?"
_REPO = re.compile(rf"{_PART}(?:/{_PART})?")
_log = logging.getLogger(__name__)


def is_repo_id(text: str) -> bool:
    """Whether `text` can be a repo's id, "name" or "owner/name".

    >>> is_repo_id("org/model-b"), is_repo_id("runs/mrpc/run_00")
    (True, False)
    """
    return bool(_REPO.fullmatch(text)) and "--" not in text and ".." not in text


def download(repo: str, revision: str | None, subfolder: str | None, *, also: tuple[str, ...] = (), **hub: Any) -> Path:
    """The snapshot's folder on this machine; `hub` is passed on (token, cache_dir, local_files_only, ...).

    `also` are patterns of files that are wanted besides what every checkpoint has.

    A try that meets a busy Hub or a broken connection is made again, up to twice; what arrived is kept. Every file's
    bytes are compared with the hash that the Hub announced, and got again where they differ.

    Raises:
        CheckpointError: if there is no such repo or revision, no access to it, no way to reach it, or if what arrived
            is not what the Hub has.
        InputError: if the token is none.
    """
    from huggingface_hub import constants

    check_token(hub.get("token"))
    where = f"{repo}{'' if revision is None else '@' + revision}"
    prefix = f"{subfolder}/" if subfolder else ""
    wanted = [prefix + pattern for pattern in (*WANTED, *also)]
    folder = _patiently(where, repo, revision, wanted, prefix, hub)
    bad = spoilt(_files(folder / prefix, (*WANTED, *also)))
    if bad and not (constants.HF_HUB_OFFLINE or hub.get("local_files_only")):
        _log.warning("%s: %s; getting it again", where, "; ".join(map(str, bad)))
        again = [prefix + one.path.name for one in bad]
        with suppress(HubFailed):
            _patiently(where, repo, folder.name, again, prefix, {**hub, "force_download": True})
        bad = spoilt(one.path for one in bad)
    refuse_spoilt(where, bad)
    if (folder / prefix / RECORD).is_file() and not also:  # not of the ONNX copies that many repos have beside
        return download(repo, folder.name, subfolder, also=(GRAPH, WEIGHTS), **hub)
    return folder


def _patiently(
    where: str, repo: str, revision: str | None, wanted: list[str], prefix: str, hub: Mapping[str, Any]
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    failures: tuple[type[Exception], ...] = (OSError, HFValidationError, *transport_errors())
    waits = iter(WAITS)
    while True:
        try:
            return Path(
                snapshot_download(
                    repo,
                    revision=revision,
                    allow_patterns=wanted,
                    ignore_patterns=[prefix + "*/*"],  # other models in subfolders
                    **hub,
                )
            )
        except failures as error:
            wait = next(waits, None) if may_pass(error) else None
            if wait is None:
                local_only = bool(hub.get("local_files_only"))
                raise pull_refused(where, error, token=hub.get("token"), local_only=local_only) from error
            _log.warning("%s: %s; trying again in %g s", where, in_short(root_of(error)), wait)
        time.sleep(wait)


def _files(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else ()
    return [path for path in sorted(found) if path.is_file() and any(fnmatch(path.name, like) for like in patterns)]
