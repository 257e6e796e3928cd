"""config.json as transformers reads it: what changes the function is an error, what does not is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.files.reading import read_json
from hf_soups.inspection import inspect_checkpoints
from hf_soups.soups.compatibility import preflight
from hf_soups.soups.config_differences import compare_configs, problem_kind
from tests.makers.folders import edit_json
from tests.makers.tiny import tiny_bert, tiny_distilbert, tiny_gpt2, tiny_roberta, tiny_t5_classifier, tiny_vit

LLAMA = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"], "hidden_size": 32}


def config(folder: Path) -> dict[str, Any]:
    return dict(Checkpoint(folder).config)


@pytest.mark.parametrize(
    ("build", "key", "value"),
    [
        (tiny_bert, "num_attention_heads", 8),
        (tiny_bert, "hidden_act", "relu"),
        (tiny_bert, "layer_norm_eps", 1e-5),
        (tiny_bert, "is_decoder", True),
        (tiny_bert, "problem_type", "multi_label_classification"),
        (tiny_distilbert, "n_heads", 8),
        (tiny_distilbert, "num_attention_heads", 8),
        (tiny_distilbert, "activation", "relu"),
        (tiny_roberta, "pad_token_id", 2),
        (tiny_gpt2, "n_head", 8),
        (tiny_gpt2, "scale_attn_weights", False),
        (tiny_gpt2, "eos_token_id", 7),
        (tiny_t5_classifier, "relative_attention_max_distance", 64),
        (tiny_t5_classifier, "feed_forward_proj", "gated-gelu"),
        (tiny_vit, "qkv_bias", False),
        (tiny_vit, "layer_norm_eps", 1e-6),
    ],
)
def test_what_the_forward_pass_reads_changes_the_function(
    build: Callable[..., Path], key: str, value: Any, tmp_path: Path
) -> None:
    first = config(build(tmp_path))
    for pair in ((first, {**first, key: value}), ({**first, key: value}, first)):
        assert compare_configs(*pair).function


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rope_theta", 500000.0),
        ("rope_scaling", {"type": "linear", "factor": 2.0}),
        ("rms_norm_eps", 1e-5),
        ("num_key_value_heads", 8),
        ("max_position_embeddings", 4096),
        ("attention_bias", True),
    ],
)
def test_rope_settings_and_their_like_change_the_function(key: str, value: Any) -> None:
    found = compare_configs(LLAMA, {**LLAMA, key: value})
    assert found.function
    assert not found.ignored


def test_a_switch_that_is_called_a_dropout_changes_the_function() -> None:
    first = {"model_type": "esm", "vocab_size": 33, "pad_token_id": 1, "token_dropout": True}
    assert compare_configs(first, {**first, "token_dropout": False}).function == {"token_dropout": (True, False)}


def test_rope_settings_in_the_old_and_the_new_form_are_the_same() -> None:
    old = {**LLAMA, "rope_theta": 500000.0}
    new = {**LLAMA, "rope_parameters": {"rope_theta": 500000.0, "rope_type": "default"}}
    assert compare_configs(old, new).function == {}
    assert compare_configs(old, {**LLAMA, "rope_parameters": {"rope_theta": 1e4}}).function


def test_defaults_written_or_not_are_the_same(tmp_path: Path) -> None:
    whole = config(tiny_bert(tmp_path))
    given = {"vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"}
    short = {k: v for k, v in whole.items() if k in given | {"max_position_embeddings", "model_type", "architectures"}}
    assert len(short) < len(whole)
    found = compare_configs(short, {**whole, "torch_dtype": "float32", "transformers_version": "4.20.0"})
    assert (found.function, found.ignored) == ({}, ())


def test_one_value_under_two_names_is_the_same(tmp_path: Path) -> None:
    first = config(tiny_distilbert(tmp_path))
    other = {**first, "num_attention_heads": first["n_heads"]}
    del other["n_heads"]
    assert compare_configs(first, other).function == {}


def test_what_is_ignored_is_named(tmp_path: Path) -> None:
    first = config(tiny_bert(tmp_path))
    other = {
        **first, "hidden_dropout_prob": 0.3, "initializer_range": 0.5, "use_cache": False, "my_note": "second try",
        "_name_or_path": "elsewhere", "id2label": {"0": "a", "1": "b"}, "problem_type": "single_label_classification",
    }  # fmt: skip
    found = compare_configs(first, other)
    assert found.function == {}
    assert found.ignored == ("hidden_dropout_prob", "initializer_range", "my_note", "use_cache")


def test_a_token_that_only_one_config_names_is_ignored_and_named(tmp_path: Path) -> None:
    first = config(tiny_gpt2(tmp_path))
    assert compare_configs(first, {**first, "pad_token_id": 2}).ignored == ("pad_token_id",)


def test_an_architecture_that_transformers_does_not_know_is_compared_as_it_is_written() -> None:
    first = {"model_type": "nobodys", "depth": 3, "dropout": 0.1}
    found = compare_configs(first, {**first, "depth": 4, "dropout": 0.2})
    assert found.function == {"depth": (3, 4)}
    assert found.ignored == ("dropout",)


@pytest.mark.parametrize(
    ("about", "kind"),
    [
        ({}, "single_label_classification"),
        ({"id2label": {"0": "x"}}, "regression"),
        ({"num_labels": 1}, "regression"),
        ({"id2label": {"0": "x"}, "problem_type": "multi_label_classification"}, "multi_label_classification"),
    ],
)
def test_how_logits_are_read(about: dict[str, Any], kind: str) -> None:
    assert problem_kind(about) == kind


def test_cook_and_inspect_refuse_another_function_and_force_takes_the_firsts(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)]
    edit_json(pair[1] / "config.json", lambda c: c.update(num_attention_heads=8, attention_probs_dropout_prob=0.5))
    report = preflight([Checkpoint(folder) for folder in pair])
    assert [f.topic for f in report.errors] == ["config"]
    assert "num_attention_heads is 8, but 4" in report.errors[0].message
    assert "differs from" in report.warnings[0].message
    assert "attention_probs_dropout_prob, which no answer depends on" in report.warnings[0].message
    assert not inspect_checkpoints(pair).mixable
    with pytest.raises(IncompatibleCheckpoints, match="num_attention_heads is 8"):
        cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    cook(list(map(str, pair)), out=tmp_path / "soup", tell=None, force=True)
    assert read_json(tmp_path / "soup" / "config.json")["num_attention_heads"] == 4
    assert "num_attention_heads is 8" in read_json(tmp_path / "soup" / "soup.json")["forced"][0]


def test_a_config_without_the_name_of_its_class_is_no_other_architecture(tmp_path: Path) -> None:
    pair = [tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)]
    edit_json(pair[1] / "config.json", lambda c: c.pop("architectures"))
    assert preflight([Checkpoint(folder) for folder in pair]).errors == ()
