"""Cuts: the thresholds that are tried of a stage, and the bin between them that each confidence falls into.

A threshold lies halfway between two neighbouring confidences that occurred: rounding at run time then moves no row
across it.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, Integer

from hf_soups.cascades.rule import NEVER


@dataclass(frozen=True, eq=False)
class Cuts:
    """The thresholds of every state whose confidence is asked, and the bin of each row between them."""

    thresholds: Float64[np.ndarray, "asked count"]
    bins: Integer[np.ndarray, "asked rows"]

    @classmethod
    def of(cls, confidence: Float32[np.ndarray, "asked rows"], count: int, pool: ThreadPoolExecutor) -> Cuts:
        """`count` thresholds of each state, worked out by the threads of `pool`."""
        thresholds = np.empty((len(confidence), count))
        bins = np.empty(confidence.shape, dtype=np.uint8 if count <= 2**8 else np.uint16)

        def work(state: int) -> None:
            thresholds[state] = thresholds_of(confidence[state], count)
            bins[state] = bins_of(confidence[state], thresholds[state])

        list(pool.map(work, range(len(confidence))))
        return cls(thresholds, bins)


def thresholds_of(confidence: Float32[np.ndarray, " rows"], count: int) -> Float64[np.ndarray, " count"]:
    """Up to `count` thresholds, ascending, at even quantiles of the confidence; the last ones are `NEVER`.

    Each keeps at least one row from leaving. Where there are no more distinct confidences than `count`, every
    threshold that makes a difference is there.
    """
    ordered = np.sort(confidence)
    rises = np.flatnonzero(ordered[1:] > ordered[:-1]) + 1  # rows below each threshold
    if len(rises) >= count:
        wanted = np.arange(1, count) * len(ordered) / count
        rises = np.unique(rises[np.minimum(np.searchsorted(rises, wanted), len(rises) - 1)])
    thresholds = np.full(count, NEVER)
    thresholds[: len(rises)] = halfway(ordered[rises - 1], ordered[rises])
    return thresholds


def halfway(below: Float32[np.ndarray, " cuts"], above: Float32[np.ndarray, " cuts"]) -> Float64[np.ndarray, " cuts"]:
    """The float32 in the middle of two different ones, above the lower and not above the higher."""
    middle = ((below.astype(np.float64) + above) / 2).astype(np.float32)
    return np.where(middle > below, middle, above).astype(np.float64)


def bins_of(
    confidence: Float32[np.ndarray, " rows"], thresholds: Float64[np.ndarray, " count"]
) -> Integer[np.ndarray, " rows"]:
    """How many thresholds each confidence reaches: a row stays at the i-th threshold if its bin is i or less."""
    bins: Int64[np.ndarray, " rows"] = np.searchsorted(thresholds.astype(np.float32), confidence, side="right")
    return bins.astype(np.uint8 if len(thresholds) <= 2**8 else np.uint16)
