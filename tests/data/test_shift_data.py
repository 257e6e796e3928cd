"""Shifts as data: what a recipe may say, classes matched by name, and every way in which they do not fit."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
from datasets import ClassLabel, Dataset, Features, Value
from pydantic import ValidationError

from hf_soups.data import Split, load_splits
from hf_soups.data.load import shift_from_dataset
from hf_soups.errors import DataError, RecipeError
from hf_soups.recipe import Data, recipe_from
from hf_soups.recipe.task import Task, named_task

PETS = ("bird", "cat", "dog", "frog")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


def task(shift: Any, **fields: Any) -> Task:
    about = {"kind": "text", "path": "pets", "text": ("text",), "label_names": PETS, **fields}
    return Task(**about, shifts={"farm": shift})


def rows(labels: list[Any], feature: Any, **columns: list[str]) -> Dataset:
    texts = columns or {"text": [f"row {i}" for i in range(len(labels))]}
    features = Features({**{name: Value("string") for name in texts}, "label": feature})
    return Dataset.from_dict({**texts, "label": labels}, features=features)


def shifted(labels: list[Any], feature: Any, shift: dict[str, Any] | None = None, **fields: Any) -> Split:
    return shift_from_dataset(
        task({"split": "farm", **(shift or {})}, **fields), "farm", rows(labels, feature), PETS, 0
    )


def names(split: Split) -> list[str]:
    return [split.label_names[label] for label in split.labels]


# --- classes by name


def test_a_subset_of_classes_in_another_order_is_matched_by_name() -> None:
    split = shifted([0, 1, 1, 0], ClassLabel(names=["dog", "bird"]))
    assert names(split) == ["dog", "bird", "bird", "dog"]
    assert split.labels.tolist() == [2, 0, 0, 2]
    assert (split.label_names, split.role) == (PETS, "shift")


def test_texts_are_class_names() -> None:
    assert names(shifted(["frog", "cat"], Value("string"))) == ["frog", "cat"]


def test_numbers_count_through_the_tasks_label_names() -> None:
    assert names(shifted([3, 0], Value("int64"))) == ["frog", "bird"]


def test_numbers_count_through_the_shifts_own_label_names_where_it_has_them() -> None:
    assert names(shifted([0, 1], Value("int64"), {"label_names": ["frog", "dog"]})) == ["frog", "dog"]


def test_label_names_rename_classes_in_the_order_of_their_column() -> None:
    renamed = {"label_names": ["dog", "dog", "bird"]}  # two kinds of dogs are one class of the task
    assert names(shifted([2, 1, 0], ClassLabel(names=["poodle", "collie", "gull"]), renamed)) == ["bird", "dog", "dog"]
    in_order = {"label_names": ["dog", "bird", "cat"]}  # of the sorted values: collie, gull, manx
    assert names(shifted(["manx", "gull", "collie"], Value("string"), in_order)) == ["cat", "bird", "dog"]


def test_a_class_that_no_row_has_need_not_be_the_tasks() -> None:
    assert names(shifted([1, 1], ClassLabel(names=["horse", "cat"]))) == ["cat", "cat"]


def test_a_class_that_the_task_lacks_is_an_error_with_both_lists() -> None:
    with pytest.raises(
        DataError, match=r"holds rows of 'horse', which the task lacks\. The shift's classes: horse, ca"
    ):
        shifted([0, 1], ClassLabel(names=["horse", "cat"]))
    with pytest.raises(DataError, match=r"the task's: bird, cat, dog, frog\. Give the shift `label_names`"):
        shifted(["cat", "horse"], Value("string"))


def test_numbers_are_not_guessed_where_neither_side_names_them() -> None:
    with pytest.raises(DataError, match="holds rows of '0', '1', which the task lacks"):
        shifted([0, 1], Value("int64"), label_names=None)


def test_too_few_label_names_are_an_error_that_lists_the_columns_classes() -> None:
    with pytest.raises(
        DataError, match=r"label_names holds 1 names \(dog\), but column 'label' has 2 classes \(a, b\)"
    ):
        shifted([0, 1], ClassLabel(names=["a", "b"]), {"label_names": ["dog"]})


def test_a_row_without_a_label_is_refused() -> None:
    with pytest.raises(DataError, match=r"row 1 has no label in column 'label'"):
        shifted([0, -1], Value("int64"))


# --- columns and rows


def test_columns_take_the_tasks_names_even_when_they_swap() -> None:
    pair = {"kind": "text-pair", "text": ("first", "second")}
    table = rows([0, 1], Value("int64"), first=["a", "b"], second=["c", "d"])
    split = shift_from_dataset(task({"split": "x", "text": ["second", "first"]}, **pair), "farm", table, PETS, 0)
    assert (split.rows["first"][:], split.rows["second"][:]) == (["c", "d"], ["a", "b"])


def test_equal_rows_have_equal_fingerprints_whatever_their_columns_are_called() -> None:
    other = rows([0, 1], Value("int64"), review=["row 0", "row 1"]).rename_column("label", "stars")
    named = task({"split": "farm", "text": ["review"], "label": "stars"})
    split = shift_from_dataset(named, "farm", other, PETS, 0)
    assert split.fingerprint == shifted([0, 1], Value("int64")).fingerprint


def test_a_subset_is_stratified_and_keeps_the_rows_ids() -> None:
    split = shifted([0] * 40 + [1] * 20, Value("int64"), {"rows": 12})
    assert (len(split), split.labels.sum()) == (12, 4)
    assert [split.rows["text"][i] for i in range(12)] == [f"row {i}" for i in split.row_ids]


def test_answers_can_be_kept_to_the_classes_that_the_shift_has_rows_of() -> None:
    feature = ClassLabel(names=["dog", "bird", "cat"])  # no row is a cat
    kept = shifted([0, 1, 1, 0] * 5, feature, {"only_its_classes": True, "rows": 6})
    free = shifted([0, 1, 1, 0] * 5, feature, {"rows": 6})
    assert (kept.answerable, free.answerable) == ((0, 2), None)
    assert kept.take([0]).answerable == (0, 2)  # a bird alone is still asked against dogs
    assert kept.fingerprint != free.fingerprint  # answers to one question are not taken for the other's


# --- what a recipe says


def write(path: Path, labels: list[str]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([["text", "label"], *([f"{path.stem} {i}", name] for i, name in enumerate(labels))])
    return path


def test_shifts_lie_beside_the_three_roles_and_change_none_of_them(tmp_path: Path) -> None:
    for name, labels in {"train": ["cat", "dog"] * 50, "validation": ["dog", "cat"], "far": ["dog"] * 3}.items():
        write(tmp_path / f"{name}.csv", labels)
    elsewhere = write(tmp_path / "other.csv", ["cat", "cat"])
    about = {"kind": "text", "path": str(tmp_path), "text": ("text",), "train": "train.csv", "report": "validation.csv"}
    data = Data(select_minimum=10)
    plain = load_splits(Task(**about), data)
    splits = load_splits(
        Task(**about, shifts={"far": "far.csv", "other": {"path": str(elsewhere), "split": "train"}}), data
    )
    assert list(splits.answered) == ["select", "report", "shift-far", "shift-other"]
    assert [names(s) for s in splits.shifts.values()] == [["dog"] * 3, ["cat"] * 2]
    assert splits.shifts["far"].source == f"{tmp_path}:far.csv"
    for role in ("train", "select", "report"):
        assert getattr(splits, role).fingerprint == getattr(plain, role).fingerprint


def test_an_error_names_the_shift(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", ["cat", "dog"] * 50)
    write(tmp_path / "far.csv", ["horse"])
    about = {"kind": "text", "path": str(tmp_path), "text": ("text",), "train": "train.csv", "report": "train.csv"}
    with pytest.raises(DataError, match=r"task\.shifts\.far: .*far\.csv: holds rows of 'horse'"), pytest.warns():
        load_splits(Task(**about, shifts={"far": "far.csv"}), Data())
    with pytest.raises(DataError, match=r"task\.shifts\.gone: .*no file matches"), pytest.warns():
        load_splits(Task(**about, shifts={"gone": "gone.csv"}), Data())


def test_what_is_not_given_is_the_tasks_own() -> None:
    glue = named_task("glue/sst2", revision="r", shifts={"a": "test", "b": {"path": "p", "split": "s", "config": "c"}})
    assert glue.of_shift("a") == named_task("glue/sst2", revision="r", report="test")
    assert glue.of_shift("b") == named_task("glue/sst2", path="p", config="c", revision=None, report="s")
    other_config = named_task("glue/sst2", shifts={"a": {"config": "c", "split": "s"}}).of_shift("a")
    assert (other_config.path, other_config.config) == ("nyu-mll/glue", "c")


def test_another_data_set_does_not_inherit_the_tasks_config() -> None:
    glue = named_task("glue/sst2", revision="r", shifts={"b": {"path": "p", "split": "s"}})
    assert (glue.of_shift("b").config, glue.of_shift("b").revision) == (None, None)


@pytest.mark.parametrize("name", ["train", "select", "report", "two words", "a-b", "1st", "", "a/b", "../x"])
def test_a_shifts_name_is_a_word(name: str) -> None:
    with pytest.raises(ValidationError, match="cannot be a shift's name"):
        named_task("glue/sst2", shifts={name: "test"})


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ({"path": "p"}, r"`task\.shifts\.x\.split`: Field required"),
        ({"split": "s", "pth": "p"}, r"unknown key `task\.shifts\.x\.pth`; did you mean `path`\?"),
        ({"split": "s", "text": ["a", "b"]}, r"shifts\.x: the task has 1 text columns, got \['a', 'b'\]"),
        ({"split": "s", "image": "img"}, r"shifts\.x: the task's rows are texts, got the image column 'img'"),
        ({"split": "s", "rows": 0}, r"`task\.shifts\.x\.rows`"),
        ("train", r"shifts\.x: 'train' is the split that models are trained on"),
    ],
)
def test_a_shift_that_cannot_be_meant_is_refused(shift: Any, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from({"task": {"name": "glue/sst2", "shifts": {"x": shift}}, "model": "m"})
