"""Model Stock against its formula in dense float64."""

from __future__ import annotations

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, IncompatibleCheckpoints, InputError
from hf_soups.soups.methods.model_stock import interpolation_ratio, mean_cosine, model_stock
from tests.makers.pile import NAMES, label, near
from tests.makers.tiny import tiny_bert, tiny_resnet
from tests.soups import dense


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("stock") / "start")


@pytest.fixture(scope="module")
def tuned(start: Path) -> list[Path]:
    return [label(folder, NAMES) for folder in dense.fine_tunes(start, start.parent, 3)]


def checkpoints(folders: list[Path]) -> list[Checkpoint]:
    return [Checkpoint(folder) for folder in folders]


def oracle(folders: list[Path], start: Path) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """The paper's interpolation, and each tensor's t."""
    zero, models = dense.load(start), [dense.load(folder) for folder in folders]
    n, ratio, out = len(models), {}, {}
    for name, w0 in zero.items():
        offsets = [(m[name] - w0).ravel() for m in models]
        cos = np.mean([a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in combinations(offsets, 2)])
        ratio[name] = max(0.0, n * cos / (1 + (n - 1) * cos))
        out[name] = ratio[name] * np.mean([m[name] for m in models], axis=0) + (1 - ratio[name]) * w0
    return out, ratio


@pytest.mark.parametrize("models", [2, 3])
def test_the_soup_is_the_papers_interpolation(start: Path, tuned: list[Path], models: int, tmp_path: Path) -> None:
    exact, ratio = oracle(tuned[:models], start)
    soup = model_stock(checkpoints(tuned[:models]), Checkpoint(start))
    assert soup.by_tensor is not None
    for name, row in soup.by_tensor.items():
        assert sum(row) == pytest.approx(1)
        assert 1 - row[-1] == pytest.approx(ratio[name], abs=1e-5)
    assert 0.3 < np.median(list(ratio.values())) < 0.9  # else the test would not tell t from 0 or 1
    soup.save_pretrained(tmp_path / "soup")
    dense.assert_close(tmp_path / "soup", exact, atol=1e-5)  # t comes from products in float32
    dense.assert_same_logits(tmp_path / "soup", exact)


def test_labels_and_processor_are_those_of_the_first_fine_tune(start: Path, tuned: list[Path], tmp_path: Path) -> None:
    soup = model_stock(checkpoints(tuned), Checkpoint(start))
    assert [c.folder for c in soup.ingredients] == [*tuned, start]
    soup.save_pretrained(tmp_path / "soup")
    assert Checkpoint(start).label_names is None
    assert Checkpoint(tmp_path / "soup").label_names == NAMES


def test_what_the_cosines_were_is_recorded(start: Path, tuned: list[Path]) -> None:
    told = model_stock(checkpoints(tuned), Checkpoint(start)).scores["model_stock"]
    ratios = list(oracle(tuned, start)[1].values())
    assert told["ratio"]["min"] == pytest.approx(min(ratios), abs=1e-5)
    assert told["ratio"]["median"] == pytest.approx(np.median(ratios), abs=1e-5)
    assert -1 <= told["cosine"]["min"] <= told["cosine"]["median"] <= told["cosine"]["max"] <= 1


def test_ingredients_that_agree_are_returned(start: Path, tuned: list[Path], tmp_path: Path) -> None:
    soup = model_stock([Checkpoint(tuned[0])] * 3, Checkpoint(start))
    soup.save_pretrained(tmp_path / "soup")
    dense.assert_close(tmp_path / "soup", dense.load(tuned[0]), atol=1e-6)


def test_a_soup_of_starts_is_the_start(start: Path, tmp_path: Path) -> None:
    soup = model_stock([Checkpoint(start)] * 2, Checkpoint(start))
    soup.save_pretrained(tmp_path / "soup")
    dense.assert_close(tmp_path / "soup", dense.load(start))


def test_opposite_directions_fall_back_to_the_start(start: Path, tuned: list[Path], tmp_path: Path) -> None:
    zero, one = load_file(start / "model.safetensors"), load_file(tuned[0] / "model.safetensors")
    mirrored = {name: 2 * zero[name] - one[name] for name in zero}
    shutil.copytree(start, tmp_path / "mirrored")
    save_file(mirrored, tmp_path / "mirrored" / "model.safetensors", metadata={"format": "pt"})
    soup = model_stock(checkpoints([tuned[0], tmp_path / "mirrored"]), Checkpoint(start))
    assert set(soup.by_tensor.values()) == {(0.0, 0.0, 1.0)}
    soup.save_pretrained(tmp_path / "soup")
    saved = load_file(tmp_path / "soup" / "model.safetensors")
    assert all(np.array_equal(saved[name], zero[name]) for name in zero)


def test_a_frozen_layer_stays_as_it_is(start: Path, tmp_path: Path) -> None:
    pair = dense.fine_tunes(start, tmp_path, 2, frozen="embeddings")
    soup = model_stock(checkpoints(pair), Checkpoint(start))
    kept = {name: row for name, row in soup.by_tensor.items() if "embeddings" in name}
    assert kept
    assert set(kept.values()) == {(0.5, 0.5, 0.0)}
    soup.save_pretrained(tmp_path / "soup")
    zero, saved = dense.load(start), dense.load(tmp_path / "soup")
    assert all(np.array_equal(saved[name], zero[name]) for name in kept)


def test_statistics_that_are_measured_are_the_ingredients_mean(tmp_path: Path) -> None:
    start = tiny_resnet(tmp_path / "start")
    pair = [near(start, tmp_path / f"m{i}", seed=i) for i in range(2)]
    soup = model_stock(checkpoints(pair), Checkpoint(start))
    measured = {name: row for name, row in soup.by_tensor.items() if "running" in name or "num_batches" in name}
    assert measured
    assert set(measured.values()) == {(0.5, 0.5, 0.0)}
    assert any(row[-1] > 0 for row in soup.by_tensor.values())
    soup.save_pretrained(tmp_path / "soup")
    assert set(dense.load(tmp_path / "soup")) == set(dense.load(start))


@given(st.floats(-1, 1), st.integers(2, 20))
def test_the_ratio_stays_between_the_start_and_the_mean(cosine: float, n: int) -> None:
    t = interpolation_ratio(cosine, n)
    assert 0 <= t <= 1
    assert t >= interpolation_ratio(cosine - 0.1, n)


def test_an_ingredient_that_did_not_move_has_no_direction_in_common() -> None:
    assert mean_cosine(np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]])) == pytest.approx(1 / 3)
    assert mean_cosine(np.zeros((2, 2))) == 1.0


# What is refused.


@pytest.mark.parametrize("models", [0, 1])
def test_fewer_than_two_ingredients_are_refused(start: Path, tuned: list[Path], models: int) -> None:
    with pytest.raises(InputError, match=f"needs at least two ingredients, got {models}.*wise_ft"):
        model_stock(checkpoints(tuned[:models]), Checkpoint(start))


def test_a_start_with_another_head_is_refused(tuned: list[Path], tmp_path: Path) -> None:
    other = tiny_bert(tmp_path / "three", labels=3)
    with pytest.raises(IncompatibleCheckpoints, match=r"classifier\.\w+.* has shape"):
        model_stock(checkpoints(tuned), Checkpoint(other))


def test_an_ingredient_that_diverged_is_refused_by_name(start: Path, tuned: list[Path], tmp_path: Path) -> None:
    broken = shutil.copytree(tuned[0], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["classifier.bias"][0] = np.inf
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"broken.*classifier\.bias.*infinity"):
        model_stock(checkpoints([tuned[1], broken]), Checkpoint(start))
