"""Augmentation: seeded by row, never out of shape, and doing what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from hf_soups.finetune.augment import (
    OPERATIONS,
    augmentation,
    draw_mixup,
    horizontal_flip,
    rand_augment,
    random_crop,
    soft_targets,
)
from hf_soups.recipe import Train

ALL = Train(horizontal_flip=0.5, random_crop=0.125, randaugment_operations=2, randaugment_magnitude=15)


def image(height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    """Smooth colours with a bright square: a shift of one pixel can be seen, and there are edges to sharpen."""
    y, x = np.mgrid[:height, :width]
    offset = np.random.default_rng(seed).integers(0, 50, 3)
    planes = [200 * x / width, 200 * y / height, 100 * (x + y) / (height + width)]
    pixels = np.stack([plane + o for plane, o in zip(planes, offset, strict=True)], axis=-1).astype(np.uint8)
    pixels[height // 4 : height // 2, width // 4 : width // 2] = 240
    return pixels


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_no_augmentation_is_none() -> None:
    assert augmentation(Train(), epoch=0) is None
    assert augmentation(Train(mixup=0.2, label_smoothing=0.1, randaugment_magnitude=20), epoch=0) is None


@settings(deadline=None, max_examples=50)
@given(
    height=st.integers(1, 40), width=st.integers(1, 40), row=st.integers(0, 10**9), epoch=st.integers(0, 99),
    seed=st.integers(0, 2**32 - 1), crop=st.floats(0, 0.99), magnitude=st.integers(0, 30),
)  # fmt: skip
def test_an_image_stays_an_image(
    height: int, width: int, row: int, epoch: int, seed: int, crop: float, magnitude: int
) -> None:
    train = Train(
        horizontal_flip=0.5, random_crop=crop, randaugment_operations=3, randaugment_magnitude=magnitude, seed=seed
    )
    given_image = image(height, width)
    before = given_image.copy()
    augment = augmentation(train, epoch)
    assert augment is not None
    made = augment(given_image, row)
    assert made.shape == given_image.shape
    assert made.dtype == np.uint8
    assert made.flags.c_contiguous
    np.testing.assert_array_equal(given_image, before)
    np.testing.assert_array_equal(augment(given_image, row), made)


@pytest.mark.parametrize("other", [{"row": 8}, {"epoch": 3}, {"seed": 1}])
def test_row_epoch_and_seed_each_change_what_is_drawn(other: dict[str, int]) -> None:
    def drawn(row: int = 7, epoch: int = 2, seed: int = 0) -> list[int]:
        augment = augmentation(ALL.model_copy(update={"seed": seed}), epoch)
        assert augment is not None
        return augment(image(), row).ravel().tolist()

    assert drawn(**other) != drawn()


def test_the_order_of_rows_does_not_matter() -> None:
    augment = augmentation(ALL, 1)
    assert augment is not None
    forth = {row: augment(image(), row) for row in range(6)}
    back = {row: augment(image(), row) for row in reversed(range(6))}
    assert all(np.array_equal(forth[row], back[row]) for row in range(6))


def test_a_flip_comes_with_its_probability() -> None:
    pixels, random = image(), generator()
    flips = [np.array_equal(horizontal_flip(pixels, 0.3, random), pixels[:, ::-1]) for _ in range(2000)]
    assert abs(np.mean(flips) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)
    np.testing.assert_array_equal(horizontal_flip(pixels, 0.0, random), pixels)
    np.testing.assert_array_equal(horizontal_flip(pixels, 1.0, random), pixels[:, ::-1])


def test_a_crop_is_a_window_of_the_reflected_image() -> None:
    pixels = image(8, 12)
    padded = np.pad(pixels, ((2, 2), (3, 3), (0, 0)), mode="reflect")
    windows = {padded[y : y + 8, x : x + 12].tobytes() for y in range(5) for x in range(7)}
    random = generator()
    seen = {random_crop(pixels, 0.25, random).tobytes() for _ in range(600)}
    assert seen == windows
    assert random_crop(pixels, 0.0, random) is pixels


@pytest.mark.parametrize("name", OPERATIONS)
def test_magnitude_0_is_the_weakest(name: str) -> None:
    pixels = Image.fromarray(image())
    made = OPERATIONS[name](pixels, 0.0, 1)
    if name not in ("auto-contrast", "equalize"):  # they know no magnitude
        np.testing.assert_array_equal(made, pixels)


@pytest.mark.parametrize("name", [name for name in OPERATIONS if name != "identity"])
def test_magnitude_30_changes_the_image(name: str) -> None:
    pixels = Image.fromarray(image())
    strongest, weaker = (np.asarray(OPERATIONS[name](pixels, level, 1)).astype(int) for level in (1.0, 0.3))
    far, near = (np.abs(made - np.asarray(pixels)).mean() for made in (strongest, weaker))
    assert far > 1
    assert far >= near


@pytest.mark.parametrize(
    "name",
    ["rotate", "shear-x", "shear-y", "translate-x", "translate-y", "color", "contrast", "brightness", "sharpness"],
)
def test_directions_differ(name: str) -> None:
    pixels = Image.fromarray(image())
    assert not np.array_equal(OPERATIONS[name](pixels, 0.9, 1), OPERATIONS[name](pixels, 0.9, -1))


def test_a_translation_moves_by_its_share_of_the_side() -> None:
    pixels = image(20, 40)
    made = np.asarray(OPERATIONS["translate-x"](Image.fromarray(pixels), 20 / 30, 1))  # 0.3 of 40 pixels
    np.testing.assert_array_equal(made[:, :28], pixels[:, 12:])
    assert (made[:, 29:] == 128).all()


def test_posterize_and_solarize_follow_their_definition() -> None:
    pixels = image()
    np.testing.assert_array_equal(OPERATIONS["posterize"](Image.fromarray(pixels), 1.0, 1), pixels & 0b11110000)
    solarized = np.where(pixels < 128, pixels, 255 - pixels)
    np.testing.assert_array_equal(OPERATIONS["solarize"](Image.fromarray(pixels), 0.5, 1), solarized)


def test_randaugment_uses_all_fourteen_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[str, float]] = []
    for name in list(OPERATIONS):
        monkeypatch.setitem(OPERATIONS, name, lambda im, level, sign, name=name: seen.append((name, level)) or im)
    rand_augment(image(), 500, 12, generator())
    assert len(OPERATIONS) == 14
    assert {name for name, _ in seen} == set(OPERATIONS)
    assert {level for _, level in seen} == {12 / 30}
    assert len(seen) == 500


@settings(deadline=None)
@given(st.lists(st.integers(0, 4), min_size=1, max_size=8), st.floats(0, 0.99))
def test_soft_targets_are_what_cross_entropy_smooths_to(labels: list[int], smoothing: float) -> None:
    y = torch.tensor(labels)
    logits = torch.randn(len(labels), 5, generator=torch.Generator().manual_seed(0))
    targets = soft_targets(y, 5, smoothing)
    torch.testing.assert_close(targets.sum(1), torch.ones(len(labels)))
    torch.testing.assert_close(
        torch.nn.functional.cross_entropy(logits, targets),
        torch.nn.functional.cross_entropy(logits, y, label_smoothing=smoothing),
    )


def test_mixup_keeps_the_batch_mean_and_its_weights_follow_beta() -> None:
    values = torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    mixup = draw_mixup(16, 0.4, generator())
    assert sorted(mixup.partners.tolist()) == list(range(16))
    mixed = mixup.mixed(values, values[mixup.partners])
    torch.testing.assert_close(mixed.mean(0), values.mean(0))
    torch.testing.assert_close(mixed[3], values[3] * mixup.weight + values[mixup.partners[3]] * (1 - mixup.weight))
    random = generator(1)
    weights = np.array([draw_mixup(2, 0.4, random).weight for _ in range(4000)])
    variance = 1 / (4 * (2 * 0.4 + 1))  # of Beta(0.4, 0.4)
    assert abs(weights.mean() - 0.5) < 5 * np.sqrt(variance / 4000)
    assert abs(weights.var() - variance) < 0.01
