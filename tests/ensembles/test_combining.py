"""Ensembles of predictions, against direct sums in float64 and against the cascade that nothing leaves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.cascades import NEVER, Plan, Rule
from hf_soups.ensembles import combine as combining
from hf_soups.ensembles import ensemble, geometric_mean, mean, mean_logits, vote
from hf_soups.errors import PredictionsError
from hf_soups.predictions import Predictions

ROUNDING = 2e-7  # float32 probabilities near 1: half a unit in the last place is 6e-8, and there are a few roundings


def members(seed: int, count: int = 3, rows: int = 7, classes: int = 4) -> tuple[list[np.ndarray], list[Predictions]]:
    random = np.random.default_rng(seed)
    logits = [random.normal(0, 3, (rows, classes)) for _ in range(count)]
    labels = random.integers(0, classes, rows)
    ids = random.permutation(100)[:rows]
    made = [
        Predictions.from_logits(z, labels=labels, row_ids=ids, data="d", model=f"m{i}") for i, z in enumerate(logits)
    ]
    return logits, made


def softmax(z: np.ndarray) -> np.ndarray:
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_mean_is_the_mean_of_probabilities(seed: int, count: int) -> None:
    logits, made = members(seed, count)
    np.testing.assert_allclose(mean(made).probs, np.mean([softmax(z) for z in logits], axis=0), atol=ROUNDING)


@given(st.integers(0, 1000), st.integers(1, 5))
def test_the_geometric_mean_is_the_softmax_of_the_mean_logits(seed: int, count: int) -> None:
    logits, made = members(seed, count)
    # log-probabilities of up to about -30 are stored with a spacing of 2e-6
    np.testing.assert_allclose(geometric_mean(made).probs, softmax(np.mean(logits, axis=0)), atol=3e-6)
    assert mean_logits is geometric_mean


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric"]))
def test_rows_in_another_order_are_joined_by_their_ids(seed: int, combine: str) -> None:
    _, made = members(seed)
    shuffled = [p.take(np.random.default_rng(seed + i).permutation(len(p))) for i, p in enumerate(made)]
    straight, joined = ensemble(made, combine), ensemble([made[0], *shuffled[1:]], combine)
    np.testing.assert_array_equal(joined.log_probs, straight.log_probs)
    np.testing.assert_array_equal(joined.row_ids, made[0].row_ids)
    np.testing.assert_array_equal(joined.labels, made[0].labels)


@pytest.mark.parametrize("combine", ["mean", "geometric"])
def test_an_ensemble_of_one_is_that_member_to_the_last_bit(combine: str) -> None:
    _, made = members(0, count=3)
    np.testing.assert_array_equal(ensemble(made[:1], combine).log_probs, made[0].log_probs)
    one_hot = ensemble(made, combine, weights=[0.0, 1.0, 0.0])
    np.testing.assert_array_equal(one_hot.log_probs, made[1].log_probs)


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric", "vote"]))
def test_the_order_of_members_does_not_matter(seed: int, combine: str) -> None:
    _, made = members(seed, count=4)
    there, back = ensemble(made, combine), ensemble(made[::-1], combine)
    np.testing.assert_allclose(there.probs, back.probs, atol=ROUNDING)


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric"]))
def test_an_ensemble_is_the_cascade_that_no_row_leaves_early(seed: int, combine: str) -> None:
    _, made = members(seed, count=3)
    plan = Plan(("a", "b", "c"), (NEVER, NEVER), (1.0, 1.0, 1.0), Rule(combine))
    cascade = plan.apply(dict(zip("abc", made, strict=True)))
    np.testing.assert_array_equal(cascade.log_probs, ensemble(made, combine).log_probs)


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric"]))
def test_weights_count_as_often_as_a_member_is_repeated(seed: int, combine: str) -> None:
    _, made = members(seed)
    weighted = ensemble(made, combine, weights=[0.5, 0.25, 0.25])
    repeated = ensemble([made[0], made[0], made[1], made[2]], combine)
    np.testing.assert_allclose(weighted.probs, repeated.probs, atol=ROUNDING)


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric", "vote"]))
def test_temperatures_are_taken_before_the_members_are_combined(seed: int, combine: str) -> None:
    _, made = members(seed)
    beforehand = [p.at_temperature(t) for p, t in zip(made, (0.5, 1.0, 3.0), strict=True)]
    by_option = ensemble(made, combine, temperatures=[0.5, 1.0, 3.0])
    np.testing.assert_array_equal(by_option.log_probs, ensemble(beforehand, combine).log_probs)


@given(st.integers(0, 1000), st.sampled_from(["mean", "geometric", "vote"]), st.integers(1, 30))
def test_blocks_of_any_size_give_the_same_bits(seed: int, combine: str, values: int) -> None:
    _, made = members(seed)
    weights = [0.2, 0.3, 0.5]
    whole = ensemble(made, combine, weights=weights)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(combining, "VALUES_AT_ONCE", values)
        np.testing.assert_array_equal(ensemble(made, combine, weights=weights).log_probs, whole.log_probs)


def test_members_mapped_from_files_are_read_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, made = members(0, rows=50)
    mapped = []
    for i, p in enumerate(made):
        np.save(tmp_path / f"{i}.npy", p.log_probs)
        mapped.append(replace(p, log_probs=np.load(tmp_path / f"{i}.npy", mmap_mode="r")))
    asked: list[int] = []
    plain = Predictions.block

    def watched(self: Predictions, start: int, stop: int) -> np.ndarray:
        asked.append(stop - start)
        return plain(self, start, stop)

    monkeypatch.setattr(Predictions, "block", watched)
    monkeypatch.setattr(combining, "VALUES_AT_ONCE", 40)  # 10 rows of 4 classes
    found = ensemble(mapped, "mean")
    np.testing.assert_array_equal(found.log_probs, ensemble(made, "mean").log_probs)
    assert max(asked) == 10


def test_three_members_vote_and_the_majority_answers() -> None:
    a, b, c = (Predictions.from_probs([p]) for p in ([0.9, 0.1, 0], [0.2, 0.5, 0.3], [0.1, 0.6, 0.3]))
    found = ensemble([a, b, c], "vote")
    assert found.answers.tolist() == [1]
    np.testing.assert_allclose(found.probs, [[1 / 3, 2 / 3, 0]], atol=ROUNDING)


def test_equal_shares_of_votes_are_parted_by_the_mean_probability() -> None:
    a, b = (Predictions.from_probs([p]) for p in ([0.6, 0.4, 0], [0.1, 0.8, 0.1]))
    assert vote([a, b]).answers.tolist() == [1]
    np.testing.assert_allclose(vote([a, b]).probs, [[0.5, 0.5, 0]], atol=ROUNDING)
    # 0.1 + 0.2 is not 0.3 in floating point, yet the vote is a tie
    c = Predictions.from_probs([[0.9, 0.05, 0.05]])
    tied = ensemble([a, a, b, c], "vote", weights=[0.1, 0.2, 0.3, 0.4])
    assert tied.answers.tolist() == [0]
    assert ensemble([a, a, b], "vote", weights=[0.2, 0.3, 0.5]).answers.tolist() == [1]


@given(st.integers(0, 1000), st.integers(1, 5))
def test_votes_are_counted_as_a_plain_loop_counts_them(seed: int, count: int) -> None:
    _, made = members(seed, count)
    for row, probs in enumerate(vote(made).probs):
        answers = [int(p.answers[row]) for p in made]
        np.testing.assert_allclose(probs, [answers.count(c) / count for c in range(4)], atol=ROUNDING)
        most = [c for c in range(4) if answers.count(c) == max(map(answers.count, answers))]
        expected = max(most, key=lambda c: (round(np.mean([float(p.probs[row, c]) for p in made]), 6), -c))
        assert vote(made).answers[row] == expected


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([0.5, 0.5], "2 weights for 3 members"),
        ([0.5, 0.6, -0.1], "expected numbers of 0 or more"),
        ([0.5, 0.5, float("nan")], "expected numbers of 0 or more"),
        ([0.5, 0.5, 0.5], r"weights sum to 1\.5; expected 1\. Divide each"),
    ],
)
def test_weights_that_cannot_be_used_are_refused(weights: list[float], said: str) -> None:
    with pytest.raises(PredictionsError, match=said):
        ensemble(members(0)[1], weights=weights)


def test_temperatures_that_cannot_be_used_are_refused() -> None:
    with pytest.raises(PredictionsError, match="1 temperatures for 3 members"):
        ensemble(members(0)[1], temperatures=[1.0])
    with pytest.raises(PredictionsError, match="expected numbers above 0"):
        ensemble(members(0)[1], temperatures=[1.0, 0.0, 1.0])


def test_an_ensemble_says_what_it_is_of_and_keeps_the_data() -> None:
    _, made = members(0, count=2)
    assert mean(made).model == "mean of m0, m1"
    assert mean(made).data == "d"


def test_other_rows_are_refused() -> None:
    _, made = members(0, count=2)
    with pytest.raises(PredictionsError, match="do not hold the same rows: 1 missing"):
        mean([made[0], made[1].take(np.arange(6))])


def test_no_member_and_an_unknown_combination_are_refused() -> None:
    with pytest.raises(PredictionsError, match="at least one member"):
        mean([])
    with pytest.raises(
        PredictionsError, match="cannot combine by 'median'; expected one of 'mean', 'geometric', 'vote'"
    ):
        ensemble(members(0)[1], "median")
