"""Wide ResNets for small images (Zagoruyko and Komodakis 2016) with random weights, known to transformers.

    python examples/wide_resnet.py                            sizes of WRN 16-1, 2, 4, 8
    python examples/wide_resnet.py FOLDER --widths 1 2 4 8    and write them: FOLDER/wrn-16-1, ... to train from

Commands are told of the file: hf-soups --import examples/wide_resnet.py sweep RECIPE --set model=FOLDER/wrn-16-1 ...
"""

import argparse
from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForImageClassification, PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutputWithNoAttention

MEAN, DEVIATION = [0.491, 0.482, 0.447], [0.247, 0.243, 0.262]  # of CIFAR-10's channels


class WideResNetConfig(PreTrainedConfig):
    """Three stages of (depth - 4) / 6 blocks; 16, 32 and 64 channels times the width."""

    model_type = "wide_resnet"

    def __init__(
        self, depth: int = 16, width: float = 1.0, num_channels: int = 3, image_size: int = 32, **about: object
    ) -> None:
        self.depth, self.width = depth, width
        self.num_channels, self.image_size = num_channels, image_size
        super().__init__(**about)


class Block(nn.Module):
    """Batch norm and ReLU before each of two 3x3 convolutions; a 1x1 one on the shortcut where the shape changes."""

    def __init__(self, before: int, channels: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.bn2 = nn.BatchNorm2d(before), nn.BatchNorm2d(channels)
        self.conv1 = nn.Conv2d(before, channels, 3, stride, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        same = before == channels and stride == 1
        self.shortcut = None if same else nn.Conv2d(before, channels, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(batch, channels, height, width), half as high and wide after a stride of 2."""
        active = torch.relu(self.bn1(x))
        y = self.conv2(torch.relu(self.bn2(self.conv1(active))))
        return y + (x if self.shortcut is None else self.shortcut(active))


class WideResNetForImageClassification(PreTrainedModel):
    """(batch, 3, height, width) -> logits (batch, labels); any height and width that 4 divides."""

    config_class = WideResNetConfig
    main_input_name = "pixel_values"

    def __init__(self, config: WideResNetConfig) -> None:
        super().__init__(config)
        widths = [16, *(max(1, round(channels * config.width)) for channels in (16, 32, 64))]
        self.conv = nn.Conv2d(config.num_channels, widths[0], 3, 1, 1, bias=False)
        blocks, each = [], (config.depth - 4) // 6
        for stage in range(3):
            before, channels = widths[stage], widths[stage + 1]
            blocks += [Block(before, channels, 1 if stage == 0 else 2)]
            blocks += [Block(channels, channels, 1) for _ in range(1, each)]
        self.blocks = nn.Sequential(*blocks)
        self.bn = nn.BatchNorm2d(widths[-1])
        self.classifier = nn.Linear(widths[-1], config.num_labels)
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(
        self, pixel_values: torch.Tensor, labels: torch.Tensor | None = None, **unused: object
    ) -> ImageClassifierOutputWithNoAttention:
        """Logits, and the loss where labels are given."""
        x = torch.relu(self.bn(self.blocks(self.conv(pixel_values))))
        logits = self.classifier(x.mean(dim=(2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


AutoConfig.register("wide_resnet", WideResNetConfig)
AutoModelForImageClassification.register(WideResNetConfig, WideResNetForImageClassification)


def main() -> None:
    from transformers import ViTImageProcessor

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--widths", nargs="+", type=float, default=[1, 2, 4, 8])
    parser.add_argument("--depth", type=int, default=16)
    parser.add_argument("--size", type=int, default=32, help="of the images, in pixels")
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args()
    torch.manual_seed(0)
    for width in given.widths:
        config = WideResNetConfig(given.depth, width, image_size=given.size, num_labels=given.classes)
        model, name = WideResNetForImageClassification(config), f"wrn-{given.depth}-{width:g}"
        print(f"{name}: {model.num_parameters():,} parameters")
        if given.folder is not None:
            model.save_pretrained(given.folder / name)
            square = {"height": given.size, "width": given.size}
            processor = ViTImageProcessor(size=square, image_mean=MEAN, image_std=DEVIATION)
            processor.save_pretrained(given.folder / name)


if __name__ == "__main__":
    main()
