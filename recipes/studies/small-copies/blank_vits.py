"""ViTs of several widths for images of 8 x 8 pixels, with random weights: OUT/vit-16, OUT/vit-32, ...

    python recipes/studies/small-copies/blank_vits.py OUT --widths 16 32 64 128

Four layers, 16 tokens, heads of 16 values and an inner layer twice as wide, as in the quickstart's ViT (64 wide).
"""

import argparse
from pathlib import Path

import torch
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

SIDE, PATCH, LAYERS, HEAD, CLASSES = 8, 2, 4, 16, 10

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("out", type=Path)
parser.add_argument("--widths", nargs="+", type=int, default=[16, 32, 64, 128])
given = parser.parse_args()
torch.manual_seed(0)
for width in given.widths:
    config = ViTConfig(
        image_size=SIDE, patch_size=PATCH, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=LAYERS,
        num_attention_heads=max(1, width // HEAD), num_labels=CLASSES,
    )  # fmt: skip
    folder = given.out / f"vit-{width}"
    ViTForImageClassification(config).save_pretrained(folder)
    half = [0.5, 0.5, 0.5]
    ViTImageProcessor(size={"height": SIDE, "width": SIDE}, image_mean=half, image_std=half).save_pretrained(folder)
    print(f"wrote {folder}")
