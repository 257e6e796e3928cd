"""SHA-256 of weight files, remembered by what the file system says of them, so that gigabytes are hashed once.

A file counts as unchanged while its path, size, inode and both times (of its content and of its inode) are the same;
the latter cannot be set back by hand. Files touched in the last two seconds are not remembered: a later change could
fall into the same tick of the clock.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import Lock
from typing import Any

from hf_soups.errors import CheckpointError, HfSoupsError, InputError
from hf_soups.files.reading import read_json
from hf_soups.files.tensorfile import FileStamp
from hf_soups.files.weights import opened
from hf_soups.files.writing import write_text

BLOCK = 1 << 20
SETTLED = 2.0  # seconds since the last change
MOST = 4096  # digests kept; the oldest go first
_writing = Lock()


def sha256_of(files: Mapping[Path, FileStamp]) -> str:
    """SHA-256 over the bytes of these files, one after the other.

    Raises:
        CheckpointError: if one is gone, cannot be read, or is not the file any more that has this stamp.
    """
    key = _key(files)
    known = None if key is None else _read().get(key)
    if known is not None:
        return known
    digest, block = hashlib.sha256(), bytearray(BLOCK)
    for path, stamp in files.items():
        with opened(path, stamp) as file:
            offset = 0
            while got := os.preadv(file, [block], offset):
                digest.update(memoryview(block)[:got])
                offset += got
            if FileStamp.of(os.fstat(file)) != stamp:
                raise CheckpointError(
                    f"{path}: changed while it was read. Start again with the checkpoint as it is now."
                )
    value = digest.hexdigest()
    if key is not None and key == _key(files):
        _remember(key, value)
    return value


def remembered(files: Iterable[str], about: str, compute: Callable[[], str]) -> str:
    """What `compute` makes of these files, 32 or 64 hexadecimal digits; remembered while none of them changes.

    Args:
        files: all that it depends on; where there are none, it is computed every time.
        about: what else decides it.
        compute: reads the files.
    """
    key, found = hashlib.sha256(about.encode()), False
    for path in files:
        line, found = _stamped(path), True
        if line is None:
            return compute()
        key.update(line.encode("utf-8", "surrogatepass"))
    if not found:
        return compute()
    known = _read().get(key.hexdigest())
    if known is None:
        known = compute()
        _remember(key.hexdigest(), known)
    return known


def fast_digest(values: Iterable[Iterable[Any]]) -> str:
    """32 hexadecimal digits (XXH3, 128 bits) of values, each given in parts: bytes, or what holds them.

    How a value is cut into parts does not matter; where it ends does.
    """
    from xxhash import xxh3_128

    found = xxh3_128()
    for parts in values:
        size = 0
        for part in parts:
            found.update(part)
            size += memoryview(part).nbytes
        found.update(size.to_bytes(8, "little"))
    return str(found.hexdigest())


def git_blob_sha(path: Path) -> str:
    """Git's name of a file's content as a blob: how the Hub names small files.

    Raises:
        OSError: if it cannot be read.
    """
    found = hashlib.sha1(b"blob %d\0" % path.stat().st_size, usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(BLOCK):
            found.update(chunk)
    return found.hexdigest()


def place() -> Path:
    """The file that digests are kept in: in HF_SOUPS_CACHE, else in the user's cache folder."""
    root = os.environ.get("HF_SOUPS_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "hf_soups")
    return Path(root).expanduser() / "sha256.json"


def _key(files: Mapping[Path, FileStamp]) -> str | None:
    """What stands for these files as they are now; None where a change could go unseen."""
    about = [_stamped(str(path), stamp) for path, stamp in files.items()]
    return None if None in about else hashlib.sha256(json.dumps(about).encode()).hexdigest()


def _stamped(path: str, stamp: FileStamp | None = None) -> str | None:
    """A file and what the file system says of it now; None where a change could go unseen."""
    try:
        now = os.stat(path)  # noqa: PTH116  (a million images)
    except (OSError, ValueError):
        return None
    if stamp not in (None, FileStamp.of(now)) or time.time() - max(now.st_mtime, now.st_ctime) < SETTLED:
        return None
    facts = (os.path.realpath(path), now.st_size, now.st_ino, now.st_dev, now.st_mtime_ns, now.st_ctime_ns)
    return f"{facts}\n"


def _read() -> dict[str, str]:
    try:
        found = read_json(place())
    except (OSError, InputError):
        return {}
    whole = all(isinstance(v, str) and len(v) in (32, 64) for v in found.values())
    return found if whole else {}


def _remember(key: str, value: str) -> None:
    """Best effort: where nothing can be kept, it is hashed again."""
    target = place()
    with _writing, suppress(HfSoupsError):
        kept = {**_read(), key: value}
        write_text(target, json.dumps(dict(list(kept.items())[-MOST:])))
