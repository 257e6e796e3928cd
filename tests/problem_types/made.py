"""Texts with any number of labels, or with a number, that a tiny model learns in a second; and their recipes."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from tests.makers.tiny import WORDS

LABELS = ("animals", "places", "praise")
OF_LABEL = (WORDS[3:5], WORDS[10:14], WORDS[14:20])
TRAIN = {"learning_rate": 5e-3, "epochs": 15, "batch_size": 16}


def write_rows(folder: Path, *, train: int = 160, report: int = 60) -> Path:
    """train.csv and validation.csv: a text, 0 or 1 for each of `LABELS`, and their sum with a fraction as `stars`."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows, seed in (("train", train, 0), ("validation", report, 1)):
        random = np.random.default_rng(seed)
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["text", *LABELS, "stars"])
            for _ in range(rows):
                has = random.random(3) < (0.5, 0.4, 0.3)
                words = [str(random.choice(own)) for own, on in zip(OF_LABEL, has, strict=True) for _ in range(3) if on]
                filler = [str(word) for word in random.choice(WORDS[50:70], 4)]
                writer.writerow([" ".join([*words, *filler]), *has.astype(int), round(has.sum() + 0.25, 2)])
    return folder


def recipe(folder: Path, model: Path, *, task: dict[str, Any], **changes: Any) -> Path:
    """A recipe file over `write_rows(folder)`: three runs of a sweep."""
    write_rows(folder)
    content = {
        "task": {"path": str(folder), "text": ["text"], "train": "train.csv", "report": "validation.csv", **task},
        "model": str(model),
        "data": {"select_minimum": 50},
        "train": {**TRAIN, **changes.pop("train", {})},
        "sweep": {"runs": 3, "space": {"learning_rate": {"log_uniform": [3e-3, 1e-2]}}},
        **changes,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


SHIFTS = {"shifts": {"again": "validation.csv"}}
MULTI_LABEL_TASK = {
    "kind": "text", "problem_type": "multi-label", "labels": list(LABELS), "metric": "f1_macro", **SHIFTS,
}  # fmt: skip
REGRESSION_TASK = {
    "kind": "text", "problem_type": "regression", "label": "stars", "metric": "pearson_spearman", **SHIFTS,
}  # fmt: skip
