"""Checkpoints that cannot be loaded: one message that says what, where and what to do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import DeiTConfig, DeiTForImageClassificationWithTeacher

from hf_soups.errors import CheckpointError
from hf_soups.models.encoder import Encoders
from hf_soups.models.layers import final_linear, frozen_features
from hf_soups.models.loading import config_of
from hf_soups.models.registry import family_for
from hf_soups.models.vision import Vision
from tests.makers.tiny import tiny_bert, tiny_bert_without_pooler, tiny_deit, tiny_gpt2, tiny_vit

NAMES = ("a", "b", "c")
WEIGHTS = "model.safetensors"


def changed(folder: Path, change: Any) -> Path:
    """The checkpoint with its tensors changed."""
    tensors = load_file(folder / WEIGHTS)
    save_file(change(tensors), folder / WEIGHTS, metadata={"format": "pt"})
    return folder


def test_a_missing_folder_is_told() -> None:
    with pytest.raises(CheckpointError, match=r"no/such/folder: cannot be loaded \(.*Expected a folder or Hub repo"):
        Encoders().load("no/such/folder")
    with pytest.raises(CheckpointError, match="no/such/folder: cannot be loaded"):
        config_of("no/such/folder")
    with pytest.raises(CheckpointError, match="no/such/folder: cannot be loaded"):
        Encoders().processor("no/such/folder")
    with pytest.raises(CheckpointError, match="no/such/folder: cannot be loaded"):
        Vision().processor("no/such/folder")


def test_a_checkpoint_without_head_needs_label_names(tmp_path: Path) -> None:
    with pytest.raises(
        CheckpointError, match=r"needs bert.pooler.dense.bias, .*classifier.weight, which the checkpoint"
    ):
        Encoders().load(tiny_bert_without_pooler(tmp_path))
    assert Encoders().load_with_new_head(tmp_path, label_names=NAMES).model.config.num_labels == 3


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    weights = tiny_bert(tmp_path) / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-100])
    for load in (lambda: Encoders().load(tmp_path), lambda: Encoders().load_with_new_head(tmp_path, label_names=NAMES)):
        with pytest.raises(CheckpointError, match=f"{weights}: truncated: its tensors need"):
            load()


def test_pickled_weights_are_not_read(tmp_path: Path) -> None:
    torch.save(load_file(tiny_bert(tmp_path) / WEIGHTS), tmp_path / "pytorch_model.bin")
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="safetensors"):
        Encoders().load(tmp_path)


def test_a_body_of_another_shape_is_not_made_anew(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 32}))
    with pytest.raises(CheckpointError, match=r"position_embeddings.weight has shape \(64, 32\).* asks for \(32, 32\)"):
        Encoders().load_with_new_head(folder, label_names=NAMES)
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        Encoders().load(folder)


def test_a_body_under_other_names_is_not_made_anew(tmp_path: Path) -> None:
    folder = changed(tiny_bert(tmp_path), lambda tensors: {f"other.{name}": t for name, t in tensors.items()})
    with pytest.raises(CheckpointError, match="most weights of BertForSequenceClassification are missing"):
        Encoders().load_with_new_head(folder, label_names=NAMES)


def test_remote_code_is_not_run(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('executed')")
    with pytest.raises(CheckpointError, match="cannot be loaded"):
        config_of(folder)


@pytest.mark.parametrize(
    ("about", "kind"), [("marian", "text"), ("bert", "image"), ("vit", "text-pair"), (None, "text")]
)
def test_a_model_that_no_family_takes_is_told(about: str | None, kind: str) -> None:
    config = {"model_type": about, "is_encoder_decoder": about == "marian"}
    with pytest.raises(
        CheckpointError, match=rf"type {about!r} cannot be fine-tuned on a task of kind '{kind}'.*vision"
    ):
        family_for(config, kind)


def test_a_subfolder_is_loaded(tmp_path: Path) -> None:
    tiny_vit(tmp_path / "deep")
    own = Vision().load(tmp_path / "deep")
    other = Vision().load(tmp_path, subfolder="deep")
    assert torch.equal(final_linear(own).weight, final_linear(other).weight)
    assert Vision().processor(tmp_path, subfolder="deep").to_dict() == Vision().processor(tmp_path / "deep").to_dict()
    with pytest.raises(CheckpointError, match=f"{tmp_path}/other/config.json: cannot be loaded"):
        Vision().load(tmp_path, subfolder="other")


def test_every_part_of_a_head_is_made_anew(tmp_path: Path) -> None:
    folder = tmp_path / "teacher"
    tiny_deit(folder)
    DeiTForImageClassificationWithTeacher(DeiTConfig.from_pretrained(folder)).save_pretrained(folder)
    loaded = Vision().load_with_new_head(folder, label_names=NAMES)
    assert isinstance(loaded.model, DeiTForImageClassificationWithTeacher)
    assert loaded.new_parameters == tuple(
        f"{head}.{part}" for head in ("cls_classifier", "distillation_classifier") for part in ("weight", "bias")
    )
    batch = {"pixel_values": torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))}
    with pytest.raises(CheckpointError, match="not the answer of its last linear layer alone"):
        frozen_features(loaded.model, lambda: Vision().logits(loaded.model, batch))


def test_a_head_that_reads_more_than_the_last_layer_cannot_be_probed(tmp_path: Path) -> None:
    model = Encoders().load(tiny_gpt2(tmp_path)).eval()  # scores every token and picks one
    batch = {"input_ids": torch.tensor([[5, 6, 7]])}
    with pytest.raises(CheckpointError, match=r"no linear probe can be fitted\. Use head\.init: shared-random"):
        frozen_features(model, lambda: Encoders().logits(model, batch))
    model.config.num_labels = 77
    with pytest.raises(CheckpointError, match="has no linear layer with 77 outputs"):
        final_linear(model)
