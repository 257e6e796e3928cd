"""How many of the remaining rows each model may answer: the compiled inner loop of Streeter's greedy."""

from __future__ import annotations

import numpy as np

from hf_soups.cascades.searching.compiled import compiled


@compiled
def longest_prefixes(
    order: np.ndarray,
    confidence: np.ndarray,
    right: np.ndarray,
    reference: np.ndarray,
    remaining: np.ndarray,
    share: float,
    count: np.ndarray,
    last: np.ndarray,
    following: np.ndarray,
) -> None:
    """For each model, the most rows from the surest down on which it keeps its share of the reference's accuracy.

    Args:
        order: (models, rows) int32, each model's rows, the surest first.
        confidence: (models, rows) float32 in that order.
        right: (models, rows) bool by row.
        reference: (rows) bool.
        remaining: (rows) bool.
        share: of the reference's hits.
        count: (models) int64 for results: rows answered, 0 where no number of rows qualifies.
        last: (models) float32 for results: the least confidence answered.
        following: (models) float32 for results: the next lower one of the remaining rows, or -1.
    """
    models, rows = order.shape
    for m in range(models):
        hits, wanted, seen = 0, 0, 0
        before = np.float32(2)
        best, at, then = 0, np.float32(2), np.float32(2)
        for i in range(rows):
            row = order[m, i]
            if not remaining[row]:
                continue
            now = confidence[m, i]
            # rows of one confidence leave together
            if now != before and seen and hits + 1e-9 >= share * wanted:
                best, at, then = seen, before, now
            seen += 1
            hits += right[m, row]
            wanted += reference[row]
            before = now
        if seen and hits + 1e-9 >= share * wanted:
            best, at, then = seen, before, np.float32(-1)
        count[m], last[m], following[m] = best, at, then
