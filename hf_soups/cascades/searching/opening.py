"""Openings: beginnings of cascades on a sketch, grown member by member with a grid of thresholds at each stage.

What all its thresholds score is kept as sums. One more member changes the sums of the rows that reach it alone, so that
trying every model of a pool as the next costs a committee and a histogram each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real

from hf_soups.cascades.rule import Committee
from hf_soups.cascades.searching.chain_grid import cuts, summed_up
from hf_soups.cascades.searching.entries import Entries
from hf_soups.cascades.searching.sketch import Sketch
from hf_soups.cascades.searching.stages import statistics_of
from hf_soups.metrics import Metric


@dataclass(frozen=True, eq=False)
class Opening:
    """A chain of members with all combinations of thresholds of all but the last, which answers what reaches it."""

    members: tuple[int, ...]
    committee: Committee
    labels: Int64[np.ndarray, " rows"]
    metric: Metric
    statistics: Real[np.ndarray, "rows statistics"]  # of rows that leave at the last member
    shape: tuple[int, ...]  # thresholds of each stage but the last
    at: Int64[np.ndarray, " rows"]  # the lowest combination of thresholds with which a row reaches the last member
    sums: Float64[np.ndarray, "cells statistics"]
    costs: Float64[np.ndarray, " cells"]  # on average

    def scores(self) -> Float64[np.ndarray, " cells"]:
        """What each combination scores, higher is better."""
        assert self.metric.value is not None
        value = self.metric.value(self.sums)
        return value if self.metric.greater_is_better else -value

    def asked(self, most: int) -> Asked:
        """The same with at most `most` thresholds on what is now the last member's confidence."""
        confidence = self.committee.confidence()
        thresholds = cuts(confidence, most)
        shape = (*self.shape, len(thresholds))
        at = self.at * len(thresholds) + np.searchsorted(thresholds, confidence, side="right")
        reaching = summed_up(np.ones(len(at)), at, shape) / len(at)
        return Asked(self, shape, at, reaching.reshape(-1))


@dataclass(frozen=True, eq=False)
class Asked:
    """An opening at whose last member rows may leave, ready for one more."""

    opening: Opening
    shape: tuple[int, ...]
    at: Int64[np.ndarray, " rows"]
    reaching: Float64[np.ndarray, " cells"]  # share of the rows that go on

    def joined(self, member: int, log_probs: Float32[np.ndarray, "rows classes"], cost: float) -> Opening:
        """The opening with one more member, which costs `cost` a row."""
        before, last = self.opening, self.shape[-1]
        committee = before.committee.joined(log_probs)
        statistics = statistics_of(committee, before.labels, before.metric)
        sums = np.repeat(before.sums, last, axis=0)
        for column in range(sums.shape[1]):
            change = np.subtract(statistics[:, column], before.statistics[:, column], dtype=np.float64)
            sums[:, column] += summed_up(change, self.at, self.shape).reshape(-1)
        costs = np.repeat(before.costs, last) + self.reaching * cost
        members = (*before.members, member)
        return Opening(members, committee, before.labels, before.metric, statistics, self.shape, self.at, sums, costs)


def opening_of(entries: Entries, sketch: Sketch, member: int) -> Opening:
    """One model alone."""
    committee = Committee(entries.rule).joined(sketch.log_probs[member])
    statistics = statistics_of(committee, sketch.labels, entries.metric)
    at = np.zeros(len(sketch.labels), dtype=np.int64)
    sums = statistics.sum(axis=0, dtype=np.float64)[None]
    costs = np.array([float(entries.costs[member])])
    return Opening((member,), committee, sketch.labels, entries.metric, statistics, (), at, sums, costs)
