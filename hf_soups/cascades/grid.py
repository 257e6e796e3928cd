"""The grid of thresholds of one chain: which are tried at each stage, and all of them scored at once.

A threshold lies halfway between two neighbouring confidences that occurred: rounding at run time then moves no row
across it.

Leaving at a stage instead of going on changes a row's statistics by a fixed amount. So the sums of all combinations of
thresholds follow from one histogram a stage, of those changes by binned confidences, summed up along each threshold.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64, Integer

from hf_soups.cascades.rule import NEVER
from hf_soups.cascades.stages import Stages


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
    levels, kind = thresholds.astype(np.float32), np.uint8 if len(thresholds) <= 2**8 else np.uint16
    if len(levels) > COMPARED:
        return np.searchsorted(levels, confidence, side="right").astype(kind)
    bins = np.zeros(len(confidence), dtype=kind)
    for level in levels:
        np.add(bins, confidence >= level, out=bins)
    return bins


COMPARED = 64  # thresholds that are compared with all confidences one by one, faster than finding each one's place
CELLS = 40_000  # combinations of thresholds x statistics: 34 thresholds for each of three stages
MOST = 2_048  # thresholds of one stage
ROUNDING = 1e-12  # relative: sums of costs in another order
WINDOW = 3  # thresholds chosen together; longer chains take turns

Pick = Callable[[Float64[np.ndarray, " cells"], Float64[np.ndarray, " cells"]], int]  # of scores and costs


@dataclass(frozen=True, eq=False)
class Grid:
    """What every combination of thresholds scores (higher is better) and costs on average."""

    thresholds: tuple[Float32[np.ndarray, " tried"], ...]  # by stage, ascending from 0 to NEVER
    scores: Float64[np.ndarray, " cells"]  # the last stage's threshold changes fastest
    costs: Float64[np.ndarray, " cells"]

    def at(self, cell: int) -> tuple[float, ...]:
        """The thresholds of a cell."""
        where = np.unravel_index(cell, [len(t) for t in self.thresholds]) if self.thresholds else ()
        return tuple(float(t[i]) for t, i in zip(self.thresholds, where, strict=True))

    def front(self) -> Int64[np.ndarray, " kept"]:
        """The cells that none beats in score and cost, the cheapest first."""
        order = np.lexsort((-self.scores, self.costs))
        best = np.maximum.accumulate(self.scores[order])
        return np.asarray(order[np.concatenate(([True], self.scores[order][1:] > best[:-1]))])


@dataclass(frozen=True, eq=False)
class Left:
    """Rows that left before a chain: how many, and the sums of their statistics and of their costs."""

    rows: int
    sums: Float64[np.ndarray, " statistics_and_cost"]


def chain_grid(stages: Stages, left: Left | None = None, *, cells: int = CELLS) -> Grid:
    """Score every combination of thresholds, on a grid of quantiles of each stage's confidence.

    With few distinct confidences the grid holds all of them, and nothing lies between its thresholds. Rows that `left`
    before the chain's first stage count in scores and costs.
    """
    before = left or Left(0, np.zeros(stages.statistics[0].shape[1] + 1))
    stops, columns = len(stages.confidence), stages.statistics[0].shape[1]
    most = _thresholds_each(stops, columns, cells)
    thresholds = tuple(cuts(confidence, most) for confidence in stages.confidence)
    shape = [len(t) for t in thresholds]
    sums = np.zeros((*shape, columns + 1))
    sums += before.sums
    sums += np.append(stages.statistics[0].sum(axis=0, dtype=np.float64), stages.costs[0].sum())
    at = np.zeros(stages.rows, dtype=np.int64)
    for stage, confidence in enumerate(stages.confidence):
        # a row goes on where its confidence lies below the threshold: from this index of the thresholds on
        at = at * shape[stage] + np.searchsorted(thresholds[stage], confidence, side="right")
        for column, change in enumerate(_changes(stages, stage)):
            going_on = summed_up(change, at, shape[: stage + 1])
            sums[..., column] += going_on.reshape(*shape[: stage + 1], *(1,) * (stops - stage - 1))
    flat = sums.reshape(-1, columns + 1)
    return Grid(thresholds, stages.value(flat[:, :-1]), flat[:, -1] / (stages.rows + before.rows))


def cuts(confidence: Float32[np.ndarray, " rows"], most: int) -> Float32[np.ndarray, " tried"]:
    """At most `most` thresholds that part the rows: 0 (all leave), midpoints between confidences, NEVER (none does).

    Where there are few confidences, every threshold that makes a difference is there.
    """
    return np.unique(np.append(thresholds_of(confidence, max(most, 3) - 1), 0)).astype(np.float32)


def refit(stages: Stages, pick: Pick, start: Sequence[float], *, rounds: int = 2) -> tuple[float, ...]:
    """Thresholds of a chain chosen on these rows.

    Args:
        stages: of the rows to choose on.
        pick: the cell to take, from the scores and average costs of a grid.
        start: thresholds to begin with; they matter in chains of more than four members alone, whose thresholds
            are chosen three neighbours at a time while the others stay.
        rounds: turns that each three of a long chain take.
    """
    at = [float(t) for t in start]
    if len(at) <= WINDOW:
        grid = chain_grid(stages)
        return grid.at(pick(grid.scores, grid.costs))
    for _, first in itertools.product(range(rounds), range(len(at) - WINDOW + 1)):
        window, left = _window(stages, at, first)
        if window.rows:
            grid = chain_grid(window, left)
            at[first : first + WINDOW] = grid.at(pick(grid.scores, grid.costs))
    return tuple(at)


def best_within(most: float) -> Pick:
    """The highest score at an average cost of at most `most`, of equal ones the cheapest; else the cheapest of all."""

    def pick(scores: Float64[np.ndarray, " cells"], costs: Float64[np.ndarray, " cells"]) -> int:
        within = costs <= most * (1 + ROUNDING)
        if not within.any():
            return int(np.lexsort((-scores, costs))[0])
        return int(np.lexsort((costs, -np.where(within, scores, -np.inf)))[0])

    return pick


def cheapest_at(least: float) -> Pick:
    """The least average cost at a score of at least `least`, of equal ones the best; else the best of all."""

    def pick(scores: Float64[np.ndarray, " cells"], costs: Float64[np.ndarray, " cells"]) -> int:
        reaching = scores >= least - ROUNDING * abs(least)
        if not reaching.any():
            return int(np.lexsort((costs, -scores))[0])
        return int(np.lexsort((-scores, np.where(reaching, costs, np.inf)))[0])

    return pick


def _thresholds_each(stops: int, columns: int, cells: int) -> int:
    return min(MOST, max(4, int((cells / columns) ** (1 / max(stops, 1)))))


def _changes(stages: Stages, stage: int) -> Iterator[Float64[np.ndarray, " rows"]]:
    """What each statistic, and at last the cost, of each row changes by when it goes on from a stage to the next."""
    here, there = stages.statistics[stage], stages.statistics[stage + 1]
    for column in range(here.shape[1]):
        yield np.subtract(there[:, column], here[:, column], dtype=np.float64)
    yield stages.costs[stage + 1] - stages.costs[stage]


def summed_up(
    change: Float64[np.ndarray, " rows"], at: Int64[np.ndarray, " rows"], shape: Sequence[int]
) -> Float64[np.ndarray, "*shape"]:
    """Sums of the changes of the rows that lie at or below each combination of thresholds."""
    if not change.any():
        return np.zeros(shape)
    sums = np.bincount(at, weights=change, minlength=int(np.prod(shape))).reshape(shape)
    for axis in range(len(shape)):
        np.cumsum(sums, axis=axis, out=sums)
    return sums


def _window(stages: Stages, at: Sequence[float], first: int) -> tuple[Stages, Left]:
    """Three stages of a chain and a last one that stands for all that follows, of the rows that reach them."""
    after = first + WINDOW
    exits = stages.exits(at)
    reaching, gone = exits >= first, exits < first
    statistics, costs = stages.at_exits(exits)
    left = Left(int(gone.sum()), np.append(statistics[gone].sum(axis=0, dtype=np.float64), costs[gone].sum()))
    rest, rest_costs = stages.at_exits(stages.exits([*at[:first], *(NEVER,) * WINDOW, *at[after:]]))
    window = replace(
        stages,
        confidence=stages.confidence[first:after],
        statistics=(*stages.statistics[first:after], rest),
        costs=(*stages.costs[first:after], rest_costs),
    )
    return window.take(reaching), left
