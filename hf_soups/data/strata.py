"""Stratified subsets of rows, the same on every machine: seeded, each class with its share in whole rows."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64, UInt64


def stratified_rows(
    labels: Int64[np.ndarray, " rows"], size: int, seed: int, *, stream: int = 0, leave_one: bool = False
) -> Int64[np.ndarray, " chosen"]:
    """Indices of `size` rows in ascending order, each class with its share of them.

    A class gets at least one row where `size` allows, the larger classes first. With one seed a smaller subset
    of a class lies inside a larger one.

    Args:
        labels: class indices.
        size: how many rows; fewer come back if `leave_one` leaves fewer to take.
        seed: not negative.
        stream: other streams of one seed draw independently.
        leave_one: keep at least one row of every class out of the subset.
    """
    counts = np.bincount(labels, minlength=1) if len(labels) else np.zeros(1, dtype=np.int64)
    upper = np.maximum(counts - 1, 0) if leave_one else counts
    taken = _shares(counts, np.minimum(counts > 0, upper), upper, min(size, int(upper.sum())))
    order = np.argsort(_raw(len(labels), seed, stream), kind="stable")
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    chosen = [by_class[start : start + take] for start, take in zip(starts, taken, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


def _shares(
    counts: Int64[np.ndarray, " classes"],
    lower: Int64[np.ndarray, " classes"],
    upper: Int64[np.ndarray, " classes"],
    size: int,
) -> Int64[np.ndarray, " classes"]:
    """Rows of each class: the largest remainders of size x share, within the bounds; ties to the lower class."""
    if lower.sum() >= size:
        first = np.argsort(-counts * (lower > 0), kind="stable")[:size]
        return np.asarray(np.bincount(first, minlength=len(counts)), dtype=np.int64)
    wanted = size * counts / counts.sum()
    taken: np.ndarray = np.clip(np.floor(wanted).astype(np.int64), lower, upper)
    while (short := size - int(taken.sum())) != 0:
        free = taken < upper if short > 0 else taken > lower
        missing = np.where(free, np.sign(short) * (wanted - taken), -np.inf)
        taken[int(np.argmax(missing))] += np.sign(short)
    return taken


def _raw(count: int, seed: int, stream: int) -> UInt64[np.ndarray, " rows"]:
    # The raw output of PCG64 is fixed for ever; Generator.permutation may change between releases of NumPy.
    return np.asarray(np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(count), dtype=np.uint64)
