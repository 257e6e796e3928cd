"""Blocks of a mixture: read from every ingredient, accumulated, rounded once; shared out between threads.

All arithmetic on weights happens here. A block fits the processor's cache together with its accumulator, and its
buffers are reused, so memory stays the same for any model and any number of ingredients.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path
from threading import Lock
from typing import TypeVar

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from hf_soups.errors import CheckpointError, IncompatibleCheckpoints, InputError
from hf_soups.files.digests import PieceDigests
from hf_soups.files.dtypes import FLOATS, ITEM_BYTES, NATIVE, OVERFLOW, decode_into, encode
from hf_soups.files.weights import open_unchanged, read_exactly
from hf_soups.soups.mixing.compiled import LANES, add, mix
from hf_soups.soups.mixing.spans import BLOCK_ELEMENTS, Source, Span

PAGE = 4096
KEPT = 16 << 20  # bytes of a block of all ingredients that are kept until they are hashed


class BlockMixer:
    """The buffers and open files of one thread."""

    def __init__(self, watched: Mapping[Path, PieceDigests] | None = None) -> None:
        """`watched`: files whose digest is made of what is read of them."""
        self._watched = watched or {}
        self._kept: NDArray[np.uint8] = _page_aligned(0)
        self._files: dict[int, tuple[Path, int]] = {}
        room = BLOCK_ELEMENTS + LANES
        self._raw: NDArray[np.uint8] = _page_aligned(8 * room)
        self._sum: NDArray[np.float32] = _page_aligned(4 * room).view(np.float32)
        self._wide_sum: NDArray[np.float64] = _page_aligned(8 * room).view(np.float64)
        self._values: NDArray[np.float32] = _page_aligned(4 * room).view(np.float32)
        self._product: NDArray[np.float64] = _page_aligned(8 * room).view(np.float64)

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
            whole = self._in_one_pass(span, start, count, span.dtype)
            return self._rounded(self._summed(span, start, count), span.dtype) if whole is None else whole

    def accumulated(self, span: Span, start: int, count: int) -> Float[np.ndarray, " elements"]:
        """The weighted sum of a block before it is rounded to the output's dtype; float32 or float64."""
        whole = None if span.wide else self._in_one_pass(span, start, count, "F32")
        if whole is not None:
            return whole.view(np.float32)
        with np.errstate(all="ignore"):
            return self._summed(span, start, count)

    def _in_one_pass(self, span: Span, start: int, count: int, dtype: str) -> NDArray[np.uint8] | None:
        """The block as the compiled loop makes it; None if there is none for it, or something is wrong with a value."""
        kinds, even = {source.dtype for source in span.sources}, _even(span)
        watched = [(i, s, self._watched[s.file]) for i, s in enumerate(span.sources) if s.file in self._watched]
        size = count * ITEM_BYTES[span.sources[0].dtype]
        apart = size + -size % PAGE if watched else 0
        if len(span.sources) == 1 or apart * len(span.sources) > KEPT:
            return None
        if self._kept.size < apart * len(span.sources) + PAGE:
            self._kept = _page_aligned(apart * len(span.sources) + PAGE)
        out = self._values.view(np.uint8)[: count * ITEM_BYTES[dtype]]
        done = len(kinds) == 1 and mix(
            kinds.pop(),
            [self._file(source) for source in span.sources],
            [source.offset + start * ITEM_BYTES[source.dtype] for source in span.sources],
            [1.0 if even else source.coefficient for source in span.sources],
            span.sources[0].coefficient if even else 1.0,
            self._kept if apart else self._raw,
            self._wide_sum if span.wide else self._sum,
            dtype,
            out,
            apart=apart,
        )
        if done:
            for i, source, pieces in watched:
                data = self._kept[i * apart : i * apart + size]
                pieces.seen(source.offset + start * ITEM_BYTES[source.dtype], data)
        return out if done else None

    def _summed(self, span: Span, start: int, count: int) -> Float[np.ndarray, " elements"]:
        """The same by NumPy's operations, before it is rounded to the output's dtype."""
        total, factor = self._sum_of(span, start, count, wide=span.wide)
        if factor != 1:
            np.multiply(total, total.dtype.type(factor), out=total)
        if not span.wide and not _fits(total, span.dtype):  # the sum overflowed, its mean may not
            total, factor = self._sum_of(span, start, total.size, wide=True)
            np.multiply(total, factor, out=total)
        self._check(span, start, total)
        return total

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

    def _sum_of(
        self, span: Span, start: int, count: int, *, wide: bool
    ) -> tuple[Float[np.ndarray, " elements"], float]:
        """The sum, and what it is still to be multiplied by: one product instead of one for each ingredient."""
        first, even = span.sources[0], _even(span)
        total = (self._wide_sum if wide else self._sum)[:count]
        for source in span.sources:
            c = 1.0 if even else source.coefficient
            if source is first and even and not wide:  # no copy on the way
                self.fill(source, start, self._sum[:count])
                self._sum[count : count + LANES] = 0  # looked at by the compiled loops
                continue
            raw = self._read(source, start, count)
            if not add(raw, source.dtype, total, c, first=source is first):
                self._add(source, raw, c, total, first=source is first)
        return total, first.coefficient if even else 1.0

    def _add(
        self, source: Source, raw: NDArray[np.uint8], c: float, total: Float[np.ndarray, " elements"], *, first: bool
    ) -> None:
        """What `compiled.add` does, by NumPy's operations."""
        values, kind = self._decoded(source, raw, self._values[: total.size]), total.dtype.type
        product = total if first else self._product.view(kind)[: total.size]
        if c != 1:
            np.multiply(values, kind(c), out=product, dtype=kind)
        elif first:
            np.copyto(total, values)
        if not first:
            np.add(total, values if c == 1 else product, out=total)

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
        used = count * ITEM_BYTES[source.dtype]
        raw = self._raw[:used]
        self._read_into(source, start, raw)
        if count % LANES:
            self._raw[used : used + 8 * LANES] = 0  # looked at by the compiled loops
        return raw

    def _read_into(self, source: Source, start: int, into: NDArray[np.uint8]) -> None:
        offset = source.offset + start * ITEM_BYTES[source.dtype]
        read_exactly(self._file(source), into.data, offset, source.file)
        if source.file in self._watched:
            self._watched[source.file].seen(offset, into)

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


def in_threads(
    items: Iterable[T],
    do: Callable[[BlockMixer, T], object],
    threads: int,
    watched: Mapping[Path, PieceDigests] | None = None,
) -> None:
    """Call `do(mixer, item)` for every item, in `threads` threads; the first error stops all and is raised.

    `watched` are the files of `BlockMixer`.
    """
    work = _Shared(iter(items))

    def worker() -> None:
        try:
            with BlockMixer(watched) as mixer:
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
