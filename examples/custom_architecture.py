"""A custom architecture: the ResNets of CIFAR-10 (He et al. 2015), made known to transformers and hf_soups.

    python examples/custom_architecture.py                           two with random weights, to see that all fits
    python examples/custom_architecture.py FOLDER FOLDER --data DATA your checkpoints on your images, half to choose on

What a class needs: a config with a `model_type`, a model with `config_class` that takes `pixel_values` and gives
`logits`, and two lines that register them. Every command then takes such checkpoints, if it is told of the file:

    hf-soups --import examples/custom_architecture.py predict FOLDER FOLDER --data DATA --split test --out preds
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class CifarResNetConfig(PreTrainedConfig):
    """Three stages of basic blocks; 6n + 2 layers for n blocks a stage."""

    model_type = "cifar_resnet"

    def __init__(
        self,
        num_channels: int = 3,
        image_size: int = 32,
        stage_channels: tuple[int, ...] = (16, 32, 64),
        stage_depths: tuple[int, ...] = (3, 3, 3),
        **about: object,
    ) -> None:
        self.num_channels, self.image_size = num_channels, image_size
        self.stage_channels, self.stage_depths = list(stage_channels), list(stage_depths)
        super().__init__(**about)


class Block(nn.Module):
    """Two 3x3 convolutions; where the shape changes, the shortcut takes every second pixel and pads with zeros."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride, self.missing = stride, channels - before
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), half as high and wide after a stride of 2."""
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if self.stride > 1 or self.missing:
            half = self.missing // 2
            x = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, half, self.missing - half))
        return torch.relu(x + y)


class CifarResNetForImageClassification(PreTrainedModel):
    """(batch, 3, 32, 32) -> logits (batch, labels)."""

    config_class = CifarResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: CifarResNetConfig) -> None:
        super().__init__(config)
        widths = [config.stage_channels[0], *config.stage_channels]
        self.conv1 = nn.Conv2d(config.num_channels, widths[0], 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(widths[0])
        for stage, depth in enumerate(config.stage_depths, 1):
            before, channels, stride = widths[stage - 1], widths[stage], 1 if stage == 1 else 2
            first = Block(before, channels, stride)
            setattr(
                self, f"layer{stage}", nn.Sequential(first, *(Block(channels, channels, 1) for _ in range(1, depth)))
            )
        self.linear = nn.Linear(widths[-1], config.num_labels)
        self.post_init()

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **unused: object
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits, and the loss where labels are given."""
        x = torch.relu(self.bn1(self.conv1(pixel_values)))
        for stage in range(len(self.config.stage_depths)):
            x = getattr(self, f"layer{stage + 1}")(x)
        logits = self.linear(x.mean(dim=(2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


AutoConfig.register("cifar_resnet", CifarResNetConfig)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification)


def two_random_ones(folder: Path) -> list[str]:
    """A ResNet-8 and a ResNet-14 with their processors."""
    from transformers import ViTImageProcessor

    torch.manual_seed(0)
    for blocks in (1, 2):
        config = CifarResNetConfig(stage_depths=(blocks,) * 3, id2label=dict(enumerate(CIFAR10)))
        CifarResNetForImageClassification(config).save_pretrained(folder / f"resnet{6 * blocks + 2}")
        ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder / f"resnet{6 * blocks + 2}")
    return [str(path) for path in sorted(folder.iterdir())]


def random_images(folder: Path, rows: int = 80) -> str:
    """Noise in CIFAR-10's layout: an `imagefolder` would do as well."""
    from datasets import ClassLabel, Dataset, Features, Image
    from PIL import Image as Pillow

    random = np.random.default_rng(0)
    images = [Pillow.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)) for _ in range(rows)]
    features = Features({"img": Image(), "label": ClassLabel(names=list(CIFAR10))})
    labels = [i % len(CIFAR10) for i in range(rows)]
    Dataset.from_dict({"img": images, "label": labels}, features=features).to_parquet(folder / "test.parquet")
    return str(folder / "test.parquet")


def main() -> None:
    """Answers, search, a cascade's folder, and the pipeline on one image."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="*")
    parser.add_argument("--data")
    parser.add_argument("--split")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()

    from datasets import load_dataset
    from transformers import pipeline

    from hf_soups import build_from, predict_pool, search_pool
    from hf_soups.reporting.frontier_table import print_frontier

    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "models").mkdir()
        checkpoints = given.checkpoints or two_random_ones(Path(scratch) / "models")
        data, out = given.data or random_images(Path(scratch)), given.out or Path(scratch) / "out"
        predict_pool(checkpoints, data=data, split=given.split, out=out / "preds")
        found = search_pool(out / "preds", report="0.5")
        print_frontier(found.frontier)
        longest = max(range(len(found.frontier)), key=lambda i: len(found.frontier.plans[i].members))
        cascade = build_from(f"{found.path}#{longest}", out / "cascade", overwrite=True)
        pipe = pipeline("cascade-image-classification", model=str(cascade))
        rows = load_dataset("parquet", data_files=data, split="train") if data.endswith(".parquet") else None
        image = rows[0]["img"] if rows is not None else np.zeros((32, 32, 3), dtype=np.uint8)
        print(pipe(image, top_k=1, return_exits=True))


if __name__ == "__main__":
    main()
