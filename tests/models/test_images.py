"""Images: what the cache and its normalisation give is what the processor gives."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from PIL import Image

from hf_soups.data.images import picture
from hf_soups.errors import CheckpointError, DataError
from hf_soups.models.pixels import EncodedImages, affine_of, encode_images, open_image, resized_processor
from hf_soups.models.vision import Vision
from hf_soups.recipe import Data
from tests.makers.tiny import TINY_IMAGE, tiny_deit, tiny_swin, tiny_vit
from tests.models.conftest import rows_of, split_of, task_of

TASK = task_of("image")
RANDOM = np.random.default_rng(0)
RGB = Image.fromarray(RANDOM.integers(0, 256, (40, 30, 3), dtype=np.uint8))


@pytest.fixture(scope="module", params=TINY_IMAGE.values(), ids=TINY_IMAGE)
def processor(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    return Vision().processor(request.param(tmp_path_factory.mktemp("image")))


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vit(tmp_path_factory.mktemp("vit"))


def encoded(images: list[Any], processor: Any, cache: Path | None = None, **data: Any) -> EncodedImages:
    rows = datasets.Dataset.from_dict({"image": images}).cast_column("image", datasets.Image())
    return encode_images(split_of(rows), processor, TASK, Data(**data), cache)


def as_file(image: Image.Image, form: str, **options: Any) -> dict[str, Any]:
    file = io.BytesIO()
    image.save(file, form, **options)
    return {"bytes": file.getvalue(), "path": None}


def turned() -> dict[str, Any]:
    about = Image.Exif()
    about[0x0112] = 6  # a camera held upright
    return as_file(RGB, "JPEG", exif=about)


FILES = {
    "rgb png": as_file(RGB, "PNG"),
    "rgba png": as_file(Image.fromarray(RANDOM.integers(0, 256, (40, 30, 4), dtype=np.uint8)), "PNG"),
    "grey png": as_file(RGB.convert("L"), "PNG"),
    "grey with alpha": as_file(RGB.convert("LA"), "PNG"),
    "palette gif": as_file(RGB.convert("P"), "GIF"),
    "bilevel png": as_file(RGB.convert("1"), "PNG"),
    "cmyk jpeg": as_file(RGB.convert("CMYK"), "JPEG"),
    "turned jpeg": turned(),
}


def test_pixels_are_the_processors_own(processor: Any) -> None:
    images = list(rows_of("image")["image"])
    got = encoded(images, processor)
    assert got.pixels.dtype == np.uint8
    wanted = processor(images, return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(got.batch(np.arange(len(images)))["pixel_values"], wanted, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", FILES)
def test_every_mode_is_read_as_the_stock_pipeline_reads_it(name: str, vit: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    stock = pipeline("image-classification", model=str(vit))
    path = tmp_path / "image"
    path.write_bytes(FILES[name]["bytes"])
    wanted = stock.preprocess(str(path))["pixel_values"]
    got = encoded([FILES[name]], Vision().processor(vit)).batch([0])["pixel_values"]
    np.testing.assert_allclose(got, wanted, atol=1e-5)


@pytest.mark.parametrize(
    "given",
    [
        np.asarray(RGB),
        np.asarray(RGB).tolist(),
        FILES["rgb png"]["bytes"],
        FILES["rgb png"],
        RGB,
    ],
    ids=["array", "lists", "bytes", "encoded", "image"],
)
def test_images_come_in_many_forms(given: Any) -> None:
    np.testing.assert_array_equal(open_image(given, 0, "image"), RGB)


def test_alpha_is_dropped_and_grey_becomes_three_equal_channels() -> None:
    unseen = Image.new("RGBA", (4, 4), (200, 30, 10, 0))
    assert np.asarray(open_image(unseen, 0, "image"))[0, 0].tolist() == [200, 30, 10]
    grey = open_image(Image.new("L", (4, 4), 77), 0, "image")
    assert np.asarray(grey)[0, 0].tolist() == [77, 77, 77]


def test_images_come_as_paths(tmp_path: Path) -> None:
    RGB.save(tmp_path / "a.png")
    rows = datasets.Dataset.from_dict({"image": [str(tmp_path / "a.png")]})
    assert rows.features["image"].dtype == "string"
    np.testing.assert_array_equal(open_image(rows[0]["image"], 0, "image"), RGB)


@pytest.mark.parametrize(
    ("broken", "why"),
    [
        ({"bytes": b"no image at all", "path": None}, "cannot identify image file"),
        ({"bytes": FILES["rgb png"]["bytes"][:500], "path": None}, "truncated"),
        ({"bytes": None, "path": "/no/such/image.png"}, "No such file"),
    ],
)
def test_a_broken_image_names_its_row_and_leaves_nothing(broken: Any, why: str, vit: Path, tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=rf"row 101 of made here: the image in column 'image' cannot be read \(.*{why}.*Replace"
    ):
        encoded([FILES["rgb png"], broken], Vision().processor(vit), tmp_path)
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []


def test_a_broken_image_behind_the_first_block_names_its_row(vit: Path) -> None:
    images = [FILES["rgb png"]] * 200 + [{"bytes": b"?", "path": None}]
    with pytest.raises(DataError, match="row 300 of made here: the image"):
        encoded(images, Vision().processor(vit))


RAMP = np.linspace(0, 65535, 64).round().astype(np.uint16).reshape(8, 8)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_16_bit_values_are_scaled_to_8_bits(form: str) -> None:
    """Pillow's conversion, which the stock pipeline uses, cuts them off at 255: all but one pixel of these is white."""
    made = np.asarray(picture(as_file(Image.fromarray(RAMP), form), "here"))
    np.testing.assert_array_equal(made, np.round(RAMP / 257).astype(np.uint8)[..., None].repeat(3, axis=2))


def test_a_12_bit_pgm_is_scaled_by_its_own_largest_value() -> None:
    made = np.asarray(picture(b"P5 2 1 4095\n" + np.array([0, 4095], ">u2").tobytes(), "here"))
    assert made[0, :, 0].tolist() == [0, 255]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([[0, 70000]], np.int32), "32-bit integers from 0 to 70000"),
        (np.array([[-1, 200]], np.int32), "32-bit integers from -1 to 200"),
        (np.array([[0.0, 1.0]], np.float32), "floating-point numbers from 0.0 to 1.0"),
        (np.array([[0.0, np.nan]], np.float32), "floating-point numbers"),
        (np.array([[0.0, 300.0]], np.float32), "floating-point numbers"),
    ],
)
def test_values_of_an_unknown_range_are_refused_and_not_cut_off(values: np.ndarray, why: str) -> None:
    with pytest.raises(DataError, match=f"here cannot be read .*{why}.*save it with 8 or 16 bits"):
        picture(as_file(Image.fromarray(values), "TIFF"), "here")


def test_wide_files_whose_values_fit_8_bits_are_read_as_they_are() -> None:
    for kind in (np.int32, np.float32):
        made = np.asarray(picture(as_file(Image.fromarray(np.array([[0, 200]], kind)), "TIFF"), "here"))
        assert made[0, :, 0].tolist() == [0, 200]


@pytest.mark.parametrize("value", [np.full((4, 4), 300), np.zeros((4, 4), np.float32), None])
def test_what_is_no_8_bit_image_is_refused(value: Any) -> None:
    with pytest.raises(DataError, match="row 3: the image in column 'x' cannot be read"):
        open_image(value, 3, "x")


def test_many_images_come_in_order(vit: Path) -> None:
    images = [Image.fromarray(np.full((32, 32, 3), i, np.uint8)) for i in range(200)]
    got = encoded(images, Vision().processor(vit))
    assert got.pixels[:, 0, 0, 0].tolist() == list(range(200))
    assert isinstance(got.pixels, np.memmap)


def test_a_processor_that_is_not_affine_keeps_its_values(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processor = Vision().processor(vit)
    plain = type(processor).normalize
    monkeypatch.setattr(type(processor), "normalize", lambda self, image, *a, **k: plain(self, image**2, *a, **k))
    assert affine_of(processor) is None
    images = list(rows_of("image")["image"])
    got = encoded(images, processor)
    assert got.pixels.dtype == np.float32
    wanted = processor(images, return_tensors="pt")["pixel_values"]
    np.testing.assert_array_equal(got.batch(np.arange(len(images)))["pixel_values"], wanted)
    with pytest.raises(CheckpointError, match=r"cannot be augmented\. Set horizontal_flip"):
        got.batch([0], augment=lambda image, row: image)


def test_augmentation_sees_8_bit_images_and_their_row_ids(vit: Path) -> None:
    processor, images, seen = Vision().processor(vit), list(rows_of("image")["image"]), []

    def invert(image: np.ndarray, row_id: int) -> np.ndarray:
        seen.append((row_id, image.dtype, image.shape))
        return 255 - image

    got = encoded(images, processor)
    batch = got.batch([4, 2], augment=invert)["pixel_values"]
    assert seen == [(104, np.uint8, (32, 32, 3)), (102, np.uint8, (32, 32, 3))]
    # ViT's normalisation maps 0..255 to -1..1, so the negative is the opposite
    np.testing.assert_allclose(batch, -got.batch([4, 2])["pixel_values"], atol=1e-5)


def test_images_of_different_sizes_are_refused(vit: Path) -> None:
    processor = Vision().processor(vit)
    processor.size = type(processor.size)(shortest_edge=32)
    with pytest.raises(CheckpointError, match=r"different sizes \(32x32 and 48x32\).*Give the checkpoint's preproc"):
        encoded([Image.new("RGB", (40, 60)), Image.new("RGB", (60, 90)), Image.new("RGB", (40, 41))], processor)


def test_image_size_sets_any_processor(processor: Any) -> None:
    images = list(rows_of("image")["image"])
    got = encoded(images, processor, image_size=48)
    assert got.batch([0, 1])["pixel_values"].shape == (2, 3, 48, 48)
    wanted = resized_processor(processor, 48)(images[:2], return_tensors="pt")["pixel_values"]
    np.testing.assert_allclose(got.batch([0, 1])["pixel_values"], wanted, atol=1e-5, rtol=1e-6)
    assert encoded(images, processor).batch([0])["pixel_values"].shape[-1] == 32, "the given processor has changed"


def test_image_size_keeps_the_share_of_a_crop(tmp_path: Path) -> None:
    processor = Vision().processor(tiny_deit(tmp_path), image_size=64)
    assert (processor.size["height"], processor.crop_size["height"]) == (72, 64)  # 36 and 32 before


@pytest.mark.parametrize("build", TINY_IMAGE.values(), ids=TINY_IMAGE)
def test_image_size_fits_the_model_and_survives_saving(build: Callable[..., Path], tmp_path: Path) -> None:
    from transformers import pipeline

    names, folder = ("a", "b"), build(tmp_path / "base")
    loaded = Vision().load_with_new_head(folder, label_names=names, image_size=48)
    loaded.model.save_pretrained(tmp_path / "start")
    Vision().processor(folder, image_size=48).save_pretrained(tmp_path / "start")
    images = list(rows_of("image")["image"])
    rows = encoded(images, Vision().processor(tmp_path / "start"))
    with torch.no_grad():
        got = torch.softmax(Vision().logits(Vision().load(tmp_path / "start"), rows.batch([0, 1])), -1)
    told = pipeline("image-classification", model=str(tmp_path / "start"))(images[:2])
    wanted = [[next(a["score"] for a in answer if a["label"] == name) for name in names] for answer in told]
    np.testing.assert_allclose(got, wanted, atol=1e-5)
    assert getattr(Vision().load(tmp_path / "start").config, "image_size", 48) == 48  # ResNet takes any


@pytest.mark.parametrize("build", [tiny_vit, tiny_deit])
def test_positions_are_interpolated_as_the_model_itself_would(build: Callable[..., Path], tmp_path: Path) -> None:
    folder = build(tmp_path)
    plain = Vision().load_with_new_head(folder, label_names=("a", "b"))
    larger = Vision().load_with_new_head(folder, label_names=("a", "b"), image_size=48)
    assert larger.new_parameters == plain.new_parameters
    pixels = torch.randn(2, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        wanted = plain.model(pixel_values=pixels, interpolate_pos_encoding=True).logits
        np.testing.assert_allclose(larger.model(pixel_values=pixels).logits, wanted, atol=1e-5)


def test_an_image_size_that_patches_do_not_divide_is_refused(vit: Path) -> None:
    with pytest.raises(CheckpointError, match=r"cannot be set to images of 36 pixels \(its patches are of 8 pixels\)"):
        Vision().load_with_new_head(vit, label_names=("a", "b"), image_size=36)


def test_swin_needs_no_positions(tmp_path: Path) -> None:
    loaded = Vision().load_with_new_head(tiny_swin(tmp_path), label_names=("a", "b"), image_size=40)
    assert loaded.model.config.image_size == 40
