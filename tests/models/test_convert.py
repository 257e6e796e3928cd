"""Pickled weights become safetensors: every tensor, head and all, and nothing of the file is run."""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification
from typer.testing import CliRunner

from hf_soups import Checkpoint
from hf_soups.cli import app
from hf_soups.errors import CheckpointError, InputError
from hf_soups.models.convert import convert
from tests.makers.tiny import tiny_bert, tiny_bert_mlm, tiny_distilbert, tiny_t5, tiny_vit


def pickled(folder: Path, shards: int = 1, **more: Any) -> dict[str, torch.Tensor]:
    """The folder with its weights as .bin files instead; what they hold."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    if shards == 1:
        torch.save({**weights, **more}, folder / "pytorch_model.bin")
        return weights
    placed = {name: f"pytorch_model-{i % shards + 1:05d}-of-{shards:05d}.bin" for i, name in enumerate(names)}
    for file in set(placed.values()):
        torch.save({name: weights[name] for name in names if placed[name] == file}, folder / file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    return weights


@pytest.mark.parametrize("shards", [1, 3])
@pytest.mark.parametrize("make", [tiny_bert, tiny_distilbert, tiny_vit, tiny_bert_mlm, tiny_t5])
def test_every_tensor_is_kept_under_its_name(make: Any, shards: int, tmp_path: Path) -> None:
    folder = make(tmp_path / "model")
    before = {name: Checkpoint(folder).read(name) for name in Checkpoint(folder).tensors}
    carried = {path.name: path.read_bytes() for path in Checkpoint(folder).carried_files()}
    pickled(folder, shards)
    done = convert(folder, tmp_path / "made")
    after = Checkpoint(tmp_path / "made")
    assert after.tensors.keys() == before.keys()
    assert all(np.array_equal(after.read(name), value) for name, value in before.items())
    assert {path.name: path.read_bytes() for path in after.carried_files()} == carried
    assert done.checked == json.loads(carried["config.json"])["architectures"][0]
    assert not list((tmp_path / "made").glob("*.bin"))


def test_a_converted_classifier_answers_as_before_and_makes_a_soup(tmp_path: Path) -> None:
    for i in (0, 1):
        folder = tiny_bert(tmp_path / f"m{i}", labels=3, seed=i)
        before = AutoModelForSequenceClassification.from_pretrained(folder)
        pickled(folder)
        convert(folder, tmp_path / f"c{i}")
        after = AutoModelForSequenceClassification.from_pretrained(tmp_path / f"c{i}")
        rows = torch.arange(1, 9)[None]
        assert torch.equal(before(rows).logits, after(rows).logits)
    done = CliRunner().invoke(
        app, ["cook", *(str(tmp_path / f"c{i}") for i in (0, 1)), "--out", str(tmp_path / "soup")]
    )
    assert done.exit_code == 0, done.exception
    mean = (
        Checkpoint(tmp_path / "c0").read("classifier.weight") + Checkpoint(tmp_path / "c1").read("classifier.weight")
    ) / 2
    np.testing.assert_allclose(Checkpoint(tmp_path / "soup").read("classifier.weight"), mean, atol=1e-7)


def test_cook_says_how_to_convert_with_the_head(tmp_path: Path) -> None:
    folders = [tiny_bert(tmp_path / f"m{i}", labels=3, seed=i) for i in (0, 1)]
    for folder in folders:
        pickled(folder)
    done = CliRunner().invoke(app, ["cook", *map(str, folders), "--out", str(tmp_path / "soup")])
    assert f"hf-soups convert {folders[0]} --out NEW-FOLDER reads its tensors alone, head and all" in str(
        done.exception
    )


def test_names_of_old_checkpoints_are_kept_and_load(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "old")
    weights = pickled(folder)
    old = {n.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): t
           for n, t in weights.items()}  # fmt: skip
    torch.save({**old, "bert.embeddings.position_ids": torch.arange(64)[None]}, folder / "pytorch_model.bin")
    convert(folder, tmp_path / "made")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "made")
    assert torch.equal(model.bert.embeddings.LayerNorm.weight, weights["bert.embeddings.LayerNorm.weight"])


def test_tied_tensors_are_stored_once_and_parts_of_a_storage_alone(tmp_path: Path) -> None:
    folder = tiny_bert_mlm(tmp_path / "model")
    weights = pickled(folder)
    words = weights["bert.embeddings.word_embeddings.weight"]
    whole = torch.zeros(4 * words.numel())
    whole[: words.numel()] = words.reshape(-1)
    part = whole[: words.numel()].view(words.shape)
    tied = {**weights, "bert.embeddings.word_embeddings.weight": part, "cls.predictions.decoder.weight": part}
    torch.save(tied, folder / "pytorch_model.bin")
    convert(folder, tmp_path / "made")
    made = Checkpoint(tmp_path / "made")
    assert made.aliases == {"cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight"}
    assert (tmp_path / "made" / "model.safetensors").stat().st_size < 2 * sum(t.nbytes for t in weights.values())


class Evil:
    """Writes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_code_in_a_pickle_is_not_run(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    pickled(folder)
    for written in (
        lambda f: torch.save({"w": Evil(tmp_path / "ran")}, f),
        lambda f: pickle.dump(Evil(tmp_path / "ran"), f, protocol=2),
    ):
        with (folder / "pytorch_model.bin").open("wb") as file:
            written(file)
        with pytest.raises(CheckpointError, match=r"pytorch_model.bin: (holds more than tensors|cannot be read)"):
            convert(folder, tmp_path / "made")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "made").exists()


def without_head(folder: Path) -> None:
    weights = torch.load(folder / "pytorch_model.bin", weights_only=True)
    torch.save({n: t for n, t in weights.items() if "classifier" not in n}, folder / "pytorch_model.bin")


def no_class(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "architectures": ["SomebodysBert"]}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            without_head,
            "config.json names BertForSequenceClassification, but the weights lack classifier.bias, classif",
        ),
        (lambda f: (f / "config.json").unlink(), "no config.json there"),
        (
            lambda f: (f / "pytorch_model.bin").unlink(),
            "no pytorch_model.bin and no pytorch_model.bin.index.json there",
        ),
        (lambda f: (f / "pytorch_model.bin").rename(f / "tf_model.h5"), "only tf_model.h5, weights of TensorFlow"),
        (
            lambda f: torch.save({"state_dict": {}}, f / "pytorch_model.bin"),
            "expected tensors by name.*holds state_dict",
        ),
        (lambda f: torch.save(torch.ones(2), f / "pytorch_model.bin"), "expected tensors by name.*it holds Tensor"),
        (lambda f: (f / "pytorch_model.bin").write_bytes(b"PK\x03\x04"), "pytorch_model.bin: cannot be read"),
    ],
)
def test_what_cannot_be_converted_whole_is_refused(change: Any, message: str, tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model", labels=3)
    pickled(folder)
    change(folder)
    with pytest.raises(CheckpointError, match=message):
        convert(folder, tmp_path / "made")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_pickled_weights_of_a_hub_repo_are_downloaded_for_this_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tiny_bert(tmp_path / "snapshot")
    pickled(folder)
    asked = []

    def snapshot(repo: str, *, revision: str | None, allow_patterns: list[str], **_: Any) -> str:
        asked.append((repo, revision, "pytorch_model*.bin" in allow_patterns))
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    convert("org/model@v1", tmp_path / "made")
    with pytest.raises(CheckpointError, match="hf-soups convert"):
        _ = Checkpoint("org/model", "v1").tensors
    assert asked == [("org/model", "v1", True), ("org/model", "v1", False)]


def test_a_class_that_nobody_knows_is_converted_and_not_checked(tmp_path: Path) -> None:
    folder = tiny_bert(tmp_path / "model")
    weights = pickled(folder)
    no_class(folder)
    done = convert(folder, tmp_path / "made")
    assert (done.checked, done.tensors) == ("", len(weights))


def test_safetensors_are_not_converted_again_and_folders_not_replaced(tmp_path: Path) -> None:
    folder = tiny_vit(tmp_path / "model")
    with pytest.raises(CheckpointError, match="its weights are safetensors already"):
        convert(folder, tmp_path / "made")
    pickled(folder)
    convert(folder, tmp_path / "made")
    with pytest.raises(InputError, match="exists already"):
        convert(folder, tmp_path / "made")
    done = CliRunner().invoke(app, ["convert", str(folder), "--out", str(tmp_path / "made"), "--overwrite"])
    assert "tensors as safetensors, loaded whole as ViTForImageClassification" in " ".join(done.output.split())
    assert AutoModelForImageClassification.from_pretrained(tmp_path / "made") is not None


def test_a_pickled_adapter_becomes_one_that_is_multiplied_out(tmp_path: Path) -> None:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    torch.save({"base_model.model.q.lora_A.weight": torch.ones(2, 3)}, folder / "adapter_model.bin")
    convert(folder, tmp_path / "made")
    assert load_file(tmp_path / "made" / "adapter_model.safetensors")["base_model.model.q.lora_A.weight"].shape == (
        2,
        3,
    )
    assert (tmp_path / "made" / "adapter_config.json").is_file()
    assert shutil.rmtree(tmp_path / "made") is None
