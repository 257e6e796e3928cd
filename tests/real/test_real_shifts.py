"""The shifts beside the real data: their published rows and classes, matched with the tasks' by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hf_soups.data import load_splits, read_image
from hf_soups.recipe import Data
from hf_soups.recipe.task import Task, named_task

pytestmark = pytest.mark.real

CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize(
    ("task", "name", "shift", "rows", "second"),
    [
        ("glue/sst2", "books", {"path": "multi_domain_sentiment", "config": "books", "split": "test"}, 1000, 497),
        ("glue/mrpc", "pan", {"path": "pan_paraphrase", "split": "train"}, 2000, 1011),
    ],
)
def test_text_shifts_have_their_rows_and_the_tasks_classes(
    shared: Path, task: str, name: str, shift: dict[str, Any], rows: int, second: int
) -> None:
    """Row counts as the folders' README files give them; rows of the second class as counted in the files."""
    at = shared / "data"
    told = named_task(task, path=str(at / "glue"), shifts={name: {**shift, "path": str(at / shift["path"])}})
    split = load_splits(told, Data()).shifts[name]
    assert (len(split), int(split.labels.sum())) == (rows, second)
    assert split.label_names == told.label_names
    assert set(told.columns) < set(split.rows.column_names)
    feature = split.rows.features["label"]
    assert [feature.names[i] for i in split.rows["label"]] == [split.label_names[i] for i in split.labels]


def test_the_book_reviews_mean_what_their_labels_say(shared: Path) -> None:
    """Words, not labels, as the oracle: swapped classes would turn both around."""
    place = shared / "data"
    books = {"path": str(place / "multi_domain_sentiment"), "split": "test"}
    split = load_splits(named_task("glue/sst2", path=str(place / "glue"), shifts={"books": books}), Data()).shifts[
        "books"
    ]
    texts = np.asarray([text.lower() for text in split.rows["sentence"]])
    for word, label in (
        ("waste", "negative"),
        ("boring", "negative"),
        ("wonderful", "positive"),
        ("excellent", "positive"),
    ):
        holds = np.asarray([word in text for text in texts])
        share = np.mean(split.labels[holds] == split.label_names.index(label))
        assert holds.sum() > 20
        assert share > 0.6, word


def test_the_image_shift_has_seven_of_the_ten_classes(shared: Path) -> None:
    place = shared / "data"
    shift = {"path": str(place / "cifar10_tiny_imagenet_shift"), "split": "test"}
    task = Task(kind="image", path=str(place / "cifar10"), image="img", report="test", shifts={"tiny": shift})
    splits = load_splits(task, Data())
    split = splits.shifts["tiny"]
    assert splits.label_names == CIFAR
    counts = {CIFAR[i]: int(n) for i, n in enumerate(np.bincount(split.labels, minlength=10)) if n}
    assert sum(counts.values()) == len(split) == 575
    assert set(counts) == {"automobile", "bird", "cat", "dog", "frog", "ship", "truck"}
    assert all(n % 25 == 0 for n in counts.values())  # 23 classes of 25 images
    assert read_image(split, 0).size == (32, 32)
