"""The pages of the evidence are those of the kept figures, and a design's power is what simulation says."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from scipy.stats import binomtest

STUDIES = Path(__file__).parents[2] / "recipes" / "studies"


@pytest.fixture(scope="module")
def evidence() -> ModuleType:
    sys.path.insert(0, str(STUDIES))
    try:
        import evidence as module  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(STUDIES))
    return module  # type: ignore[no-any-return]


def test_the_pages_are_what_the_command_writes(evidence: ModuleType) -> None:
    assert evidence.PAGE.read_text() == evidence.page()
    assert evidence.PLAN.read_text() == evidence.plan()


def test_every_figure_is_of_a_claim_and_of_a_study_that_tells_it(evidence: ModuleType) -> None:
    known = {claim.key for claim in evidence.CLAIMS}
    found = [(study.name, figure) for study in evidence.studies() for figure in study.figures]
    assert found
    for name, figure in found:
        assert figure.claim in known
        assert (STUDIES / name / "README.md").is_file()
        assert figure.low <= figure.difference <= figure.high
        assert figure.command.startswith("python recipes/studies/evidence.py")


@pytest.mark.parametrize(("discordant", "rows"), [(0.1, 1000), (0.03, 5000), (0.3, 400)])
def test_the_smallest_effect_is_found_as_often_as_is_said(evidence: ModuleType, discordant: float, rows: int) -> None:
    effect = evidence.smallest_effect(discordant, rows)
    random, drawn = np.random.default_rng(0), 1500
    only = random.binomial(rows, discordant, drawn)
    ahead = random.binomial(only, (discordant + effect) / 2 / discordant)
    shown = np.mean([binomtest(int(a), int(k)).pvalue < 0.05 for a, k in zip(ahead, only, strict=True)])
    assert 0.74 < shown < 0.83  # the exact test is a little stricter than the formula
    assert evidence.rows_for(effect, discordant) == pytest.approx(rows, rel=0.01)


def test_where_no_difference_could_be_shown_all_the_disagreement_is_named(evidence: ModuleType) -> None:
    assert evidence.smallest_effect(0.02, 50) == 0.02


def test_verdicts_say_what_the_test_and_the_size_allow(evidence: ModuleType) -> None:
    claims = {claim.key: claim for claim in evidence.CLAIMS}

    def said(claim: str, difference: float, p: float, cost: float | None = None) -> str:
        figure = evidence.Figure(claim, "a against b", "", 1000, difference, -9.0, 9.0, p, 0.1, 0.0, cost)
        return str(evidence.verdict(claims[claim], figure))

    assert said("greedy-best", 3.0, 0.01) == "shown"
    assert said("greedy-best", -3.0, 0.01) == "the opposite is shown"
    assert said("greedy-best", 1.0, 0.2) == "not shown at this size (could have shown 2.8)"
    assert said("cascade-cost", 0.1, 0.9, 0.4).startswith("shown: 0.40x the cost (a fall of the score by 2.8")
    assert said("cascade-cost", -3.0, 0.01, 0.4) == "not shown: the score falls, at 0.40x the cost"
    assert said("cascade-cost", 0.0, 1.0, 1.2) == "not shown: it costs as much"
