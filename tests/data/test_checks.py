"""What is odd about rows is said before anything is trained on them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset

from hf_soups.data import Splits, load_splits, splits_from_datasets
from hf_soups.data.checks import checked, warn_of_rows
from hf_soups.errors import DataWarning
from hf_soups.recipe import Data
from hf_soups.recipe.task import Task
from tests.data.test_data import image_folder, image_task


def task(**fields: Any) -> Task:
    return Task(**{"kind": "text", "path": "reviews", "text": "text", **fields})


def splits(train: dict[str, list[Any]], report: dict[str, list[Any]], about: Task) -> Splits:
    data = Data(select_minimum=4, select_fraction=0.01)
    return splits_from_datasets(about, Dataset.from_dict(train), Dataset.from_dict(report), data)


def texts(start: int, count: int) -> list[str]:
    return [f"text {i}" for i in range(start, start + count)]


def found(train: dict[str, list[Any]], report: dict[str, list[Any]], **fields: Any) -> tuple[str, ...]:
    about = task(**fields)
    return checked(splits(train, report, about), about).warnings


def test_ordinary_rows_are_counted_and_nothing_is_odd() -> None:
    about = task()
    of_rows = splits(
        {"text": texts(0, 20), "label": ["a", "b"] * 10}, {"text": texts(50, 6), "label": ["a", "b"] * 3}, about
    )
    check = checked(of_rows, about)
    assert check.lines() == [
        "rows: 16 train, 4 select, 6 report",
        "classes: 'a' 8/2/3, 'b' 8/2/3 (train/select/report)",
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_rows(of_rows, about)


def test_of_many_classes_the_smallest_and_the_largest_are_shown() -> None:
    labels = [str(i) for i in range(12)] * 4 + ["7"] * 9
    about = task()
    rows = {"text": texts(0, len(labels)), "label": labels}
    line = checked(splits(rows, {"text": texts(90, 12), "label": labels[:12]}, about), about).lines()[1]
    assert line.startswith("classes: 12, from '0' ")
    assert " to '7' " in line


def test_rows_that_are_in_two_splits_are_counted() -> None:
    train = {"text": [*texts(0, 19), "text 18"], "label": ["a", "b"] * 10}
    (line,) = [w for w in found(train, {"text": ["text 3 ", *texts(50, 5)], "label": ["b", "a"] * 3}) if "report" in w]
    assert line.startswith("1 of 6 report rows have the text of a ")
    assert "(the first: row 0 of reviews:validation)" in line


def test_of_pairs_both_texts_must_be_equal() -> None:
    train = {"q": texts(0, 20), "a": texts(100, 20), "label": ["x", "y"] * 10}
    fields = {"kind": "text-pair", "text": ("q", "a")}
    assert not found(train, {"q": ["text 3"], "a": ["text 104"], "label": ["x"] * 1}, **fields)[1:]
    assert "1 of 1 report rows have the text of a" in found(
        train, {"q": ["text 3"], "a": ["text 103"], "label": ["y"]}, **fields
    )[-1]  # fmt: skip


def test_images_that_are_in_two_splits_are_counted(tmp_path: Path) -> None:
    about = image_task(image_folder(tmp_path / "pictures"))
    of_images = load_splits(about, Data(select_minimum=4))
    told = checked(of_images, about).warnings
    assert [line.partition(" (")[0] for line in told] == [
        "8 of 12 report rows have the image of a train row",
        "4 of 12 report rows have the image of a select row",
    ]


def test_texts_of_blanks_alone_are_told_and_are_no_duplicates() -> None:
    train = {"text": [*texts(0, 18), "  ", ""], "label": ["a", "b"] * 10}
    told = found(train, {"text": ["", *texts(50, 5)], "label": ["a", "b"] * 3})
    assert any("1 of 6 report rows have no text in column 'text', or blanks alone (the first: row 0" in w for w in told)
    assert not any("have the text of" in w for w in told)


def test_spellings_that_differ_by_blanks_or_capitals_are_told() -> None:
    labels = ["good", "bad", "Good", "bad ", "bad"] * 6
    names = {"label_names": ("good", "bad", "Good", "bad ")}
    told = found({"text": texts(0, 30), "label": labels}, {"text": texts(50, 4), "label": labels[:4]}, **names)
    spelled = [w for w in told if "capitals alone" in w]
    assert any("'good' (7 rows), 'Good' (7 rows)" in w for w in spelled)
    assert any("'bad' (13 rows), 'bad ' (7 rows)" in w for w in spelled)


def test_classes_without_rows_are_told() -> None:
    train = {"text": texts(0, 20), "label": ["a", "b"] * 10}
    told = found(train, {"text": texts(50, 2), "label": ["a", "a"]}, label_names=("a", "b", "c"))
    assert "train has no row of 'c': it cannot be learned." in told
    assert "report has no row of 'b', 'c': no score sees it." in told


def test_what_is_odd_is_warned_of() -> None:
    about = task()
    odd = splits({"text": texts(0, 20), "label": ["a", "b"] * 10}, {"text": ["text 1"], "label": ["b"]}, about)
    with (
        pytest.warns(DataWarning, match="no row of 'a'"),
        pytest.warns(DataWarning, match="1 of 1 report rows have the text of"),
    ):
        warn_of_rows(odd, about)
