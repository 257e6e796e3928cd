"""Stages: what each stage of a cascade would answer on every row, so that thresholds can be tried without models.

Plans share their first members: each distinct beginning is computed once, block by block, by the rule's own arithmetic.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real, Shaped
from numpy.typing import ArrayLike

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Committee, Rule, leaving
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.metrics import METRICS, Metric, metric_named
from hf_soups.predictions import Predictions

ELEMENTS_AT_ONCE = 2**19  # rows x classes of a block: 4 MB in float64, which stay in the cache
NEAR = 1e-5  # two float32 log-probabilities that round to one differ by less, relative to 1 or to the larger


@dataclass(frozen=True, eq=False)
class Stages:
    """A chain's confidence, statistics of the metric and cost of each row, at each of its k stages."""

    confidence: Float32[np.ndarray, "stages_but_last rows"]
    statistics: tuple[Real[np.ndarray, "rows statistics"], ...]  # one per stage: of a row that leaves there
    costs: tuple[Float64[np.ndarray, " rows"], ...]  # one per stage: of a row that leaves there
    metric: Metric

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.costs[0])

    def take(self, rows: ArrayLike) -> Stages:
        """The given rows (indices or a mask)."""
        at = np.asarray(rows)
        return replace(
            self,
            confidence=self.confidence[:, at],
            statistics=tuple(s[at] for s in self.statistics),
            costs=tuple(c[at] for c in self.costs),
        )

    def exits(self, thresholds: Sequence[float]) -> Int64[np.ndarray, " rows"]:
        """The stage that each row leaves at, as the simulation finds it."""
        exits = np.full(self.rows, len(self.costs) - 1, dtype=np.int64)
        for stage in range(len(thresholds) - 1, -1, -1):  # the first stage that a row can exit at is written last
            exits[leaving(self.confidence[stage], thresholds[stage])] = stage
        return exits

    def at_exits(
        self, exits: Int64[np.ndarray, " rows"]
    ) -> tuple[Real[np.ndarray, "rows statistics"], Float64[np.ndarray, " rows"]]:
        """Statistics and cost of each row when it leaves at the given stage."""
        statistics, costs = self.statistics[-1].copy(), self.costs[-1].copy()
        for stage in range(len(self.costs) - 1):
            here = exits == stage
            statistics[here], costs[here] = self.statistics[stage][here], self.costs[stage][here]
        return statistics, costs

    def value(self, sums: Real[np.ndarray, "*grid statistics"]) -> Float64[np.ndarray, "*grid"]:
        """Scores from sums of statistics, higher is better: losses are negated."""
        assert self.metric.value is not None
        return self.metric.sign * self.metric.value(sums)

    def rescored(self, plan: Plan) -> Plan:
        """The plan with what it scores and costs on these rows; the bound that it had is dropped."""
        exits = self.exits(plan.thresholds)
        statistics, costs = self.at_exits(exits)
        shares = np.bincount(exits, minlength=len(self.costs)) / self.rows
        return replace(
            plan,
            score=float(self.value(statistics.sum(axis=0, dtype=np.float64))),
            score_low=None,
            average_cost=float(costs.mean()),
            exit_shares=tuple(float(s) for s in shares),
            metric=self.metric.name,
            rows=self.rows,
        )


def read_stages(
    plans: Sequence[Plan], predictions: Mapping[str, Predictions], metric: Metric | str, *, threads: int | None = None
) -> list[Stages]:
    """The stages of each plan, from its members' predictions.

    Args:
        plans: their thresholds are not looked at.
        predictions: by member's name; rows are joined by id to the order of the first plan's first member.
        metric: one whose value follows from sums over rows.
        threads: blocks of rows computed at once; by default as many as this process has processors.
    Raises:
        InputError: if the metric has no sums over rows.
        PredictionsError: if a member or the labels are missing, or the rows are not the same.
    """
    counted = summed_metric(metric)
    aligned = aligned_members([m for plan in plans for m in plan.members], predictions)
    tree = _Tree(counted)
    for plan in plans:
        tree.add(plan)
    first, labels = next(iter(aligned.values())), labels_of(aligned)
    for plan in plans:
        plan.rule.check(first)
    step = max(1, ELEMENTS_AT_ONCE // first.classes)

    def answer(start: int) -> dict[Key, Answered]:
        return dict(tree.answer(aligned, labels, slice(start, min(start + step, len(first)))))

    with ThreadPoolExecutor(workers(threads)) as pool:
        blocks = list(pool.map(answer, range(0, len(first), step)))
    joined = {
        key: (np.concatenate([b[key][0] for b in blocks]), np.concatenate([b[key][1] for b in blocks]))
        for key in blocks[0]
    }
    return [_stages_of(plan, joined, counted, len(first)) for plan in plans]


def workers(threads: int | None) -> int:
    """As many threads as were asked for; None: as many as there are processors for this process.

    Raises:
        InputError: if it is below 1.
    """
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if threads < 1:
        raise InputError(f"{threads} threads; expected 1 or more.")
    return threads


def summed_metric(metric: Metric | str) -> Metric:
    """The metric, if its value follows from sums over rows.

    Raises:
        InputError: if it is unknown, or it does not.
    """
    found = metric_named(metric)
    if found.row_statistics is None or found.value is None:
        raise InputError(f"{found.name} is not a sum over rows: thresholds cannot be chosen for it. Use accuracy.")
    return found


def aligned_members(names: Sequence[str], predictions: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """The predictions of the named members, with their rows in the order of the first.

    Raises:
        PredictionsError: if one is missing, there are no rows, or the rows are not the same.
    """
    missing = [name for name in dict.fromkeys(names) if name not in predictions]
    if missing or not names:
        raise PredictionsError(
            f"no predictions of {', '.join(missing) or 'any model'}; there are: {', '.join(predictions) or 'none'}."
        )
    first = predictions[names[0]]
    if not len(first):
        raise PredictionsError(f"the predictions of {names[0]} hold no rows, so there is nothing to choose on.")
    return {name: predictions[name].aligned_to(first) for name in dict.fromkeys(names)}


def labels_of(aligned: Mapping[str, Predictions]) -> Shaped[np.ndarray, "rows ..."]:
    """The labels that any of the aligned predictions holds.

    Raises:
        PredictionsError: if none does.
    """
    labelled = next((p for p in aligned.values() if p.labels is not None), next(iter(aligned.values())))
    return labelled.needs_labels()


def rounded_answers(committee: Committee) -> Int64[np.ndarray, " rows"]:
    """The answers after log-probabilities were rounded to float32, as stored predictions and metrics see them.

    Only rows whose two most probable classes lie within that rounding are computed in full.
    """
    assert committee.total is not None
    total, answers = committee.total, committee.answers()
    if committee.rule.combine == "last":
        return answers  # nothing is rounded
    best = np.take_along_axis(total, answers[:, None], axis=1)
    near = best * (1 - NEAR) if committee.rule.combine == "mean" else best - NEAR * committee.members
    close = np.flatnonzero((total >= near).sum(axis=1) > 1)
    if len(close):
        answers[close] = committee.take(close).log_probs().argmax(axis=1)
    return answers


Key = tuple[Rule, tuple[str, ...], tuple[float, ...]]
Answered = tuple[Float32[np.ndarray, " rows"], Real[np.ndarray, "rows statistics"]]


@dataclass
class _Tree:
    """The distinct beginnings of some plans, each with those that go on from it."""

    metric: Metric
    following: dict[Key, list[Key]] = field(default_factory=dict)
    roots: dict[Key, None] = field(default_factory=dict)
    asked: set[Key] = field(default_factory=set)  # whose confidence matters: not the last of every plan

    def add(self, plan: Plan) -> None:
        keys = _keys(plan)
        self.roots[keys[0]] = None
        self.asked |= set(keys[:-1])
        for key, longer in zip(keys, [*keys[1:], None], strict=True):
            known = self.following.setdefault(key, [])
            if longer is not None and longer not in known:
                known.append(longer)

    def answer(
        self, predictions: Mapping[str, Predictions], labels: Int64[np.ndarray, " all_rows"], rows: slice
    ) -> Iterator[tuple[Key, Answered]]:
        """What each beginning answers on a block of rows."""
        for root in self.roots:
            yield from self._grown(root, Committee(root[0]), predictions, labels, rows)

    def _grown(
        self,
        key: Key,
        parent: Committee,
        predictions: Mapping[str, Predictions],
        labels: Int64[np.ndarray, " all_rows"],
        rows: slice,
    ) -> Iterator[tuple[Key, Answered]]:
        committee = parent.joined(scaled_block(predictions[key[1][-1]], key[2][-1], rows))
        asked = key in self.asked
        confidence = committee.confidence() if asked else np.zeros(rows.stop - rows.start, dtype=np.float32)
        yield key, (confidence, statistics_of(committee, labels[rows], self.metric))
        for longer in self.following[key]:
            yield from self._grown(longer, committee, predictions, labels, rows)


def scaled_block(p: Predictions, temperature: float, rows: slice) -> Float32[np.ndarray, "rows classes"]:
    """Log-probabilities of some rows at a temperature, as `Predictions.at_temperature` has them."""
    block = p.block(rows.start, rows.stop)
    if temperature == 1:
        return block
    some = Predictions(block, p.row_ids[rows], problem_type=p.problem_type)
    return some.at_temperature(temperature).log_probs


def statistics_of(
    committee: Committee, labels: Shaped[np.ndarray, "rows ..."], metric: Metric
) -> Real[np.ndarray, "rows statistics"]:
    """The metric's statistics of each row that leaves with this committee's answer."""
    of_type = committee.rule.problem_type
    if metric is METRICS["accuracy"] and of_type == CLASSIFICATION:  # without a logarithm of every class
        hit = (rounded_answers(committee) == labels).astype(np.uint8)
        return np.stack([hit, np.ones_like(hit)], axis=1)
    assert metric.row_statistics is not None
    answered = Predictions(committee.log_probs(), np.arange(len(labels)), labels, problem_type=of_type)
    return metric.row_statistics(answered)


def _keys(plan: Plan) -> list[Key]:
    temperatures = plan.temperatures or (1.0,) * len(plan.members)
    lengths = range(1, len(plan.members) + 1)
    return [(plan.rule, plan.members[:n], temperatures[:n]) for n in lengths]


def _stages_of(plan: Plan, joined: Mapping[Key, Answered], metric: Metric, rows: int) -> Stages:
    found = [joined[key] for key in _keys(plan)]
    confidence = np.stack([c for c, _ in found[:-1]]) if len(found) > 1 else np.zeros((0, rows), dtype=np.float32)
    costs = tuple(np.broadcast_to(np.float64(cost), (rows,)) for cost in plan.cost_by_exit)
    return Stages(confidence, tuple(s for _, s in found), costs, metric)
