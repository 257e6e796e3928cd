"""Predictions: log-probabilities by row id, joined by id or not at all, saved and read without loss."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors.numpy import load_file, save_file

from hf_soups.errors import HfSoupsError, PredictionsError
from hf_soups.predictions import Predictions

# beartype draws random items to check while Predictions are made, which hypothesis takes for randomness of ours
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")


@st.composite
def predictions(draw: st.DrawFn) -> Predictions:
    """Rows with ids in any order, numbers or text, with or without labels and names."""
    rows, classes = draw(st.integers(0, 8)), draw(st.integers(1, 5))
    logits = draw(arrays.arrays(np.float64, (rows, classes), elements=st.floats(-1e3, 1e3)))
    ids: list[int] | list[str] = draw(
        st.lists(st.integers(-(2**63), 2**63 - 1), min_size=rows, max_size=rows, unique=True)
    )
    if rows and draw(st.booleans()):
        # NumPy's text cannot end in NUL
        text = st.text(max_size=5).filter(lambda t: "\0" not in t and t.isprintable())
        ids = draw(st.lists(text, min_size=rows, max_size=rows, unique=True))
    labels = draw(st.none() | st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    names = draw(st.none() | st.just(tuple(f"näme {i}" for i in range(classes))))
    return Predictions.from_logits(logits, labels=labels, row_ids=ids, label_names=names, data="d", model="ü")


def same(a: Predictions, b: Predictions) -> bool:
    labels = (a.labels is None) == (b.labels is None) and (a.labels is None or np.array_equal(a.labels, b.labels))
    ids = a.row_ids.dtype.kind == b.row_ids.dtype.kind and np.array_equal(a.row_ids, b.row_ids)
    about = (a.label_names, a.data, a.model) == (b.label_names, b.data, b.model)
    return bool(labels and ids and about and a.log_probs.tobytes() == b.log_probs.tobytes())


@given(predictions())
@settings(deadline=None)
def test_save_then_load_is_the_identity(p: Predictions) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "new folder" / "p.safetensors"
        p.save(path)
        assert same(Predictions.load(path), p)
        assert [f.name for f in path.parent.iterdir()] == ["p.safetensors"]


@given(predictions())
@settings(deadline=None)
def test_rows_are_distributions_in_float32_without_infinities(p: Predictions) -> None:
    assert p.log_probs.dtype == np.float32
    assert np.isfinite(p.log_probs).all()
    np.testing.assert_allclose(p.probs.sum(axis=1), 1, atol=1e-5)


@given(predictions(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_any_order_of_rows_can_be_brought_back(p: Predictions, random: object) -> None:
    order = list(range(len(p)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert same(p.take(order).aligned_to(p), p)


@given(arrays.arrays(np.float64, (3, 4), elements=st.floats(-50, 50)), st.floats(-1e3, 1e3))
@settings(deadline=None)
def test_a_constant_added_to_a_rows_logits_changes_nothing(logits: np.ndarray, constant: float) -> None:
    a, b = Predictions.from_logits(logits), Predictions.from_logits(logits + constant)
    np.testing.assert_allclose(a.log_probs, b.log_probs, atol=1e-5)


def test_logits_become_log_probabilities_of_the_softmax() -> None:
    logits = np.log([[1.0, 3.0], [1.0, 1.0]])
    np.testing.assert_allclose(Predictions.from_logits(logits).probs, [[0.25, 0.75], [0.5, 0.5]], atol=1e-7)
    extreme = Predictions.from_logits([[1e4, -1e4]])
    np.testing.assert_allclose(extreme.probs, [[1, 0]], atol=1e-30)


def test_probabilities_that_sum_to_almost_1_are_normalised() -> None:
    half = np.asarray([[0.3333, 0.3333, 0.3337]], dtype=np.float16)
    np.testing.assert_allclose(Predictions.from_probs(half).probs.sum(), 1, atol=1e-6)


def test_a_probability_of_0_stays_finite() -> None:
    p = Predictions.from_probs([[0.0, 1.0]])
    assert np.isfinite(p.log_probs).all()
    assert p.probs[0, 0] < 1e-37


def test_the_lowest_class_wins_a_tie() -> None:
    assert Predictions.from_probs([[0.25, 0.25, 0.5], [0.4, 0.4, 0.2]]).answers.tolist() == [2, 0]


def test_rows_are_numbered_when_no_ids_are_given() -> None:
    p = Predictions.from_probs([[1.0, 0.0]] * 3)
    assert p.row_ids.tolist() == [0, 1, 2]
    assert len(p) == 3
    assert p.classes == 2


def test_no_rows_are_allowed() -> None:
    p = Predictions.from_probs(np.empty((0, 3)), labels=[], row_ids=[])
    assert (len(p), p.classes, p.answers.tolist()) == (0, 3, [])
    assert same(p.aligned_to(p), p)


def test_take_accepts_indices_and_masks() -> None:
    p = Predictions.from_probs([[1.0, 0.0], [0.0, 1.0], [0.5, 0.5]], labels=[0, 1, 1], row_ids=["a", "b", "c"])
    assert p.take([2, 0]).row_ids.tolist() == ["c", "a"]
    assert p.take(np.array([False, True, False])).needs_labels().tolist() == [1]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: Predictions.from_probs([[[0.5, 0.5]]]),
            r"probabilities have shape \(1, 1, 2\); expected \(examples, classes\)",
        ),
        (lambda: Predictions.from_probs([[0.5, 0.5], [1.5, -0.5]]), "row 1 holds a negative or non-finite probability"),
        (lambda: Predictions.from_probs([[0.5, np.nan]]), "row 0 holds a negative or non-finite probability"),
        (lambda: Predictions.from_probs([[0.5, 0.4]]), r"row 0 sums to 0.9000, not 1. If these are logits, use from_l"),
        (lambda: Predictions.from_logits([[[0.5]]]), r"logits have shape \(1, 1, 1\); expected \(examples, classes\)"),
        (lambda: Predictions.from_logits([[0, 0], [0, np.inf]]), "row 1 holds a NaN or infinite logit: the model that"),
        (lambda: Predictions.from_logits([[0, 0]], row_ids=[1, 2]), "2 row ids for 1 rows"),
        (lambda: Predictions.from_logits([[0, 0]] * 3, row_ids=[7, 5, 7]), "row id .*7.* occurs more than once"),
        (lambda: Predictions.from_logits([[0, 0]], row_ids=[1.5]), "row ids are float64; expected integers or text"),
        (lambda: Predictions.from_logits([[0, 0]], labels=[0, 1]), "2 labels for 1 rows"),
        (lambda: Predictions.from_logits([[0, 0]], labels=[2]), r"labels lie in 2..2, but there are 2 classes"),
        (lambda: Predictions.from_logits([[0, 0]], labels=[-1]), r"labels lie in -1..-1, but there are 2 classes"),
        (lambda: Predictions.from_logits([[0, 0]], labels=[0.7]), "labels are float64; expected class indices"),
        (lambda: Predictions.from_logits([[0, 0]], labels=["a"]), "labels are <U1; expected class indices"),
        (lambda: Predictions.from_logits([[0, 0]], label_names=("a",)), "1 label names for 2 classes"),
        (lambda: Predictions.from_logits([[0, 0]], model="m").needs_labels(), "predictions m hold no labels"),
    ],
)
def test_what_is_no_prediction_is_refused(make: object, message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        make()  # type: ignore[operator]


def pair(**other: object) -> tuple[Predictions, Predictions]:
    about: dict[str, object] = {
        "labels": [0, 1],
        "row_ids": [10, 11],
        "label_names": ("a", "b"),
        "data": "d",
        "model": "A",
    }
    logits = [[0.0, 1.0], [1.0, 0.0]]
    return Predictions.from_logits(logits, **about), Predictions.from_logits(logits, **{**about, "model": "B", **other})


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"data": "e"}, "predictions of A and B on other data: d against e"),
        ({"label_names": ("b", "a")}, r"predictions of A and B have other labels: \('a', 'b'\) against \('b', 'a'\)"),
        ({"row_ids": [10, 12]}, r"1 missing \(first: \[12\]\), 1 extra \(first: \[11\]\). Predict again"),
        ({"row_ids": ["10", "11"]}, "row ids of A and B: text in one set, numbers in the other"),
        ({"labels": [0, 0]}, "row .*11.* has label 1 in the predictions of A and 0 in those of B: the data differ"),
    ],
)
def test_sets_of_other_rows_are_not_joined(other: dict[str, object], message: str) -> None:
    a, b = pair(**other)
    with pytest.raises(PredictionsError, match=message):
        a.aligned_to(b)


def test_more_or_fewer_rows_or_classes_are_not_joined() -> None:
    a, _ = pair()
    with pytest.raises(PredictionsError, match=r"0 missing .*, 1 extra"):
        a.aligned_to(a.take([0]))
    with pytest.raises(PredictionsError, match=r"1 missing .*, 0 extra"):
        a.take([0]).aligned_to(a)
    with pytest.raises(PredictionsError, match="have other labels: 2 against 3"):
        Predictions.from_logits([[0, 0]]).aligned_to(Predictions.from_logits([[0, 0, 0]]))


def test_what_is_unknown_of_one_set_does_not_keep_two_apart() -> None:
    a, b = pair(labels=None, label_names=None, data="")
    assert a.aligned_to(b).labels is not None
    assert b.aligned_to(a).labels is None


def test_a_missing_truncated_or_other_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PredictionsError, match=r"none\.safetensors: no such file of predictions"):
        Predictions.load(tmp_path / "none.safetensors")
    path = tmp_path / "p.safetensors"
    pair()[0].save(path)
    whole = path.read_bytes()
    for size in (0, 7, 40, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(
            PredictionsError, match=r"p\.safetensors: not a readable file of predictions.*Predict again"
        ):
            Predictions.load(path)
    with pytest.raises(PredictionsError, match="not a readable file of predictions"):
        Predictions.load(tmp_path)
    save_file({"weight": np.zeros(3)}, path, metadata={"format": "pt"})
    with pytest.raises(PredictionsError, match=r"a safetensors file, but not of predictions \(format 'pt'\)"):
        Predictions.load(path)


def test_a_pipe_is_no_file_of_predictions(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "p.safetensors")
    for mapped in (True, False):
        with pytest.raises(PredictionsError, match=r"p\.safetensors: not a readable file of predictions"):
            Predictions.load(tmp_path / "p.safetensors", mapped=mapped)


def test_a_file_of_predictions_with_a_part_missing_or_wrong_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    pair()[0].save(path)
    tensors = load_file(path)
    about = {"format": "hf_soups.predictions.v1", "label_names": "null", "data": "", "model": ""}
    for damage in (
        {"log_probs": np.zeros(4, np.float32)}, {"log_probs": tensors["log_probs"].view(np.int32)},
        {"labels": np.asarray([0, 9])}, {"labels": np.asarray([0.0, 1.0])},
    ):  # fmt: skip
        save_file({**tensors, **damage}, path, metadata=about)
        with pytest.raises(PredictionsError, match=r"p\.safetensors: damaged predictions"):
            Predictions.load(path)
    for names in ("7", '["a", 7]', "[" * 10_000):
        save_file(tensors, path, metadata={**about, "label_names": names})
        with pytest.raises(PredictionsError, match=r"p\.safetensors: damaged predictions"):
            Predictions.load(path)
    del tensors["log_probs"]
    save_file(tensors, path, metadata=about)
    with pytest.raises(PredictionsError, match=r"damaged predictions.*log_probs"):
        Predictions.load(path)


def test_a_failed_save_leaves_the_earlier_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, (a, b) = tmp_path / "p.safetensors", pair()
    a.save(path)

    def full_disk(tensors: object, filename: Path, metadata: object) -> None:
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("safetensors.numpy.save_file", full_disk)
    with pytest.raises(HfSoupsError, match=r"p\.safetensors: could not be written: the disk is full\. Free some space"):
        b.save(path)
    assert same(Predictions.load(path), a)
    assert list(tmp_path.iterdir()) == [path]


def test_where_no_folder_can_be_made_the_message_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HfSoupsError, match=r"could not be written: .*Not a directory"):
        pair()[0].save(tmp_path / "file" / "below" / "p.safetensors")
