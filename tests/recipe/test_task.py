"""Tasks: which columns, names and metric; GLUE's four by name."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from hf_soups.errors import RecipeError
from hf_soups.metrics import METRICS
from hf_soups.recipe.task import NAMED, MetricByEvaluate, Task, named_task


@pytest.mark.parametrize(
    ("name", "text", "labels", "metric"),
    [
        ("glue/mrpc", ("sentence1", "sentence2"), ("not_equivalent", "equivalent"), "accuracy_f1"),
        ("glue/rte", ("sentence1", "sentence2"), ("entailment", "not_entailment"), "accuracy"),
        ("glue/cola", ("sentence",), ("unacceptable", "acceptable"), "matthews"),
        ("glue/sst2", ("sentence",), ("negative", "positive"), "accuracy"),
    ],
)
def test_glue_tasks_are_those_of_the_hub_with_the_papers_metrics(
    name: str, text: tuple[str, ...], labels: tuple[str, ...], metric: str
) -> None:
    """The Hub's nyu-mll/glue: columns and class names in its order; Wortsman et al. 2022 for the metric."""
    task = named_task(name)
    assert (task.path, task.config) == ("nyu-mll/glue", name.removeprefix("glue/"))
    assert (task.text, task.label, task.label_names, task.metric) == (text, "label", labels, metric)
    assert (task.train, task.report) == ("train", "validation")
    assert task.columns == text


def test_every_named_task_has_a_known_metric() -> None:
    assert {str(task.metric) for task in NAMED.values()} <= set(METRICS)


def test_a_named_task_can_be_changed() -> None:
    assert named_task("glue/rte", path="/data/glue", metric="nll").metric == "nll"
    assert named_task("glue/rte").metric == "accuracy"  # and the table stays as it is


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(RecipeError, match=r"unknown task 'mnli'; known by name: glue/mrpc, .* kind, path and columns"):
        named_task("mnli")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"kind": "text"}, r"kind 'text' names 1 text columns, got \[\]"),
        ({"kind": "text", "text": ("a", "b")}, r"kind 'text' names 1 text columns, got \['a', 'b'\]"),
        ({"kind": "text-pair", "text": ("a",)}, r"kind 'text-pair' names 2 text columns, got \['a'\]"),
        ({"kind": "image"}, "kind 'image' needs `image` column"),
        ({"kind": "image", "image": "i", "text": ("a",)}, "kind 'image' names 0 text columns"),
        ({"kind": "text", "text": ("a",), "image": "i"}, "kind 'text' takes no `image` column"),
        ({"kind": "audio"}, "'text', 'text-pair' or 'image'"),
        ({"kind": "text", "text": ("a",), "lable": "x"}, "Extra inputs are not permitted"),
        ({"kind": "text", "text": ("a",), "metric": {"load": "x", "kee": "y"}}, "Extra inputs are not permitted"),
    ],
)
def test_columns_must_fit_the_kind(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Task(path="any", **fields)


def test_an_image_task_reads_its_image_column_alone() -> None:
    assert Task(kind="image", path="any", image="img").columns == ("img",)


def test_a_task_and_its_metric_survive_json() -> None:
    metric = MetricByEvaluate(load="metrics/half", key="half", arguments={"factor": 2})
    task = Task(kind="text", path="any", text=("t",), metric=metric)
    assert Task.model_validate_json(task.model_dump_json()) == task


def test_a_task_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        named_task("glue/rte").path = "other"


def test_one_text_column_may_be_a_plain_text() -> None:
    task = Task(kind="text", path="x", text="review", shifts={"far": {"split": "test", "text": "body"}})
    assert task.text == ("review",)
    assert task.of_shift("far").text == ("body",)
    with pytest.raises(ValueError, match="names 2 text columns"):
        Task(kind="text-pair", path="x", text="review")
