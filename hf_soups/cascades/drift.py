"""Drift: whether new rows are answered as those that a cascade was chosen on, told from its answers alone.

Exits, answers and their probabilities are held against the select rows' by chi-squared tests of two samples, which
allow for chance in both; p-values are Holm's, so the chance of any false alarm is at most the level. Costs follow from
exits: their difference has an interval, and no test of its own. No labels are needed, so a score that fell while all of
this stayed is not seen.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.errors import InputError
from hf_soups.metrics.closed_intervals import two_sided
from hf_soups.metrics.significance import shares_p_value

BINS = 20  # of the probability of the answer, over [0, 1]
LEVEL = 0.01


@dataclass(frozen=True, slots=True)
class AnswersSeen:
    """What a cascade answered on some rows, in counts."""

    exits: tuple[int, ...]  # rows by stage
    labels: Mapping[str, int] = field(default_factory=dict)  # by the likeliest label; empty: not known
    scores: tuple[int, ...] = ()  # by its probability, in `BINS` bins of equal width; empty: not known
    abstained: int | None = None  # rows for a human; None: none is meant for one

    @property
    def rows(self) -> int:
        """That were answered."""
        return sum(self.exits)

    @classmethod
    def count(
        cls,
        stages: int,
        exits: Sequence[int] | np.ndarray,
        labels: Sequence[str],
        scores: Sequence[float] | np.ndarray,
        abstained: Sequence[bool] | np.ndarray | None = None,
    ) -> AnswersSeen:
        """From a value for each row.

        >>> AnswersSeen.count(2, [0, 1, 1], ["a", "b", "a"], [0.99, 0.5, 0.7]).exits
        (1, 2)
        """
        bins = np.clip((np.asarray(scores, dtype=np.float64) * BINS).astype(int), 0, BINS - 1)
        return cls(
            tuple(np.bincount(np.asarray(exits, dtype=np.int64), minlength=stages).tolist()),
            dict(sorted(Counter(labels).items())),
            tuple(np.bincount(bins, minlength=BINS).tolist()),
            None if abstained is None else int(np.sum(abstained)),
        )

    @classmethod
    def of(cls, plan: Plan, answers: CascadePredictions) -> AnswersSeen:
        """Of a simulation."""
        assert answers.exits is not None
        names = answers.label_names or tuple(map(str, range(answers.classes)))
        best = answers.log_probs.argmax(axis=1)
        scores = np.exp(answers.log_probs.max(axis=1))
        return cls.count(len(plan.members), answers.exits, [names[i] for i in best.tolist()], scores, answers.abstained)

    @classmethod
    def of_plan(cls, plan: Plan) -> AnswersSeen | None:
        """What a plan itself says of its select rows; None: nothing."""
        if not plan.exit_shares or not plan.rows:
            return None
        return cls(tuple(round(share * plan.rows) for share in plan.exit_shares))


@dataclass(frozen=True, slots=True)
class Compared:
    """One thing that was compared."""

    name: str  # "exits", "labels" or "confidence"
    then: tuple[int, ...]  # rows of select, by stage, label or bin
    now: tuple[int, ...]
    of: tuple[str, ...]  # the stages, labels or bins
    p_value: float  # Holm's, over all that were compared


@dataclass(frozen=True, slots=True)
class Drift:
    """New answers against those to the select rows."""

    plan: Plan
    then: AnswersSeen
    now: AnswersSeen
    compared: tuple[Compared, ...]
    level: float = LEVEL

    @property
    def differs(self) -> bool:
        """Whether anything differs by more than chance."""
        return any(one.p_value <= self.level for one in self.compared)

    @property
    def average_costs(self) -> tuple[float, float]:
        """Of a select row, and of a new one."""
        return _mean_cost(self.plan, self.then), _mean_cost(self.plan, self.now)

    @property
    def cost_difference(self) -> tuple[float, float]:
        """The 95% interval of what a new row costs more, by the normal approximation."""
        then, now = self.average_costs
        off = two_sided(0.95) * math.sqrt(_variance(self.plan, self.then) + _variance(self.plan, self.now))
        return now - then - off, now - then + off

    def in_words(self) -> str:
        """The result as one sentence."""
        found = [f"{one.name} (p = {one.p_value:.2g})" for one in self.compared if one.p_value <= self.level]
        if not found:
            what = ", ".join(one.name for one in self.compared)
            return (
                f"No drift seen: {what} of {self.now.rows} new rows are like those of {self.then.rows} select rows, as "
                "far as so many can show."
            )
        return (
            f"Rows differ from the {self.then.rows} select rows in {', '.join(found)}: score and cost may no longer be "
            "those of the search. Label some of them and compare, or search again on rows like these."
        )


def drift_of(plan: Plan, then: AnswersSeen, now: AnswersSeen, level: float = LEVEL) -> Drift:
    """Compare new answers with those to the select rows.

    Args:
        plan: that gave both.
        then: of the select rows.
        now: of the new ones.
        level: chance of a false alarm, in (0, 1).
    Raises:
        InputError: if there are no new answers, or the level is none.

    >>> then = AnswersSeen.count(2, [0] * 900 + [1] * 100, ["a", "b"] * 500, [0.9] * 1000)
    >>> now = AnswersSeen.count(2, [0] * 50 + [1] * 50, ["a", "b"] * 50, [0.9] * 100)
    >>> found = drift_of(Plan(("s", "b"), (0.8,), (1.0, 9.0)), then, now)
    >>> found.differs, [one.name for one in found.compared if one.p_value < 0.01]
    (True, ['exits'])
    """
    if not 0 < level < 1:
        raise InputError(f"the level is {level}; expected a chance between 0 and 1.")
    if not now.rows:
        raise InputError("there are no answers to compare: every row has an error, or there is none.")
    raw = [Compared("exits", then.exits, now.exits, plan.members, shares_p_value(now.exits, then.exits))]
    if then.labels:
        names = tuple(dict.fromkeys((*then.labels, *now.labels)))
        before, after = (tuple(seen.labels.get(name, 0) for name in names) for seen in (then, now))
        raw.append(Compared("labels", before, after, names, shares_p_value(after, before, ordered=False)))
    if then.scores and len(then.scores) == len(now.scores):
        bins = tuple(f"{i / BINS:.2f} to {(i + 1) / BINS:.2f}" for i in range(BINS))
        raw.append(Compared("confidence", then.scores, now.scores, bins, shares_p_value(now.scores, then.scores)))
    if len(plan.members) == 1:
        raw = raw[1:]  # everything exits at the only stage
    return Drift(plan, then, now, tuple(_holm(raw)), level)


def _holm(raw: Sequence[Compared]) -> list[Compared]:
    order = sorted(range(len(raw)), key=lambda i: raw[i].p_value)
    adjusted, largest = list(raw), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(raw) - rank) * raw[i].p_value))
        adjusted[i] = replace(raw[i], p_value=largest)
    return adjusted


def _mean_cost(plan: Plan, seen: AnswersSeen) -> float:
    return float(np.average(plan.cost_by_exit, weights=seen.exits))


def _variance(plan: Plan, seen: AnswersSeen) -> float:
    """Of the mean."""
    squares = np.average(np.square(plan.cost_by_exit), weights=seen.exits)
    return float(max(squares - _mean_cost(plan, seen) ** 2, 0.0)) / seen.rows
