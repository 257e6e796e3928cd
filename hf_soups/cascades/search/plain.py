"""The inner loops of `kernels` by NumPy, bit for bit: for small pools, for which compiling takes longer than searching.

Sums are cumulative sums, which add in the order of the rows as the compiled loops do.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real


def count_exits(
    confidence: Float32[np.ndarray, "stages_but_last rows"],
    thresholds: Float32[np.ndarray, "plans stages_but_last"],
    statistics: Real[np.ndarray, "stages statistics rows"],
    sums: Real[np.ndarray, "plans statistics"],
    leaving: Float64[np.ndarray, "plans stages"],
) -> None:
    """See `kernels.count_exits`: `sums` and `leaving` are written."""
    whole = sums.dtype.kind == "i"  # then the order of adding does not matter
    rows = np.arange(statistics.shape[2])
    columns = [np.ascontiguousarray(statistics[:, s]).ravel() for s in range(statistics.shape[1])]
    for plan, of_plan in enumerate(thresholds):
        exits = exits_at(confidence, of_plan)
        leaving[plan] = np.bincount(exits, minlength=len(statistics))
        at = exits * len(rows) + rows
        at = at if whole else at[np.argsort(exits, kind="stable")]  # stage by stage, as the compiled loop adds
        for s, column in enumerate(columns):
            left = column[at]
            sums[plan, s] = left.sum(dtype=sums.dtype) if whole else np.cumsum(left, dtype=sums.dtype)[-1]


def exits_at(
    confidence: Float32[np.ndarray, "stages_but_last rows"], thresholds: Float32[np.ndarray, " stages_but_last"]
) -> Int64[np.ndarray, " rows"]:
    """The stage at which each row exits."""
    exits = np.zeros(confidence.shape[1], dtype=np.intp)
    stays = np.ones(confidence.shape[1], dtype=bool)
    for sure, threshold in zip(confidence, thresholds, strict=True):
        stays &= sure < threshold
        exits += stays
    return exits


def sweep(
    order: Int64[np.ndarray, " rows"],
    confidence: Float32[np.ndarray, "stages_but_last rows"],
    thresholds: Float32[np.ndarray, " stages_but_last"],
    stage: int,
    statistics: Real[np.ndarray, "stages statistics rows"],
    costs: Float64[np.ndarray, " stages"],
    sums: Float64[np.ndarray, "rows statistics"],
    averages: Float64[np.ndarray, " rows"],
    between: Float32[np.ndarray, "rows 2"],
) -> int:
    """See `kernels.sweep`: `sums`, `averages` and `between` are written; how many cuts there are."""
    rows = statistics.shape[2]
    exits = exits_at(confidence, thresholds)
    at = np.minimum(exits, stage)
    come = order if stage == 0 else order[exits[order] >= stage]
    if not len(come):
        return 0
    later = (stage + 1 + exits_at(confidence[stage + 1 :], thresholds[stage + 1 :]))[come]
    sure = confidence[stage, come]
    cuts = np.flatnonzero(np.append(sure[1:] > sure[:-1], True))
    # a cut counts the rows before it, not yet the one behind it
    averages[: len(cuts)] = _running(costs[at], costs[later] - costs[stage])[cuts + 1] / rows
    first_at, later_at, here = at * rows + np.arange(rows), later * rows + come, statistics.dtype
    for s in range(statistics.shape[1]):
        column = statistics[:, s].astype(np.int64 if here.kind in "iub" else np.float64).ravel()
        change = column[later_at] - column[stage * rows + come]
        sums[: len(cuts), s] = _running(column[first_at], change)[cuts + 1]
    between[: len(cuts), 0] = sure[cuts]
    between[: len(cuts), 1] = sure[np.minimum(cuts + 1, len(sure) - 1)]
    return len(cuts)


def _running(first: Real[np.ndarray, " rows"], changes: Real[np.ndarray, " some"]) -> Real[np.ndarray, " some_and_one"]:
    """The sum of the first, then with each change added, one after another."""
    start = first.sum() if first.dtype.kind == "i" else np.cumsum(first)[-1]
    return np.cumsum(np.append(start, changes))
