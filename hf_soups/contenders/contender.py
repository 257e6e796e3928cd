"""Contender: something that answered select and report, and the row that says what it is."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hf_soups.metrics import Metric, Score
from hf_soups.predictions import Predictions
from hf_soups.tasks import SHIFT

UNUSABLE = ("unusable predictions", "gone", "unreadable")  # of something that is there, but spoilt
KINDS = ("best on select", "soup", "ensemble", "cascade", "run")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the leaderboard; scores as the metric gives them, not x 100."""

    kind: str  # one of KINDS
    name: str
    status: str  # "finished", or why there are no scores
    reason: str = ""
    ingredients: int | None = None
    pool: int | None = None  # how many there were to choose from
    select: float | None = None
    select_low: float | None = None  # 95% bootstrap interval by row
    select_high: float | None = None
    report: float | None = None
    report_low: float | None = None
    report_high: float | None = None
    report_gain: float | None = None  # over the best on select
    gain: str = ""  # the same in words
    report_nll: float | None = None
    report_ece: float | None = None
    parameters: int | None = None
    macs: int | None = None  # multiply-adds per example; of a cascade their average over report rows
    train_seconds: float | None = None  # of all ingredients together
    device: str = ""  # that the training seconds were measured on
    made_of: str = ""  # members and their weights or thresholds, where they were chosen
    shifts: Mapping[str, Score] = field(default_factory=dict)  # by shift; those that were answered


@dataclass(frozen=True, eq=False)
class Contender:
    """Something that answered select and report, and the row that says what it is."""

    row: Row
    answers: Mapping[str, Predictions]  # select, report, shift-<name>
    trained: tuple[str, ...] = ()  # the runs whose training it took

    @property
    def select(self) -> Predictions:
        """Its answers on the rows that soups are chosen on."""
        return self.answers["select"]

    @property
    def report(self) -> Predictions:
        """Its answers on the rows that are looked at once."""
        return self.answers["report"]


@dataclass(frozen=True, eq=False)
class Contenders:
    """All that can be compared, and what cannot be and why. All answers of one split have their rows in one order."""

    metric: Metric
    runs: tuple[Contender, ...]  # the best on select first
    soups: tuple[Contender, ...]
    ensembles: tuple[Contender, ...]
    unscored: tuple[Row, ...]
    notes: tuple[str, ...]  # answers on shifts that cannot be used, and rows that are not there
    cascades: tuple[Contender, ...] = ()

    @property
    def everything(self) -> tuple[Contender, ...]:
        """All that answered, in the order of the leaderboard's kinds."""
        return (*self.soups, *self.ensembles, *self.cascades, *self.runs)

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the shifts that anything answered, in alphabetical order."""
        everything = (*self.runs, *self.soups)
        return tuple(sorted({r.removeprefix(SHIFT) for c in everything for r in c.answers if r.startswith(SHIFT)}))


def rank_of(metric: Metric, value: float | None) -> float:
    """Smaller is better; NaN and None come last. Report scores are never ranked."""
    if value is None or math.isnan(value):
        return math.inf
    return -value if metric.greater_is_better else value


def sum_of(values: Sequence[Any]) -> Any:
    """The sum, or None when a part of it is not known."""
    return None if any(v is None for v in values) else sum(values)


def devices_of(rows: Sequence[Row]) -> str:
    """The devices that they were trained on."""
    return " + ".join(sorted({row.device for row in rows if row.device}))


def shared_roles(members: Sequence[Contender]) -> list[str]:
    """The splits that all of them answered."""
    return [role for role in members[0].answers if all(role in m.answers for m in members)]


def together(members: Sequence[Contender], runs: Mapping[str, Row], row: Row) -> tuple[Row, tuple[str, ...]]:
    """The row with what its members hold and cost together, and the runs whose training they took, each once."""
    trained = tuple(dict.fromkeys(name for m in members for name in m.trained))
    known = [runs[name] for name in trained if name in runs]
    complete = all(m.trained for m in members) and len(known) == len(trained)
    filled = replace(
        row,
        ingredients=len(members),
        parameters=sum_of([m.row.parameters for m in members]),
        macs=sum_of([m.row.macs for m in members]),
        train_seconds=sum_of([r.train_seconds for r in known]) if complete else None,
        device=devices_of(known),
    )
    return filled, trained
