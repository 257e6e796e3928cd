"""A small pile of tiny models around one start, with data to score them on: everything that cooking needs."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.numpy import load_file, save_file

from hf_soups.data import load_splits
from hf_soups.finetune.run_record import RunRecord, write_run
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe, load_recipe
from tests.makers.tiny import tiny_bert, tiny_sentences

NAMES = ("bad", "good")
HEAD = "0" * 64


def write_texts(folder: Path, model: Path, train: int = 120, report: int = 61) -> Path:
    """train.csv and validation.csv of random sentences; labels are the model's own answers, a fifth of them turned."""
    folder.mkdir(parents=True, exist_ok=True)
    for seed, (name, rows) in enumerate((("train", train), ("validation", report))):
        sentences = tiny_sentences(rows, seed=seed)
        turned = np.random.default_rng(seed + 1000).uniform(size=rows) < 0.2  # not the data split's own seed
        labels = plain_answers(model, sentences).argmax(axis=1) ^ turned
        with (folder / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence", "label"])
            writer.writerows(zip(sentences, labels, strict=True))
    return folder


def centre(folder: Path, scale: float = 1.0) -> Path:
    """Scale a random model's head and shift its bias, so that it answers each class about as often."""
    mean_logits = plain_answers(folder, tiny_sentences(100, seed=9)).mean(axis=0)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.weight"] *= np.float32(scale)
    weights["classifier.bias"] = (scale * (weights["classifier.bias"] - mean_logits)).astype(np.float32)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def write_recipe(path: Path, data: Path, model: Path, metric: str = "accuracy") -> Path:
    path.write_text(
        f"task: {{kind: text, path: {data}, text: [sentence], label_names: [bad, good], metric: {metric}}}\n"
        f"model: {model}\ndata: {{select_minimum: 50, max_length: 32}}\ntrain: {{eval_batch_size: 16}}\n"
    )
    return path


def label(folder: Path, names: Sequence[str]) -> Path:
    """Write label names into a checkpoint's config."""
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(names)}
    config["label2id"] = {name: i for i, name in enumerate(names)}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def near(start: Path, out: Path, seed: int, spread: float = 0.2) -> Path:
    """A copy of a checkpoint with noise on its weights, as if fine-tuned from it."""
    shutil.copytree(start, out)
    random = np.random.default_rng(seed)
    weights = load_file(out / "model.safetensors")
    moved = {
        name: (w + spread * w.std() * random.normal(size=w.shape)).astype(w.dtype)
        if w.dtype.kind == "f" and "running" not in name
        else w
        for name, w in weights.items()
    }
    save_file(moved, out / "model.safetensors", metadata={"format": "pt"})
    return out


def make_pile(folder: Path, models: int = 4, metric: str = "accuracy") -> Path:
    """data/, recipe.yaml, start/ and m0, m1, ...: plain checkpoints without any record of a run."""
    start = label(tiny_bert(folder / "start"), NAMES)
    centre(start, scale=30.0)
    data = write_texts(folder / "data", start)
    write_recipe(folder / "recipe.yaml", data, start, metric)
    for i in range(models):
        centre(near(start, folder / f"m{i}", seed=i))
    return folder


def plain_answers(checkpoint: Path, sentences: Sequence[str]) -> np.ndarray:
    """Logits one sentence at a time, with nothing of this package: the oracle."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(checkpoint).eval().float()
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    with torch.inference_mode():
        rows = [model(**tokenizer(s, truncation=True, max_length=32, return_tensors="pt")).logits[0] for s in sentences]
    return torch.stack(rows).numpy()


def oracle_predictions(checkpoint: Path, recipe: Recipe, role: str) -> Predictions:
    split = getattr(load_splits(recipe.task, recipe.data), role)
    return Predictions.from_logits(
        plain_answers(checkpoint, list(split.rows["sentence"])),
        labels=split.labels, row_ids=split.row_ids, label_names=split.label_names, data=split.fingerprint,
    )  # fmt: skip


def make_sweep(folder: Path, models: int = 4, metric: str = "accuracy") -> Path:
    """The same as a sweep's folder: plan.json, recipe.yaml, run_00, ... with records and cached predictions."""
    pile = make_pile(folder / "pile", models, metric)
    sweep = folder / "sweep"
    sweep.mkdir()
    shutil.copy(pile / "recipe.yaml", sweep / "recipe.yaml")
    recipe = load_recipe(sweep / "recipe.yaml")
    (sweep / "plan.json").write_text(
        json.dumps(
            {"format": "hf_soups.sweep.plan.v1", "runs": [{"name": f"run_{i:02d}", "train": {}} for i in range(models)]}
        )
    )
    for i in range(models):
        run = sweep / f"run_{i:02d}"
        shutil.move(pile / f"m{i}", run)
        for role in ("select", "report"):
            oracle_predictions(run, recipe, role).save(run / "predictions" / f"{role}.safetensors")
        write_run(run, finished(recipe, i))
    return sweep


def finished(recipe: Recipe, seed: int, **about: Any) -> RunRecord:
    return RunRecord(
        "finished", recipe=recipe.model_dump(mode="json"), seed=seed, head_fingerprint=HEAD, label_names=NAMES,
        parameters=10, macs=20, train_seconds=3.0, device="cpu", **about,
    )  # fmt: skip
