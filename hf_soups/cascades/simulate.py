"""Sending rows through a cascade: each meets the members it needs, as they run or from stored predictions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy.typing import ArrayLike

from hf_soups.cascades.rule import Committee, Rule, abstaining, checked_thresholds, leaving
from hf_soups.predictions import Predictions

ROWS_AT_ONCE = 4096  # x 1,000 classes in float64: 33 MB
# a stage and the numbers of the rows that reach it -> that member's natural-log probabilities of these rows
MemberAnswer = Callable[[int, Int64[np.ndarray, " rows"]], Float32[np.ndarray, "rows classes"]]


@dataclass(frozen=True, eq=False)
class Exited:
    """What a cascade answered on a batch, and where its rows exit."""

    log_probs: Float32[np.ndarray, "rows classes"]
    exits: Int64[np.ndarray, " rows"]  # stage; 0 is the first member
    confidences: Float32[np.ndarray, " rows"]  # at the stage that each row exits at
    abstained: Bool[np.ndarray, " rows"] | None = None  # rows for a human; None: none is meant for one
    fell_back: Bool[np.ndarray, " rows"] | None = None  # rows whose next member did not answer; None: all must


def run_rows(
    answer: MemberAnswer,
    count: int,
    thresholds: Sequence[float],
    rule: Rule,
    abstain: float | None = None,
    *,
    may_fail: bool = False,
) -> Exited:
    """Send `count` rows through the stages, those that go on together.

    Args:
        answer: of the member of a stage.
        count: of the rows.
        thresholds: one for each member but the last.
        rule: how members combine, and what their confidence is.
        abstain: rows that are less sure than this after the last member are for a human; None: none is.
        may_fail: members after the first may leave rows unanswered, as NaN: these keep the answer of those so far.
    """
    fell_back = np.zeros(count, dtype=bool) if may_fail else None
    left: list[tuple[Int64[np.ndarray, " rows"], Float32[np.ndarray, "rows classes"]]] = []
    exits, confidences = np.zeros(count, dtype=np.int64), np.zeros(count, dtype=np.float32)
    rows, committee = np.arange(count), Committee(rule)
    for stage, threshold in enumerate([*thresholds, 0.0]):  # every row exits at the last
        own = answer(stage, rows)
        if fell_back is not None and stage and (gone := np.isnan(own).any(axis=1)).any():
            before = committee.take(gone)
            exits[rows[gone]], confidences[rows[gone]], fell_back[rows[gone]] = stage - 1, before.confidence(), True
            left.append((rows[gone], before.log_probs()))
            rows, committee, own = rows[~gone], committee.take(~gone), own[~gone]
            if not len(rows):
                break
        committee = committee.joined(own)
        sure = committee.confidence()
        out = leaving(sure, threshold) if stage < len(thresholds) else np.ones(len(rows), dtype=bool)
        if not out.any():
            continue
        exits[rows[out]], confidences[rows[out]] = stage, sure[out]
        if out.all():  # nothing is gathered: at batch 1 always so
            left.append((rows, committee.log_probs()))
            break
        left.append((rows[out], committee.take(out).log_probs()))
        rows, committee = rows[~out], committee.take(~out)
    abstained = None if abstain is None else abstaining(exits, confidences, len(thresholds), abstain)
    if abstained is not None and abstain is not None and fell_back is not None:
        abstained |= fell_back & ~leaving(confidences, abstain)
    if len(left) == 1:
        return Exited(left[0][1], exits, confidences, abstained, fell_back)
    log_probs = np.empty((count, left[0][1].shape[1]), dtype=np.float32)
    for at, own in left:
        log_probs[at] = own
    return Exited(log_probs, exits, confidences, abstained, fell_back)


@dataclass(frozen=True, eq=False)
class CascadePredictions(Predictions):
    """A cascade's answers, with the stage that each row exits at and what it cost."""

    exits: Int64[np.ndarray, " examples"] | None = None  # 0 is the first member
    costs: Float64[np.ndarray, " examples"] | None = None  # of all members that the row met
    confidences: Float32[np.ndarray, " examples"] | None = None  # at the exit; None: of a single model
    abstained: Bool[np.ndarray, " examples"] | None = None  # rows for a human; None: none is meant for one

    def take(self, rows: ArrayLike) -> CascadePredictions:
        """The given rows (indices or a mask), in that order."""
        at = np.asarray(rows)
        at = at.astype(np.int64) if not at.size else at
        assert self.exits is not None
        assert self.costs is not None
        return replace(
            self,
            log_probs=self.log_probs[at],
            row_ids=self.row_ids[at],
            labels=None if self.labels is None else self.labels[at],
            exits=self.exits[at],
            costs=self.costs[at],
            confidences=None if self.confidences is None else self.confidences[at],
            abstained=None if self.abstained is None else self.abstained[at],
        )


def simulate(
    members: Sequence[Predictions], thresholds: Sequence[float], rule: Rule, abstain: float | None = None
) -> Exited:
    """What a cascade answers, for members whose rows stand in one order.

    Args:
        members: in the order that rows meet them.
        thresholds: one for each member but the last.
        rule: how members combine, and what their confidence is.
        abstain: as of `run_rows`.
    """
    at = checked_thresholds(thresholds, len(members))
    rows = len(members[0])
    log_probs = np.empty((rows, members[0].classes), dtype=np.float32)
    exits, confidences = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.float32)
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)

        def answer(stage: int, which: np.ndarray, start: int = start, stop: int = stop) -> np.ndarray:
            return np.asarray(members[stage].block(start, stop)[which])

        done = run_rows(answer, stop - start, at, rule)
        log_probs[start:stop], exits[start:stop] = done.log_probs, done.exits
        confidences[start:stop] = done.confidences
    abstained = None if abstain is None else abstaining(exits, confidences, len(at), abstain)
    return Exited(log_probs, exits, confidences, abstained)
