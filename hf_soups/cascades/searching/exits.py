"""Exits: what one chain of members answers on every row at each of its stages, and what its thresholds make of that."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real

from hf_soups.cascades.rule import NEVER
from hf_soups.cascades.searching.cuts import halfway
from hf_soups.cascades.searching.dominance import Known, Points
from hf_soups.cascades.searching.entries import Entries
from hf_soups.cascades.searching.numbering import Members
from hf_soups.cascades.searching.subsets import States


@dataclass(frozen=True, eq=False)
class Chain:
    """The stages of one order of members: confidences of all but the last, row statistics and cost of all."""

    members: Members
    confidence: Float32[np.ndarray, "stages_but_last rows"]
    statistics: Real[np.ndarray, "stages statistics rows"]
    costs: Float64[np.ndarray, " stages"]  # of a row that leaves there

    @classmethod
    def of(cls, entries: Entries, states: States, members: Members) -> Chain:
        """The chain of these members, given by place."""
        numbers = states.numbering.chain(members)
        return cls(
            members,
            states.confidence[list(numbers[:-1])],
            np.stack([states.statistics_of(number).T for number in numbers]),
            np.cumsum(entries.costs[list(members)]),
        )

    @property
    def thresholds(self) -> int:
        """How many thresholds it has."""
        return len(self.confidence)

    @cached_property
    def _ascending(self) -> Int64[np.ndarray, "stages_but_last rows"]:
        """Of each stage but the last, the rows by their confidence."""
        return np.argsort(self.confidence, axis=1)

    def reached(
        self, thresholds: Float64[np.ndarray, "plans stages_but_last"]
    ) -> tuple[Float64[np.ndarray, "plans statistics"], Float64[np.ndarray, "plans stages"]]:
        """Of several plans: sums of the row statistics, and the share of rows that leaves at each stage."""
        from hf_soups.cascades.searching.exit_kernels import count_exits

        stages, statistics, rows = self.statistics.shape
        kind = np.int64 if self.statistics.dtype.kind in "iub" else np.float64
        sums, leaving = np.zeros((len(thresholds), statistics), dtype=kind), np.zeros((len(thresholds), stages))
        count_exits(self.confidence, thresholds.astype(np.float32), self.statistics, sums, leaving)
        return sums.astype(np.float64), leaving / rows

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
        from hf_soups.cascades.searching.exit_kernels import sweep

        fixed = point.thresholds[0, : self.thresholds].astype(np.float32)
        cuts = sweep(self._ascending[stage], self.confidence, fixed, stage, self.statistics, self.costs, *room)
        sums, averages, between = (part[:cuts] for part in room)
        scores = entries.scores(sums)
        # the average cost rises from cut to cut: a cut is of use if it scores more than all before it
        new = np.flatnonzero(scores > np.maximum.accumulate(np.concatenate([[-np.inf], scores]))[:-1])
        new = new[known.may_be_new(scores[new], averages[new], point.worst)]
        found = point.take(np.zeros(len(new), dtype=np.int64))
        thresholds = found.thresholds.copy()
        thresholds[:, stage] = np.where(new < cuts - 1, halfway(*between[new].T), NEVER)
        return Points(found.members, thresholds, scores[new], averages[new], found.worst)
