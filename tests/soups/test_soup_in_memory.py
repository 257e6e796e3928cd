"""A soup from Python: loaded again, as a model, as tensors, scored; and what is taken for a checkpoint."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import ClassLabel, Dataset, Features, Value
from safetensors.torch import load_file

import hf_soups
from hf_soups import Checkpoint, Soup, average_of_run, greedy, model_stock, preflight, task_vectors, uniform
from hf_soups.cooking import cook
from hf_soups.errors import CheckpointError, DataError, InputError
from tests.makers.tiny import tiny_bert, tiny_bert_without_pooler, tiny_sentences, tiny_vit

NAMES = {"id2label": {0: "bad", 1: "good"}, "label2id": {"bad": 0, "good": 1}}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("models")
    return [tiny_bert(folder / f"m{seed}", seed=seed, **NAMES) for seed in range(3)]


@pytest.fixture
def saved(models: list[Path], tmp_path: Path) -> Path:
    return uniform(models[:2]).save_pretrained(tmp_path / "soup")


def rows(names: tuple[str, ...] = ("bad", "good")) -> Dataset:
    features = Features({"text": Value("string"), "label": ClassLabel(names=list(names))})
    return Dataset.from_dict({"text": tiny_sentences(40), "label": [i % 2 for i in range(40)]}, features=features)


def mean(folders: list[Path]) -> dict[str, torch.Tensor]:
    loaded = [load_file(folder / "model.safetensors") for folder in folders]
    return {name: torch.stack([one[name].double() for one in loaded]).mean(0).float() for name in loaded[0]}


def test_tensors_and_model_are_the_saved_soups(models: list[Path], saved: Path) -> None:
    expected = load_file(saved / "model.safetensors")
    for name, tensor in mean(models[:2]).items():
        torch.testing.assert_close(tensor, expected[name])
    for soup in (uniform(models[:2]), Soup.from_pretrained(saved)):
        tensors = soup.state_dict()
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
        model = soup.to_model("cpu")
        assert type(model).__name__ == "BertForSequenceClassification"
        assert not model.training
        assert all(torch.equal(model.state_dict()[name], expected[name]) for name in expected)
    assert uniform(models).to_model(dtype="bfloat16").dtype == torch.bfloat16
    with pytest.raises(InputError, match=r"dtype is 'half a float'; expected a torch\.dtype"):
        uniform(models).to_model(dtype="half a float")


def test_a_model_without_a_head_is_loaded_by_its_architecture(tmp_path: Path) -> None:
    folders = [tiny_bert_without_pooler(tmp_path / str(seed), seed=seed) for seed in range(2)]
    model = uniform(folders).to_model()
    assert type(model).__name__ == "BertModel"
    expected = mean(folders)
    torch.testing.assert_close(model.embeddings.word_embeddings.weight, expected["embeddings.word_embeddings.weight"])


def test_a_saved_soup_is_loaded_with_what_was_chosen_and_needs_its_ingredients_no_more(
    tmp_path: Path,
) -> None:
    folders = [tiny_bert(tmp_path / f"m{seed}", seed=seed) for seed in range(2)]
    made = greedy(folders, lambda soup: float(len(soup.ingredients)))
    out = made.save_pretrained(tmp_path / "soup")
    for folder in folders:
        shutil.rmtree(folder)
    again = Soup.from_pretrained(out)
    assert (again.method, again.coefficients, again.steps) == ("greedy", made.coefficients, made.steps)
    assert [c.name for c in again.ingredients] == [c.name for c in made.ingredients]
    copy = again.save_pretrained(tmp_path / "copy")
    assert json.loads((copy / "soup.json").read_text()) == json.loads((out / "soup.json").read_text())
    assert load_file(copy / "model.safetensors").keys() == again.state_dict().keys()
    small = again.save_pretrained(tmp_path / "small", dtype="bfloat16")
    assert {t.dtype for t in load_file(small / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((small / "soup.json").read_text())["weights"] == Checkpoint(small).digest()


def test_steps_without_a_score_are_nan_again(models: list[Path], tmp_path: Path) -> None:
    soup = greedy(models, lambda s: float("nan") if len(s.ingredients) > 1 else 0.5)
    again = Soup.from_pretrained(soup.save_pretrained(tmp_path / "soup"))
    assert [np.isnan(step.score) for step in again.steps] == [np.isnan(step.score) for step in soup.steps]


@pytest.mark.parametrize("names", [("bad", "good"), ("good", "bad")])
def test_a_soup_is_scored_on_a_data_set(models: list[Path], saved: Path, names: tuple[str, ...]) -> None:
    from transformers import AutoTokenizer

    data, soup = rows(names), Soup.from_pretrained(saved)
    tokens = AutoTokenizer.from_pretrained(saved)(data["text"][:], return_tensors="pt", padding=True)
    with torch.no_grad():
        answers = soup.to_model("cpu")(**tokens).logits.argmax(-1).numpy()
    right = np.array(
        [names[label] == ("bad", "good")[answer] for label, answer in zip(data["label"], answers, strict=True)]
    )
    found = soup.evaluate(data)
    assert found.value == pytest.approx(right.mean())
    assert found.low <= found.value <= found.high
    assert soup.evaluate(data.rename_columns({"text": "review", "label": "y"}), text="review", label="y") == found
    assert uniform(models[:2]).evaluate(data, "nll").value > 0


def test_images_are_scored_too(tmp_path: Path) -> None:
    from PIL import Image

    models = [tiny_vit(tmp_path / str(seed), seed=seed) for seed in range(2)]
    images = [Image.new("RGB", (32, 32), (10 * i, 0, 255 - 10 * i)) for i in range(12)]
    data = Dataset.from_dict({"image": images, "label": [i % 3 for i in range(12)]})
    assert 0 <= uniform(models).evaluate(data, batch_size=5).value <= 1


def test_what_is_no_labelled_data_set_of_these_classes_is_refused(saved: Path) -> None:
    soup = Soup.from_pretrained(saved)
    with pytest.raises(DataError, match=r"no label column among text\. Name it with `label`"):
        soup.evaluate(rows().remove_columns("label"))
    several = Dataset.from_dict({name: tiny_sentences(4) for name in ("a", "b", "c")} | {"label": [0, 1, 0, 1]})
    with pytest.raises(DataError, match=r"3 text columns .* Name it \(`text` COLUMN"):
        soup.evaluate(several)
    other = Dataset.from_dict({"text": tiny_sentences(4), "label": ["x", "y", "z", "x"]})
    with pytest.raises(DataError, match="x"):
        soup.evaluate(other)


def test_a_folder_that_is_no_soup_is_refused(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m0: no soup: it holds no soup\.json"):
        Soup.from_pretrained(models[0])
    with pytest.raises(CheckpointError, match="no such folder"):
        Soup.from_pretrained(tmp_path / "nothing")


def test_a_soup_is_replaced_unless_that_is_refused_and_nothing_else_is(models: list[Path], saved: Path) -> None:
    before = Checkpoint(saved).sha256()
    uniform(models).save_pretrained(saved)
    assert Checkpoint(saved).sha256() != before
    with pytest.raises(InputError, match=r"exists already\. Choose another folder with `out`, or .*`overwrite=True`"):
        uniform(models).save_pretrained(saved, overwrite=False)
    with pytest.raises(InputError, match=r"holds no soup\.json"):
        uniform(models).save_pretrained(models[0])


MAKERS: list[Callable[[Any], Soup]] = [
    uniform,
    lambda given: greedy(given, lambda soup: 1.0),
    lambda given: model_stock(given, given[0] if isinstance(given, list) else given),
    lambda given: task_vectors(given, given[0] if isinstance(given, list) else given, scales=[0.3]),
    average_of_run,
    lambda given: Soup(given, (1 / 3,) * 3),
]


@pytest.mark.parametrize("make", MAKERS)
def test_paths_are_taken_for_checkpoints_and_one_alone_or_another_type_is_refused(
    models: list[Path], make: Callable[[Any], Soup]
) -> None:
    for given in (models, [str(path) for path in models], [Checkpoint(path) for path in models]):
        soup = make(given)
        assert [c.folder for c in soup.ingredients[:3]] == models
    for one in (str(models[0]), models[0], Checkpoint(models[0])):
        with pytest.raises(InputError, match=r"(ingredients|checkpoints) is '.*m0'; expected several checkpoints"):
            make(one)
    for without_order in (dict.fromkeys(map(str, models), 0.5), set(models)):
        with pytest.raises(InputError, match="expected several checkpoints"):
            uniform(without_order)  # type: ignore[arg-type]
    with pytest.raises(
        InputError, match=r"(ingredients|checkpoints)\[1\] is of type int; expected a Checkpoint, a folder, or a repo"
    ):
        make([models[0], 3, models[1]])
    for no_source in (lambda: make(3), lambda: Checkpoint(3)):  # type: ignore[arg-type]
        with pytest.raises(InputError, match="is of type int; expected a Checkpoint, a folder, or a repo"):
            no_source()


def test_a_repo_with_a_revision_is_a_checkpoint_too() -> None:
    assert uniform(["org/a@v1", "org/b"]).ingredients == (Checkpoint("org/a", "v1"), Checkpoint("org/b"))


def test_one_folder_stands_for_a_list_of_one(models: list[Path], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"m0: a soup needs at least two .* got 1"):
        cook(str(models[0]), out=tmp_path / "soup", tell=None)
    assert hf_soups.inspect_checkpoints(models[0]).rows[0].source == str(models[0])
    assert preflight([str(path) for path in models], check_values=False).checkpoints == tuple(map(Checkpoint, models))
