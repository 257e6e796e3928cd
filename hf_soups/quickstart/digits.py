"""What the quickstart starts from: the digits as a data set in Hub layout, blank models of two sizes, and recipes."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

UPSTREAM_ROWS = 600  # pretraining sees these; the rest of the 1,797 digits is the downstream task
UPSTREAM_TEST_ROWS = 60  # of them: what the pretraining is reported on
DOWNSTREAM_TRAIN_ROWS = 700  # 300 of them become the select split, 300 are trained on
TURNS = ("upright", "turned_90", "turned_180", "turned_270")
DIGITS = tuple(str(digit) for digit in range(10))
SEED = 0
RUNS = 10  # fine-tunes of the sweep

LARGE = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 128}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}

PRETRAIN = """\
# The start of every fine-tune: a small ViT learns which digit it sees, and how it is turned (40 classes).
task:
  kind: image
  path: {data}
  config: upstream
  image: image
  label_names: [{turned}]
  report: test
model: {blank}
data: {{select_minimum: 40}}
train: {{learning_rate: 1.0e-3, weight_decay: 0.05, batch_size: 64, epochs: 30, schedule: cosine, seed: 0}}
"""

FINETUNE = """\
# Fine-tunes from one start: upright digits, 300 rows to train on and 300 to choose on.
task:
  name: digits
  kind: image
  path: {data}
  config: downstream
  image: image
  report: test
model: {start}
head: {{init: linear-probe}}
data: {{select_minimum: 300, train_rows: 300}}
train: {{schedule: cosine}}
sweep:
  runs: {runs}
  seed: 1
  space:
    learning_rate: {{log_uniform: [1.0e-4, 1.0e-3]}}
    weight_decay: {{log_uniform: [1.0e-3, 1.0e-1]}}
    batch_size: {{choice: [16, 32]}}
    epochs: {{choice: [10, 15, 20]}}
    label_smoothing: {{choice: [0.0, 0.1]}}
    mixup: {{choice: [0.0, 0.4]}}
"""


def write_inputs(out: Path) -> tuple[Path, Path]:
    """Data set, blank model and the two recipes; returns the recipes' paths (pretraining, fine-tuning)."""
    write_digits(out / "digits")
    return write_recipes(out, out / "digits", LARGE)


def write_recipes(out: Path, digits: Path, size: Mapping[str, Any]) -> tuple[Path, Path]:
    """A blank model of this size and the two recipes: pretrain.yaml, and digits.yaml which starts from `out`/start."""
    write_blank_vit(out / "blank", size)
    pretraining, finetuning = out / "pretrain.yaml", out / "digits.yaml"
    pretraining.write_text(PRETRAIN.format(data=digits, blank=out / "blank", turned=", ".join(turned_names())))
    finetuning.write_text(FINETUNE.format(data=digits, start=out / "start", runs=RUNS))
    return pretraining, finetuning


def turned_names() -> list[str]:
    """The 40 classes of the pretraining: how a digit is turned, and which it is."""
    return [f"{turn}_{digit}" for turn in TURNS for digit in DIGITS]


def write_digits(folder: Path) -> None:
    """The 1,797 digits as a data set with configs `upstream` (turned, 40 classes) and `downstream` (upright, 10)."""
    import numpy as np
    from datasets import Features, Image, Value
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(SEED).permutation(len(digits.target))
    images, labels = (digits.images[order] * (255 / 16)).astype(np.uint8), digits.target[order]
    up, down = UPSTREAM_ROWS - UPSTREAM_TEST_ROWS, UPSTREAM_ROWS + DOWNSTREAM_TRAIN_ROWS
    turned = np.concatenate([np.rot90(images[:UPSTREAM_ROWS], turn, axes=(1, 2)) for turn in range(len(TURNS))])
    turned_labels = np.concatenate([labels[:UPSTREAM_ROWS] + len(DIGITS) * turn for turn in range(len(TURNS))])
    test = np.tile(np.arange(UPSTREAM_ROWS) >= up, len(TURNS))  # all turns of a digit on the same side
    features = Features({"image": Image(), "label": Value("int64")})
    for path, rows, answers in (
        ("upstream/train", turned[~test], turned_labels[~test]),
        ("upstream/test", turned[test], turned_labels[test]),
        ("downstream/train", images[UPSTREAM_ROWS:down], labels[UPSTREAM_ROWS:down]),
        ("downstream/test", images[down:], labels[down:]),
    ):
        _write_parquet(folder / f"{path}-00000-of-00001.parquet", rows, answers, features)
    splits = {"upstream": ["train", "test"], "downstream": ["train", "test"]}
    lines = ["---", "configs:"]
    for config, names in splits.items():
        lines += [f"- config_name: {config}", "  data_files:"]
        lines += [line for s in names for line in (f"  - split: {s}", f"    path: {config}/{s}-*")]
    (folder / "README.md").write_text("\n".join([*lines, "---", "", "# Handwritten digits of scikit-learn, 8 x 8", ""]))


def _write_parquet(path: Path, images: np.ndarray, labels: np.ndarray, features: Any) -> None:
    from datasets import Dataset
    from PIL import Image

    from hf_soups.data.sources import quiet

    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"image": [Image.fromarray(image).convert("RGB") for image in images], "label": labels.tolist()}
    with quiet():
        Dataset.from_dict(rows, features=features).to_parquet(path)


def write_blank_vit(folder: Path, size: Mapping[str, Any]) -> None:
    """A ViT of 16 tokens with random weights, and its image processor."""
    import torch
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    from hf_soups.models.loading import quiet

    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        model = ViTForImageClassification(
            ViTConfig(
                image_size=8,
                patch_size=2,
                **size,
                id2label=dict(enumerate(turned_names())),
            )
        )
    half = [0.5, 0.5, 0.5]
    with quiet():
        model.save_pretrained(folder)
        ViTImageProcessor(size={"height": 8, "width": 8}, image_mean=half, image_std=half).save_pretrained(folder)
