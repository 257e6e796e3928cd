"""A beam over pairs: cascades from pools of hundreds of models whose answers are averaged.

All ordered pairs are scored on a sketch of the rows, at a grid of thresholds each. The chains that add the most to the
frontier are grown by every model in turn, level by level; those on the sketch's frontier at the end are scored on all
rows by the exact rule. With a beam as wide as there are chains it is the exhaustive search.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from jaxtyping import Bool, Float64

from hf_soups.cascades.frontier import Frontier, undominated
from hf_soups.cascades.grid import CELLS, chain_grid
from hf_soups.cascades.pareto import ROUNDING, nondominated
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Combine, Confidence, Rule, rule_for
from hf_soups.cascades.search.candidates import Entries, checked_entries
from hf_soups.cascades.search.sketch import OpenBeginning, Opening, Sketch, opening_of, sketched
from hf_soups.cascades.stages import Stages, read_stages, workers
from hf_soups.costs import Cost
from hf_soups.errors import InputError
from hf_soups.metrics import Metric
from hf_soups.predictions import Predictions

LEVELS = 32  # of worst cost, at which what is known is kept apart


@dataclass(frozen=True, eq=False)
class Reached:
    """Scores (higher is better) and average costs that one chain reaches with some of its thresholds."""

    chain: tuple[int, ...]
    worst: float  # cost of a row that meets every member
    scores: Float64[np.ndarray, " points"]
    costs: Float64[np.ndarray, " points"]
    gap: float = float("inf")  # by how much the best of the chain's points clears the bar; below 0: none does

    def __len__(self) -> int:
        return len(self.scores)

    def take(self, mask: Bool[np.ndarray, " points"]) -> Reached:
        """Some of the points."""
        return replace(self, scores=self.scores[mask], costs=self.costs[mask])


@dataclass(frozen=True, eq=False)
class Bar:
    """The best scores known at each average cost, at several levels of worst cost."""

    levels: list[float]
    steps: list[tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]]  # costs, and the best so far

    @classmethod
    def of(cls, reached: Sequence[Reached]) -> Bar:
        """The bar that these set."""
        ordered = sorted(reached, key=lambda r: r.worst)
        if not ordered:
            return cls([], [])
        ends = np.unique(np.linspace(0, len(ordered) - 1, LEVELS).round().astype(int))
        return cls([ordered[i].worst for i in ends], [_steps(ordered[: i + 1]) for i in ends])

    def cleared(self, reached: Reached) -> Reached:
        """The points that nothing known at their worst cost or less beats or equals, and none of themselves beats."""
        at = bisect_right(self.levels, reached.worst) - 1
        gains = reached.scores.copy()
        if at >= 0:
            costs, best = self.steps[at]
            step = np.searchsorted(costs, reached.costs * (1 + ROUNDING), side="right") - 1
            gains -= np.where(step >= 0, best[np.maximum(step, 0)], -np.inf)
        left = reached.take(gains > 0)
        order = np.lexsort((-left.scores, left.costs))
        best = np.maximum.accumulate(left.scores[order])
        kept = order[np.concatenate(([True], best[1:] > best[:-1]))] if len(order) else order
        return replace(left, scores=left.scores[kept], costs=left.costs[kept], gap=float(gains.max()))


def on_front(reached: Sequence[Reached]) -> list[Bool[np.ndarray, " points"]]:
    """For each chain, which of its points none beats or equals in score, average cost and worst cost at once."""
    counts = [len(r) for r in reached]
    scores, costs = (np.concatenate([getattr(r, name) for r in reached]) for name in ("scores", "costs"))
    kept = np.zeros(len(scores), dtype=bool)
    kept[nondominated(scores, costs, np.repeat([r.worst for r in reached], counts))] = True
    return np.split(kept, np.cumsum(counts)[:-1])


def _steps(reached: Sequence[Reached]) -> tuple[Float64[np.ndarray, " steps"], Float64[np.ndarray, " steps"]]:
    scores, costs = (np.concatenate([getattr(r, name) for r in reached]) for name in ("scores", "costs"))
    order = np.argsort(costs, kind="stable")
    return costs[order], np.maximum.accumulate(scores[order])


SKETCHING, COUNTING = 0.1, 0.7  # shares of the time after which each is done, about
GRID = 32  # thresholds of a stage while screening


def beam(
    predictions: Mapping[str, Predictions],
    costs: Mapping[str, float | Cost],
    *,
    width: int = 64,
    max_members: int = 4,
    combine: Combine = "mean",
    confidence: Confidence = "max",
    metric: Metric | str = "accuracy",
    max_worst_cost: float | None = None,
    temperatures: Mapping[str, float] | None = None,
    rows: int = 4_000,
    classes: int = 16,
    grid: int = GRID,
    seed: int = 0,
    threads: int | None = None,
    progress: Callable[[float, str], object] | None = None,
) -> Frontier:
    """The frontier of the cascades that a beam search finds.

    Args:
        predictions: labelled, of the same rows in any order.
        costs: of every model, in one unit.
        width: chains that are grown at each level, and chains that are scored on all rows at the end.
        max_members: of a cascade, at least 1.
        combine: how members' answers become one.
        confidence: what thresholds are on.
        metric: one whose value follows from sums over rows.
        max_worst_cost: of a row that meets every member.
        temperatures: by name, for members whose logits are to be divided; 1 for the others.
        rows: of the sketch, drawn by `seed`.
        classes: of the sketch, those most likely by any model; the fewer, the faster.
        grid: thresholds of a stage while screening; where there are fewer confidences it holds all.
        seed: of the sketch's rows.
        threads: chains grown at once; by default as many as this process has processors.
        progress: called with the share that is done, in [0, 1], and what is being done.
    Returns:
        Plans that none beats in score, average and worst cost, with what they score and cost by the exact rule; every
        single model; the ensembles of the members of the plans.
    Raises:
        InputError: for numbers below 1, costs missing or in several units, or an unknown option.
        PredictionsError: if there are fewer than two models, or rows or labels differ or are missing.
    """
    given = {"width": width, "max_members": max_members, "rows": rows, "classes": classes, "grid": grid - 2}
    for name, value in given.items():
        if value < 1:
            raise InputError(f"{name} is {value + 2 * (name == 'grid')}; expected 1 or more (grid: 3 or more).")
    rule = rule_for(next(iter(predictions.values())), combine, confidence) if predictions else Rule()
    entries = checked_entries(predictions, costs, rule, metric, temperatures)
    if max_worst_cost is not None and not max_worst_cost >= entries.costs.min():
        raise InputError(
            f"max_worst_cost is {max_worst_cost:g}, but the cheapest model costs {entries.costs.min():g}: nothing fits."
        )
    on_progress, at_once = progress or (lambda share, what: None), workers(threads)
    screened = _Screen(entries, sketched(entries, rows=rows, classes=classes, seed=seed), grid, max_worst_cost, at_once)
    on_progress(SKETCHING, "sketch")
    deepest = min(max_members, len(entries))
    chains = screened.chains(
        width, deepest, lambda share: on_progress(SKETCHING + (COUNTING - SKETCHING) * share, "beam")
    )
    found = _scored(entries, chains, grid, at_once)
    on_progress(1.0, "counting")
    data = next((p.data for p in entries.predictions if p.data), "")
    plans = [p for p in found.plans if max_worst_cost is None or p.worst_cost <= max_worst_cost]
    return Frontier(undominated(plans), found.singles, found.ensembles, data=data)


Chain = tuple[int, ...]  # models by number, in the order that rows meet them


@dataclass(frozen=True, eq=False)
class _Screen:
    entries: Entries
    sketch: Sketch
    grid: int
    max_worst_cost: float | None
    threads: int

    def chains(self, width: int, deepest: int, on_progress: Callable[[float], object]) -> list[Chain]:
        """The chains on the sketch's frontier, at most `width` of them, those with the most points first."""
        singles: list[Chain] = [(m,) for m in range(len(self.entries))]
        everything = [p for m in singles if (p := self._reached(self._opening(m))) is not None]
        bar = Bar.of(everything)
        kept = singles
        for level in range(2, deepest + 1):
            with ThreadPoolExecutor(self.threads, thread_name_prefix="beam") as pool:
                grown = [p for some in pool.map(partial(self._grown, bar=bar), kept) for p in some]
            together = [*everything, *grown]
            left = [p.take(mask) for p, mask in zip(together, on_front(together), strict=True)]
            counts = {p.chain: len(p) for p in left}
            # first what is on the frontier, then what came closest to it
            grown.sort(key=partial(_merit, counts))
            kept = [p.chain for p in grown[:width]]
            everything = [p for p in left if len(p)]
            bar = Bar.of(everything)
            on_progress((level - 1) / (deepest - 1))
        everything.sort(key=lambda p: (-len(p), p.chain))
        return [p.chain for p in everything[:width]]

    def _grown(self, chain: Chain, bar: Bar) -> list[Reached]:
        """What each chain of one more member reaches that clears the bar."""
        opening = self._opening(chain).asked(self.grid)
        rest = [m for m in range(len(self.entries)) if m not in chain]
        return [p for m in rest if (p := self._reached(self._joined(opening, m), bar)) is not None]

    def _reached(self, opening: Opening, bar: Bar | None = None) -> Reached | None:
        """What a chain reaches, that clears the bar; None where its worst cost is too high."""
        chain = opening.members
        worst = float(self.entries.costs[list(chain)].sum())
        if self.max_worst_cost is not None and worst > self.max_worst_cost:
            return None
        reached = Reached(chain, worst, opening.scores(), opening.costs.reshape(-1))
        return reached if bar is None else bar.cleared(reached)

    def _opening(self, chain: Chain) -> Opening:
        first, *rest = chain
        opening = opening_of(self.entries, self.sketch, first)
        for member in rest:
            opening = self._joined(opening.asked(self.grid), member)
        return opening

    def _joined(self, asked: OpenBeginning, member: int) -> Opening:
        return asked.joined(member, self.sketch.log_probs[member], float(self.entries.costs[member]))


def _merit(counts: Mapping[Chain, int], reached: Reached) -> tuple[int, float, Chain]:
    return -counts[reached.chain], -reached.gap, reached.chain


@dataclass(frozen=True, slots=True)
class _Found:
    plans: list[Plan]
    singles: tuple[Plan, ...]
    ensembles: tuple[Plan, ...]


def _scored(entries: Entries, chains: Sequence[Chain], grid: int, threads: int) -> _Found:
    """All points of the chains' frontier on all rows, and every single model."""
    alone = [(m,) for m in range(len(entries))]
    several = [chain for chain in chains if len(chain) > 1]
    outlines = [_outline(entries, chain) for chain in (*alone, *several)]
    by_name = dict(zip(entries.names, entries.predictions, strict=True))
    stages = read_stages(outlines, by_name, entries.metric, threads=threads)
    rescored = [found.rescored(outline) for outline, found in zip(outlines, stages, strict=True)]
    singles = sorted(rescored[: len(alone)], key=lambda p: (-p.score, p.average_cost))
    ensembles = {tuple(sorted(p.members)): p for p in rescored[len(alone) :]}
    best_first = sorted(ensembles.values(), key=lambda p: (-p.score, p.average_cost))
    plans = list(_thresholds_chosen(outlines, stages, grid))
    return _Found([*plans, *singles, *best_first], tuple(singles), tuple(best_first))


def _thresholds_chosen(outlines: Sequence[Plan], stages: Sequence[Stages], grid: int) -> Iterator[Plan]:
    """The chains with all thresholds that are on their common frontier, scored by the exact rule."""
    reached, thresholds = [], []
    for i, (outline, found) in enumerate(zip(outlines, stages, strict=True)):
        columns = found.statistics[0].shape[1]
        tried = chain_grid(found, cells=max(CELLS, columns * grid ** len(outline.thresholds)))
        front = tried.front()
        reached.append(Reached((i,), outline.worst_cost, tried.scores[front], tried.costs[front]))
        thresholds.append([tried.at(int(cell)) for cell in front])
    for i, mask in enumerate(on_front(reached)):
        for at in np.flatnonzero(mask):
            yield stages[i].rescored(replace(outlines[i], thresholds=thresholds[i][at]))


def _outline(entries: Entries, chain: Chain) -> Plan:
    """The ensemble of a chain's members, in its order."""
    temperatures = tuple(entries.temperatures[m] for m in chain)
    return Plan(
        tuple(entries.names[m] for m in chain),
        (NEVER,) * (len(chain) - 1),
        tuple(float(entries.costs[m]) for m in chain),
        entries.rule,
        temperatures if any(t != 1 for t in temperatures) else (),
        unit=entries.unit.unit,
        hardware=entries.unit.hardware,
    )
