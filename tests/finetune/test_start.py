"""The shared start: one head for all runs, known by its fingerprint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from hf_soups.data import Splits, load_splits
from hf_soups.errors import CheckpointError, InputError
from hf_soups.finetune.start import START_FILE, linear_probe, load_start, make_start
from hf_soups.models.inference import predict_split
from hf_soups.models.layers import head_fingerprint
from hf_soups.recipe import Recipe
from tests.makers.small_task import image_recipe, text_recipe
from tests.makers.tiny import tiny_bert, tiny_bert_without_pooler, tiny_resnet, tiny_roberta, tiny_vit


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("data")


@pytest.fixture(scope="module")
def bert(data: Path) -> Path:
    return tiny_bert(data / "bert", labels=5)


def made(recipe: Recipe, out: Path) -> tuple[dict[str, Any], Splits]:
    splits = load_splits(recipe.task, recipe.data)
    make_start(recipe, splits, out)
    return json.loads((out / START_FILE).read_text()), splits


def test_a_start_is_an_ordinary_checkpoint_with_the_tasks_labels(data: Path, bert: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    about, _ = made(text_recipe(data, bert), tmp_path / "start")
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "start")
    assert model.config.id2label == {0: "neg", 1: "pos"}
    assert AutoTokenizer.from_pretrained(tmp_path / "start")("a cat").input_ids
    assert about["head_parameters"] == ["classifier.weight", "classifier.bias"]
    assert about["head_fingerprint"] == head_fingerprint(model, about["head_parameters"])
    assert (about["base"], about["revision"], about["head_init"]) == (str(bert), None, "shared-random")


def test_the_body_is_the_base_models_bit_for_bit(data: Path, bert: Path, tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    made(text_recipe(data, bert), tmp_path / "start")
    before, after = load_file(bert / "model.safetensors"), load_file(tmp_path / "start" / "model.safetensors")
    body = [name for name in before if not name.startswith("classifier")]
    assert len(body) > 20
    for name in body:
        np.testing.assert_array_equal(after[name], before[name])


ELSEWHERE = """
import sys, torch
from pathlib import Path
from hf_soups.data import load_splits
from hf_soups.recipe.recipe import load_recipe
from hf_soups.finetune.start import make_start
for folder in map(Path, sys.argv[1:]):
    torch.rand(7)
    recipe = load_recipe(folder / "recipe.json")
    make_start(recipe, load_splits(recipe.task, recipe.data), folder / "there")
"""


def test_the_same_recipe_gives_the_same_head_in_another_process(data: Path, bert: Path, tmp_path: Path) -> None:
    here = {}
    for init in ("shared-random", "linear-probe"):
        recipe = text_recipe(data, bert, head={"init": init})
        here[init], _ = made(recipe, tmp_path / init / "here")
        (tmp_path / init / "recipe.json").write_text(recipe.model_dump_json())
    command = [sys.executable, "-c", ELSEWHERE, *(str(tmp_path / init) for init in here)]
    subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": "2"})
    assert {init: json.loads((tmp_path / init / "there" / START_FILE).read_text()) for init in here} == here


def test_other_seeds_other_models_and_other_kinds_of_head_have_other_fingerprints(
    data: Path, bert: Path, tmp_path: Path
) -> None:
    recipes = [
        text_recipe(data, bert),
        text_recipe(data, bert, head={"seed": 1}),
        text_recipe(data, bert, head={"init": "linear-probe"}),
        text_recipe(data, bert, head={"init": "linear-probe"}, data={"seed": 1}),
    ]
    found = {made(recipe, tmp_path / str(i))[0]["head_fingerprint"] for i, recipe in enumerate(recipes)}
    assert len(found) == len(recipes)


def test_a_start_that_is_there_is_used_and_not_made_again(data: Path, bert: Path, tmp_path: Path) -> None:
    recipe = text_recipe(data, bert)
    made(recipe, tmp_path / "start")
    before = (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns
    made(text_recipe(data, bert, train={"learning_rate": 1.0}), tmp_path / "start")
    assert (tmp_path / "start" / "model.safetensors").stat().st_mtime_ns == before


def test_several_that_ask_at_once_get_one_start(data: Path, bert: Path, tmp_path: Path) -> None:
    recipe = text_recipe(data, bert)
    splits = load_splits(recipe.task, recipe.data)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: make_start(recipe, splits, tmp_path / "start"), range(4)))
    assert sorted(p.name for p in tmp_path.iterdir() if not p.name.endswith(".lock")) == ["start"]


def test_the_folder_of_another_start_or_of_something_else_is_refused(data: Path, bert: Path, tmp_path: Path) -> None:
    made(text_recipe(data, bert), tmp_path / "start")
    with pytest.raises(InputError, match="holds a start made from another model, head or data"):
        made(text_recipe(data, bert, head={"seed": 1}), tmp_path / "start")
    with pytest.raises(InputError, match="holds something that is no start"):
        made(text_recipe(data, bert), data)


def test_a_changed_base_model_is_noticed(data: Path, tmp_path: Path) -> None:
    recipe = text_recipe(data, tiny_bert(tmp_path / "model"))
    made(recipe, tmp_path / "start")
    tiny_bert(tmp_path / "model", seed=1)
    with pytest.raises(InputError, match="made from another model"):
        made(recipe, tmp_path / "start")


def test_a_pooler_that_the_base_lacks_is_part_of_the_shared_head(data: Path, tmp_path: Path) -> None:
    recipe = text_recipe(data, tiny_bert_without_pooler(tmp_path / "model"))
    about, _ = made(recipe, tmp_path / "start")
    assert "bert.pooler.dense.weight" in about["head_parameters"]


@pytest.mark.parametrize("kind", ["bert", "roberta", "vit", "resnet"])
def test_a_linear_probe_beats_a_random_head(tmp_path: Path, kind: str) -> None:
    build = {"bert": tiny_bert, "roberta": tiny_roberta, "vit": tiny_vit, "resnet": tiny_resnet}[kind]
    write = text_recipe if kind in ("bert", "roberta") else image_recipe
    model = build(tmp_path / "model")
    scores = {}
    for init in ("shared-random", "linear-probe"):
        recipe = write(tmp_path, model, head={"init": init})
        _, splits = made(recipe, tmp_path / init)
        start = load_start(tmp_path / init, recipe, splits)
        encoded = start.family.encode(splits.report, start.processor, recipe.task, recipe.data)
        p = predict_split(start.model, start.family, encoded, splits.report)
        scores[init] = float((p.answers == p.labels).mean())
    # 41 rows of 2 or 31 of 3 classes: three standard errors are less than 0.25
    assert scores["linear-probe"] > scores["shared-random"] + 0.1
    assert scores["linear-probe"] > 0.7


@settings(max_examples=20, deadline=None)
@given(
    features=arrays(np.float64, (30, 4), elements=st.floats(-1e3, 1e3, width=32)),
    labels=arrays(np.int64, (30,), elements=st.integers(0, 3)),
)
def test_the_probe_answers_as_scikit_learns_regression_does(features: np.ndarray, labels: np.ndarray) -> None:
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    labels[:2] = (0, 2)  # two classes at least
    weight, bias = linear_probe(features, labels, 5)
    logits = features @ weight.T + bias
    probabilities = np.exp(logits - logits.max(axis=1, keepdims=True))
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    scaled = StandardScaler().fit_transform(features)
    oracle = LogisticRegression(max_iter=1000).fit(scaled, labels)
    present = probabilities[:, oracle.classes_]
    np.testing.assert_allclose(present / present.sum(axis=1, keepdims=True), oracle.predict_proba(scaled), atol=1e-6)
    absent = np.setdiff1d(np.arange(5), oracle.classes_)
    assert (weight[absent] == 0).all()


def test_kept_heads_are_the_base_models_own(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    names = {0: "neg", 1: "pos"}
    model = tiny_bert(tmp_path / "model", id2label=names, label2id={v: k for k, v in names.items()})
    recipe = text_recipe(tmp_path, model, head={"init": "keep"})
    made(recipe, tmp_path / "start")
    before, after = load_file(model / "model.safetensors"), load_file(tmp_path / "start" / "model.safetensors")
    assert before.keys() == after.keys()
    for name in before:
        np.testing.assert_array_equal(after[name], before[name])


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ({0: "pos", 1: "neg"}, r"the task's labels are \['neg', 'pos'\], .* in the order \['pos', 'neg'\]. Set task"),
        ({0: "bad", 1: "good"}, r"has the labels \['bad', 'good'\]. Use head.init: shared-random"),
        (None, "names its labels LABEL_0, LABEL_1, ..., so which is which is not known"),
    ],
)
def test_a_head_for_other_labels_is_not_kept(tmp_path: Path, names: dict[int, str] | None, message: str) -> None:
    about = {} if names is None else {"id2label": names, "label2id": {v: k for k, v in names.items()}}
    recipe = text_recipe(tmp_path, tiny_bert(tmp_path / "model", **about), head={"init": "keep"})
    with pytest.raises(CheckpointError, match=message):
        made(recipe, tmp_path / "start")


def test_any_checkpoint_with_the_tasks_labels_can_be_a_start(data: Path, tmp_path: Path) -> None:
    names = {0: "neg", 1: "pos"}
    model = tiny_bert(tmp_path / "model", id2label=names, label2id={v: k for k, v in names.items()})
    recipe = text_recipe(data, model)
    splits = load_splits(recipe.task, recipe.data)
    start = load_start(model, recipe, splits)
    own = head_fingerprint(start.model, ["classifier.weight", "classifier.bias"])
    assert start.head_fingerprint == own


def test_a_broken_base_model_is_no_start(data: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    model = tiny_bert(tmp_path / "model")
    tensors = load_file(model / "model.safetensors")
    tensors["bert.pooler.dense.bias"][0] = float("nan")
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"model: bert.pooler.dense.bias holds NaN or infinity"):
        made(text_recipe(data, model), tmp_path / "start")
    assert not (tmp_path / "start").exists()


def test_making_a_start_leaves_the_random_numbers_of_the_caller_alone(data: Path, bert: Path, tmp_path: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    made(text_recipe(data, bert), tmp_path / "start")
    assert torch.equal(torch.rand(3), expected)
