"""The exhaustive search: all members in all orders at a whole grid of thresholds, then at all that occurred."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from itertools import combinations

import numpy as np
from jaxtyping import Float64

from hf_soups.cascades.frontier import Frontier
from hf_soups.cascades.pareto import Known, Points
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, Combine, Confidence, Rule, rule_for
from hf_soups.cascades.search.candidates import Entries, checked_entries
from hf_soups.cascades.search.chains import LONGEST, search_chains
from hf_soups.cascades.search.dense import search_densely
from hf_soups.cascades.search.polish import Chain, by_chain, polish
from hf_soups.cascades.search.subsets import Members, States, compute_states
from hf_soups.cascades.search.threads import OnProgress
from hf_soups.cascades.stages import workers
from hf_soups.costs import Cost
from hf_soups.errors import InputError
from hf_soups.metrics import Metric
from hf_soups.predictions import Predictions

GRID = (256, 128, 32)  # thresholds of each stage in cascades of two, of three, and of four or more members
POLISHED_ROWS = 10**8  # rows swept: 1,700 sweeps of 50,000
PARTS = {"answers": 0.4, "grid": 0.4, "polish": 0.15, "counting": 0.05}  # of the time, about
Progress = Callable[[float, str], object]


def search_cascades(
    predictions: Mapping[str, Predictions],
    costs: Mapping[str, float | Cost],
    *,
    max_members: int = 4,
    combine: Combine = "mean",
    confidence: Confidence = "max",
    metric: Metric | str = "accuracy",
    grid: int | Sequence[int] = GRID,
    max_worst_cost: float | None = None,
    temperatures: Mapping[str, float] | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Frontier:
    """The cascades of a pool's models that no other beats in score, average cost and worst cost at once.

    All ordered choices of up to `max_members` models are tried at every threshold of a grid, exactly; then the
    thresholds of what was found are polished over all confidences that occurred. Single models and ensembles are
    cascades too and compete. Source: Wang et al. 2022, arXiv:2012.01988.

    Args:
        predictions: of each model by name, labelled, of the same rows in any order; they may be mapped from files.
        costs: of each model on one row, in one unit.
        max_members: of a cascade, one or more; at most all models are used.
        combine: "mean", "geometric" or "last"; how members 1..k answer together.
        confidence: "max", "gap", "entropy" or "agreement"; of many labels a row "labels" ("max" means the same then).
        metric: its name, or one that adds up over rows.
        grid: thresholds tried of each stage: one number, or one for cascades of two, of three, of four or more members.
        max_worst_cost: the most that a row may cost that meets every member.
        temperatures: by name, of members whose logits are to be divided; all 1 by default.
        threads: at work; by default as many as there are processors for this process. They do not change the result.
        progress: called with the share that is done, in [0, 1], and what is being done.
    Raises:
        PredictionsError: if there are fewer than two models or no rows, or rows, labels or data differ between models,
            or predictions are not finite.
        InputError: if a cost is missing, negative or in another unit, an option is out of its range, or the rows are
            of a regression.

    >>> quick = Predictions.from_probs([[0.9, 0.1], [0.6, 0.4], [0.2, 0.8]], labels=[0, 1, 1])
    >>> slow = Predictions.from_probs([[0.8, 0.2], [0.1, 0.9], [0.3, 0.7]], labels=[0, 1, 1])
    >>> found = search_cascades({"quick": quick, "slow": slow}, {"quick": 1, "slow": 5})
    >>> best = found.cheapest()
    >>> best.members, round(best.thresholds[0], 3), round(best.average_cost, 3)
    (('quick', 'slow'), 0.7, 2.667)
    """
    rule = rule_for(next(iter(predictions.values())), combine, confidence) if predictions else Rule()
    counts = _checked_grid(grid)
    if max_members < 1:
        raise InputError(f"max_members is {max_members}; a cascade has at least 1 member.")
    entries = checked_entries(predictions, costs, rule, metric, temperatures)
    if max_worst_cost is not None and not max_worst_cost >= entries.costs.min():
        raise InputError(
            f"max_worst_cost is {max_worst_cost:g}, but the cheapest model costs {entries.costs.min():g}: nothing "
            "fits. Raise it, or add a cheaper model."
        )
    limit = np.inf if max_worst_cost is None else float(max_worst_cost)
    on_progress, count = _Progress(progress), workers(threads)
    states = compute_states(
        entries, min(max_members, len(entries)), threads=count, on_progress=on_progress.part("answers")
    )
    with ThreadPoolExecutor(count, thread_name_prefix="search") as pool:
        found, known = _search_grid(entries, states, counts, limit, pool, on_progress.part("grid"))
        found = polish(
            entries, states, found, known, pool, allowance=POLISHED_ROWS, on_progress=on_progress.part("polish")
        )
        on_progress.part("counting")(0.0)
        plans = _as_plans(entries, states, found, pool)
        singles = _as_plans(entries, states, _singles(entries, states), pool)
        ensembles = _as_plans(entries, states, _ensembles(entries, states), pool)
    on_progress.part("counting")(1.0)
    data = next((p.data for p in entries.predictions if p.data), "")
    return Frontier(plans, _best_first(singles), _best_first(ensembles), data)


def _search_grid(
    entries: Entries,
    states: States,
    counts: Sequence[int],
    limit: float,
    pool: ThreadPoolExecutor,
    on_progress: OnProgress,
) -> tuple[Points, Known]:
    """What is best on the grid, by length: a short cascade that is as good as a longer one is known first."""
    longest = states.numbering.deepest
    found = _singles(entries, states)
    found = found.take(np.flatnonzero(found.worst <= limit)).nondominated()
    known = Known.of(_worst_costs(entries, longest), float(entries.costs.min())).with_points(found)
    for length in range(2, longest + 1):
        compiled = states.hits is not None and length <= LONGEST and not entries.few
        search = search_chains if compiled else search_densely
        count = counts[min(length - 2, len(counts) - 1)]

        def of_length(share: float, done: int = length - 2) -> None:
            on_progress((done + share) / (longest - 1))

        found, known = search(entries, states, length, count, limit, found, known, pool, of_length)
    return found, known


def _singles(entries: Entries, states: States) -> Points:
    """Every model alone."""
    models, deepest = np.arange(len(entries)), states.numbering.deepest
    members = np.full((len(models), deepest), -1, dtype=np.int16)
    members[:, 0] = models
    scores = entries.scores(states.sums)[[states.numbering[(m,)] for m in range(len(models))]]
    return Points(members, np.full((len(models), deepest - 1), NEVER), scores, entries.costs, entries.costs)


def _ensembles(entries: Entries, states: States) -> Points:
    """Those sets of members, all run, that no other beats in score and cost; none where the last answers alone."""
    deepest = states.numbering.deepest
    several = [n for n, key in enumerate(states.numbering.keys) if len(key) > 1 and entries.rule.combine != "last"]
    if not several:
        return Points.none(deepest)
    padded = [(*states.numbering.keys[n], *(-1,) * (deepest - len(states.numbering.keys[n]))) for n in several]
    members = np.array(padded, dtype=np.int16)
    scores, worst = entries.scores(states.sums)[several], entries.worst(members)
    return Points(members, np.full((len(members), deepest - 1), NEVER), scores, worst, worst).nondominated()


def _best_first(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    return tuple(sorted(plans, key=lambda plan: (-plan.score, plan.average_cost)))


def _worst_costs(entries: Entries, longest: int) -> Float64[np.ndarray, " subsets"]:
    """What all sets of up to `longest` models cost at worst."""
    sizes = range(1, longest + 1)
    padded = [(*c, *(-1,) * (longest - size)) for size in sizes for c in combinations(range(len(entries)), size)]
    return entries.worst(np.array(padded, dtype=np.int16))


def _as_plans(entries: Entries, states: States, points: Points, pool: ThreadPoolExecutor) -> tuple[Plan, ...]:
    """The cascades as plans, counted once more row by row."""

    def counted(task: tuple[Members, Points]) -> list[Plan]:
        chain = Chain.of(entries, states, task[0])
        thresholds = task[1].thresholds[:, : chain.thresholds]
        sums, shares = chain.reached(thresholds)
        blank = _blank(entries, chain.members)
        return [
            replace(blank, thresholds=tuple(t), score=s, average_cost=c, exit_shares=tuple(e))
            for t, s, c, e in zip(
                thresholds.tolist(), entries.scores(sums).tolist(), (shares @ chain.costs).tolist(), shares.tolist(),
                strict=True,
            )
        ]  # fmt: skip

    plans = [plan for part in pool.map(counted, by_chain(points, np.arange(len(points)))) for plan in part]
    return tuple(sorted(plans, key=lambda plan: (plan.average_cost, -plan.score, plan.worst_cost)))


def _blank(entries: Entries, members: Members) -> Plan:
    """What all plans of these members share; an ensemble until it gets thresholds."""
    temperatures = tuple(entries.temperatures[m] for m in members)
    return Plan(
        tuple(entries.names[m] for m in members),
        (NEVER,) * (len(members) - 1),
        tuple(float(entries.costs[m]) for m in members),
        entries.rule,
        () if set(temperatures) == {1.0} else temperatures,
        metric=entries.metric.name,
        unit=entries.unit.unit,
        hardware=entries.unit.hardware,
        rows=entries.rows,
    )


def _checked_grid(grid: int | Sequence[int]) -> tuple[int, ...]:
    counts = (grid,) if isinstance(grid, int) else tuple(grid)
    if not counts or any(not 2 <= count <= 2**16 for count in counts):
        raise InputError(
            f"grid is {grid}; expected thresholds tried of each stage, 2 to 65536: one number, or one for cascades of "
            "two members, of three, and of four or more."
        )
    return counts


class _Progress:
    """Tells the share of the whole that is done from the shares of its parts."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress = progress

    def part(self, name: str) -> OnProgress:
        """What one part calls with the share of itself that is done."""
        before = sum(share for part, share in list(PARTS.items())[: list(PARTS).index(name)])

        def on_progress(share: float) -> None:
            if self._progress is not None:
                self._progress(before + share * PARTS[name], name)

        return on_progress
