"""Costs: counted multiply-adds against closed formulas."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from hf_soups.models.cost_counting import count_macs, count_parameters, eager_attention, median_row
from hf_soups.models.encoder import Encoders
from hf_soups.models.vision import Vision
from tests.makers.tiny import TINY_IMAGE, tiny_bert, tiny_efficientnet, tiny_mobilenet_v2, tiny_resnet, tiny_vit


def texts(rows: int, tokens: int) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.full((rows, tokens), 7),
        "attention_mask": torch.ones(rows, tokens, dtype=torch.int64),
        "token_type_ids": torch.zeros(rows, tokens, dtype=torch.int64),
    }


def pixels(rows: int, size: int = 32) -> dict[str, torch.Tensor]:
    return {"pixel_values": torch.zeros(rows, 3, size, size)}


def transformer_macs(tokens: int, width: int = 32, inner: int = 64, layers: int = 2) -> int:
    """Query, key, value and output; scores and their sum; the two layers of the feed-forward network."""
    return layers * (4 * tokens * width**2 + 2 * tokens**2 * width + 2 * tokens * width * inner)


def convolution_macs(model: torch.nn.Module, batch: dict[str, torch.Tensor]) -> int:
    """Per example: every output value of a convolution or linear layer takes one product per weight that feeds it."""
    counted = []

    def count(module: Any, inputs: Any, output: torch.Tensor) -> None:
        counted.append(output[0].numel() * module.weight[0].numel())

    layers = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    with torch.no_grad():
        model(**batch)
    for hook in hooks:
        hook.remove()
    return sum(counted)


@pytest.mark.parametrize("tokens", [1, 9, 40])
@pytest.mark.parametrize("rows", [1, 3])
def test_bert_costs_what_the_formula_says(rows: int, tokens: int, tmp_path: Path) -> None:
    model = Encoders().load(tiny_bert(tmp_path, labels=5))
    pooler_and_head = 32 * 32 + 32 * 5
    assert count_macs(model, texts(rows, tokens)) == transformer_macs(tokens) + pooler_and_head


def test_vit_costs_what_the_formula_says(tmp_path: Path) -> None:
    model = Vision().load(tiny_vit(tmp_path, labels=5))
    patches = 16
    assert count_macs(model, pixels(2)) == patches * 8 * 8 * 3 * 32 + transformer_macs(patches + 1) + 32 * 5


@pytest.mark.parametrize("build", [tiny_resnet, tiny_efficientnet, tiny_mobilenet_v2])
@pytest.mark.parametrize("size", [32, 64])
def test_cnns_cost_what_their_layers_say(build: Callable[..., Path], size: int, tmp_path: Path) -> None:
    model = Vision().load(build(tmp_path))
    assert count_macs(model, pixels(2, size)) == convolution_macs(model, pixels(2, size))


@pytest.mark.parametrize("build", [tiny_bert, *TINY_IMAGE.values()])
@pytest.mark.parametrize("training", [True, False])
def test_counting_leaves_the_model_as_it_was(build: Callable[..., Path], training: bool, tmp_path: Path) -> None:
    family = Encoders() if build is tiny_bert else Vision()
    model = family.load(build(tmp_path)).train(training)
    state = {name: value.clone() for name, value in model.state_dict().items()}
    attention = model.config._attn_implementation
    count_macs(model, texts(2, 5) if build is tiny_bert else pixels(2))
    assert model.training == training
    assert model.config._attn_implementation == attention
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_fused_attention_would_be_missed(tmp_path: Path) -> None:
    """Why attention is switched: should this fail, the counter has learnt to see it."""
    from torch.utils.flop_counter import FlopCounterMode

    model = Encoders().load(tiny_bert(tmp_path), attention="sdpa")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(**texts(1, 40))
    assert counter.get_total_flops() / 2 < count_macs(model, texts(1, 40))


def test_attention_is_restored_after_an_error(tmp_path: Path) -> None:
    model = Encoders().load(tiny_bert(tmp_path), attention="sdpa")
    with pytest.raises(ZeroDivisionError), eager_attention(model):
        model.config.num_labels //= 0
    assert model.config._attn_implementation == "sdpa"


def test_tied_parameters_count_once() -> None:
    one = torch.nn.Linear(3, 3, bias=False)
    two = torch.nn.Linear(3, 3, bias=False)
    two.weight = one.weight
    assert count_parameters(torch.nn.Sequential(one, two, torch.nn.BatchNorm1d(3))) == 9 + 6


def test_the_median_row_is_one_of_median_length() -> None:
    encoded: Any = SimpleNamespace(lengths=np.array([9, 3, 30, 5, 4]))
    assert median_row(encoded) == 3
    encoded.lengths = np.array([9, 3, 30, 5])
    assert median_row(encoded) == 3


@pytest.mark.parametrize("asked", [1, 2, 8])
@pytest.mark.parametrize("rows", [1, 3])
def test_a_mixture_of_experts_costs_what_the_experts_asked_cost(rows: int, asked: int) -> None:
    from transformers import MixtralConfig, MixtralForSequenceClassification

    config = MixtralConfig(
        vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=4, num_local_experts=8, num_experts_per_tok=asked, num_labels=3, pad_token_id=0,
    )  # fmt: skip
    model, tokens = MixtralForSequenceClassification(config), 10
    before = model.config._experts_implementation
    batch = {name: values for name, values in texts(rows, tokens).items() if name != "token_type_ids"}
    attention = transformer_macs(tokens, inner=0)
    router, experts = 2 * tokens * 32 * 8, 2 * tokens * asked * 3 * 32 * 64
    assert count_macs(model, batch) == attention + router + experts + tokens * 32 * 3
    assert model.config._experts_implementation == before != "eager"
