"""Frontier: the plans of a search that no other beats in score, average cost and worst cost at once."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float64

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.provenance import Seen
from hf_soups.errors import InputError

PRINTED = 16  # plans of a printed frontier
ROUNDING = 1e-12  # by this share a cost may be above its bound: a mean of costs differs so with the order of its sum


@dataclass(frozen=True, slots=True)
class Choice:
    """What a goal led to: the plan, or None and the plan that comes nearest; `why` says so in words."""

    plan: Plan | None
    nearest: Plan | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Frontier:
    """What a search found, the cheapest on average first; scores are higher-is-better (losses are negated)."""

    plans: tuple[Plan, ...]
    singles: tuple[Plan, ...]  # every model of the pool alone, the best first
    ensembles: tuple[Plan, ...] = ()  # those that were scored, members all run; the best first
    data: str = ""  # fingerprint of the rows that it was searched on
    pool: str = ""  # the folder of predictions; its file names it relative to itself
    # rows that nothing was chosen on: a share of the pool's, drawn by `seed`, or another pool's folder
    report: str = ""
    seed: int = 0
    chosen_on: Seen | None = None  # None: by 0.1.0, or of no pool
    reported_on: Seen | None = None  # where the rows to report on are another pool's

    def __post_init__(self) -> None:
        if not self.singles:
            raise InputError("a frontier without a single model: search a pool of at least one.")

    def __len__(self) -> int:
        return len(self.plans)

    @property
    def best_single(self) -> Plan:
        """The single model with the highest score on select; of equal ones the cheaper."""
        return self.singles[0]

    @property
    def best_ensemble(self) -> Plan | None:
        """The ensemble with the highest score: of those that were scored, else of the plans."""
        known = self.ensembles or [p for p in self.plans if is_ensemble(p)]
        return max(known, key=lambda p: (p.score, -p.average_cost), default=None)

    def plan(self, index: int) -> Plan:
        """The plan with that index, as a printed frontier numbers them.

        Raises:
            InputError: if there is no such plan.
        """
        if not 0 <= index < len(self.plans):
            raise InputError(f"no plan {index}: the frontier holds plans 0 to {len(self.plans) - 1}.")
        return self.plans[index]

    def cheapest(self, min_score: float | None = None, *, max_worst_cost: float | None = None) -> Plan | None:
        """The plan of least average cost that scores `min_score` (default: the best single model's) or more."""
        least = self.best_single.score if min_score is None else min_score
        fitting = [p for p in self._bounded(max_worst_cost) if p.score >= least]
        return min(fitting, key=lambda p: (p.average_cost, -p.score, p.worst_cost), default=None)

    def best(self, *, max_average_cost: float | None = None, max_worst_cost: float | None = None) -> Plan | None:
        """The plan of the highest score within the costs; None where nothing fits."""
        fitting = [
            p
            for p in self._bounded(max_worst_cost)
            if max_average_cost is None or _keeps(p.average_cost, max_average_cost)
        ]
        return max(fitting, key=lambda p: (p.score, -p.average_cost, -p.worst_cost), default=None)

    def choose(
        self,
        *,
        min_score: float | None = None,
        max_average_cost: float | None = None,
        max_worst_cost: float | None = None,
    ) -> Choice:
        """The plan for a goal, or the nearest one and why it does not fit.

        With `max_average_cost` alone (or with `max_worst_cost`) it is the best score within the costs; with `min_score`
        the least average cost that reaches it within the others; with neither, the least cost at the best single
        model's score.

        Returns:
            Where nothing fits, `nearest` keeps the costs and comes closest to the score; where no plan keeps the costs,
            it is the one that is over them by the least share.
        """
        bounds = _Bounds(min_score, max_average_cost, max_worst_cost)
        if min_score is None and max_average_cost is None:
            bounds = replace(bounds, score=self.best_single.score)
        fitting = [p for p in self.plans if bounds.fits(p)]
        if not fitting:
            affordable = [p for p in self.plans if bounds.affords(p)]
            nearest = (
                max(affordable, key=lambda p: (p.score, -p.average_cost))
                if affordable
                else min(self.plans, key=lambda p: (bounds.excess(p), -p.score), default=None)
            )
            return Choice(None, nearest, bounds.told())
        if bounds.score is None:
            return Choice(max(fitting, key=lambda p: (p.score, -p.average_cost, -p.worst_cost)))
        return Choice(min(fitting, key=lambda p: (p.average_cost, -p.score, p.worst_cost)))

    def within(self, members: Iterable[str]) -> Frontier:
        """The plans that use some of `members` and nothing else.

        The plans of a search over these members alone may be more: some of them another member's plan beat.

        Raises:
            InputError: if a name is not in the pool, or there is none.
        """
        wanted = set(members)
        unknown = sorted(wanted - {p.members[0] for p in self.singles})
        if unknown or not wanted:
            raise InputError(
                f"{', '.join(unknown) or 'no member'}: not in the frontier's pool, which is "
                f"{', '.join(p.members[0] for p in self.singles)}."
            )
        groups = (self.plans, self.singles, self.ensembles)
        plans, singles, ensembles = (tuple(p for p in some if wanted.issuperset(p.members)) for some in groups)
        return replace(self, plans=plans, singles=singles, ensembles=ensembles)

    def pareto(self, *, max_worst_cost: float | None = None) -> tuple[Plan, ...]:
        """The plans that none beats in both score and average cost, the cheapest first."""
        return pareto(self._bounded(max_worst_cost))

    def printed(self, count: int = PRINTED) -> tuple[int, ...]:
        """Indices of at most `count` plans that stand for the frontier: its ends, what matches the best single, and
        plans spread evenly over score and (logarithm of) average cost between them."""
        kept = {id(p) for p in self.pareto()}
        candidates = [i for i, p in enumerate(self.plans) if id(p) in kept]
        if len(candidates) <= count:
            return tuple(candidates)
        matching = self.cheapest()
        wanted = [candidates[0], candidates[-1]]
        wanted += [i for i in candidates if matching is not None and self.plans[i] is matching]
        return _spread([self.plans[i] for i in candidates], candidates, sorted(set(wanted)), count)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything as JSON, through a temporary file."""
        from hf_soups.cascades.frontier_file import save_frontier

        save_frontier(self, path)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Frontier:
        """Read what `save` wrote.

        Raises:
            InputError: if the file is missing, damaged or of another kind.
        """
        from hf_soups.cascades.frontier_file import load_frontier

        return load_frontier(path)

    def _bounded(self, max_worst_cost: float | None) -> list[Plan]:
        return [p for p in self.plans if max_worst_cost is None or _keeps(p.worst_cost, max_worst_cost)]


@dataclass(frozen=True, slots=True)
class _Bounds:
    score: float | None
    average: float | None
    worst: float | None

    def affords(self, plan: Plan) -> bool:
        return self.excess(plan) <= ROUNDING

    def fits(self, plan: Plan) -> bool:
        return self.affords(plan) and (self.score is None or plan.score >= self.score)

    def excess(self, plan: Plan) -> float:
        """By how much a plan's costs are over the bounds, as a share of them; 0 or less where it keeps them."""
        over = ((plan.average_cost, self.average), (plan.worst_cost, self.worst))
        return max(((cost - most) / (most or 1.0) for cost, most in over if most is not None), default=0.0)

    def told(self) -> str:
        wanted = [] if self.score is None else [f"scores {self.score:.6g} or more"]
        for name, most in (("average", self.average), ("worst", self.worst)):
            if most is not None:
                wanted.append(f"costs {most:.6g} or less {'on average' if name == 'average' else 'at worst'}")
        return f"no plan {' and '.join(wanted)}."


def _keeps(cost: float, most: float) -> bool:
    return cost <= most * (1 + ROUNDING)


def is_ensemble(plan: Plan) -> bool:
    """Whether several members answer every row together."""
    return len(plan.members) > 1 and all(t > 1 for t in plan.thresholds)


def pareto(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Those plans that none beats in both score and average cost, the cheapest first."""
    kept: list[Plan] = []
    for plan in sorted(plans, key=lambda p: (p.average_cost, -p.score, p.worst_cost)):
        if not kept or plan.score > kept[-1].score:
            kept.append(plan)
    return tuple(kept)


def undominated(plans: Iterable[Plan]) -> tuple[Plan, ...]:
    """Those plans that none beats in score, average cost and worst cost at once, the cheapest on average first."""
    from hf_soups.cascades.searching.dominance import nondominated

    found = sorted(plans, key=lambda p: len(p.members))  # of equal ones the shortest is kept
    columns = [[p.score for p in found], [p.average_cost for p in found], [p.worst_cost for p in found]]
    kept = [found[i] for i in nondominated(*(np.array(column, dtype=np.float64) for column in columns))]
    return tuple(sorted(kept, key=lambda p: (p.average_cost, -p.score, p.worst_cost)))


def _spread(plans: Sequence[Plan], indices: Sequence[int], kept: list[int], count: int) -> tuple[int, ...]:
    """`count` of the indices: those in `kept`, and again and again the one farthest from all chosen so far."""
    costs = np.log(np.maximum([p.average_cost for p in plans], 1e-30))
    scores = np.array([p.score for p in plans])
    points = np.stack([_scaled(costs), _scaled(scores)], axis=1)
    chosen = [indices.index(i) for i in kept]
    distance = np.min([np.abs(points - points[c]).sum(axis=1) for c in chosen], axis=0)
    while len(chosen) < count:
        far = int(distance.argmax())
        chosen.append(far)
        distance = np.minimum(distance, np.abs(points - points[far]).sum(axis=1))
    return tuple(sorted(indices[c] for c in set(chosen)))


def _scaled(values: Float64[np.ndarray, " plans"]) -> Float64[np.ndarray, " plans"]:
    span = float(values.max() - values.min())
    return np.asarray((values - values.min()) / (span or 1.0))
