"""The rule: what members answer together, how sure they are, and who leaves."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.cascades.rule import NEVER, Committee, Rule, checked_thresholds, leaving
from hf_soups.ensembles import geometric_mean, mean
from hf_soups.errors import InputError
from hf_soups.predictions import Predictions

COMBINE = ("mean", "geometric", "last")
CONFIDENCE = ("max", "gap", "entropy", "agreement")


def some(rows: int = 7, classes: int = 4, members: int = 3, seed: int = 0) -> list[Predictions]:
    random = np.random.default_rng(seed)
    return [Predictions.from_logits(random.normal(0, 2, (rows, classes))) for _ in range(members)]


def committee(rule: Rule, members: list[Predictions]) -> Committee:
    found = Committee(rule)
    for member in members:
        found = found.joined(member.log_probs)
    return found


@pytest.mark.parametrize("seed", range(3))
def test_a_committee_answers_what_the_ensemble_of_its_members_does(seed: int) -> None:
    members = some(seed=seed)
    for name, ensemble in (("mean", mean), ("geometric", geometric_mean)):
        found = committee(Rule(name), members)  # type: ignore[arg-type]
        np.testing.assert_allclose(found.log_probs(), ensemble(members).log_probs, atol=2e-6)
        assert np.array_equal(found.answers(), ensemble(members).answers)


def test_the_last_alone_answers_as_it_does_by_itself() -> None:
    members = some()
    assert np.array_equal(committee(Rule("last"), members).log_probs(), members[-1].log_probs)


@given(st.integers(0, 10_000), st.sampled_from(COMBINE), st.sampled_from(CONFIDENCE), st.integers(1, 4))
def test_confidences_lie_between_zero_and_one(seed: int, combine: str, confidence: str, members: int) -> None:
    found = committee(Rule(combine, confidence), some(members=members, seed=seed)).confidence()  # type: ignore[arg-type]
    assert found.dtype == np.float32
    assert (found >= 0).all()
    assert (found <= 1).all()


def test_confidences_are_what_their_names_say() -> None:
    p = np.array([[0.7, 0.2, 0.1], [0.4, 0.4, 0.2]])
    member = [Predictions.from_probs(p)]
    assert committee(Rule("mean", "max"), member).confidence() == pytest.approx([0.7, 0.4], abs=1e-6)
    assert committee(Rule("mean", "gap"), member).confidence() == pytest.approx([0.5, 0.0], abs=1e-6)
    entropy = -(p * np.log(p)).sum(axis=1)
    assert committee(Rule("mean", "entropy"), member).confidence() == pytest.approx(1 - entropy / math.log(3), abs=1e-6)


def test_agreement_is_the_share_of_members_that_answer_as_all_do_together() -> None:
    members = [Predictions.from_probs([p]) for p in ([0.9, 0.1], [0.4, 0.6], [0.8, 0.2])]
    found = [float(committee(Rule("mean", "agreement"), members[:k]).confidence()[0]) for k in (1, 2, 3)]
    assert found == pytest.approx([1, 1 / 2, 2 / 3])


@pytest.mark.parametrize("combine", COMBINE)
@pytest.mark.parametrize("confidence", CONFIDENCE)
def test_a_row_gets_the_same_confidence_whatever_stands_around_it(combine: str, confidence: str) -> None:
    rule = Rule(combine, confidence)  # type: ignore[arg-type]
    members = some(rows=50, classes=10)
    together = committee(rule, members).confidence()
    for row in range(50):
        alone = committee(rule, [m.take([row]) for m in members]).confidence()
        assert alone[0] == together[row]


def test_a_committee_of_one_class_is_sure() -> None:
    member = [Predictions.from_probs([[1.0]])]
    for confidence in ("max", "gap", "entropy"):
        assert committee(Rule("mean", confidence), member).confidence()[0] == 1  # type: ignore[arg-type]


def test_rows_leave_at_the_threshold_itself_compared_in_float32() -> None:
    confidence = np.array([0.1, 0.7, 0.7000001], dtype=np.float32)
    assert leaving(confidence, 0.7).tolist() == [False, True, True]
    assert leaving(confidence, 0).all()
    assert not leaving(np.ones(2, dtype=np.float32), NEVER).any()


@pytest.mark.parametrize(
    ("thresholds", "members", "told"),
    [
        ([0.5], 1, "1 thresholds for 1 members; expected 0"),
        ([], 2, "0 thresholds for 2 members; expected 1"),
        ([-0.1], 2, "the threshold of stage 0 is -0.1"),
        ([0.5, float("nan")], 3, "the threshold of stage 1 is nan"),
        ([2.5], 2, "is 2.5; expected 0 "),
        ([], 0, "at least one member"),
    ],
)
def test_thresholds_that_are_none_are_refused(thresholds: list[float], members: int, told: str) -> None:
    with pytest.raises(InputError, match=told):
        checked_thresholds(thresholds, members)


def test_unknown_rules_are_refused_with_those_that_are_known() -> None:
    with pytest.raises(InputError, match="combine is 'median'; expected one of mean, geometric, last"):
        Rule("median")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="confidence is 'odds'; expected one of max, gap, entropy, agreement"):
        Rule("mean", "odds")  # type: ignore[arg-type]
