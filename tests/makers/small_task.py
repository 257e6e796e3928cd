"""Small tasks that tiny models learn in a second: texts in csv files, images in parquet files."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from hf_soups.recipe import Recipe, recipe_from
from tests.makers.tiny import IMAGE_SIZE, WORDS

LEARNS = {"learning_rate": 3e-3, "epochs": 6, "batch_size": 16}  # enough for tiny_bert to tell the classes apart


def write_texts(folder: Path, *, train: int = 200, report: int = 41) -> None:
    """Sentences whose words tell "pos" (two in five) from "neg", of 1 to 14 words."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, seed in (("train", train, 0), ("validation", report, 1)):
        random = np.random.default_rng(seed)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", "label"])
            for _ in range(rows):
                positive = random.random() < 0.4
                words = random.choice(WORDS[:40] if positive else WORDS[30:70], int(random.integers(1, 15)))
                writer.writerow([" ".join(words), "pos" if positive else "neg"])


def text_recipe(folder: Path, model: Path, **changes: Any) -> Recipe:
    """A recipe on the texts in `folder`; `changes` are values of its parts, such as train={...}."""
    if not (folder / "train.csv").exists():
        write_texts(folder)
    task = {"kind": "text", "path": str(folder), "text": ["text"], "train": "train.csv", "report": "validation.csv"}
    return _recipe(task, model, changes)


def write_images(folder: Path, *, train: int = 150, report: int = 31) -> None:
    """Noise with a bright band at the top, in the middle or at the bottom: three classes."""
    from datasets import ClassLabel, Dataset, Features, Image

    folder.mkdir(parents=True, exist_ok=True)
    features = Features({"image": Image(), "label": ClassLabel(names=["top", "middle", "bottom"])})
    for name, rows, seed in (("train", train, 0), ("validation", report, 1)):
        random = np.random.default_rng(seed)
        labels = random.integers(0, 3, rows)
        images = random.integers(0, 120, (rows, IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[label * 11 : label * 11 + 10] += 120
        table = Dataset.from_dict({"image": list(images), "label": labels.tolist()}, features=features)
        table.to_parquet(folder / f"{name}.parquet")


def image_recipe(folder: Path, model: Path, **changes: Any) -> Recipe:
    """A recipe on the images in `folder`."""
    if not (folder / "train.parquet").exists():
        write_images(folder)
    task = {"kind": "image", "path": str(folder), "image": "image", "train": "train.parquet",
            "report": "validation.parquet"}  # fmt: skip
    return _recipe(task, model, changes)


def _recipe(task: dict[str, Any], model: Path, changes: dict[str, Any]) -> Recipe:
    data = {"select_minimum": 40, **changes.pop("data", {})}
    train = {**LEARNS, **changes.pop("train", {})}
    return recipe_from({"name": "small", "task": task, "model": str(model), "data": data, "train": train, **changes})
