"""A custom architecture: the ResNets of CIFAR-10 (He et al. 2015, section 4.2), made known to transformers and hf_soups.

    python examples/custom_architecture.py                                random weights: checks that everything fits
    python examples/custom_architecture.py FOLDER FOLDER ... --data DATA  cascades of your checkpoints, on your images

What a class needs: a config with a `model_type`, a model with `config_class` that takes `pixel_values` and gives
`logits`, and two lines that register them. Every command then takes such checkpoints, if it is told of the file:

    hf-soups --import examples/custom_architecture.py predict FOLDER FOLDER --data DATA --split test --out preds
"""

import argparse
import tempfile
from pathlib import Path

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
        x = torch.relu(self.bn1(self.conv1(pixel_values)))
        for stage in range(len(self.config.stage_depths)):
            x = getattr(self, f"layer{stage + 1}")(x)
        logits = self.linear(x.mean(dim=(2, 3)))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        return ImageClassifierOutputWithNoAttention(loss=loss, logits=logits)


AutoConfig.register("cifar_resnet", CifarResNetConfig)
AutoModelForImageClassification.register(CifarResNetConfig, CifarResNetForImageClassification)
