"""The bootstrap by row: resamples of the rows, scores on them, and the interval that holds most of these."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Float64, Int64, Real

RESAMPLES_AT_ONCE = 64  # 64 x 50,000 rows of weights are 26 MB in float64
COLUMNS_AT_ONCE = 256  # of the statistics, so that 1,000 classes need no copy of the whole
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
    rng = np.random.Generator(np.random.PCG64(seed))
    counts = statistics.dtype == np.uint8 and rows <= EXACT_FLOAT32_ROWS
    kind = np.float32 if counts else np.float64  # counts are exact in both, and twice as fast in the narrower
    sums = np.empty((resamples, columns))
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        stop = min(start + RESAMPLES_AT_ONCE, resamples)
        drawn = np.empty((stop - start, rows), dtype=kind)
        for i in range(stop - start):
            drawn[i] = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        for left in range(0, columns, COLUMNS_AT_ONCE):
            block = slice(left, left + COLUMNS_AT_ONCE)
            sums[start:stop, block] = drawn @ statistics[:, block].astype(kind)
    return sums


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
