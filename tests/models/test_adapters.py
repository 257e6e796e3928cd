"""LoRA adapters multiplied out: against A, B and scaling by hand, and against the model that peft itself runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, HfSoupsError, MissingExtra
from hf_soups.models import adapters
from hf_soups.models.adapters import multiplied_out
from hf_soups.soups import uniform
from tests.makers.folders import names_below
from tests.makers.pile import NAMES, label, plain_answers
from tests.makers.tiny import (
    tiny_bert,
    tiny_bert_without_pooler,
    tiny_distilbert,
    tiny_resnet,
    tiny_roberta,
    tiny_sentences,
    tiny_vit,
)
from tests.soups import dense

pytest.importorskip("peft")
PREFIX = "base_model.model."
RANK, ALPHA = 4, 6  # scaling 1.5: a forgotten one shows


def lora(
    base: Path,
    out: Path,
    seed: int = 0,
    *,
    labels: int | None = None,
    targets: tuple[str, ...] = ("query", "value"),
    image: bool = False,
    head: list[str] | None = None,
    **more: Any,
) -> tuple[Path, Any]:
    """An adapter with random A, B and head, saved by peft, and the model that peft runs."""
    import transformers
    from peft import LoraConfig, get_peft_model

    auto = transformers.AutoModelForImageClassification if image else transformers.AutoModelForSequenceClassification
    kind = {} if labels is None else {"num_labels": labels, "ignore_mismatched_sizes": True}
    model = auto.from_pretrained(base, **kind)
    task = None if image or head is not None else "SEQ_CLS"
    config = LoraConfig(
        task_type=task, r=RANK, lora_alpha=ALPHA, target_modules=list(targets), modules_to_save=head, **more
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        wrapped = get_peft_model(model, config).eval()
        for name, parameter in wrapped.named_parameters():
            if parameter.requires_grad:
                parameter.data += 0.2 * torch.randn_like(parameter) * (1 if "lora" in name else 0.5)
    wrapped.save_pretrained(out)
    return out, wrapped


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return label(tiny_bert(tmp_path_factory.mktemp("adapters") / "base"), NAMES)


@pytest.fixture(scope="module")
def pair(base: Path) -> list[Path]:
    return [lora(base, base.parent / f"lora_{seed}", seed)[0] for seed in (1, 2)]


def by_hand(base: Path, adapter: Path) -> dict[str, np.ndarray]:
    """base + alpha / r x B A in float64, and the saved head instead of the base's."""
    weights, saved = dense.load(base), load_file(adapter / "adapter_model.safetensors")
    for name, value in saved.items():
        inner = name.removeprefix(PREFIX)
        if inner.endswith("lora_A.weight"):
            b = saved[name.replace("lora_A", "lora_B")].astype(np.float64)
            weights[inner.replace("lora_A.", "")] += ALPHA / RANK * b @ value.astype(np.float64)
        elif "lora_B" not in inner:
            weights[inner] = value.astype(np.float64)
    return weights


def test_the_checkpoint_is_base_plus_scaled_product_with_the_adapters_head(
    base: Path, pair: list[Path], tmp_path: Path
) -> None:
    made = multiplied_out(Checkpoint(pair[0]), tmp_path)
    exact = by_hand(base, pair[0])
    dense.assert_close(made.folder, exact, atol=1e-6)
    dense.assert_same_logits(made.folder, exact)
    assert not np.allclose(exact["classifier.weight"], dense.load(base)["classifier.weight"], atol=1e-2)
    assert (made.name, made.label_names) == ("lora_1", NAMES)
    assert made.config["dtype"] == "float32"
    assert {p.name for p in made.folder.iterdir()} == {
        "adapter.json", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip


def test_a_soup_of_adapters_is_the_mean_of_products_not_the_product_of_means(
    base: Path, pair: list[Path], tmp_path: Path
) -> None:
    uniform([multiplied_out(Checkpoint(folder), tmp_path) for folder in pair]).save_pretrained(tmp_path / "soup")
    one, two = by_hand(base, pair[0]), by_hand(base, pair[1])
    products = {name: (one[name] + two[name]) / 2 for name in one}
    dense.assert_close(tmp_path / "soup", products, atol=1e-6)
    dense.assert_same_logits(tmp_path / "soup", products)
    a, b = (load_file(folder / "adapter_model.safetensors") for folder in pair)
    shutil.copytree(pair[0], tmp_path / "averaged")
    save_file({name: (a[name] + b[name]) / 2 for name in a}, tmp_path / "averaged" / "adapter_model.safetensors")
    means = by_hand(base, tmp_path / "averaged")
    touched = [name for name in products if not np.allclose(products[name], means[name], atol=1e-2)]
    assert len(touched) == 4  # query and value of both layers: the shortcut would be wrong in each


@pytest.mark.parametrize(
    ("tiny", "options"),
    [
        (tiny_roberta, {"labels": 3}),
        (tiny_distilbert, {"labels": 3, "targets": ("q_lin",)}),
        (tiny_bert, {"use_dora": True}),
        (tiny_bert, {"use_rslora": True}),
        (tiny_bert, {"bias": "all"}),
        (tiny_bert, {"head": []}),  # the base's own head
        (tiny_vit, {"labels": 5, "image": True, "head": ["classifier"], "targets": ("q_proj", "v_proj")}),
        (tiny_resnet, {"image": True, "head": ["classifier.1"], "targets": ("convolution",)}),
    ],
    ids=["roberta", "distilbert", "dora", "rslora", "bias", "base-head", "vit", "resnet"],
)
def test_it_computes_what_peft_computes(tiny: Callable[..., Path], options: dict[str, Any], tmp_path: Path) -> None:
    folder, wrapped = lora(tiny(tmp_path / "base"), tmp_path / "lora", **options)
    made = multiplied_out(Checkpoint(folder), tmp_path / "cache")
    model = type(wrapped.get_base_model()).from_pretrained(made.folder).eval()
    torch.manual_seed(0)
    rows = (
        {"pixel_values": torch.randn(3, 3, 32, 32)}
        if options.get("image")
        else {"input_ids": torch.arange(5, 25).view(2, 10)}
    )
    with torch.inference_mode():
        expected, got = wrapped(**rows).logits, model(**rows).logits
    assert expected.shape[1] == options.get("labels", 3 if options.get("image") else 2)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


def test_a_plain_encoder_needs_only_the_adapters_head(tmp_path: Path) -> None:
    from transformers import RobertaForSequenceClassification

    whole = tiny_roberta(tmp_path / "whole")
    RobertaForSequenceClassification.from_pretrained(whole).roberta.save_pretrained(tmp_path / "base")
    folder, wrapped = lora(tmp_path / "base", tmp_path / "lora", labels=3)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, folder / name)
    made = multiplied_out(Checkpoint(folder), tmp_path / "cache", label_names=["no", "maybe", "yes"])
    assert made.label_names == ("no", "maybe", "yes")
    sentences = tiny_sentences(3)
    got = plain_answers(made.folder, sentences)  # with the adapter's tokenizer: the base has none
    merged = tmp_path / "merged"
    wrapped.merge_and_unload().save_pretrained(merged)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(whole / name, merged / name)
    np.testing.assert_allclose(got, plain_answers(merged, sentences), rtol=1e-4, atol=1e-4)


def test_an_adapter_on_the_hub_is_fetched_with_its_weights(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub
    from huggingface_hub.utils import filter_repo_objects

    asked: dict[str, Any] = {}
    monkeypatch.setattr(
        huggingface_hub, "snapshot_download", lambda repo, **how: asked.update(how, repo=repo) or str(pair[0])
    )
    made = multiplied_out(Checkpoint("org/lora", revision="v2"), tmp_path)
    assert (asked["repo"], asked["revision"], made.name) == ("org/lora", "v2", "lora")
    there = ["adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"]
    assert list(filter_repo_objects(there, allow_patterns=asked["allow_patterns"])) == there[:2]
    dense.assert_close(
        made.folder, by_hand(Path(json.loads((made.folder / "adapter.json").read_text())["base"]), pair[0]), atol=1e-6
    )


def test_the_adapters_own_label_names_come_before_the_bases(base: Path, pair: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(pair[0], tmp_path / "a")
    shutil.copy(base / "config.json", folder)
    label(folder, ("no", "yes"))
    assert multiplied_out(Checkpoint(folder), tmp_path / "cache").label_names == ("no", "yes")


# The cache.


def test_it_is_made_once_for_the_same_adapter_base_and_labels(
    base: Path, pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = multiplied_out(Checkpoint(pair[0]), tmp_path)
    before, times = names_below(tmp_path), (made.folder / "model.safetensors").stat().st_mtime_ns
    with monkeypatch.context() as patched:
        patched.setattr(adapters, "_merged", lambda *_: pytest.fail("made again"))
        again = multiplied_out(Checkpoint(pair[0]), tmp_path)
    assert (again, names_below(tmp_path)) == (made, before)
    assert (again.folder / "model.safetensors").stat().st_mtime_ns == times
    assert multiplied_out(Checkpoint(pair[0]), tmp_path, label_names=["x", "y"]) != made
    assert multiplied_out(Checkpoint(pair[1]), tmp_path) != made
    moved = shutil.copytree(base, tmp_path / "moved")
    weights = load_file(moved / "model.safetensors")
    weights["bert.embeddings.word_embeddings.weight"] += 1
    save_file(weights, moved / "model.safetensors", metadata={"format": "pt"})
    other = multiplied_out(Checkpoint(pair[0]), tmp_path, base=Checkpoint(moved))
    assert other != made
    record = json.loads((other.folder / "adapter.json").read_text())
    assert (record["adapter"], record["base"]) == (str(pair[0]), str(moved))
    assert record["base_sha256"] == Checkpoint(moved).sha256()


def test_a_folder_that_could_not_be_finished_is_not_left_behind(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(folder: Path, *_: Any) -> None:
        (folder / "model.safetensors").write_text("half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(adapters, "_write", full)
        with pytest.raises(HfSoupsError, match="the disk is full"):
            multiplied_out(Checkpoint(pair[0]), tmp_path)
    assert not [name for name in names_below(tmp_path) if "safetensors" in name]
    assert multiplied_out(Checkpoint(pair[0]), tmp_path).tensors  # and the next try succeeds


def test_without_a_folder_it_is_kept_in_the_packages_cache(
    pair: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_SOUPS_CACHE", str(tmp_path / "cache"))
    assert multiplied_out(Checkpoint(pair[0])).folder.is_relative_to(tmp_path / "cache" / "adapters")


# What is refused.


def refused(folder: Path, tmp_path: Path, **how: Any) -> str:
    with pytest.raises(CheckpointError) as error:
        multiplied_out(Checkpoint(folder), tmp_path / "cache", **how)
    assert not [name for name in names_below(tmp_path / "cache") if name.endswith(".safetensors")]
    return str(error.value)


def test_without_peft_the_extra_is_named(pair: list[Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MissingExtra, match=r'pip install "hf_soups\[peft\]"'):
        multiplied_out(Checkpoint(pair[0]))


def test_a_head_that_nobody_saved_is_refused(tmp_path: Path) -> None:
    bare = tiny_bert_without_pooler(tmp_path / "base")
    folder, _ = lora(bare, tmp_path / "lora", head=[])
    said = refused(folder, tmp_path)
    assert "lacks bert.pooler.dense.bias, bert.pooler.dense.weight, classifier.bias, classifier.weight" in said
    assert "at random" in said
    assert "modules_to_save" in said


def test_a_random_pooler_that_nobody_saved_is_refused(tmp_path: Path) -> None:
    folder, _ = lora(tiny_bert_without_pooler(tmp_path / "base"), tmp_path / "lora")  # saves its head
    assert "lacks bert.pooler.dense.bias, bert.pooler.dense.weight, and so does the adapter" in refused(
        folder, tmp_path
    )


def changed(adapter: Path, out: Path, change: Callable[[dict[str, Any]], object], **config: Any) -> Path:
    """A copy of an adapter with other tensors or another config."""
    shutil.copytree(adapter, out)
    told = json.loads((out / "adapter_config.json").read_text())
    (out / "adapter_config.json").write_text(json.dumps({**told, **config}))
    tensors = load_file(out / "adapter_model.safetensors")
    change(tensors)
    save_file(tensors, out / "adapter_model.safetensors")
    return out


def untouched(tensors: dict[str, Any]) -> None:
    pass


@pytest.mark.parametrize("part", ["lora_A", "classifier"])
def test_an_adapter_that_lost_tensors_is_refused(part: str, pair: list[Path], tmp_path: Path) -> None:
    folder = changed(pair[0], tmp_path / "a", lambda tensors: tensors.pop(next(n for n in tensors if part in n)))
    assert f"adapter_model.safetensors lacks {PREFIX}" in refused(folder, tmp_path)


def test_tensors_that_belong_nowhere_are_refused(pair: list[Path], tmp_path: Path) -> None:
    strange = {f"{PREFIX}bert.strange.weight": np.ones((2, 2), np.float32)}
    folder = changed(pair[0], tmp_path / "a", lambda tensors: tensors.update(strange))
    assert "holds base_model.model.bert.strange.weight" in refused(folder, tmp_path)


def test_an_adapter_that_diverged_is_refused(pair: list[Path], tmp_path: Path) -> None:
    folder = changed(
        pair[0], tmp_path / "a", lambda tensors: [t.fill(np.nan) for n, t in tensors.items() if "lora" in n]
    )
    said = refused(folder, tmp_path)
    assert "cannot be multiplied into" in said
    assert "NaN" in said


def test_an_adapter_of_another_base_is_refused(pair: list[Path], tmp_path: Path) -> None:
    wide = tiny_bert(tmp_path / "wide", hidden_size=64)
    assert "give the base that it was trained on" in refused(pair[0], tmp_path, base=Checkpoint(wide))


@pytest.mark.parametrize("rank", [10**9, 0, -4, "four"])
def test_an_adapter_of_another_rank_than_its_weights_is_refused(rank: Any, pair: list[Path], tmp_path: Path) -> None:
    said = refused(changed(pair[0], tmp_path / "a", untouched, r=rank), tmp_path)
    assert said.startswith(str(tmp_path / "a"))
    assert "\n" not in said


def test_other_kinds_of_adapters_are_refused(pair: list[Path], tmp_path: Path) -> None:
    folder = changed(pair[0], tmp_path / "a", untouched, peft_type="PROMPT_TUNING")
    assert "an adapter of type 'PROMPT_TUNING'; only LoRA" in refused(folder, tmp_path)


def test_pickled_adapters_are_not_opened(pair: list[Path], tmp_path: Path) -> None:
    folder = shutil.copytree(pair[0], tmp_path / "a")
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    assert "Pickled adapters (.bin) can run code" in refused(folder, tmp_path)


@pytest.mark.parametrize("named", ["./gone", None, 3])
def test_a_base_that_is_not_there_is_told(named: Any, pair: list[Path], tmp_path: Path) -> None:
    folder = changed(pair[0], tmp_path / "a", untouched, base_model_name_or_path=named)
    said = refused(folder, tmp_path)
    assert ("./gone: no such folder" if named == "./gone" else "names no base") in said
    assert "base=Checkpoint(...)" in said


def test_label_names_must_be_as_many_as_classes(pair: list[Path], tmp_path: Path) -> None:
    assert "tells 2 classes apart, but 3 names" in refused(pair[0], tmp_path, label_names=["a", "b", "c"])


def test_a_whole_model_is_no_adapter(base: Path, tmp_path: Path) -> None:
    assert not Checkpoint(base).is_adapter
    assert "no adapter: expected adapter_config.json" in refused(base, tmp_path)


def test_an_adapter_where_a_model_is_wanted_says_who_multiplies_it_out(pair: list[Path]) -> None:
    assert Checkpoint(pair[0]).is_adapter
    with pytest.raises(CheckpointError, match=r"an adapter, not a whole model.*hf-soups cook.*multiplied_out"):
        _ = Checkpoint(pair[0]).tensors
