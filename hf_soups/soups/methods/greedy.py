"""Greedy search: which checkpoints make the best average, by a score function alone.

Ingredients join one by one, best first, as long as the held-out score does not fall. Further random orders may be
tried, and members taken out again. It knows nothing of models, data or devices.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from hf_soups.checkpoint import Checkpoint, Source, checkpoints_of
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.soups.methods.uniform import uniform
from hf_soups.soups.options import Tie
from hf_soups.soups.registry import MethodInputs, soup_method
from hf_soups.soups.soup import HIGHER, AtBest, Score, Signs, Soup, Step, display_names, rank_of, values_of

Members = tuple[int, ...]  # positions in the pool, in the order they joined
Values = tuple[float, ...]  # of a score


def greedy(
    ingredients: Sequence[Source],
    score: Callable[[Soup], Score],
    *,
    signs: Signs = HIGHER,
    tie: Tie = ">=",
    restarts: int = 0,
    prune: bool = False,
    seed: int = 0,
    on_step: Callable[[Step], None] | None = None,
    score_or_bound: Callable[[Soup, Score | None], Score | AtBest] | None = None,
    expect: Callable[[Sequence[Soup], Score | None], None] | None = None,
    speculate: int = 1,
) -> Soup:
    """The greedy soup: never below its best ingredient under `score`.

    Every ingredient is scored alone; then, from the best down, each joins the soup if the mean of the members and
    it scores at least as well as the members alone. A candidate is the last ingredient of the soup that `score`
    gets, so a scorer may keep the sum of the others. No mixture is scored twice.

    Args:
        ingredients: at least one; equal scores keep this order.
        score: NaN counts as the worst and is recorded. A tuple breaks ties: where first values are equal the second
            decide, such as (accuracy, loss) on a split so small that accuracies often coincide.
        signs: of each value of a score, -1 where lower is better; default: higher is better.
        tie: ">=" as in the paper (an equal score joins), or ">".
        restarts: random orders tried after the one by score; the best soup of all is kept, of equals the earlier.
        prune: at the end take members out again, the least missed first, as long as the score rises.
        seed: of the random orders.
        on_step: called after each decision, for progress.
        score_or_bound: of mixtures instead of `score`, to save work. It gets the score that the mixture must reach and
            may answer `hf_soups.soups.AtBest(value)` where that is surely worse; given None it must answer the score.
            The decisions are the same; steps that were left out have `at_best` in the place of a score. Where one
            ingredient alone is kept, the mixture that came closest has its score: it says why.
        expect: called, before scores are asked for, with the mixtures that will be asked for next if none of them
            changes the soup, and with the score that `score_or_bound` will be given: these may be worked out side by
            side. Decisions and steps do not depend on it.
        speculate: how many mixtures `expect` gets at most.
    Returns:
        The soup; `steps` are those of the order that won, `scores["orders"]` has all orders.
    Raises:
        InputError: if there is no ingredient, `tie` is unknown, `restarts` is negative or `speculate` is below 1.
        HfSoupsError: if no ingredient alone has a score.
    Source: Wortsman et al. 2022, arXiv:2203.05482, recipe 1. Random orders and pruning are not the paper's.
    """
    if tie not in (">=", ">"):
        raise InputError(f"tie is {tie!r}; expected '>=' (an equal score joins, as in the paper) or '>'.")
    if restarts < 0:
        raise InputError(f"restarts is {restarts}; expected 0 (the order by score alone) or more.")
    if speculate < 1:
        raise InputError(f"speculate is {speculate}; expected 1 (nothing is scored ahead) or more.")
    bounded = score_or_bound or (lambda soup, floor: score(soup))
    pool = _Pool(
        checkpoints_of(ingredients), score, bounded, signs, tie, on_step or (lambda step: None), expect, speculate
    )
    runs = []
    for order in _orders(pool.by_score(), restarts, seed):
        members, steps = pool.forward(order)
        if prune:
            members, steps = pool.backward(members, steps)
        runs.append((members, steps))
    best = max(range(len(runs)), key=lambda i: (pool.rank(runs[i][0]), -i))
    members, steps = runs[best]
    steps = pool.with_closest(members, steps) if len(members) == 1 and not prune else steps
    scores = {
        "score": pool.value(members),
        "singles": {pool.names[i]: pool.value((i,)) for i in pool.by_score()},
        "orders": [
            {"kept": [pool.names[i] for i in m], "score": pool.value(m), "won": i == best}
            for i, (m, _) in enumerate(runs)
        ],
    }
    if not restarts:
        del scores["orders"]
    return replace(pool.soup(members), steps=tuple(steps), scores=scores)


@soup_method("greedy", needs_score=True, breaks_ties=True)
def _greedy(inputs: MethodInputs, *, tie: Tie, restarts: int, prune: bool, seed: int) -> Soup:
    tried, total = itertools.count(1), len(inputs.pool)

    def on_step(step: Step) -> None:
        word = ("taken out" if step.accepted else "stays") if step.removes else "joins" if step.accepted else "left out"
        how = "without" if step.removes else "with"
        score = inputs.in_words(step.score if step.at_best is None else step.at_best)
        if step.at_best is not None:
            score = f"{'at most' if inputs.signs[0] > 0 else 'at least'} {score}"
        inputs.say(f"{next(tried)}/{total}: {how} {step.candidate} {score}, {word}")

    return greedy(
        inputs.pool,
        inputs.scored(),
        signs=inputs.signs,
        tie=tie,
        restarts=restarts,
        prune=prune,
        seed=seed,
        on_step=on_step,
        score_or_bound=inputs.score_or_bound,
        expect=inputs.expect,
        speculate=inputs.speculate,
    )


def _as_score(values: Values) -> Score:
    return values if len(values) > 1 else values[0]


def _orders(by_score: list[int], restarts: int, seed: int) -> Iterator[list[int]]:
    yield by_score
    shuffler = random.Random(seed)
    for _ in range(restarts):
        yield shuffler.sample(sorted(by_score), len(by_score))


@dataclass(frozen=True, eq=False)
class _Pool:
    """The ingredients, and the scores of those mixtures of them that were tried."""

    ingredients: tuple[Checkpoint, ...]
    score: Callable[[Soup], Score]  # of one alone
    score_or_bound: Callable[[Soup, Score | None], Score | AtBest]  # of several
    signs: Signs
    tie: Tie
    on_step: Callable[[Step], None]
    expect: Callable[[Sequence[Soup], Score | None], None] | None = None
    speculate: int = 1
    names: tuple[str, ...] = field(init=False)
    known: dict[frozenset[int], Values] = field(default_factory=dict)
    bounds: dict[frozenset[int], AtBest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.ingredients:
            raise InputError("greedy needs at least one ingredient, got none.")
        object.__setattr__(self, "names", display_names(self.ingredients))

    def soup(self, members: Members) -> Soup:
        return replace(uniform([self.ingredients[i] for i in members]), method="greedy")

    def scored(self, members: Members) -> Values:
        """The score of the members' mean, all its values; a mean does not depend on the members' order."""
        key = frozenset(members)
        if key not in self.known:
            soup = self.soup(members)
            found = self.score(soup) if len(members) == 1 else self.score_or_bound(soup, None)
            if isinstance(found, AtBest):
                raise InputError("`score_or_bound` answered AtBest without a score to reach; expected a score.")
            self.known[key] = values_of(found)
        return self.known[key]

    def against(self, members: Members, floor: Values) -> Values | AtBest:
        """As `scored`, or what it is at best where that is worse than `floor`."""
        key = frozenset(members)
        bound = self.bounds.get(key)
        if key not in self.known and bound is None:
            found = self.score_or_bound(self.soup(members), _as_score(floor))
            if isinstance(found, AtBest):
                bound = self.bounds[key] = found
            else:
                self.known[key] = values_of(found)
        if key not in self.known and bound is not None and self.ranked((bound.value,)) < self.ranked(floor)[:1]:
            return bound
        return self.scored(members)

    def look_ahead(self, mixtures: Iterable[Members], floor: Values | None = None) -> None:
        """Say which mixtures are asked for next."""
        if self.expect is None:
            return
        unknown = (m for m in mixtures if (key := frozenset(m)) not in self.known and key not in self.bounds)
        next_ones = [self.soup(members) for members in itertools.islice(unknown, self.speculate)]
        self.expect(next_ones, None if floor is None else _as_score(floor))

    def value(self, members: Members) -> float:
        return self.scored(members)[0]

    def ranked(self, values: Values) -> Values:
        """What decides."""
        return rank_of(values, self.signs)

    def rank(self, members: Members) -> Values:
        return self.ranked(self.scored(members))

    def by_score(self) -> list[int]:
        """All ingredients, the best alone first."""
        singles = [(i,) for i in range(len(self.ingredients))]
        for i, single in enumerate(singles):
            self.look_ahead(singles[i:])
            self.scored(single)  # in the order given, whatever the sort needs first
        if all(math.isnan(self.value(single)) for single in singles):
            raise HfSoupsError(
                f"none of the {len(singles)} ingredients has a score: all came out as NaN, or give all rows the "
                "same answer."
            )
        return sorted(range(len(singles)), key=lambda i: tuple(-v for v in self.rank((i,))))  # stable

    def forward(self, order: Sequence[int]) -> tuple[Members, list[Step]]:
        """Let each ingredient in that does not lower the score."""
        members: Members = ()
        steps: list[Step] = []
        for at, i in enumerate(order):
            tried = (*members, i)
            if members:
                self.look_ahead(((*members, j) for j in order[at:]), self.scored(members))
            found = self.against(tried, self.scored(members)) if members else self.scored(tried)
            accepted = self._joins(members, found)
            members = tried if accepted else members
            steps.append(self._step(i, found, members, accepted, len(tried)))
        return members, steps

    def with_closest(self, kept: Members, steps: Sequence[Step]) -> list[Step]:
        """The steps of an order in which one alone was kept, with the score of the mixture that came closest to it."""
        steps = list(steps)
        while True:
            # of equal ones the earlier is the closest, whether it has a score or a bound
            best = {i: s.score if s.at_best is None else s.at_best for i, s in enumerate(steps) if not s.accepted}
            closest = max(best, key=lambda i: (self.ranked((best[i],)), -i), default=None)
            if closest is None or steps[closest].at_best is None:
                return steps
            score, *ties = self.scored((*kept, self.names.index(steps[closest].candidate)))
            steps[closest] = replace(steps[closest], score=score, tie_break=ties[0] if ties else None, at_best=None)

    def backward(self, members: Members, steps: list[Step]) -> tuple[Members, list[Step]]:
        """Take members out, each time the one without which the rest scores best, while the score rises."""
        steps = list(steps)
        while len(members) > 1:
            best, (out,) = self._best_without_one(members)
            accepted = not math.isnan(self.value(best)) and self.rank(best) > self.rank(members)
            members = best if accepted else members
            steps.append(self._step(out, self.scored(best), members, accepted, len(best), removes=True))
            if not accepted:
                break
        return members, steps

    def _best_without_one(self, members: Members) -> tuple[Members, set[int]]:
        """The members without one of them that score best, of equals the first, and who is missing."""
        best: Members = ()
        without = [tuple(m for m in members if m != out) for out in members]
        for i, left in enumerate(without):
            # the first one's score is what the others must reach; another best so far begins them anew
            self.look_ahead(without[i:], self.scored(best)) if best else self.look_ahead(without[:1])
            found = self.scored(left) if not best else self.against(left, self.scored(best))
            if not best or (not isinstance(found, AtBest) and self.ranked(found) > self.rank(best)):
                best = left
        return best, set(members) - set(best)

    def _joins(self, members: Members, found: Values | AtBest) -> bool:
        if isinstance(found, AtBest):
            return False
        if math.isnan(found[0]) or not members:
            return not math.isnan(found[0])
        old, new = self.rank(members), self.ranked(found)
        return new >= old if self.tie == ">=" else new > old

    def _step(
        self, i: int, found: Values | AtBest, members: Members, accepted: bool, tried: int, *, removes: bool = False
    ) -> Step:
        known = () if isinstance(found, AtBest) else found
        score, tie_break = (*known, math.nan)[0], known[1] if len(known) > 1 else None
        at_best = found.value if isinstance(found, AtBest) else None
        best = self.value(members) if members else math.nan
        step = Step(self.names[i], score, best, accepted, tried, removes, tie_break, at_best)
        self.on_step(step)
        return step
