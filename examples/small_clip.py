"""A small CLIP, trained on image and caption pairs that are made from labels: minutes on two cores.

    python examples/small_clip.py ../shared/data/cifar10 --config plain_text --image img --out small-clip

writes small-clip/model, a CLIPModel with both towers, tokenizer and image processor, and small-clip/data, the labelled
rows that it has not seen (the rest of train, and the test split), for recipes/vision/cifar10-small-clip.yaml. A caption
is the class's name in one of CAPTIONS. Equal captions of a batch are one text, so no image is pushed away from its own.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import torch
from torch import nn

CAPTIONS = ("a photo of a {}.", "a picture of the {}.", "one {}.", "a small photo of a {}.", "this is a {}.")
SIDE, SEEN, BATCH, SEED = 32, 0.8, 128, 0
TOWER = {"hidden_size": 96, "intermediate_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a folder in Hub layout, or a Hub id")
    parser.add_argument("--config")
    parser.add_argument("--image", default="image", help="column of the images")
    parser.add_argument("--label", default="label", help="column of the classes")
    parser.add_argument("--test", default="test", help="split that recipes report on")
    parser.add_argument("--rows", type=int, help="of train, to be quick")
    parser.add_argument("--seen", type=float, default=SEEN, help="share of these rows that it is trained on")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = datasets.load_dataset(given.data, given.config, split="train").shuffle(seed=SEED)
    rows = rows.select(range(min(given.rows or len(rows), len(rows))))
    seen = round(given.seen * len(rows))
    names = rows.features[given.label].names
    model, tokenizer = small_clip(names)
    train(model, tokenizer, pixels_of(rows.select(range(seen)), given.image), rows[:seen][given.label], names, given)
    save(model, tokenizer, given.out / "model")
    write_rows(rows.select(range(seen, len(rows))), given.out / "data" / "train.parquet", given)
    test = datasets.load_dataset(given.data, given.config, split=given.test)
    write_rows(test, given.out / "data" / "test.parquet", given)
    print(f"wrote {given.out}: {seen} pairs seen, {len(rows) - seen} train and {len(test)} test rows kept apart")


def small_clip(names: list[str]) -> tuple[Any, Any]:
    """A CLIPModel with random weights, and a byte-level BPE tokenizer made of its captions."""
    from transformers import CLIPConfig, CLIPModel

    tokenizer = tokenizer_of([caption.format(name) for caption in CAPTIONS for name in names])
    special = {f"{kind}_token_id": getattr(tokenizer, f"{kind}_token_id") for kind in ("bos", "eos", "pad")}
    text = {**TOWER, "num_hidden_layers": 2, "vocab_size": len(tokenizer), "max_position_embeddings": 32, **special}
    vision = {**TOWER, "image_size": SIDE, "patch_size": 4}
    torch.manual_seed(SEED)
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64)), tokenizer


def tokenizer_of(captions: list[str]) -> Any:
    """As CLIP's own: lower case, one token for a whole word that the captions hold, else letters."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import CLIPTokenizer

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    start, end = "<|startoftext|>", "<|endoftext|>"
    raw = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    raw.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, end_of_word_suffix="</w>", show_progress=False,
        initial_alphabet=alphabet, special_tokens=[*(f"{letter}</w>" for letter in alphabet), start, end],
    )  # fmt: skip
    raw.train_from_iterator([caption.lower() for caption in captions], trainer)
    import json

    told = json.loads(raw.to_str())["model"]
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in told["merges"]]
    return CLIPTokenizer(vocab=told["vocab"], merges=merges, model_max_length=32)


def processor() -> Any:
    from transformers import CLIPImageProcessorPil

    square = {"height": SIDE, "width": SIDE}
    return CLIPImageProcessorPil(size={"shortest_edge": SIDE}, crop_size=square)


def pixels_of(rows: datasets.Dataset, column: str) -> torch.Tensor:
    """All images as the model reads them: (rows, 3, side, side)."""
    prepare, made = processor(), []
    for start in range(0, len(rows), 1000):
        images = [image.convert("RGB") for image in rows[start : start + 1000][column]]
        made.append(prepare(images, return_tensors="pt")["pixel_values"])
    return torch.cat(made)


def train(model: Any, tokenizer: Any, pixels: torch.Tensor, labels: list[int], names: list[str], given: Any) -> None:
    """Contrastive training, one cosine schedule; prints the loss and how often the nearest caption is the right one."""
    classes, random = torch.tensor(labels), np.random.default_rng(SEED)
    steps = given.epochs * math.ceil(len(pixels) / BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-3, total_steps=steps, pct_start=0.1)
    model.train()
    for epoch in range(given.epochs):
        losses, right = [], 0
        for at in np.array_split(random.permutation(len(pixels)), steps // given.epochs):
            images = pixels[at].flip(3) if random.random() < 0.5 else pixels[at]
            there, target = classes[at].unique(return_inverse=True)
            texts = [CAPTIONS[random.integers(len(CAPTIONS))].format(names[c]) for c in there]
            logits = model(pixel_values=images, **tokenizer(texts, padding=True, return_tensors="pt")).logits_per_image
            # of each image its caption, and of each caption its images, all alike
            pairs = nn.functional.one_hot(target).float()
            loss = (
                nn.functional.cross_entropy(logits, target)
                + nn.functional.cross_entropy(logits.T, pairs.T / pairs.T.sum(dim=1, keepdim=True))
            ) / 2
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            with torch.no_grad():
                model.logit_scale.clamp_(max=math.log(100))  # as CLIP
            losses.append(float(loss.detach()))
            right += int((logits.argmax(dim=1) == target).sum())
        print(
            f"epoch {epoch + 1}: loss {np.mean(losses):.3f}, nearest caption right {right / len(pixels):.1%}",
            flush=True,
        )


def save(model: Any, tokenizer: Any, out: Path) -> None:
    model.eval().save_pretrained(out)
    tokenizer.save_pretrained(out)
    processor().save_pretrained(out)


def write_rows(rows: datasets.Dataset, path: Path, given: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    names = {given.image: "image", given.label: "label"}
    rows = rows.select_columns(list(names))
    rows.rename_columns({old: new for old, new in names.items() if old != new}).to_parquet(path)


if __name__ == "__main__":
    main()
