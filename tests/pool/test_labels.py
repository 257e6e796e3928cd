"""Labels joined by name, and orders that the data contradict."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.pool.label_order import doubt, match_labels
from hf_soups.predictions import Predictions

NAMES = ("cat", "dog", "bird", "fish")


@given(st.permutations(NAMES))
def test_the_same_names_in_any_order_are_matched_one_to_one(model: list[str]) -> None:
    match = match_labels(model, NAMES, classes=4, who="m")
    assert [model[i] for i in match.order] == list(NAMES)
    assert match.by_name
    logits = np.arange(8.0).reshape(2, 4)
    np.testing.assert_array_equal(match.logits(logits)[:, 2], logits[:, model.index("bird")])


def test_a_model_of_more_classes_is_asked_about_those_of_the_data() -> None:
    match = match_labels(("ant", "dog", "cat"), ("cat", "dog"), classes=3, who="m")
    assert match.order == (2, 1)
    assert match.note == "asked about 2 of its 3 classes"


@pytest.mark.parametrize(
    ("model", "data", "note"),
    [
        (("Great_White", "tabby cat"), ("tabby-cat", "great white"), "labels matched up to case, spaces and underscor"),
        (("tench, Tinca tinca", "goldfish"), ("Tench", "goldfish, gold fish"), "labels matched by the first synonym"),
    ],
)
def test_spellings_that_differ_a_little_are_matched_and_told(
    model: tuple[str, ...], data: tuple[str, ...], note: str
) -> None:
    match = match_labels(model, data, classes=2, who="m")
    assert match.note.startswith(note)
    assert match.order in ((1, 0), (0, 1))
    assert match.order == ((1, 0) if "Great_White" in model else (0, 1))


def test_exact_names_stand_above_likenesses() -> None:
    match = match_labels(("Crane", "crane"), ("crane", "Crane"), classes=2, who="m")
    assert (match.order, match.note) == ((1, 0), "")


def test_a_name_that_occurs_twice_is_told_apart_by_its_place_alone() -> None:
    names = [f"class {i}" for i in range(38)]
    model, data = [*names, "crane", "crane"], [*names, "crane", "crane2"]
    match = match_labels(model, data, classes=40, who="m")
    assert match.order == tuple(range(40))
    assert match.note == "'crane2' matched by place: all other names stand at theirs"
    with pytest.raises(IncompatibleCheckpoints, match="'crane2'"):  # other names do not stand at their places
        match_labels([*reversed(names), "crane", "crane"], data, classes=40, who="m")


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (("cat", "dog"), ("cat", "bird"), r"m: 1 of the data's 2 classes \('bird'\) are not among its 2 .*id2label"),
        (("cat", "dog"), ("cat", "dog", "bird"), r"1 of the data's 3 classes \('bird'\).*\(`label_names`\)\."),
        (("crane", "crane", "dog"), ("dog", "crane"), r"1 of the data's 2 classes \('crane'\).*or fit several"),
        (("A b", "a_b", "c"), ("a-b", "c"), r"1 of the data's 2 classes \('a-b'\)"),
        (None, ("cat", "dog"), r"m: its 2 classes have no names \(LABEL_0, .*say so with `assume_label_order=True`"),
        (None, ("cat", "dog", "bird"), r"its 2 classes have no names.*The data have 3 classes: 'cat', 'dog', 'bird'"),
    ],
)
def test_what_names_do_not_tell_is_refused(model: tuple[str, ...] | None, data: tuple[str, ...], message: str) -> None:
    with pytest.raises(IncompatibleCheckpoints, match=message):
        match_labels(model, data, classes=2 if model is None else len(model), who="m")


def test_an_order_can_be_assumed_only_for_as_many_classes() -> None:
    match = match_labels(None, ("cat", "dog"), classes=2, who="m", assume_order=True)
    assert (match.order, match.by_name) == ((0, 1), False)
    with pytest.raises(IncompatibleCheckpoints, match="have no names"):
        match_labels(None, ("cat", "dog"), classes=3, who="m", assume_order=True)


def answering(labels: np.ndarray, right: float, order: list[int] | None = None, classes: int = 3) -> Predictions:
    """A model that is right on a share of the rows, and whose labels stand in another order."""
    random = np.random.default_rng(1)
    answers = np.where(random.random(len(labels)) < right, labels, random.integers(0, classes, len(labels)))
    if order is not None:
        answers = np.asarray(order)[answers]
    return Predictions.from_probs(np.eye(classes)[answers] * 0.9 + 0.1 / classes, labels=labels)


def test_labels_in_another_order_show_on_the_data() -> None:
    labels = np.random.default_rng(0).integers(0, 3, 400)
    assert doubt(answering(labels, 0.8)) == ""
    swapped = doubt(answering(labels, 0.8, [1, 0, 2]))
    assert "if its labels stood in another order (it says 0 for 1, 1 for 0)" in swapped


@pytest.mark.parametrize("classes", [2, 3, 20])
@pytest.mark.parametrize("rows", [60, 400, 2000])
def test_a_model_that_only_guesses_is_not_suspected(classes: int, rows: int) -> None:
    for seed in range(10):
        labels = np.random.default_rng(seed).integers(0, classes, rows)
        assert doubt(answering(labels, 0.0, classes=classes)) == ""


def test_one_row_of_each_class_fits_any_order_and_is_no_evidence() -> None:
    labels = np.arange(300)
    assert doubt(answering(labels, 0.5, classes=300)) == ""


def test_below_chance_is_told() -> None:
    labels = np.random.default_rng(0).integers(0, 4, 600)
    wrong = (labels + np.random.default_rng(1).integers(1, 4, 600)) % 4  # never right, in no order
    p = Predictions.from_probs(np.eye(4)[wrong] * 0.9 + 0.025, labels=labels)
    assert "right on 0.0% of the rows, below chance (25.0%)" in doubt(p)
