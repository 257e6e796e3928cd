"""What running a cascade costs beyond its members: its forward time against the ideal, its pipeline against stock.

    python benchmarks/cascade_runtime.py            # small models, seconds
    python benchmarks/cascade_runtime.py --full     # ViT-Ti and ViT-B shapes at 224 pixels, minutes

Weights are random; the threshold lies where 30% of the rows go on. Timed in turns, round by round:

- forward: the cascade on pixels, against the small model on all rows plus p times the big one on all rows, p being the
  measured share of rows that went on; at batch 32 and at batch 1.
- pipeline: a cascade of one member on PIL images, against the stock `image-classification` pipeline of that member.

Printed are medians over the rounds, and the median of each round's ratio with its quartiles, by the clock and by the
process's own CPU time. With one thread (--threads 1) the latter tells the same on a machine that does other things too.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessorPil, pipeline
from transformers.utils import logging

import hf_soups  # noqa: F401  # registers the pipelines
from hf_soups.cascades import Plan
from hf_soups.cascades.running.build_folder import build_cascade
from hf_soups.cascades.running.model import CascadeForImageClassification
from hf_soups.pool import Member

DEFERRED = 0.3
CLASSES = 1000
LABELS = tuple(f"class {i}" for i in range(CLASSES))
SHAPES = {
    "small": {
        "small": dict(hidden_size=64, intermediate_size=256, num_hidden_layers=4, num_attention_heads=2),
        "big": dict(hidden_size=256, intermediate_size=1024, num_hidden_layers=6, num_attention_heads=4),
    },
    "full": {  # ViT-Ti and ViT-B
        "small": dict(hidden_size=192, intermediate_size=768, num_hidden_layers=12, num_attention_heads=3),
        "big": dict(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12),
    },
}


def member(folder: Path, name: str, pixels: int, seed: int, shape: dict[str, int]) -> Member:
    """A random ViT; larger weights, so that rows differ in confidence."""
    torch.manual_seed(seed)
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {label: i for i, label in enumerate(LABELS)}}
    model = ViTForImageClassification(ViTConfig(image_size=pixels, patch_size=16, **shape, **names))
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(3)
    model.save_pretrained(folder / name)
    ViTImageProcessorPil(size={"height": pixels, "width": pixels}).save_pretrained(folder / name)
    return Member(name, str(folder / name))


def cascade(members: dict[str, Member], thresholds: tuple[float, ...], out: Path) -> CascadeForImageClassification:
    plan = Plan(tuple(members), thresholds, tuple(float(i + 1) for i in range(len(members))))
    build_cascade(plan, members, out, kind="image", label_names=LABELS)
    return CascadeForImageClassification.from_pretrained(out)


def seconds(run: Callable[[], Any]) -> np.ndarray:
    """By the clock, and of this process's CPU time."""
    start = time.perf_counter(), time.process_time()
    run()
    return np.array([time.perf_counter() - start[0], time.process_time() - start[1]])


def in_turns(runs: dict[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds (rounds, clock and CPU) of each; a round more at first warms up."""
    times: dict[str, list[np.ndarray]] = {name: [] for name in runs}
    for i in range(rounds + 1):
        for name, run in runs.items():
            took = seconds(run)
            if i:
                times[name].append(took)
    return {name: np.stack(t) for name, t in times.items()}


def told(ratios: np.ndarray, medians: np.ndarray, of: str) -> None:
    for which, name in enumerate(("clock", "CPU")):
        low, middle, high = np.quantile(ratios[:, which], (0.25, 0.5, 0.75))
        rounds = f"by rounds {middle:.3f}x (quartiles {low:.3f} to {high:.3f})"
        print(f"  {name + ':':6} {medians[which]:.3f}x of {of} by medians; {rounds}")


@torch.inference_mode()
def forward(model: CascadeForImageClassification, pixels: torch.Tensor, batch: int, rounds: int) -> None:
    batches = pixels.split(batch)
    small, big = model.members
    exits = torch.cat([model(pixel_values=part).exits for part in batches])
    share = float((exits > 0).float().mean())

    def over(run: Callable[[torch.Tensor], Any]) -> Callable[[], Any]:
        return lambda: [run(part) for part in batches]

    runs = {"cascade": over(lambda x: model(pixel_values=x)), "small": over(small), "big": over(big)}
    times = in_turns(runs, rounds)
    ideal = times["small"] + share * times["big"]
    middle = {name: np.median(t, axis=0) / len(pixels) * 1e3 for name, t in times.items()}
    best = middle["small"] + share * middle["big"]
    print(
        f"forward at batch {batch}: {len(pixels)} rows, {share:.1%} of them deferred; ms a row by the clock: cascade "
        f"{middle['cascade'][0]:.2f}, small {middle['small'][0]:.2f}, big {middle['big'][0]:.2f}, small + p big "
        f"{best[0]:.2f}"
    )
    told(times["cascade"] / ideal, middle["cascade"] / best, "small + p big")


def against_stock(folder: Path, source: str, images: list[Image.Image], batch: int, rounds: int) -> None:
    how: Any = {"device": "cpu", "batch_size": batch}
    ours: Any = pipeline("cascade-image-classification", model=str(folder), **how)  # type: ignore[call-overload]
    stock = pipeline("image-classification", model=source, **how)
    times = in_turns({"cascade": lambda: ours(images), "stock": lambda: stock(images)}, rounds)
    middle = {name: np.median(t, axis=0) / len(images) * 1e3 for name, t in times.items()}
    print(
        f"pipeline at batch {batch}: {len(images)} images of {images[0].size}; ms an image by the clock: cascade of "
        f"one member {middle['cascade'][0]:.2f}, stock {middle['stock'][0]:.2f}"
    )
    told(times["cascade"] / times["stock"], middle["cascade"] / middle["stock"], "stock")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--full", action="store_true", help="ViT-Ti and ViT-B shapes at 224 pixels")
    parser.add_argument("--small", action="store_true", help="small models (the default)")
    parser.add_argument("--rounds", type=int, help="default: 5, with --full 11")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--threads", type=int, help="default: torch's own choice")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    logging.disable_progress_bar()
    shapes, size = (SHAPES["full"], 224) if args.full else (SHAPES["small"], 96)
    rows, rounds = args.rows, args.rounds or (11 if args.full else 5)
    print(f"{torch.get_num_threads()} threads of {os.cpu_count()} CPUs, torch {torch.__version__}, {rounds} rounds")
    random = np.random.default_rng(0)
    images = [Image.fromarray(random.integers(0, 256, (375, 500, 3), dtype=np.uint8)) for _ in range(rows)]
    with tempfile.TemporaryDirectory() as kept:
        folder = Path(kept)
        members = {name: member(folder, name, size, i, shape) for i, (name, shape) in enumerate(shapes.items())}
        # pixels of other contrast and brightness, so that confidences spread
        pixels = torch.randn(rows, 3, size, size) * torch.rand(rows, 1, 1, 1) + torch.randn(rows, 3, 1, 1)
        alone = cascade({"small": members["small"]}, (), folder / "alone")
        sure = np.sort(alone(pixel_values=pixels).confidences.numpy().astype(np.float64))
        at = round(DEFERRED * rows)
        both = cascade(members, (float(sure[at - 1] + sure[at]) / 2,), folder / "both")
        for batch in (32, 1):
            forward(both, pixels, batch, rounds)
        for batch in (32, 1):
            against_stock(folder / "alone", members["small"].source, images, batch, rounds)


if __name__ == "__main__":
    main()
