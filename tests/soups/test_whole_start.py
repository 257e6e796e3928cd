"""The pretrained base as the start: what it holds is where methods go out from, and what it lacks is averaged."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification, ViTModel

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.inspection import inspect_checkpoints
from hf_soups.soups.methods.lines import task_vectors, wise_ft
from hf_soups.soups.methods.model_stock import model_stock
from hf_soups.soups.options import Options
from hf_soups.soups.whole_start import whole_start
from tests.makers.pile import NAMES, centre, label, near, write_recipe, write_texts
from tests.makers.tiny import (
    tiny_bert,
    tiny_bert_mlm,
    tiny_bert_without_pooler,
    tiny_resnet,
    tiny_roberta_mlm,
    tiny_t5,
    tiny_tokenizer,
    tiny_vit,
)
from tests.soups import dense


def vit_base(path: Path) -> Path:
    whole = tiny_vit(path)
    ViTModel.from_pretrained(whole, add_pooling_layer=False).save_pretrained(path)
    return path


BASES: dict[str, tuple[Callable[[Path], Path], Any]] = {
    "masked": (tiny_bert_mlm, AutoModelForSequenceClassification),
    "headless": (tiny_bert_without_pooler, AutoModelForSequenceClassification),
    "roberta": (tiny_roberta_mlm, AutoModelForSequenceClassification),
    "t5": (tiny_t5, AutoModelForSequenceClassification),
    "vit": (vit_base, AutoModelForImageClassification),
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_SOUPS_CACHE", str(tmp_path / "cache"))


def made(name: str, folder: Path) -> tuple[Path, Path, list[Path]]:
    """A base, the classifier that transformers makes of it, and three fine-tunes of that."""
    make, auto = BASES[name]
    base = make(folder / "base")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        auto.from_pretrained(base, num_labels=2).save_pretrained(folder / "start")
    if auto is AutoModelForSequenceClassification:
        tiny_tokenizer("roberta" if name == "roberta" else "t5" if name == "t5" else "bert").save_pretrained(
            folder / "start"
        )
    return base, folder / "start", [near(folder / "start", folder / f"m{i}", seed=i) for i in range(3)]


def expected_start(base: Path, start: Path, tuned: list[Path]) -> dict[str, np.ndarray]:
    """What the classifier took from the base, and of the rest the fine-tunes' mean."""
    held = set(Checkpoint(base).tensors)
    models, whole = [dense.load(folder) for folder in tuned], dense.load(start)
    prefix = next((p for p in ("", "bert.", "vit.", "transformer.") if f"{p}{min(held)}" in whole), "")
    return {
        name: value if name.removeprefix(prefix) in held or name in held else np.mean([m[name] for m in models], axis=0)
        for name, value in whole.items()
    }


@pytest.mark.parametrize("name", BASES)
def test_a_base_gives_its_backbone_and_the_heads_are_averaged(name: str, tmp_path: Path) -> None:
    base, start, tuned = made(name, tmp_path)
    exact = expected_start(base, start, tuned)
    completed = whole_start(Checkpoint(base), [Checkpoint(f) for f in tuned])
    dense.assert_close(completed.folder, exact, atol=1e-7)
    record = json.loads((completed.folder / "whole_start.json").read_text())
    assert record["averaged"]
    assert all("classifi" in n or "pooler" in n or "score" in n for n in record["averaged"])
    again = whole_start(Checkpoint(base), [Checkpoint(f) for f in tuned])
    assert again == completed


def test_a_start_with_the_head_is_taken_as_it_is(tmp_path: Path) -> None:
    _, start, tuned = made("masked", tmp_path)
    checkpoint = Checkpoint(start)
    assert whole_start(checkpoint, [Checkpoint(f) for f in tuned]) is checkpoint


@pytest.mark.parametrize("name", ["masked", "headless"])
def test_methods_move_the_backbone_from_the_base(name: str, tmp_path: Path) -> None:
    base, start, tuned = made(name, tmp_path)
    zero, models = expected_start(base, start, tuned), [dense.load(folder) for folder in tuned]
    pool, origin = [Checkpoint(f) for f in tuned], Checkpoint(base)
    task_vectors(pool, origin, scales=[0.5]).save_pretrained(tmp_path / "vectors")
    exact = {n: w + 0.5 * sum(m[n] - w for m in models) for n, w in zero.items()}
    dense.assert_close(tmp_path / "vectors", exact, atol=1e-6)
    model_stock(pool, origin).save_pretrained(tmp_path / "stock")
    stock = dense.load(tmp_path / "stock")
    np.testing.assert_allclose(stock["classifier.weight"], zero["classifier.weight"], atol=1e-6)
    inside = "bert.encoder.layer.0.output.dense.weight"
    direction = np.mean([m[inside] for m in models], axis=0) - zero[inside]
    ratio = ((stock[inside] - zero[inside]) * direction).sum() / (direction**2).sum()
    np.testing.assert_allclose(stock[inside], zero[inside] + ratio * direction, atol=1e-5)
    assert 0 < ratio < 1
    line = wise_ft(pool[0], origin, lambda soup: -abs(soup.about["alpha"] - 0.3), points=[0, 0.3, 1])
    line.save_pretrained(tmp_path / "line")
    own = {**zero, **{n: models[0][n] for n in zero if not np.array_equal(zero[n], dense.load(start)[n])}}
    dense.assert_close(tmp_path / "line", {n: 0.3 * models[0][n] + 0.7 * w for n, w in own.items()}, atol=1e-6)


def test_cook_takes_a_base_and_says_what_was_averaged(tmp_path: Path) -> None:
    base = tiny_bert_mlm(tmp_path / "base")
    AutoModelForSequenceClassification.from_pretrained(base, num_labels=2).save_pretrained(tmp_path / "start")
    tiny_tokenizer().save_pretrained(tmp_path / "start")
    start = centre(label(tmp_path / "start", NAMES), scale=30.0)
    tuned = [centre(near(start, tmp_path / f"m{i}", seed=i)) for i in range(2)]
    recipe = write_recipe(tmp_path / "recipe.yaml", write_texts(tmp_path / "data", start), start)
    lines: list[str] = []
    methods = ("model-stock", "wise-ft", "task-vectors")
    result = cook(
        tuned, methods, tmp_path / "soups", recipe=recipe, options=Options(start=str(base)), tell=lines.append
    )
    assert any(f"{base} lacks" in line and "these are averaged" in line for line in lines)
    for soup in result.soups:
        record = json.loads((soup.folder / "soup.json").read_text())
        assert record["base"]["start"] == str(base)
        assert "classifier.weight" in record["base"]["averaged"]
    again = cook(tuned, methods, tmp_path / "soups", recipe=recipe, options=Options(start=str(base)), tell=None)
    assert all(soup.already for soup in again.soups)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (tiny_resnet, r"holds 0 of the \d+ tensors .*Name the base of the ingredients with `start`"),
        (functools.partial(tiny_bert, labels=3), r"classifier\.\w+.* has shape"),
        (functools.partial(tiny_bert_mlm, hidden_size=16), r"holds \d+ of the \d+ tensors"),
    ],
)
def test_what_they_were_not_fine_tuned_from_is_refused(make: Callable[[Path], Path], says: str, tmp_path: Path) -> None:
    _, _, tuned = made("masked", tmp_path)
    other = make(tmp_path / "other")
    with pytest.raises(IncompatibleCheckpoints, match=says):
        whole_start(Checkpoint(other), [Checkpoint(f) for f in tuned])


def test_distances_to_a_base_are_those_of_the_backbone_and_of_the_mean_head(tmp_path: Path) -> None:
    base, start, tuned = made("masked", tmp_path)
    zero = expected_start(base, start, tuned)
    found = inspect_checkpoints(tuned, start=base)
    for folder, row in zip(tuned, found.rows, strict=True):
        exact = np.sqrt(sum(float(((w - zero[n]) ** 2).sum()) for n, w in dense.load(folder).items()))
        assert row.from_start == pytest.approx(exact, rel=1e-4)
    assert any(f"The start {base} lacks the heads" in note for note in found.notes)
