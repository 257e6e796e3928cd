"""Top-k predictions against the dense ones that they were made from: what is lost is within the bounds they state."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from safetensors import safe_open
from safetensors.numpy import save_file

from hf_soups.errors import InputError, PredictionsError
from hf_soups.predictions import Predictions
from hf_soups.predictions.topk import TopKPredictions, certain_rows, load_predictions

pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
ROUNDING = 1e-6  # float32 probabilities of a few classes


@st.composite
def dense(draw: st.DrawFn, members: int = 1) -> tuple[list[Predictions], int]:
    """Members' predictions of the same rows, with ties, and how many classes to keep."""
    rows, classes = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=rows, max_size=rows))
    logits = st.sampled_from([-90.0, -3.0, 0.0, 0.5, 1.0]) | st.floats(-8, 8)
    made = [
        Predictions.from_logits(draw(arrays.arrays(np.float64, (rows, classes), elements=logits)), labels=labels)
        for _ in range(members)
    ]
    return made, draw(st.integers(1, classes + 1))


@given(dense())
@settings(deadline=None)
def test_what_is_kept_is_exact_and_what_is_left_out_is_within_its_bound(given_: tuple[list[Predictions], int]) -> None:
    [p], k = given_
    t = TopKPredictions.of(p, k)
    assert (len(t), t.classes, t.k) == (len(p), p.classes, min(k, p.classes))
    np.testing.assert_array_equal(t.answers, p.answers)
    np.testing.assert_array_equal(t.label_log_probs, p.log_probs[np.arange(len(p)), p.needs_labels()])
    kept = np.zeros((len(p), p.classes), dtype=bool)
    np.put_along_axis(kept, t.indices.astype(np.int64), True, axis=1)
    np.testing.assert_array_equal(t.log_probs[kept], p.log_probs[kept])
    for probs in (p.probs, t.probs):
        assert (np.where(kept, 0, probs) <= t.bound[:, None] * (1 + ROUNDING) + ROUNDING).all()
    np.testing.assert_allclose(t.probs.sum(axis=1), 1, atol=1e-5)


@given(dense(members=3))
@settings(deadline=None)
def test_a_row_that_is_called_certain_has_the_dense_ensembles_answer(given_: tuple[list[Predictions], int]) -> None:
    members, k = given_
    certain = certain_rows([TopKPredictions.of(p, k) for p in members])
    mean = np.mean([np.exp(p.log_probs.astype(np.float64)) for p in members], axis=0)
    sparse = np.mean([np.exp(TopKPredictions.of(p, k).log_probs.astype(np.float64)) for p in members], axis=0)
    np.testing.assert_array_equal(mean.argmax(axis=1)[certain], sparse.argmax(axis=1)[certain])


def test_certainty_is_neither_given_away_nor_withheld() -> None:
    """Two members that agree are certain; two whose first classes differ, and whose rest could decide, are not."""
    sure = Predictions.from_probs([[0.8, 0.1, 0.06, 0.04]])
    one, other = Predictions.from_probs([[0.5, 0.4, 0.06, 0.04]]), Predictions.from_probs([[0.04, 0.46, 0.5, 0.0]])
    assert certain_rows([TopKPredictions.of(sure, 1)] * 2).tolist() == [True]
    assert certain_rows([TopKPredictions.of(p, 1) for p in (one, other)]).tolist() == [False]
    assert certain_rows([TopKPredictions.of(p, 2) for p in (one, other)]).tolist() == [True]  # class 1 has the most


@given(dense(), st.floats(0.3, 5))
@settings(deadline=None)
def test_a_temperature_acts_as_on_the_dense_form(given_: tuple[list[Predictions], int], temperature: float) -> None:
    [p], k = given_
    t = TopKPredictions.of(p, k)
    wanted = Predictions.from_logits(t.log_probs).at_temperature(temperature)
    np.testing.assert_allclose(t.at_temperature(temperature).probs, wanted.probs, atol=1e-5)


@given(dense(), st.randoms(use_true_random=False))
@settings(deadline=None)
def test_rows_are_taken_joined_and_saved_as_those_of_dense_ones(
    given_: tuple[list[Predictions], int], random: object
) -> None:
    import tempfile

    [p], k = given_
    t, order = TopKPredictions.of(p, k), list(range(len(p)))
    random.shuffle(order)  # type: ignore[attr-defined]
    back = t.take(order).aligned_to(p)
    np.testing.assert_array_equal(back.log_probs, t.log_probs)
    np.testing.assert_array_equal(back.needs_labels(), p.needs_labels())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "below" / "p.safetensors"
        t.save(path)
        read = load_predictions(path)
        assert isinstance(read, TopKPredictions)
        np.testing.assert_array_equal(read.block(0, len(p)), t.log_probs)
        np.testing.assert_array_equal(read.label_log_probs, t.label_log_probs)
        del read


def test_either_form_is_told_from_its_file(tmp_path: Path) -> None:
    p = Predictions.from_probs([[0.7, 0.2, 0.1]], row_ids=["ä"], label_names=("a", "b", "c"), data="d", model="m")
    p.save(tmp_path / "dense.safetensors")
    TopKPredictions.of(p, 2).save(tmp_path / "top.safetensors")
    for name, kind in (("dense", Predictions), ("top", TopKPredictions)):
        read = load_predictions(tmp_path / f"{name}.safetensors")
        assert type(read) is kind
        assert (read.row_ids.tolist(), read.label_names, read.data, read.model) == (["ä"], ("a", "b", "c"), "d", "m")
        assert read.labels is None
    with pytest.raises(PredictionsError, match="not of predictions"):
        Predictions.load(tmp_path / "top.safetensors", mapped=True)
    with pytest.raises(PredictionsError, match="not a file of top-k predictions"):
        TopKPredictions.load(tmp_path / "dense.safetensors")
    with pytest.raises(PredictionsError, match=r"none\.safetensors: no such file"):
        load_predictions(tmp_path / "none.safetensors")


def test_mapped_rows_stay_in_the_file_until_they_are_read(tmp_path: Path) -> None:
    p = Predictions.from_logits(np.random.default_rng(0).normal(size=(9, 5)), labels=[0] * 9, row_ids=range(9, 0, -1))
    p.save(tmp_path / "p.safetensors")
    mapped = Predictions.load(tmp_path / "p.safetensors", mapped=True)
    assert isinstance(mapped.log_probs, np.memmap)
    assert not mapped.log_probs.flags.writeable
    assert isinstance(mapped.aligned_to(p).log_probs, np.memmap)  # rows in one order are not copied
    np.testing.assert_array_equal(mapped.block(2, 5), p.log_probs[2:5])
    np.testing.assert_array_equal(mapped.row_ids, p.row_ids)


def test_a_damaged_value_is_found_where_it_is_read(tmp_path: Path) -> None:
    p = Predictions.from_logits(np.zeros((4, 3)))
    p.log_probs[2, 1] = np.nan
    p.save(tmp_path / "p.safetensors")
    for mapped in (True, False):
        with pytest.raises(PredictionsError, match=r"p\.safetensors: damaged predictions: row 2 holds no log-prob"):
            Predictions.load(tmp_path / "p.safetensors", mapped=mapped)
    p.block(0, 2)
    with pytest.raises(PredictionsError, match="hold NaN or infinity among rows 2 to 4: the file is damaged"):
        p.block(2, 4)


@pytest.mark.parametrize(("change", "why"), [(0.5, "sum to 1.649"), (-0.5, "sum to 0.6065"), (np.log(3), "sum to 3")])
def test_what_is_positive_or_does_not_sum_to_one_is_refused(tmp_path: Path, change: float, why: str) -> None:
    p = Predictions.from_logits(np.zeros((4, 3)))
    p.log_probs[1] += change
    p.save(tmp_path / "p.safetensors")
    with pytest.raises(PredictionsError, match=rf"p\.safetensors: .*row 1 holds no log-probabilities .*{why}"):
        load_predictions(tmp_path / "p.safetensors")


def test_top_k_that_are_none_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "k.safetensors"
    for name, value, why in (("top", 0.1, "row 2 holds no log-prob"), ("indices", 7, "row 2 keeps a class twice, or")):
        kept = TopKPredictions.of(Predictions.from_logits(np.zeros((4, 3))), 2)
        getattr(kept, name)[2, 0] = value
        kept.save(path)
        with pytest.raises(PredictionsError, match=why):
            load_predictions(path)


@pytest.mark.parametrize(
    ("about", "tensors", "why"),
    [
        ({"classes": "70000"}, {}, "70000 classes, of which 2 are kept"),
        ({"classes": "1"}, {}, "1 classes, of which 2 are kept"),
        ({"label_names": '["a"]'}, {}, "with 1 names"),
        ({}, {"row_ids": np.zeros(4, np.int64)}, "a row id occurs more than once"),
        ({}, {"labels": np.full(4, -1)}, r"labels lie in -1\.\.-1, but there are 3 classes"),
        ({}, {"top": np.zeros((4, 1), np.float32)}, "tensors of different lengths"),
        ({}, {"left": np.zeros(4, np.int32)}, "left is stored as int32"),
    ],
)
def test_parts_that_do_not_fit_are_refused(
    tmp_path: Path, about: dict[str, str], tensors: dict[str, np.ndarray], why: str
) -> None:
    path = tmp_path / "k.safetensors"
    TopKPredictions.of(Predictions.from_logits(np.zeros((4, 3)), labels=[0] * 4), 2).save(path)
    with safe_open(path, "np") as file:
        known, kept = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    save_file({**kept, **tensors}, path, metadata={**known, **about})
    with pytest.raises(PredictionsError, match=rf"k\.safetensors: damaged predictions \(.*{why}"):
        load_predictions(path)


def test_a_truncated_file_is_told_before_anything_is_mapped(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    Predictions.from_logits(np.zeros((4, 3))).save(path)
    path.write_bytes(path.read_bytes()[:-4])
    for load in (load_predictions, lambda at: Predictions.load(at, mapped=True)):
        with pytest.raises(PredictionsError, match=r"not a readable file of predictions .*truncated.*Predict again"):
            load(path)


def test_no_rows_and_more_than_65536_classes_are_kept_too(tmp_path: Path) -> None:
    empty = TopKPredictions.of(Predictions.from_logits(np.zeros((0, 3)), labels=[]), 2)
    empty.save(tmp_path / "empty.safetensors")
    assert len(load_predictions(tmp_path / "empty.safetensors")) == 0
    logits = np.zeros((2, 70_000), dtype=np.float32)
    logits[1, 69_999] = 9
    many = TopKPredictions.of(Predictions.from_logits(logits), 2)
    assert many.indices.dtype == np.uint32
    assert many.answers.tolist() == [0, 69_999]


def test_fewer_than_one_class_cannot_be_kept() -> None:
    with pytest.raises(InputError, match="top_k is 0; expected the number of classes to keep of each row, 1 or more"):
        TopKPredictions.of(Predictions.from_probs([[1.0, 0.0]]), 0)
