"""The live model answers as the saved soup does, and cheaply."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_soups.checkpoint import Checkpoint
from hf_soups.metrics import METRICS
from hf_soups.recipe import load_recipe
from hf_soups.soups import Soup, greedy, uniform
from hf_soups.soups.mixing.live import LiveMixer
from hf_soups.soups.scoring import SoupScorer, open_scorer
from tests.makers.pile import plain_answers


@pytest.fixture
def scorer(pile: Path, pool: list[Checkpoint]) -> SoupScorer:
    return open_scorer(pool, load_recipe(pile / "recipe.yaml"))


@pytest.mark.parametrize("coefficients", [(1.0,), (0.5, 0.5), (1 / 3,) * 3, (0.7, 0.2, 0.1), (2.0, -1.0)])
def test_the_live_model_answers_as_the_saved_soup_loaded_by_transformers(
    pool: list[Checkpoint], scorer: SoupScorer, tmp_path: Path, coefficients: tuple[float, ...]
) -> None:
    soup = Soup(tuple(pool[: len(coefficients)]), coefficients)
    live = scorer.predictions(soup)
    saved = plain_answers(soup.save_pretrained(tmp_path / "soup"), list(scorer.split.rows["sentence"]))
    expected = torch.log_softmax(torch.from_numpy(saved).double(), dim=1).numpy()
    # float32 through two layers, padded differently: a few hundred roundings of 6e-8
    np.testing.assert_allclose(live.log_probs, expected, atol=2e-5)
    np.testing.assert_array_equal(live.labels, scorer.split.labels)


def test_the_score_is_the_metric_of_the_answers(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    soup = uniform(pool)
    assert scorer(soup) == METRICS["accuracy"].compute(scorer.predictions(soup))


def test_a_loss_is_scored_as_it_is_and_its_sign_says_that_less_is_better(
    pool: list[Checkpoint], scorer: SoupScorer
) -> None:
    scorer = replace(scorer, metric=METRICS["nll"], tie_break=METRICS["accuracy"], cached={})
    answers = scorer.predictions(uniform(pool))
    assert scorer(uniform(pool)) == (METRICS["nll"].compute(answers), METRICS["accuracy"].compute(answers))
    assert scorer.signs == (-1, 1)


def test_the_order_of_questions_does_not_change_the_answers(pool: list[Checkpoint], scorer: SoupScorer) -> None:
    questions = [
        uniform(pool[:2]),
        uniform(pool[:1]),
        uniform(pool[:3]),
        uniform([pool[3], pool[0]]),
        uniform(pool[:2]),
    ]
    fresh = [
        open_scorer(pool, load_recipe(Path(pool[0].source).parent / "recipe.yaml")).predictions(q)
        for q in questions[:4]
    ]
    for question, expected in zip(questions, [*fresh, fresh[0]], strict=True):
        np.testing.assert_allclose(scorer.predictions(question).log_probs, expected.log_probs, atol=1e-6)


def test_greedy_reads_a_member_once_and_each_candidate_once(
    pool: list[Checkpoint], scorer: SoupScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every mixture joins, so 4 singles, then 3 candidates and the 3 members before them are read: not 4+2+3+4."""
    import hf_soups.soups.mixing.live as live

    reads: Counter[str] = Counter()
    plain = live.mix_tensor

    def counted(mixer, checkpoints, coefficients, name, **options):
        reads.update(c.name for c in checkpoints if name == "classifier.bias")
        return plain(mixer, checkpoints, coefficients, name, **options)

    monkeypatch.setattr(live, "mix_tensor", counted)
    scores = iter([0.4, 0.3, 0.2, 0.1, 0.5, 0.6, 0.7])

    def rising(soup: Soup) -> float:
        scorer(soup)
        return next(scores)

    assert len(greedy(pool, rising).ingredients) == 4
    assert reads == {"m0": 2, "m1": 3, "m2": 3, "m3": 2}


def test_an_ingredient_that_answers_nan_scores_nan(
    pool: list[Checkpoint], scorer: SoupScorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = LiveMixer.load

    def broken(self: LiveMixer, *arguments: object) -> None:
        plain(self, *arguments)
        with torch.no_grad():
            scorer.model.classifier.bias.fill_(float("nan"))

    monkeypatch.setattr(LiveMixer, "load", broken)
    assert np.isnan(scorer(uniform(pool[:1])))
