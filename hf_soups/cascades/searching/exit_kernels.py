"""Following rows through the stages of one chain: the compiled loops."""

from __future__ import annotations

import numpy as np

from hf_soups.cascades.searching.compiled import compiled


@compiled
def leaves_at(confidence: np.ndarray, thresholds: np.ndarray, row: int, first: int) -> int:
    """The stage, from `first` on, that a row leaves at."""
    for stage in range(first, len(confidence)):
        if confidence[stage, row] >= thresholds[stage]:
            return stage
    return len(confidence)


@compiled
def count_exits(
    confidence: np.ndarray, thresholds: np.ndarray, statistics: np.ndarray, sums: np.ndarray, leaving: np.ndarray
) -> None:
    """Sums of the statistics that rows leave with, and how many leave at each stage; one line for each plan.

    Without a branch for each row, which the processor would guess wrong time and again.

    Args:
        confidence: (stages but the last, rows) float32.
        thresholds: (plans, stages but the last) float32.
        statistics: (stages, statistics, rows).
        sums, leaving: (plans, statistics) and (plans, stages), zeros that are written.
    """
    rows = statistics.shape[2]
    stays, exits = np.empty(rows, np.uint8), np.empty(rows, np.uint8)
    for plan in range(len(thresholds)):
        for row in range(rows):
            stays[row], exits[row] = 1, 0
        for stage in range(len(confidence)):
            for row in range(rows):
                stays[row] &= confidence[stage, row] < thresholds[plan, stage]
                exits[row] += stays[row]
        for stage in range(len(statistics)):
            here = 0
            for row in range(rows):
                here += exits[row] == stage
            leaving[plan, stage] = here
            for s in range(statistics.shape[1]):
                total = sums[plan, s]
                for row in range(rows):
                    total += statistics[stage, s, row] * (exits[row] == stage)
                sums[plan, s] = total


@compiled
def sweep(
    order: np.ndarray, confidence: np.ndarray, thresholds: np.ndarray, stage: int, statistics: np.ndarray,
    costs: np.ndarray, sums: np.ndarray, averages: np.ndarray, between: np.ndarray,
) -> int:  # fmt: skip
    """Every threshold of one stage that makes a difference, the others as they are; returns how many.

    Args:
        order: rows by their confidence at `stage`, ascending.
        confidence, thresholds, statistics: as above, of one plan.
        costs: of a row that leaves at each stage.
        sums, averages: (rows, statistics) and (rows), written: of all rows, at each threshold.
        between: (rows, 2) float32, written: the confidences on both sides of the threshold; the last has none above.
    """
    rows, total = len(order), np.zeros(statistics.shape[1])
    spent = _if_all_leave(confidence, thresholds, stage, statistics, costs, total)
    cuts, before = 0, np.float32(-1.0)
    for row in order:
        if leaves_at(confidence, thresholds, row, 0) < stage:
            continue
        sure = confidence[stage, row]
        if before >= 0 and sure > before:
            between[cuts, 0], between[cuts, 1], averages[cuts] = before, sure, spent / rows
            for s in range(len(total)):
                sums[cuts, s] = total[s]
            cuts += 1
        before = sure
        on = leaves_at(confidence, thresholds, row, stage + 1)
        spent += costs[on] - costs[stage]
        for s in range(len(total)):
            total[s] += np.float64(statistics[on, s, row]) - np.float64(statistics[stage, s, row])
    if before >= 0:
        between[cuts, 0], between[cuts, 1], averages[cuts] = before, before, spent / rows
        for s in range(len(total)):
            sums[cuts, s] = total[s]
        cuts += 1
    return cuts


@compiled
def _if_all_leave(
    confidence: np.ndarray, thresholds: np.ndarray, stage: int, statistics: np.ndarray, costs: np.ndarray,
    total: np.ndarray,
) -> float:  # fmt: skip
    """Sums of the statistics if all rows that come to a stage left there, added to `total`; what they cost together."""
    spent = 0.0
    for row in range(statistics.shape[2]):
        at = min(leaves_at(confidence, thresholds, row, 0), stage)
        spent += costs[at]
        for s in range(len(total)):
            total[s] += statistics[at, s, row]
    return spent
