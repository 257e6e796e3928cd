"""Tensors are known by the names that transformers loads them by; soups are written under these."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.files.loaded_names import key_mapping, loaded_names, wrappers_of
from hf_soups.inspection import inspect_checkpoints
from hf_soups.models.registry import family_for
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.mixing.live import LiveMixer
from tests.makers.pile import make_pile, plain_answers
from tests.makers.tiny import tiny_bert, tiny_gpt2, tiny_swin, tiny_vit

Weights = dict[str, torch.Tensor]


def rewrite(folder: Path, change: Callable[[Weights], Weights], **metadata: str) -> Path:
    weights = change(load_file(folder / "model.safetensors"))
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt", **metadata})
    return folder


def gammas(weights: Weights) -> Weights:
    def old(name: str) -> str:
        return name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")

    return {old(name): tensor for name, tensor in weights.items()}


def positions(weights: Weights) -> Weights:
    return {**weights, "bert.embeddings.position_ids": torch.arange(64).unsqueeze(0)}


def under(prefix: str) -> Callable[[Weights], Weights]:
    return lambda weights: {prefix + name: tensor for name, tensor in weights.items()}


def compiled_layers(weights: Weights) -> Weights:
    return {name.replace("bert.encoder.", "bert.encoder._orig_mod."): tensor for name, tensor in weights.items()}


FORMS = {
    "gamma and beta": gammas,
    "position_ids": positions,
    "module.": under("module."),
    "_orig_mod.": under("_orig_mod."),
    "module._orig_mod.": under("module._orig_mod."),
    "_orig_mod. inside": compiled_layers,
    "old and wrapped": lambda weights: under("module.")(gammas(positions(weights))),
}


@pytest.mark.parametrize("form", list(FORMS))
@pytest.mark.parametrize("first", [True, False])
def test_a_soup_of_two_forms_is_that_of_one(form: str, first: bool, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification

    plain = [tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)]
    names = set(load_file(plain[0] / "model.safetensors"))
    cook(list(map(str, plain)), out=tmp_path / "expected", tell=None)
    rewrite(plain[0 if first else 1], FORMS[form])
    cook(list(map(str, plain)), out=tmp_path / "soup", tell=None)
    got, expected = (load_file(tmp_path / name / "model.safetensors") for name in ("soup", "expected"))
    assert set(got) == names
    assert all(torch.equal(got[name], expected[name]) for name in names)
    _, about = AutoModelForSequenceClassification.from_pretrained(tmp_path / "soup", output_loading_info=True)
    assert not any(about.values())


def test_a_wrapper_is_a_warning_that_says_what_to_do(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)]
    rewrite(pair[1], under("module._orig_mod."))
    found = inspect_checkpoints(pair)
    assert found.mixable
    (said,) = [f.message for f in found.warnings if f.topic == "tensors"]
    assert (
        "'module.', which DataParallel or DistributedDataParallel puts there and '_orig_mod.', which torch.compile"
        in said
    )
    assert "Save the model inside it again" in said
    assert not found.rows[1].missing
    assert not found.rows[1].extra


def test_a_wrapped_model_answers_as_the_model_inside(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "one")
    expected = plain_answers(folder, ["the cat"])
    rewrite(folder, under("module._orig_mod."))
    checkpoint = Checkpoint(folder)
    family = family_for(checkpoint.config, "text", checkpoint)
    model = family.load(folder)
    ids = family.processor(folder)("the cat", return_tensors="pt")
    assert np.allclose(model(**ids).logits[0].detach().numpy(), expected[0], atol=1e-6)


@pytest.mark.parametrize("form", ["position_ids", "old and wrapped"])
@pytest.mark.parametrize("method", ["greedy", "learned-by-tensor"])
def test_forms_are_scored_without_being_saved_and_loaded_again(
    form: str, method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pile = make_pile(tmp_path, models=2)
    for name in ("m0", "m1"):
        rewrite(pile / name, FORMS[form])
    monkeypatch.setattr(LiveMixer, "_reload", lambda *_: pytest.fail("the slow way"))
    sources = [str(pile / "m0"), str(pile / "m1")]
    (soup,) = cook(sources, [method], tmp_path / "soup", recipe=pile / "recipe.yaml", tell=None).soups
    assert soup.score is not None


@pytest.mark.parametrize(
    ("build", "buffer", "value"),
    [
        (tiny_gpt2, "transformer.h.0.attn.bias", torch.ones(1, 1, 64, 64, dtype=torch.bool)),
        (tiny_gpt2, "transformer.h.0.attn.masked_bias", torch.tensor(-1e4)),
        (tiny_bert, "bert.embeddings.token_type_ids", torch.zeros(1, 64, dtype=torch.int64)),
        (tiny_swin, "swin.encoder.layers.0.blocks.0.attn_mask", torch.zeros(4, 16, 16)),
    ],
)
def test_buffers_that_the_model_makes_itself_do_not_count(
    build: Callable[..., Path], buffer: str, value: torch.Tensor, tmp_path: Path
) -> None:
    pair = [build(tmp_path / "one", seed=1), build(tmp_path / "two", seed=2)]
    rewrite(pair[1], lambda weights: {**weights, buffer: value})
    assert preflight([Checkpoint(folder) for folder in pair]).errors == ()
    assert preflight([Checkpoint(folder) for folder in reversed(pair)]).errors == ()


def test_position_ids_of_two_forms_are_left_out(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)]
    for folder, shape in zip(pair, ((1, 64), (64,)), strict=True):
        rewrite(folder, lambda w, shape=shape: {**w, "bert.embeddings.position_ids": torch.arange(64).reshape(shape)})
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    assert "bert.embeddings.position_ids" not in load_file(tmp_path / "soup" / "model.safetensors")


def test_a_parameter_that_one_lacks_is_still_refused(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)]
    rewrite(pair[1], lambda w: {name: x for name, x in w.items() if "layer.1.attention.self.key" not in name})
    (error,) = preflight([Checkpoint(folder) for folder in pair]).errors
    assert "lacks 2 tensors" in error.message


# Names that transformers itself maps to one


def in_memory(folder: Path) -> Path:
    """As torch.save(model.state_dict()) and accelerate have them: names of the model, not of its files."""
    from transformers import AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder)
    return rewrite(folder, lambda _: {name: x.contiguous() for name, x in model.state_dict().items()})


def headless_names(weights: Weights) -> Weights:
    return {name.removeprefix("bert."): tensor for name, tensor in weights.items()}


def with_leftovers(weights: Weights) -> Weights:
    return {**weights, "cls.predictions.bias": torch.ones(5), "cls.seq_relationship.weight": torch.ones(2, 32)}


@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize(
    ("build", "change"),
    [
        (tiny_vit, in_memory),
        (tiny_bert, lambda folder: rewrite(folder, headless_names)),
        (tiny_bert, lambda folder: rewrite(folder, with_leftovers)),
        (tiny_bert, lambda folder: rewrite(folder, lambda w: with_leftovers(headless_names(w)))),
    ],
)
def test_what_transformers_loads_as_one_tensor_is_averaged(
    build: Callable[..., Path], change: Callable[[Path], Path], first: bool, tmp_path: Path
) -> None:
    from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

    pair = [build(tmp_path / "one", seed=1), build(tmp_path / "two", seed=2)]
    cook(list(map(str, pair)), out=tmp_path / "expected", tell=None)
    change(pair[0 if first else 1])
    found = inspect_checkpoints(pair)
    assert found.mixable
    assert not any(row.missing or row.extra or row.other_shapes for row in found.rows)
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    auto = AutoModelForSequenceClassification if build is tiny_bert else AutoModelForImageClassification
    got, about = auto.from_pretrained(tmp_path / "soup", output_loading_info=True)
    assert not any(about.values())
    expected = auto.from_pretrained(tmp_path / "expected").state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in got.state_dict().items())


def test_tensors_that_no_model_loads_are_named(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)]
    rewrite(pair[1], with_leftovers)
    found = inspect_checkpoints(pair)
    assert found.mixable
    (said,) = [f.message for f in found.warnings if f.topic == "tensors"]
    assert f"{pair[1]}: 2 of its tensors ('cls.predictions.bias', 'cls.seq_relationship.weight') are none of" in said


def test_tied_tensors_keep_their_record_behind_a_wrapper(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    tensors: dict[str, Any] = {"module.shared.weight": torch.ones(3, 2), "module.x": torch.ones(1)}
    about = {"format": "pt", "module.lm_head.weight": "module.shared.weight"}
    save_file(tensors, tmp_path / "model.safetensors", metadata=about)
    assert dict(Checkpoint(tmp_path).aliases) == {"lm_head.weight": "shared.weight"}


def test_names_that_would_collide_stay() -> None:
    names = ["a.LayerNorm.gamma", "a.LayerNorm.weight"]
    assert loaded_names(names) == {name: name for name in names}
    assert wrappers_of(["module.a", "b"]) == ()
    assert key_mapping(["a.b"]) == {}
