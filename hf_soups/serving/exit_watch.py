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
from hf_soups.metrics.significance import shares_p_value

ALARM = 0.01


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
        self.p_value = shares_p_value(seen, known)
        if self.warned or self.p_value > ALARM / (self.tested * (self.tested + 1)):
            return ""
        self.warned = True
        now, then = (", ".join(f"{s:.1%}" for s in shares) for shares in (seen / seen.sum(), self.plan.exit_shares))
        return (
            f"the last {self.window} rows left {self.plan.in_order} at shares of {now}; in the search it was {then} "
            f"of {self.plan.rows} rows (p = {self.p_value:.2g}). Rows differ from those that the cascade was "
            "chosen on: its score and cost may too. This is said once."
        )
