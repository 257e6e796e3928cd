"""Learned deferral: it pays in the paper's cases and is said not to elsewhere, and what runs defers as it does."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_soups.cascades import Plan, Rule
from hf_soups.cascades.deferral import Deferral, learn_deferral
from hf_soups.cascades.plan import plan_of, plan_values
from hf_soups.cascades.rule import Committee, deferral_features, deferral_score
from hf_soups.cascades.running import modeling_cascade
from hf_soups.cascades.running.model import CascadeForSequenceClassification
from hf_soups.cascades.stages import read_stages
from hf_soups.errors import InputError
from hf_soups.predictions import Predictions
from tests.cascades.made import make
from tests.cascades.pools import random_pool

CHAIN = ("small", "big")
COSTS = (1.0, 9.0)


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def answered(rng: np.random.Generator, labels: np.ndarray, strength: Any, classes: int = 6) -> np.ndarray:
    z = rng.normal(size=(len(labels), classes))
    z[np.arange(len(labels)), labels] += strength
    return softmax(1.5 * z)


def as_wanted(seed: int, rows: int = 3000) -> dict[str, Predictions]:
    """The big model is better everywhere, by as much as the small one is unsure."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(6, size=rows)
    return {
        name: Predictions.from_probs(answered(rng, labels, s), labels=labels)
        for name, s in (("small", 1.5), ("big", 3.0))
    }


def specialist(seed: int, rows: int = 3000) -> dict[str, Predictions]:
    """The small model knows each row's pair of classes and guesses within it; the big one knows better in one pair."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(6, size=rows)
    pair = labels // 2
    pools = {}
    for name in CHAIN:
        probs = np.full((rows, 6), 0.01)
        first = rng.uniform(0.2, 0.8, rows)
        known = (name == "big") & (pair == 0)
        first[known] = np.where(labels[known] == 0, 0.95, 0.05)
        probs[np.arange(rows), 2 * pair], probs[np.arange(rows), 2 * pair + 1] = first, 1 - first
        pools[name] = Predictions.from_probs(probs / probs.sum(axis=1, keepdims=True), labels=labels)
    return pools


def noisy_labels(seed: int, rows: int = 3000) -> dict[str, Predictions]:
    """Of half of the classes the labels are drawn anew: the small model is unsure there, and the big one no better."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(6, size=rows)
    small, big = answered(rng, labels, 1.8), answered(rng, labels, 3.2)
    noisy = labels >= 3
    small[noisy] = softmax(np.log(small[noisy]) / 2)
    labels[noisy] = rng.integers(3, 6, size=noisy.sum())
    return {"small": Predictions.from_probs(small, labels=labels), "big": Predictions.from_probs(big, labels=labels)}


def learned(pool: dict[str, Predictions], rule: Rule | None = None, share: float = 0.4) -> Deferral:
    """With thresholds for the cost of deferring that share of the rows."""
    plan = Plan(CHAIN, (0.5,), COSTS, rule or Rule("last"))
    (stages,) = read_stages([plan], pool, "accuracy")
    at = float(np.quantile(stages.confidence[0], share))
    return learn_deferral(stages.rescored(replace(plan, thresholds=(at,))), pool, folds=4)


@pytest.mark.parametrize("case", [specialist, noisy_labels])
@pytest.mark.parametrize("seed", [0, 1])
def test_it_pays_where_the_next_member_is_a_specialist_and_where_labels_are_noise(case: Any, seed: int) -> None:
    found = learned(case(seed))
    assert found.pays
    assert found.learned_held_out.score > found.simple_held_out.score + 0.01
    assert "It pays: build the cascade with --learned-deferral" in found.in_words()
    anew = case(seed + 100)  # rows that nothing was chosen on
    better, simple = found.plan.apply(anew), found.simple.apply(anew)
    gain = (better.answers == better.labels).mean() - (simple.answers == simple.labels).mean()
    assert gain > 0.005
    assert better.costs is not None
    assert simple.costs is not None
    assert better.costs.mean() < 1.05 * simple.costs.mean()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_where_confidence_suffices_it_is_said_not_to_beat_it(seed: int) -> None:
    found = learned(as_wanted(seed))
    assert not found.pays
    assert found.low <= 0
    assert "does not beat the simple rule by more than chance" in found.in_words()


def test_held_out_scores_are_those_of_choices_without_the_fold() -> None:
    from hf_soups.cascades.crossfit import fold_of

    pool = specialist(3, rows=400)
    plan = Plan(CHAIN, (0.5,), COSTS, Rule("last"))
    (stages,) = read_stages([plan], pool, "accuracy")
    plan = stages.rescored(replace(plan, thresholds=(float(np.quantile(stages.confidence[0], 0.5)),)))
    found = learn_deferral(plan, pool, folds=2, seed=5)
    at, right = fold_of(400, 2, 5), []
    for fold in range(2):
        others, held = ({n: p.take(np.flatnonzero(mask)) for n, p in pool.items()} for mask in (at != fold, at == fold))
        own = replace(plan, average_cost=plan.average_cost)
        chosen = learn_deferral(own, others, folds=2).plan
        answers = replace(chosen, score=float("nan")).apply(held)
        right.append(answers.answers == answers.labels)
    naive = float(np.concatenate(right).mean())
    # thresholds of a fold are for the plan's cost on all rows, here for its cost on the fold's own
    assert found.learned_held_out.score == pytest.approx(naive, abs=0.03)


def test_a_learned_rule_is_kept_in_json_and_checked() -> None:
    found = learned(specialist(0, rows=600))
    assert plan_of(plan_values(found.plan)) == found.plan
    assert found.plan.rule.in_words()[1] == "a learned chance that the answer is as good as the last member's"
    assert "scores" not in plan_values(found.simple)["rule"]
    with pytest.raises(InputError, match="'learned' needs scores"):
        Rule("mean", "learned")
    with pytest.raises(InputError, match="'learned' needs scores"):
        Rule("mean", "max", ((0.0, 1.0),))
    with pytest.raises(InputError, match="learned scores of 1 stages for 3 members"):
        Plan(("a", "b", "c"), (0.5, 0.5), (1.0, 2.0, 3.0), found.plan.rule)
    with pytest.raises(InputError, match="they are of other classes"):
        deferral_score(np.zeros((2, 3)), (0.0, 1.0))
    with pytest.raises(InputError, match="a plan of one member defers nothing"):
        learn_deferral(Plan(("small",), (), (1.0,)), specialist(0, rows=60))


def test_of_many_classes_three_summaries_are_used() -> None:
    assert deferral_features(np.full((2, 33), 1 / 33)).shape == (2, 3)
    assert deferral_features(np.full((2, 32), 1 / 32)).shape == (2, 35)


def test_a_stage_that_is_never_worse_is_left_by_all() -> None:
    labels = np.arange(60) % 3
    sure = Predictions.from_probs(np.eye(3)[labels] * 0.85 + 0.05, labels=labels)
    found = learned({"small": sure, "big": sure})
    assert found.plan.exit_shares[0] == 1.0
    assert not found.pays


def test_three_stages_have_a_score_each_and_run_as_simulated() -> None:
    pool, costs = random_pool(3, rows=500, seed=4)
    plan = Plan(("m0", "m1", "m2"), (0.6, 0.6), tuple(costs.values()))
    (stages,) = read_stages([plan], pool, "accuracy")
    found = learn_deferral(stages.rescored(plan), pool)
    assert len(found.plan.rule.scores) == 2
    answers = found.plan.apply(pool)
    assert answers.costs is not None
    assert float((answers.answers == answers.labels).mean()) == pytest.approx(found.plan.score)
    assert float(answers.costs.mean()) == pytest.approx(found.plan.average_cost)
    assert found.plan.average_cost <= found.simple.average_cost * 1.01 + 1e-9
    committee = Committee(found.plan.rule).joined(pool["m0"].log_probs)
    alone = np.concatenate([Committee(found.plan.rule).joined(row[None]).confidence() for row in pool["m0"].log_probs])
    np.testing.assert_allclose(committee.confidence(), alone, rtol=1e-6)


def test_the_model_and_the_code_for_others_defer_as_the_simulation(tmp_path: Path) -> None:
    made = make("text", tmp_path, rows=24)
    rng = np.random.default_rng(0)
    weights = tuple(tuple(rng.normal(0, 8, 8).tolist()) for _ in range(2))  # four classes: intercept, 3 and 4
    rule = Rule("mean", "learned", weights)
    plan = Plan(tuple(made.members), (0.5, 0.5), (1.0, 4.0, 16.0), rule, unit="macs")
    committee = Committee(rule).joined(made.predictions[plan.members[0]].log_probs)
    plan = replace(plan, thresholds=(_in_the_widest_gap(committee.confidence()), 0.5))
    rest = np.flatnonzero(committee.confidence() < np.float32(plan.thresholds[0]))
    second = committee.take(rest).joined(made.predictions[plan.members[1]].log_probs[rest])
    plan = replace(plan, thresholds=(plan.thresholds[0], _in_the_widest_gap(second.confidence())))
    wanted = plan.apply(made.predictions)
    assert wanted.exits is not None
    assert set(wanted.exits.tolist()) == {0, 1, 2}
    folder = made.built(plan, tmp_path / "c", max_length=64, with_code=True)
    ours = CascadeForSequenceClassification.from_pretrained(folder)
    code: Any = modeling_cascade.CascadeForSequenceClassification.from_pretrained(folder)
    assert isinstance(ours, CascadeForSequenceClassification)
    for model in (ours, code):
        done = model(texts=made.inputs)
        assert done.exits.tolist() == wanted.exits.tolist()
        np.testing.assert_allclose(done.logits, wanted.log_probs, atol=1e-4)


def _in_the_widest_gap(confidence: np.ndarray) -> float:
    """Near the middle, so that rounding moves no row."""
    ordered = np.sort(confidence).astype(float)
    low, high = len(ordered) // 4, max(len(ordered) // 4 + 1, 3 * len(ordered) // 4)
    at = low + int(np.diff(ordered[low : high + 1]).argmax())
    return float(ordered[at] + ordered[at + 1]) / 2
