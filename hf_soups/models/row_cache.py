"""Encoded rows on disk: made once under a lock, whole or not at all, and shared by every process that asks."""

from __future__ import annotations

import hashlib
import json
import shutil
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np

from hf_soups.errors import InputError
from hf_soups.files.reading import open_regular
from hf_soups.files.writing import make_temporary, writable, written_whole

VERSION = 1  # raised whenever what a cached folder holds changes

Rows = TypeVar("Rows")


def cache_key(*parts: Any) -> str:
    """A short name for what the parts (anything JSON holds) describe."""
    text = json.dumps([VERSION, *parts], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def cached_rows(cache: Path | None, key: str, build: Callable[[Path], None], read: Callable[[Path], Rows]) -> Rows:
    """What `read` makes of the `cached_folder`; a temporary one is removed when nobody holds the rows any more."""
    folder = cached_folder(cache, key, build)
    rows = read(folder)
    if cache is None:
        weakref.finalize(rows, shutil.rmtree, folder, ignore_errors=True)
    return rows


def cached_folder(cache: Path | None, key: str, build: Callable[[Path], None]) -> Path:
    """The folder `key` inside `cache`, filled by `build` if nobody has done so before.

    Without a cache a temporary folder is filled; whoever holds it removes it.
    """
    if cache is None:
        folder = make_temporary("encoded")
        try:
            with writable(folder):
                build(folder)
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        return folder
    made = cache / key
    if made.is_dir():  # renamed into place, so it is whole; a cache that cannot be written to serves too
        return made
    with writable(cache):
        cache.mkdir(parents=True, exist_ok=True)
    with locked(made):
        if not made.is_dir():
            with written_whole(made, marker="") as partial:
                build(partial)
    return made


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """While the block runs, no other process makes this folder; the lock is beside it."""
    from filelock import FileLock

    lock = FileLock(folder.with_name(f".{folder.name}.lock"))
    with writable(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def read_rows(path: Path, dtype: Any) -> np.ndarray:
    """An array of a cached folder, mapped from its file.

    Raises:
        InputError: if the file is gone, damaged or of another type.
    """
    try:
        with open_regular(path):
            found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError, SyntaxError) as error:
        raise damaged(path, str(error)) from error
    if not isinstance(found, np.ndarray) or found.dtype != dtype:
        raise damaged(path, f"it holds {getattr(found, 'dtype', type(found).__name__)}, not {np.dtype(dtype)}")
    return cast(np.ndarray, found)


def damaged(path: Path, why: str) -> InputError:
    """The error of a file of encoded rows that cannot be used."""
    return InputError(f"{path}: damaged encoded rows ({why.rstrip('.')}). Delete {path.parent}: it is made again.")


def write_rows(path: Path, dtype: np.dtype[Any], shape: tuple[int, ...], blocks: Iterable[np.ndarray]) -> None:
    """Write a .npy file block by block along its first axis.

    Not through a memory map: on a full disk that kills the process by a signal instead of raising an error.
    """
    written = 0
    with path.open("wb") as f:
        about = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(f, about)
        for block in blocks:
            f.write(np.ascontiguousarray(block, dtype=dtype).data)
            written += len(block)
    if written != shape[0]:
        raise ValueError(f"{path}: {written} rows written, {shape[0]} announced")
