"""What chains reach: scores and average costs at many thresholds, and which of them no other chain's beats."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64

from hf_soups.cascades.searching.dominance import ROUNDING, nondominated

LEVELS = 32  # of worst cost, at which what is known is kept apart


@dataclass(frozen=True, eq=False)
class Reached:
    """Scores (higher is better) and average costs that one chain reaches with some of its thresholds."""

    chain: tuple[int, ...]
    worst: float  # cost of a row that meets every member
    scores: Float64[np.ndarray, " points"]
    costs: Float64[np.ndarray, " points"]
    gap: float = float("inf")  # by how much the best of the chain's points clears the bar; below 0: none does

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, mask: Bool[np.ndarray, " points"]) -> Reached:
        """Some of the points."""
        return replace(self, scores=self.scores[mask], costs=self.costs[mask])


@dataclass(frozen=True, eq=False)
class Bar:
    """The best scores known at each average cost, at several levels of worst cost."""

    levels: list[float]
    steps: list[tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]]  # costs, and the best so far

    @classmethod
    def of(cls, reached: Sequence[Reached]) -> Bar:
        """The bar that these set."""
        ordered = sorted(reached, key=lambda r: r.worst)
        if not ordered:
            return cls([], [])
        ends = np.unique(np.linspace(0, len(ordered) - 1, LEVELS).round().astype(int))
        return cls([ordered[i].worst for i in ends], [_steps(ordered[: i + 1]) for i in ends])

    def cleared(self, reached: Reached) -> Reached:
        """The points that nothing known at their worst cost or less beats or equals, and none of themselves beats."""
        at = bisect_right(self.levels, reached.worst) - 1
        gains = reached.scores.copy()
        if at >= 0:
            costs, best = self.steps[at]
            step = np.searchsorted(costs, reached.costs * (1 + ROUNDING), side="right") - 1
            gains -= np.where(step >= 0, best[np.maximum(step, 0)], -np.inf)
        left = reached.take(gains > 0)
        order = np.lexsort((-left.scores, left.costs))
        best = np.maximum.accumulate(left.scores[order])
        kept = order[np.concatenate(([True], best[1:] > best[:-1]))] if len(order) else order
        return replace(left, scores=left.scores[kept], costs=left.costs[kept], gap=float(gains.max()))


def on_front(reached: Sequence[Reached]) -> list[Bool[np.ndarray, " points"]]:
    """For each chain, which of its points none beats or equals in score, average cost and worst cost at once."""
    counts = [len(r) for r in reached]
    scores, costs = (np.concatenate([getattr(r, name) for r in reached]) for name in ("scores", "costs"))
    kept = np.zeros(len(scores), dtype=bool)
    kept[nondominated(scores, costs, np.repeat([r.worst for r in reached], counts))] = True
    return np.split(kept, np.cumsum(counts)[:-1])


def _steps(reached: Sequence[Reached]) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
    scores, costs = (np.concatenate([getattr(r, name) for r in reached]) for name in ("scores", "costs"))
    order = np.argsort(costs, kind="stable")
    return costs[order], np.maximum.accumulate(scores[order])
