"""Streeter's greedy: cascades from pools of hundreds or thousands of models, whose members answer alone.

Again and again, the model that answers the most of the remaining rows per unit of cost is next, each answering no more
rows than it can with a required share of a reference model's accuracy on them. The reference always qualifies on all
that is left, so the cascade ends, and its accuracy on these rows is at least that share of the reference's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int32

from hf_soups.cascades.frontier import Frontier, undominated
from hf_soups.cascades.grid import halfway
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Committee, Confidence, Rule, rule_for
from hf_soups.cascades.search.candidates import Entries, checked_entries
from hf_soups.cascades.stages import workers
from hf_soups.costs import Cost
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions

SHARES = (1.0, 0.995, 0.99, 0.98, 0.97, 0.95, 0.9)
ELEMENTS_AT_ONCE = 2**19  # rows x classes of a block: 2 MB in float32, which stay in the cache
READING, COUNTING = 0.4, 0.7  # shares of the time after which reading and searching are done, about
CHEAPEST = 1e-300  # a model that costs nothing answers infinitely many rows per unit of cost


def streeter(
    predictions: Mapping[str, Predictions],
    costs: Mapping[str, float | Cost],
    *,
    reference: str | None = None,
    shares: Sequence[float] = SHARES,
    confidence: Confidence = "max",
    max_members: int | None = None,
    temperatures: Mapping[str, float] | None = None,
    threads: int | None = None,
    progress: Callable[[float, str], object] | None = None,
) -> Frontier:
    """Cascades by Streeter's greedy rule, one for each required share of the reference model's accuracy.

    Args:
        predictions: labelled, of the same rows in any order; read once, block by block, then those of the chosen
            members again.
        costs: of every model, in one unit.
        reference: the model whose accuracy is to be kept; by default the most accurate one.
        shares: of the reference's accuracy, in (0, 1]; a cascade is found for each.
        confidence: what thresholds are on: "max", "gap" or "entropy" of the member that answers.
        max_members: of a cascade; the reference is then the last. None: as many as the rule wants.
        temperatures: by name, for members whose logits are to be divided; 1 for the others.
        threads: models looked at at once; by default as many as this process has processors.
        progress: called with the share that is done, in [0, 1], and what is being done.
    Returns:
        The plans that none beats, single models among them, scored by the exact rule.
    Raises:
        InputError: for costs missing or in several units, shares outside (0, 1] or an unknown option.
        PredictionsError: if the reference is not in the pool, or rows or labels differ or are missing.
    Source: Streeter 2018, Approximation algorithms for cascading prediction models, ICML.
    """
    if confidence == "agreement":
        raise InputError("members answer alone in Streeter's greedy: their agreement says nothing. Use 'max'.")
    if max_members is not None and max_members < 1:
        raise InputError(f"max_members is {max_members}; expected 1 or more, or None for as many as the rule wants.")
    if not shares or any(not 0 < share <= 1 for share in shares):
        raise InputError(f"shares are {tuple(shares)}; expected one or more in (0, 1], such as 0.99.")
    if reference is not None and reference not in predictions:
        raise PredictionsError(f"the reference {reference!r} is not in the pool, which is: {', '.join(predictions)}.")
    rule = rule_for(next(iter(predictions.values())), "last", confidence) if predictions else Rule("last")
    if rule.problem_type != CLASSIFICATION:
        raise InputError("Streeter's greedy is for one class a row. Search many labels a row exhaustively or by beam.")
    entries = checked_entries(predictions, costs, rule, "accuracy", temperatures)
    on_progress, at_once = progress or (lambda share, what: None), workers(threads)
    surest = read_surest(entries, threads=at_once, on_progress=lambda share: on_progress(READING * share, "answers"))
    accuracy = surest.right.mean(axis=1)
    singles = _singles(entries, accuracy)
    best = singles[0].members[0] if reference is None else reference
    asked = entries.names.index(best)
    chains: dict[Chain, None] = {}
    for done, share in enumerate(shares, start=1):
        chains[greedy_chain(surest, entries.costs, asked, share, max_members=max_members, threads=at_once)] = None
        on_progress(READING + (COUNTING - READING) * done / len(shares), "greedy")
    plans = [_plan(entries, members, thresholds) for members, thresholds in chains if len(members) > 1]
    with ThreadPoolExecutor(at_once) as pool:
        scored = list(pool.map(lambda plan: _rescored(plan, entries), plans))
    on_progress(1.0, "counting")
    data = next((p.data for p in entries.predictions if p.data), "")
    return Frontier(undominated([*scored, *singles]), singles, data=data)


@dataclass(frozen=True, eq=False)
class Surest:
    """Each model's rows from the surest to the least sure, and which of them it gets right."""

    order: Int32[np.ndarray, "models rows"]
    confidence: Float32[np.ndarray, "models rows"]  # in that order
    right: Bool[np.ndarray, "models rows"]  # by row


def read_surest(entries: Entries, *, threads: int, on_progress: Callable[[float], object] = lambda _: None) -> Surest:
    """Read every model's confidences and hits once: 9 bytes for each model and row."""
    shape = (len(entries), entries.rows)
    found = Surest(np.empty(shape, np.int32), np.empty(shape, np.float32), np.empty(shape, bool))

    def read(model: int) -> None:
        confidence = np.empty(entries.rows, dtype=np.float32)
        for rows, sure, right in _answers(entries, model):
            confidence[rows], found.right[model, rows] = sure, right
        found.order[model] = np.argsort(-confidence, kind="stable")
        found.confidence[model] = confidence[found.order[model]]

    with ThreadPoolExecutor(threads, thread_name_prefix="surest") as pool:
        for done, _ in enumerate(pool.map(read, range(len(entries))), start=1):
            on_progress(done / len(entries))
    return found


Answers = tuple[slice, Float32[np.ndarray, " rows"], Bool[np.ndarray, " rows"]]


def _answers(entries: Entries, model: int) -> Iterator[Answers]:
    """Confidences and hits of a model, block by block."""
    stored, labels, plain = entries.predictions[model], entries.labels, entries.temperatures[model] == 1
    if isinstance(stored, TopKPredictions) and plain and entries.rule.confidence == "max":
        top = np.asarray(stored.top[:, 0])
        if not np.isfinite(top).all():
            raise PredictionsError(f"the predictions of {entries.names[model]} hold NaN or infinity. Predict again.")
        yield slice(0, entries.rows), _as_confidence(top), stored.answers == labels
        return
    step = max(1, ELEMENTS_AT_ONCE // entries.classes)
    for start in range(0, entries.rows, step):
        rows = slice(start, min(start + step, entries.rows))
        block = entries.block(model, rows.start, rows.stop)
        if entries.rule.confidence == "max":  # without the exponential of every class
            answers = block.argmax(axis=1)
            sure = _as_confidence(np.take_along_axis(block, answers[:, None], axis=1)[:, 0])
        else:
            committee = Committee(entries.rule).joined(block)
            answers, sure = committee.answers(), committee.confidence()
        yield rows, sure, answers == labels[rows]


def _as_confidence(log_probs: Float32[np.ndarray, " rows"]) -> Float32[np.ndarray, " rows"]:
    return np.clip(np.exp(log_probs.astype(np.float64)), 0, 1).astype(np.float32)


Chain = tuple[tuple[int, ...], tuple[float, ...]]  # models by number, thresholds of all but the last


def greedy_chain(
    surest: Surest,
    costs: Float64[np.ndarray, " models"],
    reference: int,
    share: float,
    *,
    max_members: int | None = None,
    threads: int = 1,
) -> Chain:
    """The models that the greedy rule takes, in order, and their thresholds."""
    remaining = np.ones(surest.order.shape[1], dtype=bool)
    members: list[int] = []
    thresholds: list[float] = []
    while max_members is None or len(members) < max_members - 1:
        counts, last, following = _prefixes(surest, reference, remaining, share, threads)
        counts[members] = 0  # a model that has answered is not asked again
        per_cost = counts / np.maximum(costs, CHEAPEST)
        best = int(np.lexsort((costs, -per_cost))[0])
        members.append(best)
        if following[best] < 0:
            return tuple(members), tuple(thresholds)
        threshold = float(halfway(following[best : best + 1], last[best : best + 1])[0])
        thresholds.append(threshold)
        sure = surest.order[best][surest.confidence[best] >= np.float32(threshold)]
        remaining[sure] = False
    return (*members, reference), tuple(thresholds)


def _prefixes(
    surest: Surest, reference: int, remaining: Bool[np.ndarray, " rows"], share: float, threads: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows that each model may answer, the least confidence among them and the next lower one, or -1."""
    from hf_soups.cascades.search.kernels import longest_prefixes

    models = len(surest.order)
    results = (np.empty(models, np.int64), np.empty(models, np.float32), np.empty(models, np.float32))
    wanted = surest.right[reference]

    def scan(part: slice) -> None:
        rows = (surest.order[part], surest.confidence[part], surest.right[part])
        longest_prefixes(*rows, wanted, remaining, share, *(r[part] for r in results))

    step = -(-models // (4 * threads))
    with ThreadPoolExecutor(threads, thread_name_prefix="prefixes") as pool:
        list(pool.map(scan, [slice(at, at + step) for at in range(0, models, step)]))
    return results


def _plan(entries: Entries, members: Sequence[int], thresholds: Sequence[float]) -> Plan:
    names = tuple(entries.names[m] for m in members)
    temperatures = tuple(entries.temperatures[m] for m in members)
    return Plan(
        names,
        tuple(thresholds),
        tuple(float(entries.costs[m]) for m in members),
        entries.rule,
        temperatures if any(t != 1 for t in temperatures) else (),
        metric="accuracy",
        unit=entries.unit.unit,
        hardware=entries.unit.hardware,
        rows=entries.rows,
    )


def _singles(entries: Entries, accuracy: Float64[np.ndarray, " models"]) -> tuple[Plan, ...]:
    """Every model alone, the best first, of equal ones the cheaper."""
    order = np.lexsort((entries.costs, -accuracy))
    return tuple(
        replace(
            _plan(entries, [m], ()), score=float(accuracy[m]), average_cost=float(entries.costs[m]), exit_shares=(1.0,)
        )
        for m in order
    )


def _rescored(plan: Plan, entries: Entries) -> Plan:
    """The plan with what the simulation says of it, block by block, so that no dense answers of all rows are made."""
    members = {name: entries.predictions[entries.names.index(name)] for name in plan.members}
    step = max(1, ELEMENTS_AT_ONCE // entries.classes)
    hits, exits = 0, np.zeros(len(plan.members), dtype=np.int64)
    for start in range(0, entries.rows, step):
        rows = np.arange(start, min(start + step, entries.rows))
        done = plan.apply({name: p.take(rows) for name, p in members.items()})
        assert done.exits is not None
        hits += int((done.answers == entries.labels[rows]).sum())
        exits += np.bincount(done.exits, minlength=len(exits))
    shares = exits / entries.rows
    return replace(
        plan,
        score=hits / entries.rows,
        average_cost=float(shares @ np.array(plan.cost_by_exit)),
        exit_shares=tuple(float(s) for s in shares),
    )
