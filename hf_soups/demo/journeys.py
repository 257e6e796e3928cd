"""Journeys: which members an input met on its way through a cascade, what each said, and what that cost.

Nothing here knows of models or pages: what the members answered comes in as log-probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Committee, leaving

# the numbers of the rows that reached a stage, and the natural-log probabilities of its member alone
Stage = tuple[Int64[np.ndarray, " rows"], Float32[np.ndarray, "rows classes"]]


@dataclass(frozen=True, eq=False)
class Meeting:
    """One member that an input met."""

    member: str
    own: Float32[np.ndarray, " classes"]  # probabilities of this member alone
    combined: Float64[np.ndarray, " classes"]  # of all members so far, as the rule combines them
    confidence: float  # of all members so far, in [0, 1]
    threshold: float | None  # the input leaves at this confidence or more; None: the last member, which always answers
    cost: float  # of this member alone

    @property
    def leaves(self) -> bool:
        """Whether the input left here, by the cascade's own comparison."""
        sure = np.asarray([self.confidence], dtype=np.float32)
        return self.threshold is None or bool(leaving(sure, self.threshold)[0])


@dataclass(frozen=True, eq=False)
class Journey:
    """The way of one input: the members it met, the last of which it left at."""

    meetings: tuple[Meeting, ...]
    log_probs: Float32[np.ndarray, " classes"]  # the cascade's answer
    for_human: bool = False  # it met the last member, and is less sure than the plan asks for

    @property
    def exit(self) -> int:
        """The stage that the input left at; 0 is the first member."""
        return len(self.meetings) - 1

    @property
    def answer(self) -> int:
        """The class; the lowest index wins a tie."""
        return int(self.log_probs.argmax())

    @property
    def probability(self) -> float:
        """Of the answer, in [0, 1]."""
        return float(np.exp(self.log_probs.max()))

    @property
    def cost(self) -> float:
        """Of all members that the input met."""
        return float(sum(meeting.cost for meeting in self.meetings))


@dataclass(frozen=True, slots=True)
class Always:
    """What costs are held against: one member asked for every input."""

    member: str
    cost: float
    alone: bool = False  # there is no other model, so there is nothing to save

    def saved(self, cost: float) -> float:
        """The share of its cost that `cost` leaves; negative where more was spent.

        >>> Always("large", 5.0).saved(1.0)
        0.8
        """
        return 1 - cost / self.cost if self.cost > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Totals:
    """What a batch came to."""

    exits: tuple[int, ...]  # inputs that left, by stage
    cost: float  # of all inputs together

    @property
    def count(self) -> int:
        """How many inputs were answered."""
        return sum(self.exits)

    @property
    def shares(self) -> tuple[float, ...]:
        """Share of the inputs that left, by stage; they sum to 1."""
        return tuple(left / self.count for left in self.exits)

    @property
    def average_cost(self) -> float:
        """Of an input."""
        return self.cost / self.count


def journeys(plan: Plan, stages: Sequence[Stage], count: int) -> list[Journey]:
    """The way of each input, from what was asked of the members and answered by them.

    Args:
        plan: that was followed.
        stages: one for each stage that any input reached, in order.
        count: of inputs.
    """
    said: list[list[Float32[np.ndarray, " classes"]]] = [[] for _ in range(count)]
    for rows, log_probs in stages:
        for row, own in zip(rows.tolist(), log_probs, strict=True):
            said[row].append(own)
    return [_journey(plan, answers) for answers in said]


def totals(ways: Sequence[Journey], plan: Plan) -> Totals:
    """Exits and costs of a batch that followed one plan."""
    exits = np.bincount([way.exit for way in ways], minlength=len(plan.members))
    return Totals(tuple(exits.tolist()), float(sum(way.cost for way in ways)))


def _journey(plan: Plan, said: Sequence[Float32[np.ndarray, " classes"]]) -> Journey:
    committee, meetings = Committee(plan.rule), []
    for stage, own in enumerate(said):
        committee = committee.joined(own[None])
        last = stage == len(plan.members) - 1
        meetings.append(
            Meeting(
                plan.members[stage], np.exp(own), committee.probs()[0], float(committee.confidence()[0]),
                None if last else plan.thresholds[stage], plan.costs[stage],
            )
        )  # fmt: skip
    met_all = len(said) == len(plan.members)
    unsure = plan.abstain is not None and met_all and not leaving(committee.confidence(), plan.abstain)[0]
    return Journey(tuple(meetings), committee.log_probs()[0], bool(unsure))
