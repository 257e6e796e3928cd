"""Running a cascade on stored predictions: what it answers, and at which stage each row leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float32, Float64, Int64
from numpy.typing import ArrayLike

from hf_soups.cascades.rule import Committee, Rule, checked_thresholds, leaving
from hf_soups.predictions import Predictions

ROWS_AT_ONCE = 4096  # x 1,000 classes in float64: 33 MB


@dataclass(frozen=True, eq=False)
class CascadePredictions(Predictions):
    """A cascade's answers, with the stage that each row left at and what it cost."""

    exits: Int64[np.ndarray, " examples"] | None = None  # 0 is the first member
    costs: Float64[np.ndarray, " examples"] | None = None  # of all members that the row met

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
        )


def simulate(
    members: Sequence[Predictions], thresholds: Sequence[float], rule: Rule
) -> tuple[Float32[np.ndarray, "rows classes"], Int64[np.ndarray, " rows"]]:
    """Log-probabilities and the exit stage of each row, for members whose rows stand in one order.

    Args:
        members: in the order that rows meet them.
        thresholds: one for each member but the last.
        rule: how members combine, and what their confidence is.
    """
    at = checked_thresholds(thresholds, len(members))
    rows = len(members[0])
    log_probs = np.empty((rows, members[0].classes), dtype=np.float32)
    exits = np.empty(rows, dtype=np.int64)
    for start in range(0, rows, ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, rows)
        _block(members, at, rule, start, stop, log_probs, exits)
    return log_probs, exits


def _block(
    members: Sequence[Predictions],
    thresholds: tuple[float, ...],
    rule: Rule,
    start: int,
    stop: int,
    log_probs: Float32[np.ndarray, "rows classes"],
    exits: Int64[np.ndarray, " rows"],
) -> None:
    rows, committee = np.arange(start, stop), Committee(rule)
    for stage, member in enumerate(members):
        committee = committee.joined(member.block(start, stop)[rows - start])
        last = stage == len(members) - 1
        out = np.ones(len(rows), dtype=bool) if last else leaving(committee.confidence(), thresholds[stage])
        log_probs[rows[out]] = committee.take(out).log_probs()
        exits[rows[out]] = stage
        rows, committee = rows[~out], committee.take(~out)
        if not len(rows):
            return
