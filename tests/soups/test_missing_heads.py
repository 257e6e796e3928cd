"""A soup of classifiers that lost their heads is refused; models that never had one are mixed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_soups import Checkpoint
from hf_soups.cooking import cook
from hf_soups.errors import IncompatibleCheckpoints
from hf_soups.soups.missing_heads import why_headless
from tests.makers.tiny import (
    tiny_bert,
    tiny_bert_mlm,
    tiny_bert_without_pooler,
    tiny_distilbert,
    tiny_efficientnet,
    tiny_mobilenet_v2,
    tiny_resnet,
    tiny_roberta,
    tiny_t5,
    tiny_vit,
)  # fmt: skip

NAMED = {"id2label": {0: "bad", 1: "fair", 2: "good"}, "label2id": {"bad": 0, "fair": 1, "good": 2}}


def by_auto_model(at: Path, seed: int, **config: Any) -> Path:
    """What AutoModel leaves of a classifier."""
    whole = tiny_bert(at / "whole", seed=seed, **config)
    AutoModel.from_pretrained(whole).save_pretrained(at / "bare")
    return at / "bare"


def test_what_auto_model_leaves_of_classifiers_is_refused(tmp_path: Path) -> None:
    folders = [by_auto_model(tmp_path / str(i), seed=i, labels=3, **NAMED) for i in (0, 1)]
    with pytest.raises(
        IncompatibleCheckpoints, match=r"classifier of 3 labels \(BertModel\) whose weights hold no head"
    ):
        cook(folders, out=tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_two_labels_without_names_are_known_by_the_problem_type(tmp_path: Path) -> None:
    folder = by_auto_model(tmp_path, seed=0, problem_type="single_label_classification")
    assert "classifier of 2 labels" in str(why_headless(Checkpoint(folder)))


@pytest.mark.parametrize("labels", [1, 2, 3, 32])
@pytest.mark.parametrize("make", [tiny_bert, tiny_distilbert, tiny_roberta])
def test_a_head_cut_off_by_hand_is_missed(make: Any, labels: int, tmp_path: Path) -> None:
    folder = make(tmp_path / "model", labels=labels)
    assert why_headless(Checkpoint(folder)) is None
    weights = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in weights.items() if "classifier" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    if labels < 32:  # as many as the model is wide: layers could be heads
        assert "whose weights hold no head" in str(why_headless(Checkpoint(folder)))


@pytest.mark.parametrize("make", [tiny_vit, tiny_resnet, tiny_efficientnet, tiny_mobilenet_v2, tiny_bert_mlm, tiny_t5])
def test_models_with_a_head_and_models_of_other_tasks_are_no_such_case(make: Any, tmp_path: Path) -> None:
    assert why_headless(Checkpoint(make(tmp_path / "model"))) is None


def test_models_that_never_had_a_head_are_mixed(tmp_path: Path) -> None:
    folders = [tiny_bert_without_pooler(tmp_path / str(i), seed=i) for i in (0, 1)]
    cook(folders, out=tmp_path / "soup")
    assert json.loads((tmp_path / "soup" / "config.json").read_text())["architectures"] == ["BertModel"]
