"""The search written anew without its shortcuts: every order, every confidence as a threshold, by plain NumPy."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import permutations

import numpy as np

from hf_soups.cascades.frontier import Frontier
from hf_soups.predictions import Predictions

Reached = tuple[float, float, float]  # score, average cost, worst cost
SMALLEST = np.finfo(np.float32).tiny


def pool_of(
    seed: int, models: int, rows: int, classes: int, *, coarse: bool = False, rise: float = 0.5
) -> dict[str, Predictions]:
    """Models that are right more often the later they stand; of coarse ones many rows and classes tie."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(classes, size=rows)
    shared = rng.normal(size=(rows, classes))
    found = {}
    for m in range(models):
        logits = shared + rng.normal(size=(rows, classes)) + (0.5 + m * rise) * np.eye(classes)[labels]
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        if coarse:  # tenths of the mass, at random to classes by their probability
            probs = np.stack([rng.multinomial(10, p) for p in probs]) / 10
        found[f"model {m}"] = Predictions.from_probs(probs, labels=labels)
    return found


def costs_of(seed: int, pool: Mapping[str, Predictions]) -> dict[str, float]:
    rng = np.random.default_rng([seed, 1])
    return {name: float(cost) for name, cost in zip(pool, np.sort(rng.uniform(0.5, 9, len(pool))), strict=True)}


def combined(logs: list[np.ndarray], combine: str) -> np.ndarray:
    """Probabilities of the members so far together, (rows, classes)."""
    if combine == "last":
        return np.exp(logs[-1])
    if combine == "mean":
        return np.mean([np.exp(log) for log in logs], axis=0)
    mean = np.mean(logs, axis=0)
    powers = np.exp(mean - mean.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def answers_of(probs: np.ndarray) -> np.ndarray:
    """Ties are seen as stored predictions show them: after rounding the logarithm to float32."""
    return np.log(np.maximum(probs, SMALLEST)).astype(np.float32).argmax(axis=1)


def sureness(probs: np.ndarray, logs: list[np.ndarray], combine: str, confidence: str) -> np.ndarray:
    ordered = np.sort(probs, axis=1)
    if confidence == "max":
        found = ordered[:, -1]
    elif confidence == "gap":
        found = ordered[:, -1] - ordered[:, -2]
    elif confidence == "entropy":
        entropy = -(probs * np.log(np.maximum(probs, SMALLEST))).sum(axis=1)
        found = 1 - entropy / np.log(probs.shape[1])
    else:
        # what is combined is compared before rounding, and members by what they stored
        together = np.sum(logs, axis=0) if combine == "geometric" else logs[-1] if combine == "last" else probs
        found = np.mean([log.argmax(axis=1) == together.argmax(axis=1) for log in logs], axis=0)
    return np.clip(found, 0, 1).astype(np.float32)


def values_of(probs: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """What a row adds: (rows, some); `score_of` makes a score of the sums."""
    said, rows = answers_of(probs), np.arange(len(labels))
    if metric == "accuracy":
        return (said == labels).astype(float)[:, None]
    if metric == "nll":
        stored = np.exp(np.log(np.maximum(probs, SMALLEST)).astype(np.float32).astype(float))
        stored /= stored.sum(axis=1, keepdims=True)
        return np.log(stored[rows, labels])[:, None]
    assert metric == "f1"
    return np.stack([(said == 1) & (labels == 1), (said == 1).astype(int) + (labels == 1)], axis=1).astype(float)


def score_of(sums: np.ndarray, rows: int, metric: str) -> np.ndarray:
    if metric == "f1":
        return np.divide(2 * sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]), where=sums[..., 1] > 0)
    return sums[..., 0] / rows


def all_reached(
    pool: Mapping[str, Predictions],
    costs: Mapping[str, float],
    max_members: int,
    combine: str,
    confidence: str,
    metric: str = "accuracy",
) -> list[Reached]:
    """What every cascade of the pool reaches."""
    found: set[Reached] = set()
    for size in range(1, max_members + 1):
        for members in permutations(pool, size):
            found |= _of_members([pool[m] for m in members], [costs[m] for m in members], combine, confidence, metric)
    return sorted(found)


def _of_members(
    members: list[Predictions], costs: list[float], combine: str, confidence: str, metric: str
) -> set[Reached]:
    labels, logs = members[0].needs_labels(), [p.log_probs.astype(np.float64) for p in members]
    rows, size = len(labels), len(members)
    probs = [combined(logs[: k + 1], combine) for k in range(size)]
    shape = [1] * (size - 1)
    sums = np.zeros((*shape, 1))
    spent, here = np.zeros(shape), np.ones((*shape, rows), dtype=bool)
    for k in range(size):
        spent = spent + here.sum(axis=-1) * costs[k]
        out = here
        if k < size - 1:
            sure = sureness(probs[k], logs[: k + 1], combine, confidence)
            thresholds = np.append(np.unique(sure), np.float32(2))
            axis = [1] * (size - 1)
            axis[k] = len(thresholds)
            leaves = (sure >= thresholds[:, None]).reshape(*axis, rows)
            out, here = here & leaves, here & ~leaves
        sums = sums + out.astype(float) @ values_of(probs[k], labels, metric)
    scores = score_of(sums, rows, metric)
    worst = sum(costs)
    return {
        (round(float(s), 9), round(float(c), 9), round(worst, 9))
        for s, c in zip(scores.ravel(), (spent / rows).ravel(), strict=True)
    }


def unbeaten(reached: list[Reached]) -> list[Reached]:
    """Those that no other beats or equals in all three."""
    points = np.array(sorted(set(reached)))
    kept = []
    for i, (score, average, worst) in enumerate(points):
        no_worse = (points[:, 0] >= score) & (points[:, 1] <= average) & (points[:, 2] <= worst)
        no_worse[i] = False
        if not no_worse.any():
            kept.append((float(score), float(average), float(worst)))
    return sorted(kept)


def reached_by(frontier: Frontier) -> list[Reached]:
    return sorted((round(p.score, 9), round(p.average_cost, 9), round(p.worst_cost, 9)) for p in frontier.plans)
