"""What people bring as probabilities, labels and ids: pandas' columns, names, rounded numbers, one score a row."""

import numpy as np
import pandas as pd
import pytest

from hf_soups.errors import PredictionsError
from hf_soups.predictions import Predictions

NAMES = ("ham", "spam")
HALVES = [[0.75, 0.25], [0.25, 0.75], [0.5, 0.5]]


@pytest.mark.parametrize(
    "labels",
    [
        ["ham", "spam", "ham"],
        np.array(["ham", "spam", "ham"], dtype=object),
        pd.Series(["ham", "spam", "ham"]),
        pd.Series(["ham", "spam", "ham"], dtype="string"),
        pd.Series(["ham", "spam", "ham"], dtype="category"),
        pd.Categorical(["ham", "spam", "ham"], categories=["spam", "ham"]),
        [" Ham", "SPAM", "ham "],
        pd.Series([0, 1, 0], dtype="Int64"),
        pd.Series([0.0, 1.0, 0.0]),
        [False, True, False],
    ],
)
def test_labels_are_names_or_indices_of_classes_whatever_holds_them(labels: object) -> None:
    p = Predictions.from_probs(HALVES, labels=labels, label_names=NAMES)
    assert p.needs_labels().tolist() == [0, 1, 0]
    assert Predictions.from_logits(HALVES, labels=labels, label_names=NAMES).needs_labels().tolist() == [0, 1, 0]


def test_names_that_differ_by_case_alone_are_not_guessed() -> None:
    names = ("Polish", "polish")
    assert Predictions.from_probs(HALVES, labels=["polish", "Polish", "polish"], label_names=names).labels is not None
    with pytest.raises(PredictionsError, match="row 0 has the label 'POLISH', which is none of the classes"):
        Predictions.from_probs(HALVES, labels=["POLISH", "polish", "polish"], label_names=names)


def test_a_categorical_column_names_the_classes_in_the_order_of_its_categories() -> None:
    labels = pd.Categorical(["ham", "spam", "ham"], categories=["spam", "ham"])
    p = Predictions.from_probs(HALVES, labels=labels)
    assert (p.label_names, p.needs_labels().tolist()) == (("spam", "ham"), [1, 0, 1])


def test_named_columns_of_a_table_name_the_classes() -> None:
    table = pd.DataFrame(HALVES, columns=["spam", "ham"])
    p = Predictions.from_probs(table, labels=["ham", "ham", "spam"])
    assert (p.label_names, p.needs_labels().tolist()) == (("spam", "ham"), [1, 1, 0])
    assert Predictions.from_probs(pd.DataFrame(HALVES)).label_names is None


@pytest.mark.parametrize("dtype", [None, object, "string", "category"])
def test_texts_of_pandas_are_row_ids(dtype: object) -> None:
    ids = pd.Series(["b", "a", "c"], dtype=dtype)  # type: ignore[call-overload]
    assert Predictions.from_probs(HALVES, row_ids=ids).row_ids.tolist() == ["b", "a", "c"]


@pytest.mark.parametrize(
    ("values", "second"),
    [([0.25, 1.0], [0.25, 1.0]), ([[0.25], [1.0]], [0.25, 1.0]), (np.float32([0.5, 0]), [0.5, 0.0])],
)
def test_one_score_a_row_is_the_probability_of_the_second_class(values: object, second: list[float]) -> None:
    p = Predictions.from_probs(values, labels=[0, 1])
    np.testing.assert_allclose(p.probs, np.stack([1 - np.array(second), second], axis=1), atol=1e-7)


def test_a_column_of_ones_is_one_class_unless_two_are_named() -> None:
    assert Predictions.from_probs([[1.0], [1.0]]).classes == 1
    assert Predictions.from_probs([[1.0], [1.0]], label_names=NAMES).answers.tolist() == [1, 1]


def test_one_logit_a_row_goes_through_a_sigmoid() -> None:
    p = Predictions.from_logits([0.0, np.log(3)], labels=[0, 1])
    np.testing.assert_allclose(p.probs, [[0.5, 0.5], [0.25, 0.75]], atol=1e-7)


def test_probabilities_rounded_to_two_decimals_are_taken() -> None:
    thirds = Predictions.from_probs([[0.33, 0.33, 0.33], [0.17, 0.17, 0.67]])
    np.testing.assert_allclose(thirds.probs, [[1 / 3] * 3, np.array([17, 17, 67]) / 101], atol=1e-6)


def test_sums_that_rounding_does_not_explain_are_refused_unless_they_are_allowed() -> None:
    off = [[0.3312, 0.3312, 0.3312]]
    with pytest.raises(PredictionsError, match=r"row 0 sums to 0.9936, not 1. If these are logits.*normalise=True"):
        Predictions.from_probs(off)
    for allowed in ({"normalise": True}, {"tolerance": 0.01}):
        np.testing.assert_allclose(Predictions.from_probs(off, **allowed).probs, [[1 / 3] * 3], atol=1e-6)
    votes = Predictions.from_probs([[6, 2, 2]], normalise=True)
    np.testing.assert_allclose(votes.probs, [[0.6, 0.2, 0.2]], atol=1e-6)


def test_log_probabilities_may_be_minus_infinity() -> None:
    p = Predictions.from_log_probs([np.log([0.25, 0.75]), [0.0, -np.inf]], labels=[1, 0])
    np.testing.assert_allclose(p.probs, [[0.25, 0.75], [1, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Predictions.from_probs(HALVES, labels=["ham"] * 3), "labels are <U3; .*label_names in the order"),
        (lambda: Predictions.from_probs(HALVES, labels=["ham", None, "ham"], label_names=NAMES), "row 1 holds nothing"),
        (lambda: Predictions.from_probs(HALVES, labels=["ham", "eggs", "ham"], label_names=NAMES), "row 1 .* 'eggs'"),
        (lambda: Predictions.from_probs([0.5, 1.5]), "row 1 has the score 1.5; one number a row is the probability"),
        (lambda: Predictions.from_probs([["ham", "spam"]]), "probabilities are not all numbers"),
        (lambda: Predictions.from_probs([[0.0, 0.0]], normalise=True), "row 0 sums to 0.0000, nothing is left"),
        (lambda: Predictions.from_probs(HALVES, row_ids=pd.Series(["a", 1, "b"])), "row ids are object; expected"),
        (lambda: Predictions.from_probs(HALVES, row_ids=pd.Series(["a", None, "b"])), "row 1 holds nothing"),
        (
            lambda: Predictions.from_probs(HALVES, labels=pd.Series([0, None, 1], dtype="Int64")),
            "row 1 holds nothing",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_row(make: object, message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        make()  # type: ignore[operator]


@pytest.mark.parametrize("made", ["from_probs", "from_log_probs", "from_logits"])
def test_columns_of_a_table_are_read_in_the_order_of_the_classes(made: str) -> None:
    """Columns dog, cat and label_names cat, dog: every answer was taken for the other class."""
    table = pd.DataFrame(np.log([[0.9, 0.1], [0.2, 0.8]]), columns=["Dog", "cat"])
    table = np.exp(table) if made == "from_probs" else table
    p = getattr(Predictions, made)(table, labels=["dog", "cat"], label_names=["cat", "dog"])
    assert p.hits.all()
    np.testing.assert_allclose(p.probs, [[0.1, 0.9], [0.8, 0.2]], atol=1e-6)
    other = table.set_axis(["p0", "p1"], axis=1)  # names that are no classes say nothing of the order
    assert not getattr(Predictions, made)(other, labels=["dog", "cat"], label_names=["cat", "dog"]).hits.any()
