"""The search for any metric that adds up over rows, and for cascades of any length: plain sums over the whole grid.

Slower than the compiled search for accuracy, and the measure of it in the tests.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import permutations

import numpy as np
from jaxtyping import Float64, Int64, Real

from hf_soups.cascades.grid import Cuts
from hf_soups.cascades.pareto import Known, Points
from hf_soups.cascades.rule import NEVER
from hf_soups.cascades.search.candidates import Entries
from hf_soups.cascades.search.subsets import Members, States
from hf_soups.cascades.search.threads import OnProgress, in_turns

CELLS = 2**21  # of the grid times the statistics of the metric: 16 MB in float64


def search_densely(
    entries: Entries, states: States, length: int, count: int, max_worst: float, found: Points, known: Known,
    pool: ThreadPoolExecutor, on_progress: OnProgress = lambda _: None,
) -> tuple[Points, Known]:  # fmt: skip
    """All cascades of `length` members on a grid of thresholds, beside what was found before.

    Args:
        entries, states: the models and what they answer.
        length: members, two or more.
        count: thresholds of each stage; fewer are tried where the whole grid would not fit into memory.
        max_worst: the most that a row may cost that meets every member.
        found, known: from before.
        pool: whose threads work.
        on_progress: called with the share that is done.
    """
    columns = states.statistics_of(0).shape[1]
    fitting = max(2, int((CELLS / columns) ** (1 / (length - 1))))
    beginnings = _beginnings(states, length - 1)
    asked = max(states.numbering[members] for members in beginnings) + 1
    grid = Cuts.of(states.confidence[:asked], min(count, fitting), pool)

    def work(members: Members, known: Known) -> Points:
        return _Beginning(entries, states, grid, members).points(max_worst, known)

    return in_turns(beginnings, work, found, known, pool, on_progress)


def _beginnings(states: States, length: int) -> list[Members]:
    """All choices of so many members in order, those that end in one state together, as the compiled search has them.

    Of cascades that are equal the first is kept, so both find the same.
    """
    groups: dict[int, list[Members]] = {}
    for members in permutations(range(states.numbering.models), length):
        groups.setdefault(states.numbering[members], []).append(members)
    return [members for group in groups.values() for members in group]


class _Beginning:
    """What the first members of a cascade add up to at every cell of the grid, whoever comes last."""

    def __init__(self, entries: Entries, states: States, grid: Cuts, members: Members) -> None:
        self.entries, self.states, self.grid, self.members = entries, states, grid, members
        self.chain = states.numbering.chain(members)
        self.shape = (grid.thresholds.shape[1],) * len(members)
        statistics = [states.statistics_of(state) for state in self.chain]
        self.sums = np.zeros((*self.shape, statistics[0].shape[1])) + statistics[0].sum(axis=0, dtype=np.float64)
        self.spent = np.full(self.shape, float(entries.costs[members[0]]))
        for stage in range(1, len(members)):
            self.sums += self._over_grid(_difference(statistics[stage], statistics[stage - 1]), stage)
            self.spent += self._staying(stage) * entries.costs[members[stage]]
        self.last, self.staying = statistics[-1], self._staying(len(members))

    def points(self, max_worst: float, known: Known) -> Points:
        """The cascades with one member more that are not surely beaten."""
        parts = [
            self._with_last(member, known)
            for member in range(len(self.entries))
            if member not in self.members and self.entries.worst(self._row(member))[0] <= max_worst
        ]
        return Points.joined(parts) if parts else Points.none(self.states.numbering.deepest)

    def _with_last(self, member: int, known: Known) -> Points:
        state = self.states.numbering[(*self.members, member)]
        added = _difference(self.states.statistics_of(state), self.last)
        scores = self.entries.scores(self.sums + self._over_grid(added, len(self.members))).ravel()
        averages = (self.spent + self.staying * self.entries.costs[member]).ravel()
        worst = float(self.entries.worst(self._row(member))[0])
        at = rising(scores, averages)
        at = at[known.may_be_new(scores[at], averages[at], worst)]
        thresholds = np.full((len(at), self.states.numbering.deepest - 1), NEVER)
        for stage, places in enumerate(np.unravel_index(at, self.shape)):
            thresholds[:, stage] = self.grid.thresholds[self.chain[stage], places]
        members = np.repeat(self._row(member), len(at), axis=0)
        return Points(members, thresholds, scores[at], averages[at], np.full(len(at), worst))

    def _row(self, member: int) -> np.ndarray:
        row = np.full((1, self.states.numbering.deepest), -1, dtype=np.int16)
        row[0, : len(self.members) + 1] = (*self.members, member)
        return row

    def _staying(self, stages: int) -> Float64[np.ndarray, "*grid"]:
        """The share of rows that stay at the first stages, as an array that stretches over the rest of the grid."""
        ones = np.ones((self.states.rows, 1))
        return np.asarray(self._over_grid(ones, stages)[..., 0] / self.states.rows)

    def _over_grid(
        self, values: Real[np.ndarray, "rows statistics"], stages: int
    ) -> Float64[np.ndarray, "*grid statistics"]:
        """Sums of values over the rows that stay at the first `stages` thresholds."""
        shape = self.shape[:stages]
        rows = np.flatnonzero(values.any(axis=1))
        cell = np.ravel_multi_index([self.grid.bins[state, rows] for state in self.chain[:stages]], shape)
        cells = int(np.prod(shape))
        sums = np.stack([np.bincount(cell, weights=column, minlength=cells) for column in values[rows].T], axis=-1)
        sums = sums.reshape(*shape, -1)
        for axis in range(stages):
            np.cumsum(sums, axis=axis, out=sums)
        return sums.reshape(*shape, *(1,) * (len(self.shape) - stages), -1)


def rising(
    scores: Float64[np.ndarray, " cells"], averages: Float64[np.ndarray, " cells"]
) -> Int64[np.ndarray, " some"]:
    """Those cells that score more than every cheaper one, the cheapest first."""
    order = np.lexsort((-scores, averages))
    before = np.maximum.accumulate(np.concatenate([[-np.inf], scores[order][:-1]]))
    return np.asarray(order[scores[order] > before])


def _difference(
    after: Real[np.ndarray, "rows statistics"], before: Real[np.ndarray, "rows statistics"]
) -> Float64[np.ndarray, "rows statistics"]:
    return np.asarray(after.astype(np.float64) - before)
