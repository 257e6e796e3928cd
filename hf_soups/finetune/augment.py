"""Augmentation without torchvision: flips, crops and RandAugment on 8-bit images, mixup and smoothing on targets.

What happens to an image depends on (seed, epoch, row id) alone, so it is the same on any number of processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8
from PIL import Image, ImageEnhance, ImageOps

if TYPE_CHECKING:
    from hf_soups.recipe import Train

Pixels = UInt8[np.ndarray, "height width channels"]
STRONGEST = 30  # the paper's scale of magnitudes
GREY = (128, 128, 128)  # what a rotation or shift uncovers: near the mean, so near 0 once normalised


def augmentation(train: Train, epoch: int) -> Callable[[Pixels, int], Pixels] | None:
    """What a fine-tune does to an image with a given row id in this epoch; None when nothing."""
    if not (train.horizontal_flip or train.random_crop or train.randaugment_operations):
        return None

    def augment(image: Pixels, row_id: int) -> Pixels:
        random = np.random.default_rng([train.seed, epoch, row_id])
        image = random_crop(image, train.random_crop, random)
        image = horizontal_flip(image, train.horizontal_flip, random)
        return rand_augment(image, train.randaugment_operations, train.randaugment_magnitude, random)

    return augment


def horizontal_flip(image: Pixels, probability: float, random: np.random.Generator) -> Pixels:
    """The image, or with this probability its mirror image."""
    return np.ascontiguousarray(image[:, ::-1]) if random.random() < probability else image


def random_crop(image: Pixels, padding: float, random: np.random.Generator) -> Pixels:
    """A crop of the image's own size, from anywhere in the image padded by its reflection.

    Args:
        image: 8 bits (height, width, channels).
        padding: on each side, as a share of that side, in [0, 1).
        random: draws the place.
    """
    if padding == 0:
        return image
    height, width = image.shape[:2]
    up, left = round(padding * height), round(padding * width)
    padded = np.pad(image, ((up, up), (left, left), (0, 0)), mode="reflect")
    y, x = random.integers(0, 2 * up + 1), random.integers(0, 2 * left + 1)
    return np.ascontiguousarray(padded[y : y + height, x : x + width])


def rand_augment(image: Pixels, operations: int, magnitude: int, random: np.random.Generator) -> Pixels:
    """That many operations of RandAugment, drawn one by one with replacement, all at one magnitude.

    Args:
        image: 8 bits (height, width, 3).
        operations: how many; 0 changes nothing.
        magnitude: 0 (weakest) to 30; directions are drawn.
        random: draws operations and directions.
    Source: Cubuk et al. 2019, arXiv:1909.13719; ranges as in the reference implementation.
    """
    if operations == 0:
        return image
    drawn = Image.fromarray(image)
    for name in random.choice(list(OPERATIONS), size=operations):
        sign = 1 if random.random() < 0.5 else -1
        drawn = OPERATIONS[str(name)](drawn, magnitude / STRONGEST, sign)
    return np.array(drawn, dtype=np.uint8)


def _moved(image: Image.Image, matrix: tuple[float, ...]) -> Image.Image:
    return image.transform(
        image.size, Image.Transform.AFFINE, matrix, resample=Image.Resampling.BILINEAR, fillcolor=GREY
    )


def _rotated(image: Image.Image, level: float, sign: int) -> Image.Image:
    return image.rotate(sign * 30 * level, resample=Image.Resampling.BILINEAR, fillcolor=GREY)


def _shear_x(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _moved(image, (1.0, sign * 0.3 * level, 0.0, 0.0, 1.0, 0.0))


def _shear_y(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _moved(image, (1.0, 0.0, 0.0, sign * 0.3 * level, 1.0, 0.0))


def _translate_x(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _moved(image, (1.0, 0.0, sign * 0.45 * level * image.width, 0.0, 1.0, 0.0))


def _translate_y(image: Image.Image, level: float, sign: int) -> Image.Image:
    return _moved(image, (1.0, 0.0, 0.0, 0.0, 1.0, sign * 0.45 * level * image.height))


def _enhanced(kind: Any) -> Callable[[Image.Image, float, int], Image.Image]:
    def enhance(image: Image.Image, level: float, sign: int) -> Image.Image:
        made: Image.Image = kind(image).enhance(1 + sign * 0.9 * level)
        return made

    return enhance


OPERATIONS: dict[str, Callable[[Image.Image, float, int], Image.Image]] = {
    "identity": lambda image, level, sign: image,
    "auto-contrast": lambda image, level, sign: ImageOps.autocontrast(image),
    "equalize": lambda image, level, sign: ImageOps.equalize(image),
    "rotate": _rotated,
    "solarize": lambda image, level, sign: ImageOps.solarize(image, round(256 * (1 - level))),
    "color": _enhanced(ImageEnhance.Color),
    "posterize": lambda image, level, sign: ImageOps.posterize(image, 8 - round(4 * level)),
    "contrast": _enhanced(ImageEnhance.Contrast),
    "brightness": _enhanced(ImageEnhance.Brightness),
    "sharpness": _enhanced(ImageEnhance.Sharpness),
    "shear-x": _shear_x,
    "shear-y": _shear_y,
    "translate-x": _translate_x,
    "translate-y": _translate_y,
}


def soft_targets(
    labels: Int64[torch.Tensor, " batch"], classes: int, smoothing: float = 0.0
) -> Float[torch.Tensor, "batch classes"]:
    """Target probabilities: 1 for the label, of which `smoothing` is spread evenly over all classes.

    >>> soft_targets(torch.tensor([1]), 2, 0.5).tolist()
    [[0.25, 0.75]]
    """
    hard = torch.nn.functional.one_hot(labels, classes).to(torch.float32)
    return hard * (1 - smoothing) + smoothing / classes


@dataclass(frozen=True, slots=True)
class Mixup:
    """Which row of a batch each row is mixed with, and how much of its own it keeps.

    Drawn for the batch of all processes, so that each can mix its share: `batch_rows[partners]` are the rows to add.
    """

    partners: Int64[np.ndarray, " batch"]
    weight: float  # in [0, 1], of the row itself

    def mixed(self, own: torch.Tensor, partner: torch.Tensor) -> torch.Tensor:
        """Pixels or targets mixed with those of their partners."""
        return own * self.weight + partner * (1 - self.weight)


def draw_mixup(rows: int, alpha: float, random: np.random.Generator) -> Mixup:
    """One Beta(alpha, alpha) weight for the batch and a random partner for each row.

    Source: Zhang et al. 2018, arXiv:1710.09412.
    """
    return Mixup(partners=random.permutation(rows).astype(np.int64), weight=float(random.beta(alpha, alpha)))
