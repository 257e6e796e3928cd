"""Small pools are searched without machine code, and the plans are those of the compiled search, bit for bit."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from hf_soups.cascades import pareto
from hf_soups.cascades.rule import Combine, Confidence
from hf_soups.cascades.search import candidates
from hf_soups.cascades.search.exhaustive import search_cascades
from hf_soups.predictions import Predictions


def pool(models: int, rows: int, classes: int, *, decimals: int | None = None) -> dict[str, Predictions]:
    """Models of rising accuracy; rounded probabilities tie often."""
    random = np.random.default_rng(models * rows + classes)
    labels, shared = random.integers(0, classes, rows), random.normal(size=(rows, classes))
    found = {}
    for m in range(models):
        logits = shared + random.normal(size=(rows, classes))
        logits[np.arange(rows), labels] += 1 + m
        probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
        probs = probs if decimals is None else np.round(probs, decimals) + 1e-3
        found[f"m{m}"] = Predictions.from_probs(probs / probs.sum(axis=1, keepdims=True), labels=labels)
    return found


@pytest.mark.parametrize(
    ("models", "rows", "classes", "decimals", "combine", "confidence", "metric"),
    [
        (2, 300, 3, None, "mean", "max", "accuracy"),
        (3, 300, 3, 1, "mean", "max", "accuracy"),
        (4, 200, 10, None, "mean", "max", "accuracy"),
        (4, 77, 2, 1, "last", "agreement", "accuracy"),
        (3, 65, 4, None, "geometric", "entropy", "accuracy"),
        (3, 120, 3, None, "mean", "gap", "nll"),
        (2, 5, 2, None, "mean", "max", "accuracy"),
    ],
)
def test_plans_are_those_of_the_compiled_search(
    models: int, rows: int, classes: int, decimals: int | None, combine: Combine, confidence: Confidence, metric: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    answers = pool(models, rows, classes, decimals=decimals)
    costs = {name: 2.0**i for i, name in enumerate(answers)}

    def found() -> object:
        frontier = search_cascades(answers, costs, combine=combine, confidence=confidence, metric=metric)
        return frontier.plans, frontier.singles, frontier.ensembles

    small = found()
    monkeypatch.setattr(candidates, "FEW_ROWS", 0)
    monkeypatch.setattr(pareto, "FEW_LEVELS", 0)
    assert found() == small


def test_nothing_is_compiled_for_a_small_pool() -> None:
    """Compiling took 26 of the 29 seconds of a first search among 2 models on 300 rows."""
    code = """
import sys
from hf_soups.cascades.search.exhaustive import search_cascades
from tests.cascades.test_small_pools import pool
answers = pool(2, 300, 3)
search_cascades(answers, {name: 1.0 + i for i, name in enumerate(answers)})
sys.exit("numba" in sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], timeout=120).returncode == 0
