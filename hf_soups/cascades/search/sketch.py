"""A sketch of a large pool (some rows, their likely classes), and beginnings of cascades grown on it.

It is what a beam screens thousands of chains on; those that it keeps are scored on everything.

What all its thresholds score is kept as sums. One more member changes the sums of the rows that reach it alone, so that
trying every model of a pool as the next costs a committee and a histogram each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real, Shaped

from hf_soups.cascades.grid import cuts, summed_up
from hf_soups.cascades.rule import Committee
from hf_soups.cascades.search.candidates import Entries
from hf_soups.cascades.stages import scaled_block, statistics_of
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.metrics import METRICS, Metric

SURER_FIRST = np.float32(1e-3)
NUMBERS = 2**28  # log-probabilities kept at most: 1 GB


@dataclass(frozen=True, eq=False)
class Sketch:
    """Each model's log-probabilities of the same rows and classes; they sum to 1 only if `exact`."""

    log_probs: Float32[np.ndarray, "models rows classes"]
    labels: Shaped[np.ndarray, "rows ..."]  # among the classes kept
    exact: bool  # all rows and classes


def sketched(entries: Entries, *, rows: int, classes: int, seed: int = 0) -> Sketch:
    """At most `rows` rows drawn by `seed`, of each the label and the classes that come first with some model.

    Classes are left out where only hits count: other metrics ask which class it was that was answered.
    """
    one_class = entries.rule.problem_type == CLASSIFICATION and entries.metric is METRICS["accuracy"]
    few = min(classes, entries.classes) if one_class else entries.classes
    count = max(1, min(rows, entries.rows, NUMBERS // (len(entries) * few)))
    at = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(entries.rows)[:count])
    labels = entries.labels[at]
    if few == entries.classes:
        kept = np.stack([_rows_of(entries, m, at) for m in range(len(entries))])
        return Sketch(kept, labels, count == entries.rows)
    most = np.full((count, entries.classes), -np.inf, dtype=np.float32)
    for member in range(len(entries)):
        own = _rows_of(entries, member, at)
        best = own.max(axis=1, keepdims=True)
        # every model's answer before any model's second choice, and the surer models' answers first
        np.maximum(most, own - best + SURER_FIRST * best, out=most)
    most[np.arange(count), labels] = np.inf
    # in ascending order, so that of equal classes the lowest still wins
    chosen = np.sort(np.argpartition(most, -few, axis=1)[:, -few:], axis=1)
    kept = np.stack([np.take_along_axis(_rows_of(entries, m, at), chosen, axis=1) for m in range(len(entries))])
    return Sketch(kept, np.argmax(chosen == labels[:, None], axis=1), False)


def _rows_of(entries: Entries, member: int, at: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows all_classes"]:
    """A member's log-probabilities of some rows, at its temperature."""
    whole = len(at) == entries.rows
    stored = entries.predictions[member] if whole else entries.predictions[member].take(at)
    return scaled_block(stored, entries.temperatures[member], slice(0, len(at)))


@dataclass(frozen=True, eq=False)
class Opening:
    """A chain of members with all combinations of thresholds of all but the last, which answers what reaches it."""

    members: tuple[int, ...]
    committee: Committee
    labels: Int64[np.ndarray, " rows"]
    metric: Metric
    statistics: Real[np.ndarray, "rows statistics"]  # of rows that exit at the last member
    shape: tuple[int, ...]  # thresholds of each stage but the last
    at: Int64[np.ndarray, " rows"]  # the lowest combination of thresholds with which a row reaches the last member
    sums: Float64[np.ndarray, "cells statistics"]
    costs: Float64[np.ndarray, " cells"]  # on average

    def scores(self) -> Float64[np.ndarray, " cells"]:
        """What each combination scores, higher is better."""
        assert self.metric.value is not None
        return self.metric.sign * self.metric.value(self.sums)

    def asked(self, most: int) -> OpenBeginning:
        """The same with at most `most` thresholds on what is now the last member's confidence."""
        confidence = self.committee.confidence()
        thresholds = cuts(confidence, most)
        shape = (*self.shape, len(thresholds))
        at = self.at * len(thresholds) + np.searchsorted(thresholds, confidence, side="right")
        reaching = summed_up(np.ones(len(at)), at, shape) / len(at)
        return OpenBeginning(self, shape, at, reaching.reshape(-1))


@dataclass(frozen=True, eq=False)
class OpenBeginning:
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
