"""Dense float64 oracles for soups: whole models in memory, combined with numpy and nothing of this package."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from tests.makers.pile import plain_answers
from tests.makers.tiny import tiny_sentences

Weights = Mapping[str, np.ndarray]


def load(folder: Path) -> dict[str, np.ndarray]:
    """Floats as float64, integers as they are."""
    weights = load_file(folder / "model.safetensors")
    return {name: w.astype(np.float64) if w.dtype.kind == "f" else w for name, w in weights.items()}


def combined(terms: Sequence[tuple[float, Path]]) -> dict[str, np.ndarray]:
    """sum(coefficient x weights) of all floats; integers of the first."""
    models = [(c, load(folder)) for c, folder in terms]
    first = models[0][1]
    return {name: sum(c * m[name] for c, m in models) if w.dtype.kind == "f" else w for name, w in first.items()}


def assert_close(folder: Path, expected: Weights, *, rtol: float = 2.0**-23, atol: float = 1e-12) -> None:
    """Each stored tensor has the expected values; by default floats to one unit in the last place of float32."""
    got = load(folder)
    assert set(got) == set(expected)
    for name, exact in expected.items():
        np.testing.assert_allclose(got[name], exact, rtol=rtol, atol=atol, err_msg=name)


def assert_same_logits(folder: Path, expected: Weights) -> None:
    """The saved folder answers like a model that was given the dense weights by hand."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    sentences = tiny_sentences(5, seed=4)
    got = plain_answers(folder, sentences)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    with torch.no_grad():
        model.load_state_dict({name: torch.from_numpy(np.asarray(w, np.float32)) for name, w in expected.items()})
        tokenizer = AutoTokenizer.from_pretrained(folder)
        rows = [model(**tokenizer(s, return_tensors="pt")).logits[0].numpy() for s in sentences]
    np.testing.assert_allclose(got, np.stack(rows), rtol=1e-4, atol=1e-4)


def fine_tunes(start: Path, folder: Path, models: int, frozen: str = "nothing") -> list[Path]:
    """Models that left the start partly in one direction, partly each in its own; tensors called `frozen` stayed."""
    made = []
    for i in range(models):
        shared, own = np.random.default_rng(50), np.random.default_rng(i)
        weights = load_file(start / "model.safetensors")
        for name in sorted(weights):
            step = 0.05 * (shared.normal(size=weights[name].shape) + own.normal(size=weights[name].shape))
            if frozen not in name:
                weights[name] = (weights[name] + step).astype(weights[name].dtype)
        made.append(Path(shutil.copytree(start, folder / f"m{i}")))
        save_file(weights, made[-1] / "model.safetensors", metadata={"format": "pt"})
    return made
