"""Digests of weight files, remembered by what the file system says of them, so that gigabytes are hashed once.

SHA-256 is how the Hub names a file. What is only compared on this machine is compared by XXH3, which reads as fast as
memory does, and of pieces, so that whoever reads a file anyway, in any order and in several threads, has it by the way.

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
from typing import TYPE_CHECKING, Any

from hf_soups.errors import CheckpointError, HfSoupsError, InputError
from hf_soups.files.reading import read_json
from hf_soups.files.tensorfile import FileStamp
from hf_soups.files.weights import opened, read_exactly
from hf_soups.files.writing import write_text

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK = 1 << 20
PIECE = 1 << 19  # of a digest by pieces
PIECES = "xxh3-pieces"
SAMPLES = 32  # of a first look
SETTLED = 2.0  # seconds since the last change
MOST = 4096  # digests kept; the oldest go first
_writing = Lock()


class PieceDigests:
    """The XXH3 digest of one weight file, made of its pieces as somebody reads or writes them.

    XXH3 (128 bits) over the digests of the header, with its 8 bytes of length, and of each further 512 KiB.
    """

    def __init__(self, path: Path, stamp: FileStamp, start: int | None = None) -> None:
        """`start`: where the tensors start; default: as the file says. Of a file that is yet to be: its size counts."""
        self.path, self.stamp = path, stamp
        if start is None:
            with opened(path, stamp) as file:
                start = min(8 + int.from_bytes(os.pread(file, 8, 0), "little"), stamp.bytes)
        self.start = start
        self._pieces: list[bytes | None] = [None] * -(-(stamp.bytes - self.start) // PIECE)

    def seen(self, offset: int, data: NDArray[np.generic]) -> None:
        """Take note of bytes that are at an offset of the file; pieces that are not whole do not count."""
        from xxhash import xxh3_128

        first, into = divmod(offset - self.start, PIECE)
        if first < 0 or into:
            return
        view = memoryview(data).cast("B")  # type: ignore[arg-type]  # arrays are buffers
        for number, at in enumerate(range(0, len(view), PIECE), first):
            piece = view[at : at + PIECE]
            if len(piece) == PIECE or offset + len(view) == self.stamp.bytes:
                self._pieces[number] = xxh3_128(piece).digest()

    def value(self) -> bytes:
        """The digest; what nobody read is read now.

        Raises:
            CheckpointError: if the file cannot be read, or changed meanwhile.
        """
        from xxhash import xxh3_128

        block = bytearray(PIECE)
        with opened(self.path, self.stamp) as file:
            header = bytearray(self.start)
            read_exactly(file, memoryview(header), 0, self.path)
            for number, known in enumerate(self._pieces):
                if known is None:
                    offset = self.start + number * PIECE
                    piece = memoryview(block)[: min(PIECE, self.stamp.bytes - offset)]
                    read_exactly(file, piece, offset, self.path)
                    self._pieces[number] = xxh3_128(piece).digest()
            _check_same(file, self.path, self.stamp)
        return xxh3_128(b"".join([xxh3_128(header).digest(), *(p for p in self._pieces if p is not None)])).digest()


def sha256_of(files: Mapping[Path, FileStamp]) -> str:
    """SHA-256 over the bytes of these files, one after the other.

    Raises:
        CheckpointError: if one is gone, cannot be read, or is not the file any more that has this stamp.
    """
    return _known_or_made(files, "", lambda: _sha256_of(files))


def pieces_digest(files: Mapping[Path, FileStamp], seen: Mapping[Path, PieceDigests] | None = None) -> str:
    """A digest that names its way, "xxh3-pieces:" and 32 hexadecimal digits, of these files one after the other.

    Args:
        files: with their stamps.
        seen: digests of some of them, of which pieces were read already.
    Raises:
        As `sha256_of`.
    """
    from xxhash import xxh3_128

    def made() -> str:
        parts = [((seen or {}).get(path) or PieceDigests(path, stamp)).value() for path, stamp in files.items()]
        return str(xxh3_128(b"".join(parts)).hexdigest())

    return f"{PIECES}:{_known_or_made(files, PIECES, made)}"


def known_digest(files: Mapping[Path, FileStamp]) -> str | None:
    """What `pieces_digest` gives, where it is remembered."""
    known = _known(files, PIECES)
    return None if known is None else f"{PIECES}:{known}"


def known_sha256(files: Mapping[Path, FileStamp]) -> str | None:
    """What `sha256_of` gives, where it is remembered: a download's is, which was compared with the Hub's."""
    return _known(files, "")


def sample_of(files: Mapping[Path, FileStamp]) -> bytes:
    """A digest of a few bytes here and there: where it differs, so do the files; equal, they may differ still.

    Raises:
        CheckpointError: if one cannot be read.
    """
    from xxhash import xxh3_128

    found = xxh3_128()
    for path, stamp in files.items():
        found.update(stamp.bytes.to_bytes(8, "little"))
        with opened(path, stamp) as file:
            for at in range(SAMPLES + 1):  # the last ones too: heads differ where backbones are frozen
                part = bytearray(min(BLOCK // 256, stamp.bytes))
                read_exactly(file, memoryview(part), (stamp.bytes - len(part)) * at // SAMPLES, path)
                found.update(part)
    return bytes(found.digest())


def _known(files: Mapping[Path, FileStamp], way: str) -> str | None:
    key = _key(files, way)
    return None if key is None else _read().get(key)


def _known_or_made(files: Mapping[Path, FileStamp], way: str, make: Callable[[], str]) -> str:
    key = _key(files, way)
    known = None if key is None else _read().get(key)
    if known is not None:
        return known
    value = make()
    if key is not None and key == _key(files, way):
        _remember(key, value)
    return value


def _sha256_of(files: Mapping[Path, FileStamp]) -> str:
    digest, block = hashlib.sha256(), bytearray(BLOCK)
    for path, stamp in files.items():
        with opened(path, stamp) as file:
            offset = 0
            while got := os.preadv(file, [block], offset):
                digest.update(memoryview(block)[:got])
                offset += got
            _check_same(file, path, stamp)
    return digest.hexdigest()


def _check_same(file: int, path: Path, stamp: FileStamp) -> None:
    if FileStamp.of(os.fstat(file)) != stamp:
        raise CheckpointError(f"{path}: changed while it was read. Start again with the checkpoint as it is now.")


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


def _key(files: Mapping[Path, FileStamp], way: str) -> str | None:
    """What stands for these files as they are now; None where a change could go unseen."""
    about = [*([way] if way else []), *(_stamped(str(path), stamp) for path, stamp in files.items())]
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
