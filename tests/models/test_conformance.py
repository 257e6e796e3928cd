"""What every family promises, for every architecture in the table."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from hf_soups.models.family import Encoded
from hf_soups.models.label_words import LabelWords
from hf_soups.models.layers import final_linear, frozen_features, has_batchnorm, head_fingerprint, head_parameters
from hf_soups.models.loading import config_of
from hf_soups.models.registry import family_for
from hf_soups.recipe import Data
from tests.models.conftest import NAMES, ROWS, Case

Folder = Callable[[Callable[..., Path]], Path]
WITHOUT_HEAD = {"bert-without-pooler", "clip", "clip-tower", "siglip"}
WITH_BATCHNORM = {"resnet", "efficientnet", "mobilenet_v2"}


def started(case: Case, folder: Path, seed: int = 0) -> Any:
    return case.family.load_with_new_head(folder, label_names=NAMES, seed=seed)


@functools.lru_cache(maxsize=1)  # the tests of one case follow each other
def ready(case: Case, folder: Path) -> Any:
    """For tests that leave the model as it is."""
    return started(case, folder).model


def encoded(case: Case, folder: Path, cache: Path | None = None) -> Encoded:
    return case.family.encode(case.split(), case.family.processor(folder), case.task, Data(), cache)


@torch.no_grad()
def logits(case: Case, model: torch.nn.Module, rows: Encoded, indices: list[int] | None = None) -> np.ndarray:
    answer = case.family.logits(model, rows.batch(np.arange(len(rows)) if indices is None else indices))
    return np.asarray(answer)


def test_the_table_finds_the_family(case: Case, checkpoint: Folder) -> None:
    base = config_of(checkpoint(case.build))
    # a base model has no label words yet
    config = ready(case, checkpoint(case.build)).config if isinstance(case.family, LabelWords) else base
    assert family_for(config, case.kind) == case.family
    assert family_for(config.to_dict(), case.kind) == case.family


def test_a_new_head_carries_the_label_names(case: Case, checkpoint: Folder) -> None:
    config = ready(case, checkpoint(case.build)).config
    assert config.num_labels == len(NAMES)
    assert config.id2label == dict(enumerate(NAMES))
    assert config.label2id == {name: i for i, name in enumerate(NAMES)}
    assert config.problem_type == "single_label_classification"


def test_new_parameters_are_those_that_differ_from_the_checkpoint(headed: Case, checkpoint: Folder) -> None:
    one, two = (started(headed, checkpoint(headed.build), seed) for seed in (1, 2))
    other = dict(two.model.named_parameters())
    differ = {name for name, p in one.model.named_parameters() if not torch.equal(p, other[name])}
    assert one.new_parameters == two.new_parameters
    # biases start at zero in most architectures, whatever the seed
    assert differ <= set(one.new_parameters)
    assert {name for name in one.new_parameters if name.endswith("weight")} == {n for n in differ if "weight" in n}
    assert set(head_parameters(one.model)) <= set(one.new_parameters)
    assert ("bert.pooler.dense.weight" in one.new_parameters) == (headed.architecture == "bert-without-pooler")


def test_a_head_of_the_same_size_is_made_anew_too(headed: Case, checkpoint: Folder) -> None:
    if headed.architecture in WITHOUT_HEAD:
        pytest.skip("its checkpoint has no head")
    own = headed.family.load(checkpoint(headed.build))
    names = tuple(f"class {i}" for i in range(own.config.num_labels))
    fresh = headed.family.load_with_new_head(checkpoint(headed.build), label_names=names, seed=1)
    assert not torch.equal(final_linear(own).weight, final_linear(fresh.model).weight)


def test_the_head_depends_on_the_seed_and_on_nothing_else(headed: Case, checkpoint: Folder) -> None:
    def fingerprint(global_seed: int, seed: int) -> str:
        torch.manual_seed(global_seed)
        state = torch.get_rng_state()
        loaded = started(headed, checkpoint(headed.build), seed)
        assert torch.equal(torch.get_rng_state(), state), "the global generator has moved"
        return head_fingerprint(loaded.model, loaded.new_parameters)

    assert fingerprint(0, seed=5) == fingerprint(1, seed=5) != fingerprint(0, seed=6)


def test_loading_says_nothing(case: Case, checkpoint: Folder, capfd: pytest.CaptureFixture[str]) -> None:
    started(case, checkpoint(case.build))
    case.family.processor(checkpoint(case.build))
    assert capfd.readouterr() == ("", "")


def test_save_then_load_is_the_identity(case: Case, checkpoint: Folder, tmp_path: Path) -> None:
    model = ready(case, checkpoint(case.build))
    model.save_pretrained(tmp_path)
    again = case.family.load(tmp_path)
    assert again.config.id2label == model.config.id2label
    state = again.state_dict()
    assert set(state) == set(model.state_dict())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_float32_in_any_precision(case: Case, checkpoint: Folder, dtype: torch.dtype) -> None:
    model = case.family.load_with_new_head(checkpoint(case.build), label_names=NAMES, dtype=dtype).model
    assert {p.dtype for p in model.parameters()} == {dtype}
    batch = encoded(case, checkpoint(case.build)).batch([0, 3, 5])
    answer = case.family.logits(model, {k: v.to(dtype) if v.is_floating_point() else v for k, v in batch.items()})
    assert answer.dtype == torch.float32
    assert answer.shape == (3, len(NAMES))


def test_a_row_does_not_depend_on_its_neighbours(case: Case, checkpoint: Folder) -> None:
    rows, model = encoded(case, checkpoint(case.build)), ready(case, checkpoint(case.build))
    together = logits(case, model, rows)
    alone = np.concatenate([logits(case, model, rows, [i]) for i in range(len(rows))])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert np.ptp(together, axis=0).max() > 1e-4, "all rows get one answer: this model cannot show a difference"


def test_batches_come_in_the_order_asked_for(case: Case, checkpoint: Folder) -> None:
    rows, model = encoded(case, checkpoint(case.build)), ready(case, checkpoint(case.build))
    order = [7, 2, 11, 0]
    np.testing.assert_allclose(logits(case, model, rows, order), logits(case, model, rows)[order], atol=1e-5)


def test_rows_are_described(case: Case, checkpoint: Folder) -> None:
    rows = encoded(case, checkpoint(case.build))
    assert len(rows) == len(rows.lengths) == ROWS
    np.testing.assert_array_equal(rows.row_ids, case.split().row_ids)
    if case.kind == "image":
        assert set(rows.lengths) == {1}
    else:
        sizes = [int(rows.batch([i])["attention_mask"].sum()) for i in range(ROWS)]
        assert rows.lengths.tolist() == sizes


def test_the_cache_spares_the_processor(
    case: Case, checkpoint: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = encoded(case, checkpoint(case.build), tmp_path)
    processor = case.family.processor(checkpoint(case.build))

    def called(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("the processor was called again")

    monkeypatch.setattr(type(getattr(processor, "tokenizer", processor)), "__call__", called)
    second = case.family.encode(case.split(), processor, case.task, Data(), tmp_path)
    for name, values in first.batch([1, 4]).items():
        assert torch.equal(values, second.batch([1, 4])[name])


def test_the_stock_pipeline_gives_the_same_scores(headed: Case, checkpoint: Folder, tmp_path: Path) -> None:
    from transformers import pipeline

    model, processor = (
        ready(headed, checkpoint(headed.build)),
        headed.family.processor(checkpoint(headed.build)),
    )
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    task = "image-classification" if headed.kind == "image" else "text-classification"
    stock = pipeline(task, model=str(tmp_path))
    rows = headed.split().rows
    columns = {"image": ("image",), "text": ("one",), "text-pair": ("one", "two")}[headed.kind]
    inputs = [rows[c] for c in columns] if headed.kind != "text-pair" else []
    asked = list(inputs[0]) if inputs else [{"text": r["one"], "text_pair": r["two"]} for r in rows]
    told = [{answer["label"]: answer["score"] for answer in stock(one, top_k=len(NAMES))} for one in asked]
    wanted = np.array([[scores[name] for name in NAMES] for scores in told])
    got = torch.softmax(torch.from_numpy(logits(headed, model, encoded(headed, tmp_path))), dim=-1)
    np.testing.assert_allclose(got, wanted, atol=1e-5)


def test_gradients_reach_every_parameter(case: Case, checkpoint: Folder) -> None:
    model = started(case, checkpoint(case.build)).model.train()
    rows = encoded(case, checkpoint(case.build))
    answer = case.family.logits(model, rows.batch(np.arange(ROWS)))
    torch.nn.functional.cross_entropy(answer, torch.from_numpy(case.split().labels)).backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert without == []
    assert all(bool(p.grad.any()) for name, p in model.named_parameters() if name.endswith("weight"))


def test_the_last_linear_layer_reads_the_frozen_features(headed: Case, checkpoint: Folder) -> None:
    model = ready(headed, checkpoint(headed.build))
    layer, batch = final_linear(model), encoded(headed, checkpoint(headed.build)).batch(np.arange(ROWS))
    features = frozen_features(model, lambda: headed.family.logits(model, batch))
    assert features.shape == (ROWS, layer.in_features)
    assert features.dtype == torch.float32
    with torch.no_grad():
        again = features @ layer.weight.T + (0 if layer.bias is None else layer.bias)
    np.testing.assert_allclose(again, headed.family.logits(model, batch).detach(), atol=1e-5)


def test_batchnorm_is_known(case: Case, checkpoint: Folder) -> None:
    assert has_batchnorm(ready(case, checkpoint(case.build))) == (case.architecture in WITH_BATCHNORM)


def test_attention_can_be_chosen(case: Case, checkpoint: Folder) -> None:
    folder, rows = checkpoint(case.build), encoded(case, checkpoint(case.build))
    eager = case.family.load_with_new_head(folder, label_names=NAMES, attention="eager").model
    assert eager.config._attn_implementation == "eager"
    model = ready(case, folder)
    np.testing.assert_allclose(logits(case, eager, rows), logits(case, model, rows), atol=1e-4)
