"""Safetensors files as bytes at offsets: a checked header to read, and a writer that fills tensors in any order.

The safetensors library wants all tensors at once to write them; here the header comes first, then each block goes to
its final offset. A file appears under its name only when it is whole.
"""

from __future__ import annotations

import errno
import json
import math
import os
import shutil
import struct
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn

from hf_soups.ending import removed_at_end
from hf_soups.errors import CheckpointError, HfSoupsError
from hf_soups.files.dtypes import ITEM_BYTES
from hf_soups.files.reading import open_regular
from hf_soups.files.writing import INTACT, partial_of, remove_abandoned, why_not_written

LARGEST_HEADER = 100_000_000  # bytes; the safetensors library's own limit
AGAIN = "Save or download the checkpoint again."


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where one tensor is: `offset` counts from the start of `file`, in bytes."""

    name: str
    dtype: str  # as safetensors names it: "F32", "BF16", "I64", ...
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What tells whether a file is still the one that was read before."""

    bytes: int
    modified: int  # nanoseconds
    inode: int

    @classmethod
    def of(cls, status: os.stat_result) -> FileStamp:
        """The stamp of an opened or named file."""
        return cls(status.st_size, status.st_mtime_ns, status.st_ino)


@dataclass(frozen=True, slots=True)
class TensorHeader:
    """The checked header of one file; tensors in the order they lie in it."""

    path: Path
    tensors: Mapping[str, TensorInfo]
    metadata: Mapping[str, str]
    stamp: FileStamp


def read_header(path: Path) -> TensorHeader:
    """The header of a safetensors file, checked against the format and the file's size.

    Raises:
        CheckpointError: if the file is missing, unreadable, truncated or corrupt.
    """
    try:
        with open_regular(path) as file:
            stamp = FileStamp.of(os.fstat(file.fileno()))
            start, text = _header_text(path, file.read(8), stamp.bytes, file)
    except OSError as error:
        refuse_reading(path, error)
    content = _header_json(path, text)
    metadata = content.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        _corrupt(path, "its metadata are not texts")
    infos = [_tensor(path, name, entry, start) for name, entry in content.items()]
    infos.sort(key=lambda info: (info.offset, info.nbytes))
    _check_cover(path, infos, start, stamp.bytes)
    return TensorHeader(path, {info.name: info for info in infos}, metadata, stamp)


def _header_text(path: Path, prefix: bytes, size: int, file: Any) -> tuple[int, bytes]:
    if len(prefix) < 8:
        raise CheckpointError(f"{path}: truncated: {size} bytes are no safetensors file. {AGAIN}")
    (length,) = struct.unpack("<Q", prefix)
    if length > LARGEST_HEADER:
        _corrupt(path, f"its first 8 bytes announce a header of {length} bytes")
    text = file.read(length)
    if len(text) < length:
        raise CheckpointError(
            f"{path}: truncated: the header should have {length} bytes, but the file ends after {size}. {AGAIN}"
        )
    return 8 + length, text


def _header_json(path: Path, text: bytes) -> dict[str, Any]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) != len(pairs):
            _corrupt(path, "a name occurs twice in its header")
        return dict(pairs)

    try:
        content = json.loads(text.decode("utf-8"), object_pairs_hook=without_repeats)
    except (ValueError, RecursionError) as error:
        if isinstance(error, CheckpointError):
            raise
        _corrupt(path, f"its header is not JSON ({error})")
    if not isinstance(content, dict):
        _corrupt(path, "its header is not a JSON object")
    return content


def _tensor(path: Path, name: str, entry: Any, start: int) -> TensorInfo:
    try:
        dtype, shape, (begin, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
        numbers = [*shape, begin, end]
    except (TypeError, KeyError, ValueError):
        _corrupt(path, f"tensor {name!r} lacks dtype, shape or data_offsets")
    if not all(type(n) is int and n >= 0 for n in numbers):
        _corrupt(path, f"tensor {name!r} has shape {shape} and offsets {[begin, end]}")
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise CheckpointError(
            f"{path}: tensor {name!r} is stored as {dtype}, which hf_soups cannot average (quantised weights?). "
            f"Known: {', '.join(ITEM_BYTES)}. Use the checkpoint before it was quantised."
        )
    needed = math.prod(shape) * ITEM_BYTES[dtype]
    if end - begin != needed:
        _corrupt(path, f"tensor {name!r} of shape {shape} needs {needed} bytes of {dtype}, but has {end - begin}")
    return TensorInfo(name, dtype, tuple(shape), path, start + begin, needed)


def _check_cover(path: Path, infos: Sequence[TensorInfo], start: int, size: int) -> None:
    """Tensors must lie side by side from the header's end to the file's end, as the format demands."""
    at = start
    for info in infos:
        if info.offset < at:
            _corrupt(path, f"tensor {info.name!r} overlaps another one")
        if info.offset > at:
            _corrupt(path, f"{info.offset - at} bytes before tensor {info.name!r} belong to no tensor")
        at = info.offset + info.nbytes
    if size < at:
        raise CheckpointError(f"{path}: truncated: its tensors need {at:,} bytes, but it has {size:,}. {AGAIN}")
    if size > at:
        _corrupt(path, f"{size - at} bytes at its end belong to no tensor")


def _corrupt(path: Path, why: str) -> NoReturn:
    raise CheckpointError(f"{path}: corrupt: {why}. {AGAIN}")


def refuse_reading(path: Path, error: OSError) -> NoReturn:
    """Turn an operating system's error while reading into one that says what to do."""
    if isinstance(error, FileNotFoundError):
        raise CheckpointError(f"{path}: no such file; it was moved or deleted. {AGAIN}") from error
    if isinstance(error, PermissionError):
        raise CheckpointError(f"{path}: no permission to read it. Change its permissions.") from error
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise HfSoupsError(f"{path}: too many open files. Raise the limit (ulimit -n) or use one thread.") from error
    raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from error


def refuse_writing(path: Path, error: OSError, needed: int | None = None) -> NoReturn:
    """Turn an operating system's error while writing into one that says what to do."""
    raise HfSoupsError(f"{path}: {why_not_written(error, needed)} and run the same command again; {INTACT}") from error


@dataclass(frozen=True, slots=True)
class Layout:
    """The header and final offsets of a file that is yet to be written."""

    header: bytes
    offsets: Mapping[str, int]  # from the start of the file
    size: int


def lay_out(tensors: Iterable[tuple[str, str, tuple[int, ...]]], metadata: Mapping[str, str]) -> Layout:
    """The layout of a file with these tensors (name, dtype, shape) in this order."""
    entries: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    at, starts = 0, {}
    for name, dtype, shape in tensors:
        end = at + math.prod(shape) * ITEM_BYTES[dtype]
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, end]}
        starts[name], at = at, end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8, as the format wants
    header = struct.pack("<Q", len(text)) + text
    return Layout(header, {name: len(header) + start for name, start in starts.items()}, len(header) + at)


class TensorWriter:
    """Files being written together: all appear under their names at the end of the `with` block, or none."""

    def __init__(self, layouts: Mapping[Path, Layout]) -> None:
        self._layouts = dict(layouts)
        self._partial = {path: partial_of(path) for path in layouts}
        self._files: dict[Path, int] = {}
        self._removed = ExitStack()

    def __enter__(self) -> TensorWriter:
        path = next(iter(self._layouts))
        needed = sum(layout.size for layout in self._layouts.values())
        try:
            free = shutil.disk_usage(path.parent).free
            if free < needed:  # told before the work, not half-way
                raise OSError(errno.ENOSPC, f"only {free:,} bytes are free")
            for path, layout in self._layouts.items():
                remove_abandoned(path)
                self._removed.enter_context(removed_at_end(self._partial[path]))
                self._files[path] = os.open(self._partial[path], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
                os.ftruncate(self._files[path], layout.size)
                self.write(path, layout.header, 0)
        except OSError as error:
            self._discard()
            refuse_writing(path, error, needed)
        except BaseException:
            self._discard()
            raise
        return self

    def write(self, path: Path, data: Any, offset: int) -> None:
        """Write any buffer at an offset of the file; several threads may do so at once.

        Raises:
            HfSoupsError: if the disk is full, ...
        """
        view = memoryview(data).cast("B")
        try:
            while len(view):
                written = os.pwrite(self._files[path], view, offset)
                view, offset = view[written:], offset + written
        except OSError as error:
            refuse_writing(path, error, sum(layout.size for layout in self._layouts.values()))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self._discard()
            return
        renamed: list[Path] = []
        try:
            self._close()
            for path, partial in self._partial.items():
                partial.replace(path)
                renamed.append(path)
            self._removed.close()
        except OSError as failure:
            for path in renamed:
                path.unlink(missing_ok=True)
            self._discard()
            refuse_writing(path, failure)

    def _close(self) -> None:
        while self._files:
            os.close(self._files.popitem()[1])

    def _discard(self) -> None:
        try:
            self._close()
        except OSError:  # a network disk tells a full disk only now; the files go anyway
            self._files.clear()
        for partial in self._partial.values():
            partial.unlink(missing_ok=True)
        self._removed.close()
