"""Files in the Hub's cache against the hashes they are stored under: the client checks their length alone."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from hf_soups.errors import CheckpointError
from hf_soups.weights.digests import git_blob_sha, sha256_of
from hf_soups.weights.tensorfile import FileStamp, refuse_reading

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
