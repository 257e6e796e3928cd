"""sentence-transformers and SetFit: what is around the transformer is carried over, averaged, or refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from hf_soups import Checkpoint, uniform
from hf_soups.cooking import cook
from hf_soups.errors import CheckpointError, IncompatibleCheckpoints
from hf_soups.models.convert import convert
from tests.makers.tiny import tiny_bert_without_pooler

ST = "sentence_transformers."
POOLING = {"embedding_dimension": 32, "pooling_mode": "mean", "include_prompt": True}
OLD_POOLING = {"word_embedding_dimension": 32, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
DENSE = {
    "in_features": 32, "out_features": 16, "bias": True, "activation_function": "torch.nn.modules.activation.Tanh",
}  # fmt: skip
PROMPTS = {"prompts": {"query": "q: ", "document": ""}, "default_prompt_name": None, "similarity_fn_name": "cosine"}


def write(path: Path, what: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(what))


def encoder(at: Path, seed: int, *, dense: bool = False, old: bool = False) -> Path:
    """A sentence encoder as sentence-transformers 6 writes it, or 2 (`old`): pooling, perhaps a layer, normalising."""
    tiny_bert_without_pooler(at, seed=seed)
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), "Normalize"]
    paths = ["", *(f"{i}_{kind}" for i, kind in enumerate(kinds) if i)]
    home = f"{ST}models." if old else f"{ST}sentence_transformer.modules."
    write(at / "modules.json", [{"idx": i, "name": str(i), "path": path, "type": home + kind}
                                for i, (kind, path) in enumerate(zip(kinds, paths, strict=True))])  # fmt: skip
    write(at / "1_Pooling" / "config.json", OLD_POOLING if old else POOLING)
    write(at / "config_sentence_transformers.json", {"__version__": {"pytorch": "2" if old else "3"}, **PROMPTS})
    write(at / "sentence_bert_config.json", {"max_seq_length": 32, "do_lower_case": False})
    if dense:
        torch.manual_seed(seed)
        write(at / "2_Dense" / "config.json", DENSE)
        save_file({"linear.weight": torch.randn(16, 32), "linear.bias": torch.randn(16)},
                  at / "2_Dense" / "model.safetensors")  # fmt: skip
    return at


def pair(at: Path, change: Callable[[Path], object] = lambda path: None, **how: Any) -> list[Path]:
    """Two encoders, the second changed."""
    folders = [encoder(at / f"e{i}", seed=i, **how) for i in (0, 1)]
    change(folders[1])
    return folders


def test_modules_pooling_and_prompts_are_carried_over(tmp_path: Path) -> None:
    first, second = pair(tmp_path)
    cook([first, second], out=tmp_path / "soup")
    for name in (
        "modules.json",
        "1_Pooling/config.json",
        "config_sentence_transformers.json",
        "sentence_bert_config.json",
    ):
        assert (tmp_path / "soup" / name).read_bytes() == (first / name).read_bytes(), name


def test_weights_of_modules_are_averaged_with_the_coefficients(tmp_path: Path) -> None:
    folders = pair(tmp_path, dense=True)
    uniform([Checkpoint(folder) for folder in folders]).save_pretrained(tmp_path / "soup")
    made = load_file(tmp_path / "soup" / "2_Dense" / "model.safetensors")
    own = [load_file(folder / "2_Dense" / "model.safetensors") for folder in folders]
    for name, tensor in made.items():
        torch.testing.assert_close(tensor, (own[0][name] + own[1][name]) / 2)


def test_what_two_versions_write_in_other_words_is_the_same(tmp_path: Path) -> None:
    folders = [encoder(tmp_path / "new", seed=0), encoder(tmp_path / "old", seed=1, old=True)]
    cook(folders, out=tmp_path / "soup")
    assert (tmp_path / "soup" / "modules.json").read_bytes() == (folders[0] / "modules.json").read_bytes()


@pytest.mark.parametrize("dense", [False, True])
def test_a_soup_of_sentence_transformers_answers_as_the_average_by_hand(dense: bool, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers")
    folders = pair(tmp_path, dense=dense)
    cook(folders, out=tmp_path / "soup")
    soup, first, second = (
        library.SentenceTransformer(str(f), device="cpu", local_files_only=True) for f in (tmp_path / "soup", *folders)
    )
    other = dict(second.named_parameters())
    with torch.no_grad():
        for name, parameter in first.named_parameters():
            parameter.copy_((parameter + other[name]) / 2)
    texts = ["a good film", "a bad one"]
    for name in ("query", "document"):
        expected = first.encode(texts, prompt_name=name)
        np.testing.assert_allclose(soup.encode(texts, prompt_name=name), expected, atol=1e-5)
    assert expected.shape == (2, 16 if dense else 32)
    np.testing.assert_allclose(np.linalg.norm(expected, axis=1), 1, atol=1e-5)


def test_modules_are_pushed_with_the_soup(tmp_path: Path) -> None:
    from hf_soups.hub.contents import Stage
    from hf_soups.hub.models import without_card

    cook(pair(tmp_path, dense=True), out=tmp_path / "soup")
    (tmp_path / "stage").mkdir()
    sent = {file.path for file in without_card(tmp_path / "soup", "soup", Stage(tmp_path / "stage"), ()).files}
    assert {"modules.json", "1_Pooling/config.json", "2_Dense/model.safetensors", "sentence_bert_config.json"} <= sent


def put(name: str, what: Any) -> Callable[[Path], object]:
    return lambda path: write(path / name, what)


def without_modules(path: Path) -> None:
    (path / "modules.json").unlink()


def without_normalising(path: Path) -> None:
    entries = json.loads((path / "modules.json").read_text())
    write(path / "modules.json", entries[:-1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (put("1_Pooling/config.json", {**POOLING, "pooling_mode": "cls"}),
         r"its Pooling \(1_Pooling\) differs from .*: pooling_mode is \['cls'\], but \['mean'\]"),
        (without_normalising, "its modules are Transformer, Pooling, but Transformer, Pooling, Normalize in"),
        (without_modules, "no model of sentence-transformers or SetFit, unlike"),
        (put("config_sentence_transformers.json", {**PROMPTS, "prompts": {"query": "ask: "}}),
         r"its prompts or similarity are .*'ask: '.*, but .*'q: '"),
        (put("sentence_bert_config.json", {"max_seq_length": 16}), "its longest text are .*16.*, but .*32"),
        (put("modules.json", [{"type": ST + "models.Transformer", "path": "../x"}]), "leads out of the folder"),
        (put("modules.json", [{"type": ST + "models.Transformer", "path": "0_Transformer"}]), "0_Transformer"),
        (put("modules.json", 3), "expected a list of modules"),
        (lambda path: (path / "model_head.pkl").write_bytes(b"b"), r"it has a fitted head \(model_head.pkl\), unlike"),
    ],
)  # fmt: skip
def test_what_differs_is_refused_with_what_it_is(
    change: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    with pytest.raises(IncompatibleCheckpoints, match=message):
        cook(pair(tmp_path, change), out=tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_a_soup_that_no_preflight_saw_does_not_take_the_firsts_modules_for_all(tmp_path: Path) -> None:
    folders = pair(tmp_path, put("1_Pooling/config.json", {**POOLING, "pooling_mode": "cls"}))
    with pytest.raises(IncompatibleCheckpoints, match=r"its Pooling \(1_Pooling\) differs"):
        uniform([Checkpoint(folder) for folder in folders]).save_pretrained(tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def setfit(folder: Path, head: bytes, labels: tuple[str, ...] = ("bad", "good")) -> None:
    write(folder / "config_setfit.json", {"labels": labels, "normalize_embeddings": False})
    (folder / "model_head.pkl").write_bytes(head)


def test_heads_that_scikit_learn_fitted_are_refused_with_a_way_on_and_never_opened(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    setfit(folders[0], b"not a pickle: 0")
    setfit(folders[1], b"not a pickle: 1")
    with pytest.raises(
        IncompatibleCheckpoints, match=r"model_head.pkl was fitted by scikit-learn.*fit a head on the soup"
    ):
        cook(folders, out=tmp_path / "soup")


def test_one_head_for_all_is_carried_over_with_its_labels(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    for folder in folders:
        setfit(folder, b"the same")
    cook(folders, out=tmp_path / "soup")
    assert (tmp_path / "soup" / "model_head.pkl").read_bytes() == b"the same"
    assert json.loads((tmp_path / "soup" / "config_setfit.json").read_text())["labels"] == ["bad", "good"]
    setfit(folders[1], b"the same", labels=("good", "bad"))
    with pytest.raises(IncompatibleCheckpoints, match=r"its SetFit settings are .*'good', 'bad'"):
        cook(folders, out=tmp_path / "other")


def test_a_head_in_safetensors_is_averaged(tmp_path: Path) -> None:
    folders = pair(tmp_path)
    for i, folder in enumerate(folders):
        write(folder / "config_setfit.json", {"labels": ["bad", "good"]})
        save_file({"linear.weight": torch.full((2, 32), float(i))}, folder / "model_head.safetensors")
    cook(folders, out=tmp_path / "soup")
    made = load_file(tmp_path / "soup" / "model_head.safetensors")
    assert torch.equal(made["linear.weight"], torch.full((2, 32), 0.5))


def test_pickled_modules_are_converted_with_the_rest(tmp_path: Path) -> None:
    folders = pair(tmp_path, dense=True)
    for folder in folders:
        for part in (folder, folder / "2_Dense"):
            torch.save(load_file(part / "model.safetensors"), part / "pytorch_model.bin")
            (part / "model.safetensors").unlink()
    made = []
    for i, folder in enumerate(folders):
        convert(folder, tmp_path / f"c{i}")
        made.append(tmp_path / f"c{i}")
    cook(made, out=tmp_path / "soup")
    assert set(load_file(tmp_path / "soup" / "2_Dense" / "model.safetensors")) == {"linear.weight", "linear.bias"}


def test_pickled_modules_beside_safetensors_are_refused(tmp_path: Path) -> None:
    folders = pair(tmp_path, dense=True)
    part = folders[0] / "2_Dense"
    (part / "model.safetensors").rename(part / "pytorch_model.bin")
    with pytest.raises(IncompatibleCheckpoints, match=r"2_Dense holds pickled weights \(pytorch_model.bin\)"):
        cook(folders, out=tmp_path / "soup")


def test_modules_whose_weights_may_not_be_linear_are_refused(tmp_path: Path) -> None:
    folders = pair(tmp_path, dense=True)
    for folder in folders:
        told = (folder / "modules.json").read_text().replace(".Dense", ".Router")
        (folder / "modules.json").write_text(told)
    with pytest.raises(IncompatibleCheckpoints, match=r"2_Dense is a Router with weights.*known: CNN, Dense"):
        cook(folders, out=tmp_path / "soup")


def test_coefficients_by_tensor_do_not_reach_modules(tmp_path: Path) -> None:
    folders = [Checkpoint(folder) for folder in pair(tmp_path, dense=True)]
    names = list(folders[0].tensors)
    from hf_soups import Soup

    soup = Soup.mixed_by_tensor(folders, {name: (0.5, 0.5) for name in names})
    with pytest.raises((IncompatibleCheckpoints, CheckpointError), match="2_Dense holds weights too"):
        soup.save_pretrained(tmp_path / "soup")
