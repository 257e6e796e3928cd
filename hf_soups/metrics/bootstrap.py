"""The bootstrap by row: resamples of the rows, scores on them, and the interval that holds most of these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

import numpy as np
from jaxtyping import Float, Float64, Int64, Real, UInt32

RESAMPLES_AT_ONCE = 64  # 64 x 50,000 rows of weights are 26 MB in float64
COLUMNS_AT_ONCE = 256  # of the statistics, so that 1,000 classes need no copy of the whole
KEPT = 2**23  # counts of rows in resamples that are kept for the next model: 34 MB
EXACT_FLOAT32_ROWS = 2**16  # counts up to 255 a row then sum below 2**24, where float32 is still exact
DIGITS = 12  # that ends of intervals are rounded to


def resampled_rows(rows: int, resamples: int, seed: int) -> list[Int64[np.ndarray, " rows"]]:
    """Row indices of each resample, drawn with replacement; the same for the same seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return [rng.integers(rows, size=rows) for _ in range(resamples)]


def resampled_sums(
    statistics: Real[np.ndarray, "rows statistics"], resamples: int, seed: int
) -> Float64[np.ndarray, "resamples statistics"]:
    """Sums of the row statistics over the rows of each resample, without copying any row.

    A resample is how often each row was drawn, so that all sums are one matrix product, done in blocks.
    """
    rows, columns = statistics.shape
    counts = statistics.dtype == np.uint8 and rows <= EXACT_FLOAT32_ROWS
    kind = np.float32 if counts else np.float64  # counts are exact in both, and twice as fast in the narrower
    sums = np.empty((resamples, columns))
    blocks, start = _drawn_kept if rows * resamples <= KEPT else _drawn, 0
    for block in blocks(rows, resamples, seed, RESAMPLES_AT_ONCE):
        drawn, stop = block.astype(kind), start + len(block)
        for left in range(0, columns, COLUMNS_AT_ONCE):
            these = slice(left, left + COLUMNS_AT_ONCE)
            sums[start:stop, these] = drawn @ statistics[:, these].astype(kind)
        start = stop
    return sums


def _drawn(rows: int, resamples: int, seed: int, at_once: int) -> Iterator[UInt32[np.ndarray, "block rows"]]:
    """How often each row is in each resample, so many resamples at once."""
    rng = np.random.Generator(np.random.PCG64(seed))
    for start in range(0, resamples, at_once):
        drawn = np.empty((min(at_once, resamples - start), rows), dtype=np.uint32)
        for counts in drawn:
            counts[:] = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        yield drawn


@lru_cache(maxsize=1)
def _drawn_kept(rows: int, resamples: int, seed: int, at_once: int) -> tuple[UInt32[np.ndarray, "block rows"], ...]:
    """The same for the next model, which is scored on the same resamples: drawing takes most of the time."""
    return tuple(_drawn(rows, resamples, seed, at_once))


def percentile_interval(values: Float[np.ndarray, " resamples"], confidence: float) -> tuple[float, float]:
    """The middle `confidence` of the values, as (low, high).

    Rounded to 12 digits: the last bits of the sums depend on how many threads the BLAS library uses.

    >>> percentile_interval(np.arange(101) / 100, 0.9)
    (0.05, 0.95)
    """
    tail = (1 - confidence) / 2
    known = values[~np.isnan(values)]  # a resample may lack a class that a ranking needs
    low, high = np.quantile(known if len(known) else values, [tail, 1 - tail])
    return round(float(low), DIGITS), round(float(high), DIGITS)


def recomputed(
    rows: int, value: Callable[[np.ndarray], float], resamples: int, seed: int
) -> Float64[np.ndarray, " resamples"]:
    """`value(indices)` for each resample: slower, for scores that no sums of row statistics give."""
    return np.asarray([value(at) for at in resampled_rows(rows, resamples, seed)], dtype=np.float64)
