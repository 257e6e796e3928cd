"""How the logits of a checkpoint are read, which checkpoints are refused, and the loss that is learned from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    BertForQuestionAnswering,
    BertModel,
    pipeline,
)
from transformers.loss.loss_utils import ForSequenceClassificationLoss

from hf_soups.batch_predict import predict_rows
from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.errors import CheckpointError
from hf_soups.files.problem_types import check_problem_type, problem_type_of
from hf_soups.finetune import finetune
from hf_soups.finetune.start import probe_of_targets
from hf_soups.models.inference import row_losses
from hf_soups.pool import predict_pool
from hf_soups.recipe import load_recipe
from tests.makers.tiny import tiny_bert, tiny_distilbert, tiny_vit
from tests.problem_types.made import MULTI_LABEL_TASK, REGRESSION_TASK, recipe, write_rows


def config(**changes: Any) -> dict[str, Any]:
    return {"model_type": "bert", **changes}


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, "classification"),
        ({"id2label": {"0": "a", "1": "b", "2": "c"}}, "classification"),
        ({"id2label": {"0": "LABEL_0"}}, "multi-label"),
        ({"num_labels": 1}, "multi-label"),
        ({"id2label": {"0": "LABEL_0"}, "problem_type": "regression"}, "regression"),
        ({"problem_type": "multi_label_classification"}, "multi-label"),
        ({"problem_type": "single_label_classification"}, "classification"),
    ],
)
def test_a_config_is_read_as_the_stock_pipeline_reads_it(about: dict, expected: str) -> None:
    assert problem_type_of(config(**about)) == expected


@pytest.mark.parametrize(
    ("about", "fitting"),
    [
        ({}, {"classification", "multi-label"}),
        ({"num_labels": 1}, {"multi-label", "regression"}),
        ({"num_labels": 1, "problem_type": "regression"}, {"regression"}),
        ({"problem_type": "multi_label_classification"}, {"multi-label"}),
        ({"problem_type": "single_label_classification"}, {"classification"}),
    ],
)
def test_a_model_that_does_not_say_its_problem_type_may_be_of_several(about: dict, fitting: set) -> None:
    for wanted in ("classification", "multi-label", "regression"):
        if wanted in fitting:
            check_problem_type(config(**about), wanted, "m")
        else:
            with pytest.raises(CheckpointError, match=r"^m: .*(problem type|a regression has one number)"):
                check_problem_type(config(**about), wanted, "m")


@pytest.mark.parametrize("maker", [tiny_bert, tiny_distilbert])
@pytest.mark.parametrize(
    ("labels", "problem_type"),
    [(3, "multi_label_classification"), (1, None), (1, "regression"), (1, "multi_label_classification"), (3, None)],
)
def test_rows_are_answered_as_the_stock_pipeline_answers_them(
    maker: Any, labels: int, problem_type: str | None, tmp_path: Path
) -> None:
    model = maker(tmp_path / "model", labels, problem_type=problem_type)
    texts = ["the cat is good .", "a dog runs here", "not very happy , never"]
    pd.DataFrame({"text": texts}).to_csv(tmp_path / "rows.csv", index=False)
    predict_rows(model, data=str(tmp_path / "rows.csv"), out=tmp_path / "out", progress=False)
    out = pd.read_parquet(tmp_path / "out")
    stock: Any = pipeline("text-classification", model=str(model), device="cpu")
    for row, expected in zip(out.to_dict("records"), stock(texts, top_k=None), strict=True):
        if problem_type == "regression":
            assert row["score"] == pytest.approx(expected[0]["score"], abs=1e-5)
            continue
        told = dict(zip(row["top_labels"], row["top_scores"], strict=True))
        assert told == {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in expected}


def test_images_of_many_labels_are_answered_as_the_stock_pipeline_does(tmp_path: Path) -> None:
    from PIL import Image

    model = tiny_vit(tmp_path / "model", 3, problem_type="multi_label_classification")
    (tmp_path / "images").mkdir()
    for i in range(2):
        pixels = np.random.default_rng(i).integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"images/{i}.png")
    predict_rows(model, data=str(tmp_path / "images"), out=tmp_path / "out", progress=False)
    stock: Any = pipeline("image-classification", model=str(model), device="cpu")
    for i, row in enumerate(pd.read_parquet(tmp_path / "out").to_dict("records")):
        expected = stock(str(tmp_path / f"images/{i}.png"), top_k=3)
        told = dict(zip(row["top_labels"], row["top_scores"], strict=True))
        assert told == {one["label"]: pytest.approx(one["score"], abs=1e-4) for one in expected}


def test_the_loss_is_that_of_transformers() -> None:
    torch.manual_seed(0)
    logits = torch.randn(6, 3)
    marks, classes, numbers = (torch.rand(6, 3) < 0.4).float(), torch.randint(0, 3, (6,)), torch.randn(6)

    class Config:
        num_labels = 3
        problem_type: str | None = None

    def own(of: str, labels: torch.Tensor, logits: torch.Tensor) -> float:
        about = Config()
        about.num_labels, about.problem_type = logits.shape[1], of
        return float(ForSequenceClassificationLoss(labels, logits, about))

    one_hot = torch.nn.functional.one_hot(classes, 3).float()
    for ours, theirs in (
        (row_losses(logits, marks, "multi-label"), own("multi_label_classification", marks, logits)),
        (row_losses(logits, one_hot, "classification"), own("single_label_classification", classes, logits)),
        (row_losses(logits[:, :1], numbers[:, None], "regression"), own("regression", numbers, logits[:, :1])),
    ):
        assert float(ours.mean()) == pytest.approx(theirs, abs=1e-6)


def test_a_linear_probe_tells_labels_and_numbers_from_features() -> None:
    random = np.random.default_rng(0)
    features = random.normal(5, 3, (200, 4))
    numbers = features @ [1.0, -2.0, 0.0, 0.5] + 3
    weight, bias = probe_of_targets(features, numbers)
    np.testing.assert_allclose(features @ weight[0] + bias[0], numbers, atol=0.5)
    marks = np.stack([numbers > 0, features[:, 0] > 5, np.zeros(200)], axis=1).astype(int)
    weight, bias = probe_of_targets(features, marks)
    assert weight.shape == (3, 4)
    assert (((features @ weight.T + bias) > 0) == marks).mean() > 0.97


@pytest.mark.parametrize("task", [MULTI_LABEL_TASK, REGRESSION_TASK], ids=["multi-label", "regression"])
def test_a_fine_tune_begins_from_a_linear_probe(task: dict, tmp_path: Path) -> None:
    written = recipe(
        tmp_path / "data",
        tiny_bert(tmp_path / "model"),
        task=task,
        head={"init": "linear-probe"},
        train={"max_steps": 1},
    )
    finetune(load_recipe(written, {"learning_rate": 1e-9}), tmp_path / "run", progress=False)
    record = json.loads((tmp_path / "run/run.json").read_text())
    # random features of a tiny model say little, but more than nothing
    assert record["scores"]["report"][record["metric"]] > 0.1


# --- checkpoints that do not answer rows


def token_classifiers(tmp_path: Path) -> list[Path]:
    made = []
    for i in range(2):
        folder = tiny_bert(tmp_path / f"t{i}", seed=i)
        model = AutoModelForTokenClassification.from_pretrained(folder, num_labels=2)
        model.save_pretrained(folder)
        made.append(folder)
    return made


def test_token_classifiers_are_averaged_but_neither_predict_nor_are_chosen(tmp_path: Path) -> None:
    folders = token_classifiers(tmp_path)
    soup = cook(folders, ("uniform",), tmp_path / "soup", tell=None).soups[0].folder
    assert Checkpoint(soup).config["architectures"] == ["BertForTokenClassification"]
    written = recipe(tmp_path / "data", folders[0], task={"kind": "text", "label": "animals"})
    message = "a BertForTokenClassification, which does not give one answer for each row"
    done = predict_pool(folders, out=tmp_path / "pool", recipe=written, progress=False)
    assert all(message in reason for reason in done.failed.values())
    assert len(done.failed) == 2
    with pytest.raises(CheckpointError, match=message):
        cook(folders, ("greedy",), tmp_path / "greedy", recipe=written, tell=None)
    with pytest.raises(CheckpointError, match=message):
        predict_rows(
            folders[0], data=str(tmp_path / "data/validation.csv"), text=["text"], out=tmp_path / "o", progress=False
        )


def test_other_heads_and_headless_models_are_refused_with_a_reason(tmp_path: Path) -> None:
    write_rows(tmp_path / "data")
    for name, made, message in (
        ("qa", BertForQuestionAnswering, "a BertForQuestionAnswering, which does not give one answer for each row"),
        ("bare", BertModel, "needs classifier.*which the checkpoint does not hold. Fine-tune it first"),
    ):
        folder = tiny_bert(tmp_path / name)
        made.from_pretrained(folder).save_pretrained(folder)
        with pytest.raises(CheckpointError, match=message):
            predict_rows(
                folder, data=str(tmp_path / "data/validation.csv"), text=["text"], out=tmp_path / f"{name}-out",
                progress=False,
            )  # fmt: skip


def test_a_soup_of_plain_multi_label_checkpoints_is_their_weights_average(tmp_path: Path) -> None:
    folders = [tiny_bert(tmp_path / f"m{i}", 3, i, problem_type="multi_label_classification") for i in range(2)]
    soup = cook(folders, ("uniform",), tmp_path / "soup", tell=None).soups[0].folder
    models = [AutoModelForSequenceClassification.from_pretrained(f) for f in (*folders, soup)]
    first, second, mixed = (m.state_dict()["classifier.weight"] for m in models)
    torch.testing.assert_close(mixed, (first + second) / 2)
    assert models[2].config.problem_type == "multi_label_classification"


def test_one_label_that_is_true_or_not_is_a_task_of_its_own(tmp_path: Path) -> None:
    """One logit by a sigmoid, as the stock pipeline reads it: not a softmax of one, which is 1 whatever the row is."""
    one = {"kind": "text", "labels": ["animals"]}
    written = recipe(tmp_path / "data", tiny_bert(tmp_path / "model"), task=one, train={"max_steps": 4})
    for i in range(2):
        finetune(load_recipe(written, {"seed": i}), tmp_path / f"run_{i}", progress=False)
    runs = [tmp_path / "run_0", tmp_path / "run_1"]
    soup = cook(runs, ("greedy",), tmp_path / "soup", recipe=written, tell=None).soups[0].folder
    done = predict_pool([soup], names=["soup"], out=tmp_path / "pool", recipe=written, progress=False)
    p = done.pool.predictions["soup"]
    assert p.probs.shape == (len(p), 1)
    assert 0 < p.probs.min() < p.probs.max() < 1
