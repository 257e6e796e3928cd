"""Distances and angles between checkpoints against dense float64 arithmetic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError
from hf_soups.soups.mixing import measure
from tests.makers.pile import near
from tests.makers.tiny import tiny_bert, tiny_resnet


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> tuple[Checkpoint, list[Checkpoint]]:
    folder = tmp_path_factory.mktemp("geometry")
    start = tiny_bert(folder / "start")
    return Checkpoint(start), [Checkpoint(near(start, folder / f"m{i}", seed=i)) for i in range(3)]


def dense(checkpoint: Checkpoint) -> dict[str, np.ndarray]:
    weights = load_file(checkpoint.folder / "model.safetensors")
    return {n: w.astype(np.float64).ravel() for n, w in weights.items() if w.dtype.kind == "f" and "running" not in n}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("with_origin", [True, False])
def test_products_are_the_dense_ones(
    pile: tuple[Checkpoint, list[Checkpoint]], with_origin: bool, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_soups.soups.mixing.geometry.PIECE", 100)
    start, models = pile
    got = measure(models, start if with_origin else None, threads=threads)
    zero = dense(start)
    offsets = [{n: w - (zero[n] if with_origin else 0) for n, w in dense(m).items()} for m in models]
    assert set(got.products) == set(zero)
    for name, product in got.products.items():
        exact = np.array([[a[name] @ b[name] for b in offsets] for a in offsets])
        lengths = np.sqrt(np.diag(exact))
        assert np.abs(product - exact).max() <= 1e-5 * np.outer(lengths, lengths).max()
    rows = np.stack([np.concatenate(list(o.values())) for o in offsets])
    np.testing.assert_allclose(got.from_origin, np.linalg.norm(rows, axis=1), rtol=1e-5)
    np.testing.assert_allclose(got.apart[0, 1], np.linalg.norm(rows[0] - rows[1]), rtol=1e-5)
    cosine = rows[0] @ rows[1] / np.linalg.norm(rows[0]) / np.linalg.norm(rows[1])
    assert got.angles[0, 1] == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-3)


def test_a_checkpoint_at_the_origin_has_no_angle(pile: tuple[Checkpoint, list[Checkpoint]]) -> None:
    start, models = pile
    got = measure([start, models[0]], start)
    assert got.from_origin[0] == 0
    assert np.isnan(got.angles[0, 1])


def test_measured_statistics_and_counters_are_no_part_of_a_distance(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tiny_resnet(tmp_path / "a"))
    assert not [n for n in measure([checkpoint]).products if "running" in n or "num_batches" in n]


def test_nan_is_refused_by_name(tmp_path: Path) -> None:
    start = tiny_bert(tmp_path / "a")
    weights = load_file(start / "model.safetensors")
    weights["classifier.bias"][0] = np.nan
    save_file(weights, start / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"classifier\.bias.*NaN"):
        measure([Checkpoint(start)])
