"""One chain on every row at each stage, and the thresholds of found cascades swept over all confidences that occurred.

Each sweep gives every threshold of a stage with the others fixed; whatever nothing known beats is kept, and polished
in its turn, until nothing is new or the allowance is spent.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real, UInt8, UInt64

from hf_soups.cascades.grid import halfway
from hf_soups.cascades.pareto import Known, Points, nondominated
from hf_soups.cascades.rule import NEVER
from hf_soups.cascades.search import plain
from hf_soups.cascades.search.candidates import Entries
from hf_soups.cascades.search.subsets import Members, States
from hf_soups.cascades.search.threads import OnProgress, in_turns

PLANS_AT_ONCE = 128  # whose rows that stay are held as bits


@dataclass(frozen=True, eq=False)
class Chain:
    """The stages of one order of members: confidences of all but the last, row statistics and cost of all."""

    members: Members
    numbers: tuple[int, ...]  # of the states that its stages end in
    states: States
    confidence: Float32[np.ndarray, "stages_but_last rows"]
    costs: Float64[np.ndarray, " stages"]  # of a row that leaves there
    few: bool  # see `Entries.few`

    @classmethod
    def of(cls, entries: Entries, states: States, members: Members) -> Chain:
        """The chain of these members, given by place."""
        numbers = states.numbering.chain(members)
        confidence = states.confidence[list(numbers[:-1])]
        return cls(members, numbers, states, confidence, np.cumsum(entries.costs[list(members)]), entries.few)

    @property
    def thresholds(self) -> int:
        """How many thresholds it has."""
        return len(self.confidence)

    @cached_property
    def statistics(self) -> Real[np.ndarray, "stages statistics rows"]:
        """What each row adds to the metric at each stage."""
        return np.stack([self.states.statistics_of(number).T for number in self.numbers])

    @property
    def _loops(self) -> Any:
        """The inner loops: by NumPy, or compiled."""
        if self.few:
            return plain
        from hf_soups.cascades.search import kernels

        return kernels

    @cached_property
    def _ascending(self) -> Int64[np.ndarray, "stages_but_last rows"]:
        """Of each stage but the last, the rows by their confidence."""
        return np.argsort(self.confidence, axis=1)

    def reached(
        self, thresholds: Float64[np.ndarray, "plans stages_but_last"]
    ) -> tuple[Float64[np.ndarray, "plans statistics"], Float64[np.ndarray, "plans stages"]]:
        """Of several plans: sums of the row statistics, and the share of rows that leaves at each stage."""
        if self.states.hits is not None and not self.few:
            edges = range(0, len(thresholds), PLANS_AT_ONCE)
            parts = [self._reached_by_bits(thresholds[at : at + PLANS_AT_ONCE].astype(np.float32)) for at in edges]
            sums, leaving = (np.concatenate(column) for column in zip(*parts, strict=True))
        else:
            kind = np.int64 if self.statistics.dtype.kind in "iub" else np.float64
            sums = np.zeros((len(thresholds), self.statistics.shape[1]), dtype=kind)
            leaving = np.zeros((len(thresholds), len(self.members)))
            count = self._loops.count_exits
            count(self.confidence, thresholds.astype(np.float32), self.statistics, sums, leaving)
        return sums.astype(np.float64), leaving / self.states.rows

    def _reached_by_bits(
        self, thresholds: Float32[np.ndarray, "plans stages_but_last"]
    ) -> tuple[Int64[np.ndarray, "plans 2"], Int64[np.ndarray, "plans stages"]]:
        """By accuracy: hits and rows, and how many leave at each stage; plans that share a threshold share its bits."""
        from hf_soups.cascades.search.kernels import count_bits

        assert self.states.hits is not None
        hits = _in_words(self.states.hits[list(self.numbers)].view(np.uint8))
        at = np.zeros(thresholds.shape, dtype=np.int64)
        stays: list[UInt8[np.ndarray, " bytes"]] = []
        for stage, confidence in enumerate(self.confidence):
            values, at[:, stage] = np.unique(thresholds[:, stage], return_inverse=True)
            at[:, stage] += len(stays)
            stays += [np.packbits(confidence < value, bitorder="little") for value in values]
        leaving = np.zeros((len(thresholds), len(self.members)), dtype=np.int64)
        sums = np.full((len(thresholds), 2), self.states.rows, dtype=np.int64)
        words = _in_words(np.stack(stays)) if stays else hits[:0]
        sums[:, 0] = count_bits(words, at, hits, self.states.rows, leaving)
        return sums, leaving

    def swept(self, entries: Entries, points: Points, known: Known) -> Points:
        """What nothing known surely beats among all thresholds of each stage of some plans, the others as they are.

        Args:
            entries: the models, and how they are scored.
            points: plans of this chain.
            known: the best scores known by cost.
        """
        _, statistics, rows = self.statistics.shape
        room = np.empty((rows, statistics)), np.empty(rows), np.empty((rows, 2), dtype=np.float32)
        parts = [Points.none(points.members.shape[1])]
        for at in range(len(points)):
            point = points.take(np.array([at]))
            parts += [self._swept_at(stage, point, entries, known, room) for stage in range(self.thresholds)]
        return Points.joined(parts)

    def _swept_at(
        self, stage: int, point: Points, entries: Entries, known: Known, room: tuple[np.ndarray, np.ndarray, np.ndarray]
    ) -> Points:
        fixed = point.thresholds[0, : self.thresholds].astype(np.float32)
        cuts = self._loops.sweep(
            self._ascending[stage], self.confidence, fixed, stage, self.statistics, self.costs, *room
        )
        sums, averages, between = (part[:cuts] for part in room)
        scores = entries.scores(sums)
        # the average cost rises from cut to cut: a cut is of use if it scores more than all before it
        new = np.flatnonzero(scores > np.maximum.accumulate(np.concatenate([[-np.inf], scores]))[:-1])
        new = new[known.may_be_new(scores[new], averages[new], point.worst)]
        found = point.take(np.zeros(len(new), dtype=np.int64))
        thresholds = found.thresholds.copy()
        thresholds[:, stage] = np.where(new < cuts - 1, halfway(*between[new].T), NEVER)
        return Points(found.members, thresholds, scores[new], averages[new], found.worst)


def _in_words(packed: UInt8[np.ndarray, "lines bytes"]) -> UInt64[np.ndarray, "lines words"]:
    """Lines of bits in words of 64, filled up with zeros."""
    filled = np.zeros((len(packed), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    filled[:, : packed.shape[1]] = packed
    return filled.view(np.uint64)


SWEEP_ROWS = 10_000  # a sweep of few rows takes as long as these
Polished = set[bytes]


def polish(
    entries: Entries, states: States, found: Points, known: Known, pool: ThreadPoolExecutor, *, allowance: int,
    on_progress: OnProgress = lambda _: None,
) -> Points:  # fmt: skip
    """The cascades found, and those beside them that differ in thresholds and that no other beats.

    Args:
        entries, states: the models and what they answer.
        found, known: from the search on a grid.
        pool: whose threads sweep.
        allowance: rows that may be swept in all, which bounds the time; a round takes half of what is left. A sweep
            counts `SWEEP_ROWS` rows more than there are, for what it takes beside them.
        on_progress: called with the share of the allowance that is spent.
    """
    done: Polished = set()
    left, of_sweep = allowance, states.rows + SWEEP_ROWS
    while left > of_sweep:
        chosen = _chosen(found, done, sweeps=max(1, left // 2 // of_sweep))
        if not len(chosen):
            break
        done |= set(_keys(found.take(chosen)))
        left -= int((found.members[chosen] >= 0).sum() - len(chosen)) * of_sweep
        tasks = by_chain(found, chosen)

        def work(task: tuple[Members, Points], known: Known) -> Points:
            return Chain.of(entries, states, task[0]).swept(entries, task[1], known)

        found, known = in_turns(tasks, work, found, known, pool)
        on_progress(1 - max(left, 0) / allowance)
    return found


def _chosen(found: Points, done: Polished, sweeps: int) -> Int64[np.ndarray, " some"]:
    """Cascades not yet polished: first those that are best whatever the worst cost, each kind evenly thinned."""
    stages = (found.members >= 0).sum(axis=1) - 1
    fresh = np.array([key not in done for key in _keys(found)], dtype=bool) & (stages > 0)
    flat = np.zeros(len(found), dtype=bool)
    flat[nondominated(found.score, found.average, np.zeros(len(found)))] = True
    chosen: list[Int64[np.ndarray, " some"]] = []
    for kind in (fresh & flat, fresh & ~flat):
        at = np.flatnonzero(kind)
        share = min(1.0, sweeps / max(1, int(stages[at].sum())))
        chosen.append(at[np.unique(np.linspace(0, len(at) - 1, round(len(at) * share)).astype(int))] if len(at) else at)
        sweeps -= int(stages[chosen[-1]].sum())
        if sweeps <= 0:
            break
    return np.concatenate(chosen)


def by_chain(found: Points, chosen: Int64[np.ndarray, " some"]) -> list[tuple[Members, Points]]:
    """The chosen cascades, those of the same members in the same order together."""
    chains: dict[Members, list[int]] = {}
    for at in chosen:
        members = tuple(int(m) for m in found.members[at] if m >= 0)
        chains.setdefault(members, []).append(int(at))
    return [(members, found.take(np.array(at))) for members, at in chains.items()]


def _keys(points: Points) -> list[bytes]:
    """What tells one cascade from another."""
    return [m.tobytes() + t.tobytes() for m, t in zip(points.members, points.thresholds, strict=True)]
