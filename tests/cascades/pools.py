"""Small random pools: predictions that agree to a degree, with costs that grow with accuracy."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from hf_soups.cascades import NEVER, Plan, Rule
from hf_soups.predictions import Predictions


def random_pool(
    models: int, rows: int = 60, classes: int = 3, seed: int = 0, digits: int | None = None
) -> tuple[dict[str, Predictions], dict[str, float]]:
    """Models of rising accuracy that err on the same hard rows; `digits` rounds probabilities, so that many tie."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    hardness = rng.normal(size=(rows, 1))
    shared = rng.normal(size=(rows, classes))
    pool = {}
    for i in range(models):
        signal = np.eye(classes)[labels] * (0.7 + 0.35 * i - 0.7 * hardness)
        logits = signal + 0.4 * shared + rng.normal(size=(rows, classes))
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        if digits is not None:
            probs = np.round(probs, digits) + 10.0**-digits
            probs /= probs.sum(axis=1, keepdims=True)
        pool[f"m{i}"] = Predictions.from_probs(probs, labels=labels, model=f"m{i}", data="rows")
    return pool, {f"m{i}": float(1 + 2 * i) for i in range(models)}


def every_plan(
    pool: Mapping[str, Predictions], costs: Mapping[str, float], rule: Rule, max_members: int
) -> Iterator[tuple[Plan, float, float]]:
    """Every ordered tuple with every threshold that matters: plan, accuracy and average cost, by the simulation."""
    for size in range(1, max_members + 1):
        for members in itertools.permutations(pool, size):
            chain_costs = tuple(costs[m] for m in members)
            for thresholds in itertools.product(*(stage_cuts(pool, members[:k], rule) for k in range(1, size))):
                plan = Plan(members, thresholds, chain_costs, rule)
                done = plan.apply(pool)
                yield plan, float((done.answers == done.needs_labels()).mean()), float(done.costs.mean())


def stage_cuts(pool: Mapping[str, Predictions], members: Sequence[str], rule: Rule) -> list[float]:
    """Every distinct confidence of the committee of these members as a threshold, and never."""
    from hf_soups.cascades.rule import Committee

    committee = Committee(rule)
    for name in members:
        committee = committee.joined(pool[name].log_probs)
    return [float(c) for c in np.unique(committee.confidence())] + [NEVER]
