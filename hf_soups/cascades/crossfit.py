"""Cross-fitted scores: thresholds chosen on some rows are scored on others, so that small data does not flatter them.

A search tries thousands of thresholds, and the best score on the rows that it looked at is too good. Here members and
their order stay, the thresholds are chosen anew without each fold in turn, and the rows held out are scored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from jaxtyping import Float64, Int64, Real

from hf_soups.cascades.frontier import PRINTED, Frontier
from hf_soups.cascades.grid import WINDOW, Pick, best_within, cheapest_at, refit
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER
from hf_soups.cascades.stages import Stages, read_stages
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS
from hf_soups.metrics.bootstrap import resampled_sums
from hf_soups.predictions import Predictions, same_rows

Goal = Literal["score", "cost"]


@dataclass(frozen=True, slots=True)
class CrossFit:
    """What a plan's members and order score and cost on rows that their thresholds were not chosen on."""

    plan: Plan  # as it was, with the lower bound
    score: float  # higher is better, as in plans
    score_low: float  # lower confidence bound of it, one-sided
    average_cost: float
    thresholds: tuple[tuple[float, ...], ...]  # by fold


def cross_fit(
    plans: Sequence[Plan],
    predictions: Mapping[str, Predictions],
    *,
    folds: int = 5,
    seed: int = 0,
    goal: Goal = "score",
    confidence: float = 0.95,
    resamples: int = 1000,
    threads: int | None = None,
) -> tuple[CrossFit, ...]:
    """Cross-fitted score, cost and lower bound of each plan.

    Single models and ensembles have nothing to choose: theirs are their plain score and cost.

    Args:
        plans: of one metric.
        predictions: of the rows that the plans were chosen on, by member's name.
        folds: parts of the rows, drawn by `seed`.
        seed: of the folds and of the bootstrap.
        goal: what thresholds are chosen for on the other folds: the best "score" within the plan's average cost, or
            the least "cost" at the plan's score (the best score, where they do not reach it).
        confidence: of the lower bound. For accuracy it is exact for one plan (Clopper and Pearson 1934); for other
            metrics a bootstrap by row. It holds for each plan by itself, not for the best of many.
        resamples: of the bootstrap.
        threads: blocks of rows computed at once; by default as many as this process has processors.
    Raises:
        InputError: for more folds than rows, fewer than 2, or a metric without sums over rows.
        PredictionsError: if predictions or labels are missing.
    """
    if goal not in ("score", "cost"):
        raise InputError(f"goal is {goal!r}; expected 'score' or 'cost'.")
    if not 0 < confidence < 1 or resamples < 1:
        raise InputError(
            f"confidence is {confidence}, resamples {resamples}; expected a share in (0, 1), and 1 or more."
        )
    if not plans:
        return ()
    if len({plan.metric for plan in plans}) > 1:
        raise InputError(f"plans of several metrics: {', '.join(sorted({p.metric for p in plans}))}; expected one.")
    chains = read_stages(plans, predictions, plans[0].metric, threads=threads)
    at = fold_of(chains[0].rows, folds, seed)
    fitted = [_held_out(plan, stages, at, folds, goal) for plan, stages in zip(plans, chains, strict=True)]
    lows = _lower_bounds(chains[0], [statistics for statistics, _, _ in fitted], confidence, resamples, seed)
    return tuple(
        CrossFit(
            replace(plan, score_low=low),
            float(stages.value(statistics.sum(axis=0, dtype=np.float64))),
            low,
            float(costs.mean()),
            thresholds,
        )
        for plan, stages, (statistics, costs, thresholds), low in zip(plans, chains, fitted, lows, strict=True)
    )


def cross_fitted(
    frontier: Frontier,
    predictions: Mapping[str, Predictions],
    *,
    folds: int = 5,
    seed: int = 0,
    goal: Goal = "score",
    confidence: float = 0.95,
    count: int = PRINTED,
    threads: int | None = None,
) -> Frontier:
    """The frontier with a cross-fitted lower bound (`score_low`) of each plan that is printed, and of the best single
    model and ensemble. See `cross_fit`.

    Raises:
        PredictionsError: if the predictions are of other rows than the frontier's, or a member's are missing.
    """
    check_same_rows(frontier, predictions)
    wanted = [frontier.plans[i] for i in frontier.printed(count)]
    wanted += [p for p in (frontier.best_single, frontier.best_ensemble) if p is not None]
    fitted = cross_fit(wanted, predictions, folds=folds, seed=seed, goal=goal, confidence=confidence, threads=threads)
    bounds = {id(plan): fit.plan for plan, fit in zip(wanted, fitted, strict=True)}
    plans, singles, ensembles = (
        tuple(bounds.get(id(p), p) for p in some) for some in (frontier.plans, frontier.singles, frontier.ensembles)
    )
    return replace(frontier, plans=plans, singles=singles, ensembles=ensembles)


def check_same_rows(frontier: Frontier, predictions: Mapping[str, Predictions]) -> None:
    """Refuse predictions of other data, or of another number of rows, than a frontier was searched on.

    Raises:
        PredictionsError: if they are.
    """
    for name in frontier.best_single.members:
        answers = predictions.get(name)
        if answers is None:
            raise PredictionsError(
                f"no predictions of {name}, the frontier's best single model: a frontier of another pool? "
                f"There are: {', '.join(predictions) or 'none'}."
            )
        if frontier.data and answers.data and not same_rows(frontier.data, answers.data):
            raise PredictionsError(
                f"the frontier was searched on {frontier.data}, but these predictions are of {answers.data}. "
                "Search again."
            )
        if frontier.best_single.rows and frontier.best_single.rows != len(answers):
            raise PredictionsError(
                f"the frontier was searched on {frontier.best_single.rows} rows, but there are predictions of "
                f"{len(answers)}. Search again."
            )


def fold_of(rows: int, folds: int, seed: int) -> Int64[np.ndarray, " rows"]:
    """The fold of each row: equal parts, drawn by the seed.

    Raises:
        InputError: for fewer than 2 folds, or more than rows.
    """
    if not 2 <= folds <= rows:
        raise InputError(f"{folds} folds of {rows} rows; expected 2 to {rows}.")
    at = np.arange(rows, dtype=np.int64) % folds
    np.random.Generator(np.random.PCG64(seed)).shuffle(at)
    return at


Held = tuple[Real[np.ndarray, "rows statistics"], Float64[np.ndarray, " rows"], tuple[tuple[float, ...], ...]]


def _held_out(plan: Plan, stages: Stages, at: Int64[np.ndarray, " rows"], folds: int, goal: Goal) -> Held:
    """Statistics and cost of each row under the thresholds chosen without its fold, and those thresholds."""
    if len(plan.members) == 1 or plan.is_ensemble:
        statistics, costs = stages.at_exits(stages.exits(plan.thresholds))
        return statistics, costs, (plan.thresholds,) * folds
    own = stages.rescored(plan)
    pick = best_within(own.average_cost) if goal == "score" else cheapest_at(own.score)
    exits = np.empty(stages.rows, dtype=np.int64)
    thresholds = []
    for fold in range(folds):
        held = at == fold
        chosen = _chosen(stages.take(~held), pick, own.exit_shares)
        exits[held] = stages.take(held).exits(chosen)
        thresholds.append(chosen)
    statistics, costs = stages.at_exits(exits)
    return statistics, costs, tuple(thresholds)


def _chosen(stages: Stages, pick: Pick, shares: Sequence[float]) -> tuple[float, ...]:
    """Thresholds chosen on these rows; long chains start where the plan's exit shares come out on them."""
    long = len(stages.confidence) > WINDOW
    return refit(stages, pick, thresholds_of_shares(stages, shares) if long else ())


def thresholds_of_shares(stages: Stages, shares: Sequence[float]) -> tuple[float, ...]:
    """The thresholds with which about these shares of the rows exit at each stage; labels are not looked at."""
    remaining, thresholds = np.ones(stages.rows, dtype=bool), []
    for stage, confidence in enumerate(stages.confidence):
        ordered = np.sort(confidence[remaining])
        leave = min(round(shares[stage] * stages.rows), len(ordered))
        thresholds.append(float(ordered[len(ordered) - leave]) if leave else NEVER)
        remaining &= confidence < np.float32(thresholds[-1])
    return tuple(thresholds)


def _lower_bounds(
    stages: Stages,
    statistics: Sequence[Real[np.ndarray, "rows statistics"]],
    confidence: float,
    resamples: int,
    seed: int,
) -> list[float]:
    """The lower bound of each plan's score, from the statistics of all its rows."""
    if stages.metric is METRICS["accuracy"]:
        return [accuracy_at_least(int(s[:, 0].sum(dtype=np.int64)), len(s), confidence) for s in statistics]
    # side by side: drawing the rows takes most of the time, and is done once
    sums = resampled_sums(np.concatenate(statistics, axis=1), resamples, seed)
    parts = np.split(sums, len(statistics), axis=1)
    return [round(float(np.quantile(stages.value(part), 1 - confidence)), 12) for part in parts]


def accuracy_at_least(hits: int, rows: int, confidence: float = 0.95) -> float:
    """The one-sided lower confidence bound of an accuracy seen as `hits` of `rows`.

    Source: Clopper and Pearson 1934, The use of confidence or fiducial limits illustrated in the case of the binomial.

    >>> round(accuracy_at_least(95, 100), 4), accuracy_at_least(0, 10)
    (0.8977, 0.0)
    """
    from scipy.special import betaincinv

    return float(betaincinv(hits, rows - hits + 1, 1 - confidence)) if hits else 0.0
