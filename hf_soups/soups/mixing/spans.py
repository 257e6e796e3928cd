"""Spans: which elements of which files are mixed together, and where the result goes."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate as running_sums
from itertools import pairwise
from pathlib import Path
from typing import Literal

import numpy as np

from hf_soups.checkpoint import Checkpoint, Piece
from hf_soups.errors import IncompatibleCheckpoints, InputError
from hf_soups.files.digests import PIECE
from hf_soups.files.dtypes import FLOATS, ITEM_BYTES
from hf_soups.files.loaded_names import SELF_MADE
from hf_soups.files.tensorfile import FileStamp

Accumulate = Literal["float32", "float64"]
# BatchNorm's counters differ between runs of other lengths. They matter only to further training with momentum=None,
# so the first ingredient's serve as well as any.
COUNTER = "num_batches_tracked"
# 256 Ki elements: 1 MiB of float32 and a float64 accumulator of 2 MiB; smaller blocks hand the interpreter lock over
# more often (bfloat16, two threads: 0.63 s with 128 Ki, 0.53 s with 256), larger ones fall out of the second-level
# cache (benchmarks/merge.py).
BLOCK_ELEMENTS = 256 * 1024


@dataclass(frozen=True, slots=True)
class Source:
    """One ingredient's share in a span: where its elements start, and what they are multiplied by."""

    ingredient: int
    file: Path
    stamp: FileStamp
    offset: int  # bytes from the start of the file
    dtype: str
    coefficient: float


@dataclass(slots=True)
class Span:
    """Elements that are contiguous in every ingredient and in the output: one tensor, a piece of one, or several."""

    out: Path
    offset: int  # bytes from the start of the output file
    dtype: str  # of the output
    elements: int
    sources: tuple[Source, ...]  # those with a coefficient other than 0
    wide: bool  # accumulate in float64
    names: list[tuple[int, str]]  # (first element, tensor), ascending

    def continues(self, other: Span) -> bool:
        """Whether this span starts where `other` ends, in every file and in the same way."""
        return (
            (self.out, self.dtype, self.wide) == (other.out, other.dtype, other.wide)
            and self.offset == other.offset + other.elements * ITEM_BYTES[other.dtype]
            and len(self.sources) == len(other.sources)
            and all(
                (a.ingredient, a.file, a.dtype, a.coefficient) == (b.ingredient, b.file, b.dtype, b.coefficient)
                and a.offset == b.offset + other.elements * ITEM_BYTES[b.dtype]
                for a, b in zip(self.sources, other.sources, strict=True)
            )
        )

    def absorb(self, other: Span) -> None:
        """Append a span that continues this one."""
        self.names.extend((self.elements + start, name) for start, name in other.names)
        self.elements += other.elements

    def name_at(self, element: int) -> str:
        """The tensor that an element belongs to."""
        return self.names[bisect_right(self.names, element, key=lambda entry: entry[0]) - 1][1]

    def blocks(self, size: int | None = None) -> Iterator[tuple[int, int]]:
        """(first element, elements) of each block; `size` is in elements."""
        size = BLOCK_ELEMENTS if size is None else size
        for start in range(0, self.elements, size):
            yield start, min(size, self.elements - start)

    def aligned_blocks(self, start: int) -> Iterator[tuple[int, int]]:
        """As `blocks`, but each a piece of the files' digests, if the ingredients' are laid out as the output's.

        Args:
            start: of the tensors in the output file, in bytes.
        """
        size = min(PIECE // ITEM_BYTES[self.sources[0].dtype], BLOCK_ELEMENTS)
        before, at = (self.offset - start) // ITEM_BYTES[self.dtype], 0
        while at < self.elements:
            count = min(size - (before + at) % size, self.elements - at)
            yield at, count
            at += count


def plan_spans(
    checkpoints: Sequence[Checkpoint],
    coefficients: Callable[[str], tuple[float, ...]],
    places: Iterable[tuple[str, str, Path, int]],
    accumulate: Accumulate | None,
) -> list[Span]:
    """Spans for tensors (name, dtype, output file, offset there), neighbours joined where they touch everywhere."""
    spans: list[Span] = []
    for name, dtype, out, offset in places:
        for span in _tensor_spans(checkpoints, coefficients(name), name, dtype, out, offset, accumulate):
            if spans and span.continues(spans[-1]):
                spans[-1].absorb(span)
            else:
                spans.append(span)
    return spans


def spans_of(checkpoints: Sequence[Checkpoint], name: str) -> list[Span]:
    """Spans of one tensor that read every checkpoint with coefficient 1; no output goes anywhere."""
    ones = (1.0,) * len(checkpoints)
    return plan_spans(checkpoints, lambda _: ones, [(name, checkpoints[0].tensors[name].dtype, Path(), 0)], "float32")


def _tensor_spans(
    checkpoints: Sequence[Checkpoint],
    coefficients: tuple[float, ...],
    name: str,
    dtype: str,
    out: Path,
    offset: int,
    accumulate: Accumulate | None,
) -> Iterator[Span]:
    used = [i for i, c in enumerate(coefficients) if c != 0]
    if dtype not in FLOATS and name.endswith(COUNTER):
        used = used[:1]
    pieces = {i: checkpoints[i].pieces(name) for i in used}
    ends = {i: [end for end in running_sums(piece.elements for piece in pieces[i]) if end] for i in used}
    cuts = sorted(set().union(*ends.values()))  # several where rows are put in another order, or together
    for start, end in pairwise([0, *cuts]):
        sources = tuple(_source(pieces[i], ends[i], i, start, coefficients[i]) for i in used)
        wide = any(s.dtype == "F64" for s in sources) or dtype == "F64"
        wide = wide or (dtype == "F32" if accumulate is None else accumulate == "float64")
        yield Span(out, offset + start * ITEM_BYTES[dtype], dtype, end - start, sources, wide, [(0, name)])


def _source(pieces: Sequence[Piece], ends: Sequence[int], ingredient: int, start: int, coefficient: float) -> Source:
    """Where the element `start` of a tensor is."""
    at = bisect_right(ends, start)
    piece, inside = pieces[at], start - (ends[at - 1] if at else 0)
    offset = piece.offset + inside * ITEM_BYTES[piece.dtype]
    return Source(ingredient, piece.file, piece.stamp, offset, piece.dtype, coefficient)


def shared_names(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """The tensors that a mixture holds, in the order of the first checkpoint's files.

    A tensor that some checkpoints store twice under two names (tied weights) and others once is taken once; a buffer
    that models make themselves is left out where some do not store it, or store it in another form.

    Raises:
        IncompatibleCheckpoints: if names or shapes differ otherwise.
    """
    if not checkpoints:
        raise InputError("nothing to mix: give at least one checkpoint.")
    common = set(checkpoints[0].tensors).intersection(*(c.tensors for c in checkpoints[1:]))
    for checkpoint in checkpoints:
        extra = [name for name in checkpoint.tensors if name not in common]
        lonely = [n for n in extra if not self_made(checkpoint, n) and twin(checkpoint, n, common) is None]
        if lonely:
            without = next(c for c in checkpoints if lonely[0] not in c.tensors)
            raise IncompatibleCheckpoints(
                f"{without}: lacks {len(lonely)} tensors that {checkpoint} has: {', '.join(sorted(lonely)[:4])}"
                f"{', ...' if len(lonely) > 4 else ''}. A soup needs models of one architecture."
            )
    names = tuple(name for name in checkpoints[0].tensors if name in common and not _forms(checkpoints, name))
    for checkpoint in checkpoints[1:]:
        for name in names:
            check_same(checkpoints[0], checkpoint, name)
    return names


def self_made(checkpoint: Checkpoint, name: str) -> bool:
    """Whether it is a buffer that models make themselves, so that what is stored of it is not loaded."""
    # a mask is larger than a parameter of its name
    return bool(SELF_MADE.search(name)) and (not name.endswith(".bias") or len(checkpoint.tensors[name].shape) > 2)


def _forms(checkpoints: Sequence[Checkpoint], name: str) -> bool:
    """Whether it is such a buffer, and not of one shape and dtype everywhere."""
    forms = {(c.tensors[name].shape, c.tensors[name].dtype) for c in checkpoints}
    return len(forms) > 1 and self_made(checkpoints[0], name)


def twin(checkpoint: Checkpoint, name: str, among: Iterable[str]) -> str | None:
    """Another tensor of the same checkpoint with the same dtype, shape and values: the two are tied.

    Values that are all the same prove nothing: two biases that were never trained are both 0.
    """
    info = checkpoint.tensors[name]
    values = checkpoint.read(name)
    if values.size and (values == values.flat[0]).all():
        return None
    for other in among:
        found = checkpoint.tensors[other]
        if (found.dtype, found.shape) != (info.dtype, info.shape) or other == name:
            continue
        if np.array_equal(checkpoint.read(other), values):
            return other
    return None


def check_same(first: Checkpoint, other: Checkpoint, name: str) -> None:
    """Refuse a tensor whose shape, or kind of number, differs between two checkpoints."""
    a, b = first.tensors[name], other.tensors[name]
    if a.shape != b.shape:
        raise IncompatibleCheckpoints(
            f"{other}: {name!r} has shape {b.shape}, but {first} has {a.shape}. A soup needs one architecture and one "
            "head: fine-tune all ingredients from the same start."
        )
    if a.dtype != b.dtype and not {a.dtype, b.dtype} <= FLOATS:
        raise IncompatibleCheckpoints(f"{other}: {name!r} is stored as {b.dtype}, but as {a.dtype} in {first}.")
