"""With `on_error: skip` broken images and rows without text are left out, counted and named; else they end the job."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from hf_soups.data import load_splits
from hf_soups.data.load import load_report
from hf_soups.errors import DataError, DataWarning
from hf_soups.finetune import finetune
from hf_soups.pool.predict import predict_pool
from hf_soups.pool.store import read_pool
from hf_soups.recipe import Recipe
from hf_soups.recipe.recipe import recipe_from
from tests.makers.tiny import tiny_bert, tiny_vit

ROWS = 12


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_SOUPS_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of images in two classes; the third of class a is broken in both splits."""
    random = np.random.default_rng(0)
    for split in ("train", "validation"):
        for name in ("a", "b"):
            folder = tmp_path / "images" / split / name
            folder.mkdir(parents=True)
            for i in range(ROWS // 2):
                pixels = random.integers(0, 120, (32, 32, 3), dtype=np.uint8) + np.uint8(100 * (name == "b"))
                Image.fromarray(pixels).save(folder / f"{i}.png")
        (tmp_path / f"images/{split}/a/2.png").write_bytes(b"no image")
    return tmp_path / "images"


def recipe_of(images: Path, **data: object) -> Recipe:
    model = images.parent / "vit"
    if not model.exists():
        tiny_vit(model, labels=2)
    task = {"kind": "image", "path": str(images), "image": "image", "train": "train", "report": "validation"}
    return recipe_from(
        {
            "name": "small",
            "task": task,
            "model": str(model),
            "data": {"select_minimum": 2, **data},
            "train": {"epochs": 1, "batch_size": 4},
        }
    )


def test_by_default_the_job_ends_and_names_the_file(images: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a/2.png: cannot identify image file"):
        finetune(recipe_of(images), out=tmp_path / "run", progress=False)


def test_skipped_rows_are_counted_and_named_and_the_others_keep_their_ids(images: Path) -> None:
    recipe = recipe_of(images, on_error="skip")
    with pytest.warns(
        DataWarning, match=r"1 of 12 report rows cannot be read and are left out: row 2: the image .*2\.png"
    ):
        report = load_report(recipe.task, recipe.data)
    assert report is not None
    assert report.row_ids.tolist() == [0, 1, *range(3, ROWS)]
    whole = load_report(recipe.task, recipe_of(images).data)
    assert whole is not None
    assert whole.fingerprint != report.fingerprint
    assert load_splits(recipe.task, recipe.data).report.fingerprint == report.fingerprint


def test_a_fine_tune_goes_on_without_them(images: Path, tmp_path: Path) -> None:
    run = finetune(recipe_of(images, on_error="skip"), out=tmp_path / "run", progress=False)
    rows = json.loads((run / "run.json").read_text())["recipe"]["data"]
    assert rows["on_error"] == "skip"


def test_a_pool_goes_on_without_them(images: Path, tmp_path: Path) -> None:
    model = tiny_vit(tmp_path / "vit", labels=2)
    how = {"data": str(images), "split": "validation", "progress": False, "assume_label_order": True}
    with pytest.warns(DataWarning, match="1 of 12"):
        predict_pool([model], out=tmp_path / "pool", on_error="skip", **how)
    assert len(read_pool(tmp_path / "pool").predictions["vit"]) == ROWS - 1
    with pytest.raises(DataError, match=r"2.png: cannot identify"):
        predict_pool([model], out=tmp_path / "other", **how)


def test_images_are_decoded_once_to_find_them(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from hf_soups.data import unreadable

    recipe = recipe_of(images, on_error="skip")
    load_report(recipe.task, recipe.data)

    def never(*_: object) -> None:
        raise AssertionError("decoded again")

    monkeypatch.setattr(unreadable, "picture", never)
    report = load_report(recipe.task, recipe.data)
    assert report is not None
    assert len(report) == ROWS - 1


def test_rows_without_text_are_left_out_too(tmp_path: Path) -> None:
    with (tmp_path / "test.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("text", "label"), ("a cat", 0), ("", 1), ("a dog", 1), ("the cat", 0)])
    model = tiny_bert(tmp_path / "bert")
    how = {"data": str(tmp_path / "test.csv"), "progress": False, "assume_label_order": True}
    with pytest.warns(DataWarning, match="1 of 4 .* row 1: column 'text' holds no text"):
        predict_pool([model], out=tmp_path / "pool", on_error="skip", **how)
    assert read_pool(tmp_path / "pool").predictions["bert"].row_ids.tolist() == [0, 2, 3]


def test_where_none_can_be_read_there_is_nothing_to_go_on_with(images: Path) -> None:
    for path in (images / "validation").glob("*/*.png"):
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match="none of its 12 report rows can be read"):
        load_report(recipe_of(images, on_error="skip").task, recipe_of(images, on_error="skip").data)
