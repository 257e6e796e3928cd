"""Whether rows leave a cascade where they did in its search: other shares of exits mean other rows, or a broken input.

A window of rows is held against the rows of the search by a chi-squared test of two samples, so what chance does to
either is allowed for. Window k is tested at the level ALARM / (k (k + 1)), whose sum over all windows is ALARM: a
service that meets rows like the search's for ever warns falsely with at most that probability, as far as chi-squared is
exact.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Int64

from hf_soups.cascades.plan import Plan

ALARM = 0.01
LEAST = 10  # rows that are expected of each sample at a stage; smaller ones are counted with the next


@dataclass(eq=False)
class ExitWatch:
    """The exits of one plan, window by window."""

    plan: Plan
    window: int = 1000
    tested: int = 0  # windows
    p_value: float | None = None  # of the last one
    warned: bool = False
    seen: Int64[np.ndarray, " stages"] = field(init=False)  # rows of the window that gathers now

    def __post_init__(self) -> None:
        self.seen = np.zeros(len(self.plan.members), dtype=np.int64)

    @property
    def can_tell(self) -> bool:
        """Whether the plan says how many rows it was chosen on, and where they left."""
        return bool(self.plan.exit_shares) and self.plan.rows > 0 and len(self.plan.members) > 1

    def add(self, exits: Sequence[int]) -> str:
        """Count rows.

        Returns:
            A warning, the first time that a window differs; else nothing.
        """
        warning, at = "", 0
        while self.can_tell and at < len(exits):
            part = exits[at : at + self.window - int(self.seen.sum())]
            self.seen += np.bincount(part, minlength=len(self.seen))
            at += len(part)
            if self.seen.sum() == self.window:
                warning = self._test() or warning
        return warning

    def _test(self) -> str:
        self.tested += 1
        seen, self.seen = self.seen, np.zeros_like(self.seen)
        known = np.asarray(self.plan.exit_shares) * self.plan.rows
        self.p_value = p_of_shares(seen, known)
        if self.warned or self.p_value > ALARM / (self.tested * (self.tested + 1)):
            return ""
        self.warned = True
        now, then = (", ".join(f"{s:.1%}" for s in shares) for shares in (seen / seen.sum(), self.plan.exit_shares))
        return (
            f"the last {self.window} rows left {self.plan.in_order} at shares of {now}; in the search it was {then} "
            f"of {self.plan.rows} rows (p = {self.p_value:.2g}). Rows differ from those that the cascade was "
            "chosen on: its score and cost may too. This is said once."
        )


def p_of_shares(one: np.ndarray, other: np.ndarray) -> float:
    """The probability that two samples of one population differ as much, by chi-squared; counts by stage.

    >>> p_of_shares(np.array([500, 500]), np.array([50, 50]))
    1.0
    >>> p_of_shares(np.array([600, 400]), np.array([500, 500])) < 1e-4
    True
    """
    from scipy.special import chdtrc

    one, other = _merged(np.stack([one, other]).astype(np.float64))
    if len(one) < 2:
        return 1.0
    total = one + other
    parts = (sample.sum() / total.sum() * total for sample in (one, other))
    statistic = sum(
        float(((sample - part) ** 2 / part).sum()) for sample, part in zip((one, other), parts, strict=True)
    )
    return float(chdtrc(len(one) - 1, statistic))


def _merged(counts: np.ndarray) -> np.ndarray:
    """Neighbouring stages put together until each is expected to have `LEAST` rows in the smaller sample."""
    share = counts.sum(axis=1).min() / counts.sum()
    merged: list[np.ndarray] = []
    for stage in counts.T:
        if merged and min(merged[-1].sum(), stage.sum()) * share < LEAST:
            merged[-1] = merged[-1] + stage
        else:
            merged.append(stage)
    return np.stack(merged, axis=1)
