"""Blocks of a mixture: read from every ingredient, accumulated, rounded once; shared out between threads.

All arithmetic on weights happens here. A block fits the processor's cache together with its accumulator, and its
buffers are reused, so memory stays the same for any model and any number of ingredients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from jaxtyping import Float, Float64
from numpy.typing import NDArray

from hf_soups.errors import CheckpointError, IncompatibleCheckpoints, InputError
from hf_soups.files.dtypes import FLOATS, ITEM_BYTES, NATIVE, OVERFLOW, decode_into, encode
from hf_soups.files.weights import open_unchanged, read_exactly
from hf_soups.soups.mixing.spans import BLOCK_ELEMENTS, Source, Span

PAGE = 4096


class BlockMixer:
    """The buffers and open files of one thread."""

    def __init__(self) -> None:
        self._files: dict[int, tuple[Path, int]] = {}
        self._raw: NDArray[np.uint8] = _page_aligned(8 * BLOCK_ELEMENTS)
        self._sum: NDArray[np.float32] = _page_aligned(4 * BLOCK_ELEMENTS).view(np.float32)
        self._values: NDArray[np.float32] = _page_aligned(4 * BLOCK_ELEMENTS).view(np.float32)
        self._wide_sum: NDArray[np.float64] = _page_aligned(8 * BLOCK_ELEMENTS).view(np.float64)
        self._product: NDArray[np.float64] = _page_aligned(8 * BLOCK_ELEMENTS).view(np.float64)

    def __enter__(self) -> BlockMixer:
        return self

    def __exit__(self, *_: object) -> None:
        while self._files:
            os.close(self._files.popitem()[1][1])

    def output(self, span: Span, start: int, count: int) -> NDArray[np.generic]:
        """The bytes to write for a block; valid until the next call.

        Raises:
            CheckpointError: if an ingredient holds NaN or infinity, or cannot be read.
            IncompatibleCheckpoints: if integers differ between ingredients.
            InputError: if the result does not fit the output's dtype.
        """
        if span.dtype not in FLOATS:
            return self._equal(span, start, count)
        with np.errstate(all="ignore"):
            only = span.sources[0]
            if len(span.sources) == 1 and only.coefficient == 1 and only.dtype == span.dtype:
                raw = self._read(only, start, count)  # bit for bit, -0.0 and all
                self._check(span, start, self._decoded(only, raw, self._values[:count]))
                return raw
            if span.wide and span.dtype == "F32":
                return self._rounded_at_once(span, start, count)
            return self._rounded(self.accumulated(span, start, count), span.dtype)

    def accumulated(self, span: Span, start: int, count: int) -> Float[np.ndarray, " elements"]:
        """The weighted sum of a block before it is rounded to the output's dtype; float32 or float64."""
        with np.errstate(all="ignore"):
            total = None if span.wide else self._sum_float32(span, start, count)
            if total is None or not _fits(total, span.dtype):  # the sum overflowed, its mean may not
                total, factor = self._sum_float64(span, start, count)
                np.multiply(total, factor, out=total)
            self._check(span, start, total)
        return total

    def _rounded_at_once(self, span: Span, start: int, count: int) -> NDArray[np.float32]:
        """The float64 sum scaled and rounded to float32 in one pass, and looked at in half the bytes."""
        total, factor = self._sum_float64(span, start, count)
        narrow = self._values[:count]
        np.multiply(total, factor, out=narrow, casting="same_kind")
        if not _fits(narrow, span.dtype):
            self._check(span, start, np.multiply(total, factor, out=total))
        return narrow

    def fill(self, source: Source, start: int, into: NDArray[np.float32]) -> None:
        """One ingredient's own values of a block, without its coefficient; `into` is contiguous and sets the length."""
        if source.dtype == "F32":  # no copy on the way
            self._read_into(source, start, into.view(np.uint8))
        else:
            with np.errstate(all="ignore"):
                decode_into(self._read(source, start, into.size), source.dtype, into)

    def values(self, source: Source, start: int, count: int) -> NDArray[np.float32]:
        """As `fill`, into a buffer of this mixer's that may be changed; valid until the next call."""
        values = self._values[:count]
        self.fill(source, start, values)
        return values

    def _sum_float32(self, span: Span, start: int, count: int) -> Float[np.ndarray, " elements"]:
        first, even = span.sources[0], _even(span)
        total, values = self._sum[:count], self._values[:count]
        self.fill(first, start, total)
        if not even:
            np.multiply(total, np.float32(first.coefficient), out=total)
        for source in span.sources[1:]:
            self.fill(source, start, values)
            if not even:
                np.multiply(values, np.float32(source.coefficient), out=values)
            np.add(total, values, out=total)
        if even and first.coefficient != 1:  # one product instead of one for each ingredient
            np.multiply(total, np.float32(first.coefficient), out=total)
        return total

    def _sum_float64(self, span: Span, start: int, count: int) -> tuple[Float64[np.ndarray, " elements"], float]:
        """The sum, and what it is still to be multiplied by: one product instead of one for each ingredient."""
        even, total = _even(span), self._wide_sum[:count]
        for i, source in enumerate(span.sources):
            values = self._widest(source, start, count)
            product = total if i == 0 else self._product[:count]
            if not even:
                np.multiply(values, source.coefficient, out=product, dtype=np.float64)
            elif i == 0:
                np.copyto(total, values)
            if i:
                np.add(total, values if even else product, out=total)
        return total, span.sources[0].coefficient if even else 1.0

    def _rounded(self, total: Float[np.ndarray, " elements"], dtype: str) -> NDArray[np.generic]:
        if dtype == "F64":
            return total.astype(np.float64, copy=False)
        if total.dtype != np.float32:
            narrow = self._values[: total.size]
            np.copyto(narrow, total, casting="same_kind")
            total = narrow
        return total if dtype == "F32" else encode(total, dtype)

    def _equal(self, span: Span, start: int, count: int) -> NDArray[np.generic]:
        """Integers and bools: the first ingredient's, after they are seen to be the same in all."""
        data = self._read(span.sources[0], start, count)
        if len(span.sources) > 1:
            data = data.copy()  # the buffer is needed for the others
        for source in span.sources[1:]:
            other = self._read(source, start, count)
            if not np.array_equal(data, other):
                at = int(np.flatnonzero(data != other)[0]) // ITEM_BYTES[span.dtype]
                raise IncompatibleCheckpoints(
                    f"{source.file}: the integers of {span.name_at(start + at)!r} differ from those in "
                    f"{span.sources[0].file}. Integers cannot be averaged: mix models of one architecture and start."
                )
        return data

    # Reading.

    def _widest(self, source: Source, start: int, count: int) -> Float[np.ndarray, " elements"]:
        """An ingredient's values without loss: float64 for F64, float32 for the rest."""
        if source.dtype == "F64":
            return self._read(source, start, count).view(np.float64)
        values = self._values[:count]
        self.fill(source, start, values)
        return values

    def _decoded(
        self, source: Source, raw: NDArray[np.uint8], into: NDArray[np.float32]
    ) -> Float[np.ndarray, " elements"]:
        if source.dtype in ("F32", "F64"):
            return raw.view(NATIVE[source.dtype])
        decode_into(raw, source.dtype, into)
        return into

    def _read(self, source: Source, start: int, count: int) -> NDArray[np.uint8]:
        raw = self._raw[: count * ITEM_BYTES[source.dtype]]
        self._read_into(source, start, raw)
        return raw

    def _read_into(self, source: Source, start: int, into: NDArray[np.uint8]) -> None:
        offset = source.offset + start * ITEM_BYTES[source.dtype]
        read_exactly(self._file(source), into.data, offset, source.file)

    def _file(self, source: Source) -> int:
        """One open file for each ingredient: the number of shards does not count against the limit of open files."""
        path, file = self._files.get(source.ingredient, (None, -1))
        if path is not source.file:  # the same object as long as the file is the same
            if path is not None:
                del self._files[source.ingredient]
                os.close(file)
            file = open_unchanged(source.file, source.stamp)
            self._files[source.ingredient] = (source.file, file)
        return file

    # Refusing.

    def _check(self, span: Span, start: int, total: Float[np.ndarray, " elements"]) -> None:
        if _fits(total, span.dtype):
            return
        at = int(np.flatnonzero(~(np.abs(total) < OVERFLOW[span.dtype]))[0])
        name, value = span.name_at(start + at), float(total[at])
        for source in span.sources:
            if not np.isfinite(self._widest(source, start + at, 1)[0]):
                raise CheckpointError(
                    f"{source.file}: tensor {name!r} holds NaN or infinity: its training diverged. Leave it out."
                )
        raise InputError(
            f"{name!r}: the mixture reaches {value:.6g}, which does not fit {span.dtype}. Choose a wider dtype or "
            "smaller coefficients."
        )


def _page_aligned(nbytes: int) -> NDArray[np.uint8]:
    """Uninitialised bytes from the start of a page.

    NumPy's large arrays start 16 bytes after it. The kernel copies to an address a few bytes beyond the source's,
    modulo the page, two to four times slower (AMD Zen: 3-7 instead of 12 GB/s), and files often start at 0.
    """
    room: NDArray[np.uint8] = np.empty(nbytes + PAGE, dtype=np.uint8)
    start = -room.ctypes.data % PAGE
    return room[start : start + nbytes]


def _even(span: Span) -> bool:
    return all(source.coefficient == span.sources[0].coefficient for source in span.sources)


def _fits(total: Float[np.ndarray, " elements"], dtype: str) -> bool:
    """Whether all values round to finite ones; NaN compares as false."""
    limit = OVERFLOW[dtype]
    return bool(-limit < total.min() and total.max() < limit)


T = TypeVar("T")


class _Shared(Iterator[T]):
    """An iterator that several threads draw from, until one of them stops it."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items, self._lock = items, Lock()

    def __next__(self) -> T:
        with self._lock:
            return next(self._items)

    def stop(self) -> None:
        with self._lock:
            self._items = iter(())


def in_threads(items: Iterable[T], do: Callable[[BlockMixer, T], object], threads: int) -> None:
    """Call `do(mixer, item)` for every item, in `threads` threads; the first error stops all and is raised."""
    work = _Shared(iter(items))

    def worker() -> None:
        try:
            with BlockMixer() as mixer:
                for item in work:
                    do(mixer, item)
        except BaseException:
            work.stop()
            raise

    if threads == 1:
        worker()
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="mix") as pool:
        try:
            for done in as_completed([pool.submit(worker) for _ in range(threads)]):
                done.result()
        except BaseException:  # Ctrl-C as well: the others stop at their next block
            work.stop()
            raise
