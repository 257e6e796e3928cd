"""What the studies' own scripts compute, and the pages that they write."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hf_soups import Predictions
from hf_soups.metrics.significance import mcnemar

ROOT = Path(__file__).parents[2]
STUDIES = ROOT / "recipes/studies"


def script(path: str) -> ModuleType:
    """A study's script as a module."""
    spec = importlib.util.spec_from_file_location(f"studies_{path.replace('/', '_')}", STUDIES / f"{path}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def answers(hits: np.ndarray) -> Predictions:
    """Rows of class 0, answered right where `hits`."""
    return Predictions.from_probs(np.stack([hits, ~hits], axis=1), labels=np.zeros(len(hits), dtype=int))


def test_the_smallest_effect_is_seen_by_mcnemar_in_about_80_of_100_draws() -> None:
    effects = script("effects")
    rng, rows, discordance = np.random.default_rng(0), 1000, 0.2
    effect = effects.smallest_effect(discordance, rows)
    only_a = rng.multinomial(rows, [(discordance + effect) / 2, (discordance - effect) / 2, 1 - discordance], size=300)
    seen = 0
    for a, b, _ in only_a:
        one, other = np.zeros(rows, dtype=bool), np.zeros(rows, dtype=bool)
        one[:a] = other[a : a + b] = True
        seen += mcnemar(answers(one), answers(other)).p_value < effects.LEVEL
    assert 0.7 < seen / 300 < 0.88  # the exact test is a little shy of its level
    assert effects.smallest_effect(discordance, 4 * rows) == pytest.approx(effect / 2, rel=0.02)


def test_a_mean_over_random_halves_allows_for_their_overlap() -> None:
    effects = script("effects")
    found = effects.over_halves("match cost", [0.0, 0.02] * 100, 500, 0.9)
    assert found.effect == pytest.approx(0.01)
    assert found.high - found.effect == pytest.approx(1.97 * 0.01, rel=0.01)  # that of one half, not of 200
    assert found.p > 0.3
    assert effects.over_halves("worst case", [0.0, 0.0], 500, 1.0).could_show == 0


def test_the_page_of_evidence_is_what_the_command_prints_from_the_records() -> None:
    page = script("evidence").page()
    assert (ROOT / "docs/evidence.md").read_text(encoding="utf-8") == page, (
        "docs/evidence.md is not of these records: python recipes/studies/evidence.py > docs/evidence.md"
    )
    for path in STUDIES.glob("*/figures.json"):
        json.loads(path.read_text(encoding="utf-8"))


def test_a_verdict_says_what_could_have_been_shown() -> None:
    verdict = script("evidence").verdict
    seen = {
        "what": "greedy soup",
        "effect": 0.02,
        "low": -0.01,
        "high": 0.05,
        "p": 0.2,
        "could_show": 0.034,
        "cost": None,
    }
    assert verdict(seen) == "not shown at this size (could have shown 3.4)"
    assert verdict({**seen, "p": 0.01}) == "shown"
    assert verdict({**seen, "p": 0.01, "effect": -0.02}) == "the opposite was seen"
    matched = {**seen, "what": "match accuracy", "low": -0.002, "cost": 0.4}
    assert verdict(matched) == "shown, within 0.2 points"
    assert verdict({**matched, "cost": 1.1}) == verdict(seen)
    assert verdict({**seen, "could_show": 0.0}) == "not shown: the search kept the single model"
