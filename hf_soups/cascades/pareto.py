"""Dominance: which cascades no other beats in score, average cost and worst cost, and a table that tells it soon."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64, Int16, Int64

ROUNDING = 1e-12  # relative: the same cost added up in another order differs by less
FEW_LEVELS = 64  # of worst cost: as many as the sets of six models
LEVELS, BUCKETS = 128, 4096  # of worst and of average cost in the table: 4 MB


@dataclass(frozen=True, eq=False)
class Points:
    """Cascades by column: places of members (-1 after the last), thresholds (2 after the last), and what they reach.

    `score` is higher-is-better; costs are of one row.
    """

    members: Int16[np.ndarray, "points deepest"]
    thresholds: Float64[np.ndarray, "points deepest_less_one"]
    score: Float64[np.ndarray, " points"]
    average: Float64[np.ndarray, " points"]
    worst: Float64[np.ndarray, " points"]

    def __len__(self) -> int:
        return len(self.score)

    def take(self, at: Int64[np.ndarray, " some"]) -> Points:
        """Some of them, in that order."""
        return Points(
            self.members[at], self.thresholds[at], self.score[at], self.average[at], self.worst[at]
        )  # fmt: skip

    @staticmethod
    def none(deepest: int) -> Points:
        """No cascade."""
        return Points(np.zeros((0, deepest), np.int16), np.zeros((0, deepest - 1)), *np.zeros((3, 0)))

    @staticmethod
    def joined(parts: Sequence[Points]) -> Points:
        """Those of all parts, in order."""
        columns = ("members", "thresholds", "score", "average", "worst")
        return Points(*(np.concatenate([getattr(part, name) for part in parts]) for name in columns))

    def nondominated(self) -> Points:
        """Those that no other beats, the cheapest on average first; of equal ones the first is kept."""
        kept = self.take(nondominated(self.score, self.average, self.worst))
        return kept.take(np.lexsort((kept.worst, -kept.score, kept.average)))


def nondominated(
    score: Float64[np.ndarray, " points"],
    average: Float64[np.ndarray, " points"],
    worst: Float64[np.ndarray, " points"],
) -> Int64[np.ndarray, " kept"]:
    """Which points no other beats: none has at least their score at no more of both costs; of equal ones the first.

    Values that differ by rounding alone count as equal.
    """
    if not len(score):
        return np.zeros(0, dtype=np.int64)
    merits, costs, limits = _ranks(score), _ranks(average), _ranks(worst)
    order = np.lexsort((np.arange(len(score)), -merits, costs, limits))
    if limits.max() < FEW_LEVELS:
        return _unbeaten_by_level(order, merits, costs, limits)
    from hf_soups.cascades.compiled import keep_unbeaten

    kept = np.zeros(len(score), dtype=np.bool_)
    keep_unbeaten(order, merits, costs, kept)
    return np.flatnonzero(kept)


def _unbeaten_by_level(
    order: Int64[np.ndarray, " points"],
    merits: Int64[np.ndarray, " points"],
    costs: Int64[np.ndarray, " points"],
    limits: Int64[np.ndarray, " points"],
) -> Int64[np.ndarray, " kept"]:
    """As `compiled.keep_unbeaten`, for few levels of worst cost: without machine code, a pass for each level."""
    best, kept = np.full(int(costs.max()) + 1, -1), []
    for level in np.split(order, np.flatnonzero(np.diff(limits[order])) + 1):
        of_level, at = merits[level], costs[level]
        before = np.append(-1, np.maximum.accumulate(of_level)[:-1])
        kept.append(level[of_level > np.maximum(best[at], before)])
        np.maximum.at(best, at, of_level)
        np.maximum.accumulate(best, out=best)
    return np.sort(np.concatenate(kept))


def _ranks(values: Float64[np.ndarray, " points"]) -> Int64[np.ndarray, " points"]:
    """Ranks from 0, equal for values that differ by rounding."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    rises = np.diff(ordered) > ROUNDING * np.maximum(np.abs(ordered[1:]), np.abs(ordered[:-1]))
    ranks = np.empty(len(values), dtype=np.int64)
    ranks[order] = np.concatenate([[0], np.cumsum(rises)])
    return ranks


@dataclass(frozen=True, eq=False)
class Known:
    """The best score known for levels of worst cost and buckets of average cost, to leave out what is surely beaten.

    best[l, b] is reached by a cascade whose worst cost is at most worst[l] and whose average at most low + b / scale.
    """

    worst: Float64[np.ndarray, " levels"]
    low: float
    scale: float  # buckets for one unit of cost
    best: Float64[np.ndarray, "levels buckets"]

    @classmethod
    def of(cls, worst: Float64[np.ndarray, " cascades"], low: float) -> Known:
        """An empty table for cascades of these worst costs, whose average is at least `low`."""
        levels = np.unique(np.quantile(worst, np.linspace(0, 1, LEVELS), method="nearest"))
        scale = (BUCKETS - 1) / max(float(worst.max()) - low, np.finfo(np.float64).tiny ** 0.5)
        return cls(levels, low, scale, np.full((len(levels), BUCKETS), -np.inf))

    def with_points(self, points: Points) -> Known:
        """The table with what these reach as well."""
        level = np.searchsorted(self.worst, points.worst * (1 - ROUNDING))  # the first that is no less
        bucket = np.ceil((points.average - self.low) * self.scale).astype(np.int64)
        inside = (level < len(self.worst)) & (bucket < BUCKETS)
        best = self.best.copy()
        np.maximum.at(best, (level[inside], bucket[inside]), points.score[inside])
        np.maximum.accumulate(best, axis=0, out=best)
        np.maximum.accumulate(best, axis=1, out=best)
        return Known(self.worst, self.low, self.scale, best)

    def may_be_new(
        self,
        score: Float64[np.ndarray, " points"],
        average: Float64[np.ndarray, " points"],
        worst: Float64[np.ndarray, " points"] | float,
    ) -> Int64[np.ndarray, " some"]:
        """Which of these are not surely beaten or equalled."""
        level = np.searchsorted(self.worst, np.asarray(worst) * (1 + ROUNDING), side="right") - 1
        bucket = np.clip(((average - self.low) * self.scale).astype(np.int64), 0, BUCKETS - 1)
        best = np.where(level >= 0, self.best[np.maximum(level, 0), bucket], -np.inf)
        return np.flatnonzero(score > best)
