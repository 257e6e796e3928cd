"""How recipes say what a row's label is, and how columns of lists, of 0 and 1 and of numbers are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from hf_soups.data import load_report, load_splits
from hf_soups.data.load import splits_from_datasets
from hf_soups.data.split import strata, stratified_rows
from hf_soups.errors import DataError, RecipeError
from hf_soups.recipe import Data, load_recipe, recipe_from
from hf_soups.recipe.task import Task, named_task

TEXT: dict[str, Any] = {"kind": "text", "path": "x", "text": ["text"]}


def task(**changes: Any) -> Task:
    return Task.model_validate({**TEXT, **changes})


@pytest.mark.parametrize(
    ("written", "problem_type", "kind", "metric"),
    [
        ({}, "classification", "text", "accuracy"),
        ({"problem_type": "multi-label"}, "multi-label", "text", "f1_micro"),
        ({"problem_type": "multi_label_classification"}, "multi-label", "text", "f1_micro"),
        ({"problem_type": "single_label_classification"}, "classification", "text", "accuracy"),
        ({"problem_type": "regression", "metric": "rmse"}, "regression", "text", "rmse"),
        ({"kind": "regression"}, "regression", "text", "pearson"),
        ({"kind": "multi-label", "text": ["a", "b"]}, "multi-label", "text-pair", "f1_micro"),
        ({"kind": "multi-label", "text": [], "image": "image"}, "multi-label", "image", "f1_micro"),
        ({"labels": ["a", "b"]}, "multi-label", "text", "f1_micro"),
        ({"label": ["a", "b"]}, "multi-label", "text", "f1_micro"),
    ],
)
def test_a_recipe_says_what_the_labels_are(written: dict, problem_type: str, kind: str, metric: str) -> None:
    found = task(**written)
    assert (found.problem_type, found.kind, found.metric) == (problem_type, kind, metric)
    assert Task(**found.model_dump()) == found


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": {**TEXT, "problem_type": "ranking"}},
            "`task.problem_type`: Input should be 'classification'",
        ),
        ({"task": {**TEXT, "problem_type": "regression", "labels": ["a", "b"]}}, "are for multi-label, not regression"),
        (
            {"task": {**TEXT, "problem_type": "regression", "label_names": ["a"]}},
            "a regression has none; leave them out",
        ),
        (
            {"task": {**TEXT, "kind": "multi-label", "shifts": {"b": {"split": "c", "only_its_classes": True}}}},
            "shifts.b: label_names and only_its_classes are for classification",
        ),
        (
            {"task": {**TEXT, "kind": "regression"}, "train": {"label_smoothing": 0.1}},
            "train.label_smoothing is of classes, and a regression has none",
        ),
        (
            {"task": {**TEXT, "kind": "multi-label"}, "head": {"init": "zero-shot"}},
            "head.init: zero-shot answers one of several classes, not rows of multi-label",
        ),
    ],
)
def test_what_does_not_go_together_is_refused(changes: dict, message: str) -> None:
    with pytest.raises(RecipeError) as refused:
        recipe_from({"model": "m", **changes})
    assert message in str(refused.value)


def test_stsb_is_a_regression_by_name_with_a_recipe() -> None:
    stsb = named_task("glue/stsb")
    assert (stsb.problem_type, stsb.config, stsb.metric) == ("regression", "stsb", "pearson_spearman")
    recipes = sorted((Path(__file__).parents[2] / "recipes/glue").glob("stsb-*.yaml"))
    assert recipes
    assert all(load_recipe(path).task == stsb for path in recipes)


def test_stsbs_rows_as_glue_has_them_are_read() -> None:
    """float32 labels of 0 to 5, and an index that is no text."""
    features = Features(
        {"sentence1": Value("string"), "sentence2": Value("string"), "label": Value("float32"), "idx": Value("int32")}
    )
    made = {"sentence1": ["a"] * 20, "sentence2": ["b"] * 20, "label": [0.25 * i for i in range(20)], "idx": range(20)}
    rows = Dataset.from_dict({key: list(values) for key, values in made.items()}, features=features)
    splits = splits_from_datasets(named_task("glue/stsb"), rows, rows, Data(select_minimum=5))
    assert splits.label_names == ("label",)
    assert splits.report.labels.tolist() == made["label"]
    assert splits.report.problem_type == "regression"


def read(columns: dict[str, list], *, features: Features | None = None, **changes: Any) -> tuple[Any, tuple[str, ...]]:
    rows = len(next(iter(columns.values())))
    table = Dataset.from_dict({"text": ["t"] * rows, **columns}, features=features)
    splits = splits_from_datasets(task(**changes), table, table, Data(select_minimum=1))
    return splits.report.labels, splits.label_names


MARKS = [[1, 0, 1], [0, 0, 0], [0, 1, 0], [1, 1, 1]]


def test_columns_of_0_and_1_are_read_by_name() -> None:
    a, b, c = (list(column) for column in zip(*MARKS, strict=True))
    for cells in (a, [bool(v) for v in a], [float(v) for v in a], [str(v) for v in a]):
        labels, names = read({"a": cells, "b": b, "c": c}, labels=["a", "b", "c"])
        assert (labels.tolist(), names) == (MARKS, ("a", "b", "c"))
    assert read({"a": a, "b": b}, label=["b", "a"], label_names=["B", "A"])[1] == ("B", "A")


def test_lists_of_names_of_codes_and_of_marks_are_read() -> None:
    words = [["x", "z"], [], ["y"], ["z", "y", "x"]]
    assert read({"label": words}, problem_type="multi-label")[0].tolist() == MARKS
    assert read({"label": words}, kind="multi-label", label_names=["z", "y", "x"])[0].tolist() == [
        m[::-1] for m in MARKS
    ]
    codes = [[0, 2], [], [1], [2, 1, 0]]
    features = Features({"text": Value("string"), "label": List(ClassLabel(names=["x", "y", "z"]))})
    labels, names = read({"label": codes}, features=features, kind="multi-label")
    assert (labels.tolist(), names) == (MARKS, ("x", "y", "z"))
    assert read({"label": codes}, kind="multi-label", label_names=["x", "y", "z"])[0].tolist() == MARKS
    for marks in (MARKS, [[float(v) for v in row] for row in MARKS]):
        labels, names = read({"label": marks}, kind="multi-label", label_names=["x", "y", "z"])
        assert (labels.tolist(), names) == (MARKS, ("x", "y", "z"))
    assert read({"label": MARKS}, kind="multi-label")[1] == ("0", "1", "2")


@pytest.mark.parametrize(
    ("columns", "changes", "message"),
    [
        ({"a": [0, 1, 3]}, {"labels": ["a"]}, r"row 2 has 3 in label column 'a'; expected 0 or 1"),
        ({"a": [0, 1, None]}, {"labels": ["a"]}, r"row 2 has None in label column 'a'; expected 0 or 1"),
        ({"a": [0, 1, 1]}, {"labels": ["a", "b"]}, r"no column 'b'; there are: text, a"),
        ({"a": [0, 1, 1]}, {"labels": ["a"], "label_names": ["x", "y"]}, "2 label_names for 1 label columns"),
        ({"label": ["x", "y", "x"]}, {"kind": "multi-label"}, "holds string, not lists of labels"),
        ({"label": [["x"], None, ["y"]]}, {"kind": "multi-label"}, "row 1 has no list of labels in column 'label'"),
        ({"label": [["x"], ["w"]] * 2}, {"kind": "multi-label", "label_names": ["x", "y"]}, "row 1 has the label 'w'"),
        ({"label": [1.5, None, 2.0]}, {"kind": "regression"}, r"row 1 has no number in column 'label' \(1 of 3 rows\)"),
        ({"label": ["1.5", "2", "3"]}, {"kind": "regression"}, "holds string, not numbers. A regression needs numbers"),
        ({"label": [2.0, 2.0, 2.0]}, {"kind": "regression"}, r"all have the same labels \(2\), so there is nothing to"),
        ({"a": [1, 1, 1]}, {"labels": ["a"]}, r"all have the same labels \(1\), so there is nothing to learn from"),
    ],
)
def test_a_cell_that_is_no_label_is_named(columns: dict, changes: dict, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read(columns, **changes)


def test_every_label_has_its_share_of_a_subset() -> None:
    random = np.random.default_rng(0)
    marks = (random.random((1000, 4)) < (0.5, 0.2, 0.1, 0.01)).astype(int)
    rows = stratified_rows(strata(marks), 200, 0)
    np.testing.assert_allclose(marks[rows].mean(axis=0), marks.mean(axis=0), atol=0.06)
    assert marks[rows, 3].sum() >= 1
    numbers = random.exponential(size=1000)
    some = stratified_rows(strata(numbers), 100, 0)
    inside = np.histogram(numbers[some], np.quantile(numbers, np.linspace(0, 1, 11)))[0]
    assert inside.tolist() == pytest.approx([10] * 10, abs=1)


def test_the_report_rows_alone_are_those_of_all_splits(tmp_path: Path) -> None:
    for name in ("train", "validation"):
        (tmp_path / f"{name}.csv").write_text("text,a,b,n\n" + "".join(f"t{i},{i % 2},1,{i}.5\n" for i in range(9)))
    place = {"path": str(tmp_path), "train": "train.csv", "report": "validation.csv"}
    for written in ({"labels": ["a", "b"]}, {"kind": "regression", "label": "n"}):
        alone = load_report(task(**place, **written), Data())
        assert alone is not None
        assert len(alone) == 9


def test_a_fingerprint_changes_with_a_number() -> None:
    def of(last: float) -> str:
        table = Dataset.from_dict({"text": ["t"] * 4, "label": [0.5, 1.5, 2.5, last]})
        return splits_from_datasets(task(kind="regression"), table, table, Data(select_minimum=1)).report.fingerprint

    assert of(3.5) == of(3.5) != of(3.25)


def test_a_task_of_classes_is_written_as_before_there_were_other_problem_types() -> None:
    assert {"problem_type", "labels"}.isdisjoint(task().model_dump(mode="json"))
    assert task(labels=["a", "b"]).model_dump(mode="json")["labels"] == ["a", "b"]


def test_lists_and_columns_come_from_files_of_any_form(tmp_path: Path) -> None:
    words = [["x", "z"], [], ["y"], ["z", "y", "x"]]
    lines = [f'{{"text": "t{i}", "tags": {json.dumps(of_row)}}}' for i, of_row in enumerate(words * 3)]
    for name in ("train", "validation"):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        rows = "".join(f"t{i};{';'.join(map(str, MARKS[i % 4]))};{i},5\n" for i in range(12))
        (tmp_path / f"{name}.csv").write_text("text;x;y;z;n\n" + rows.replace(",", "."))
    by_list = {"path": str(tmp_path), "train": "train.jsonl", "report": "validation.jsonl", "label": "tags"}
    by_column = {"path": str(tmp_path), "train": "train.csv", "report": "validation.csv"}
    data = Data(select_minimum=2)
    for written in ({**by_list, "problem_type": "multi-label"}, {**by_column, "labels": ["x", "y", "z"]}):
        splits = load_splits(task(**written), data)
        assert splits.label_names == ("x", "y", "z")
        assert splits.report.labels.tolist() == MARKS * 3
    numbers = load_splits(task(**by_column, label="n", kind="regression"), data).report.labels
    assert numbers.tolist() == [i + 0.5 for i in range(12)]
