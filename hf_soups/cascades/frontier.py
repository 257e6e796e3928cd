"""Frontier: the plans of a search that no other beats in score, average cost and worst cost at once."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from hf_soups.cascades.plan import Plan


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a search found, the cheapest on average first; scores are higher-is-better (losses are negated)."""

    plans: tuple[Plan, ...]
    singles: tuple[Plan, ...]  # every model of the pool alone, the best first

    def __len__(self) -> int:
        return len(self.plans)

    @property
    def best_single(self) -> Plan:
        """The single model with the highest score on select; of equal ones the cheaper."""
        return self.singles[0]

    def cheapest(self, min_score: float | None = None, *, max_worst_cost: float | None = None) -> Plan | None:
        """The plan of least average cost that scores `min_score` (default: the best single model's) or more."""
        least = self.best_single.score if min_score is None else min_score
        fitting = [p for p in self._within(max_worst_cost) if p.score >= least]
        return min(fitting, key=lambda p: (p.average_cost, -p.score, p.worst_cost), default=None)

    def best(self, *, max_average_cost: float | None = None, max_worst_cost: float | None = None) -> Plan | None:
        """The plan of the highest score within the costs; None where nothing fits."""
        fitting = [
            p for p in self._within(max_worst_cost) if max_average_cost is None or p.average_cost <= max_average_cost
        ]
        return max(fitting, key=lambda p: (p.score, -p.average_cost, -p.worst_cost), default=None)

    def pareto(self, *, max_worst_cost: float | None = None) -> tuple[Plan, ...]:
        """The plans that none beats in both score and average cost, the cheapest first."""
        return pareto(self._within(max_worst_cost))

    def _within(self, max_worst_cost: float | None) -> list[Plan]:
        return [p for p in self.plans if max_worst_cost is None or p.worst_cost <= max_worst_cost]


def pareto(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Those plans that none beats in both score and average cost, the cheapest first."""
    kept: list[Plan] = []
    for plan in sorted(plans, key=lambda p: (p.average_cost, -p.score, p.worst_cost)):
        if not kept or plan.score > kept[-1].score:
            kept.append(plan)
    return tuple(kept)
