"""Images as pixels: decoded, resized and cropped once to 8 bits, normalised batch by batch as the processor would.

Large photos are decoded near the size that is wanted, a bounded number of pixels at once (`hf_soups.data.images`).
"""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float32, Int64

from hf_soups.data.images import DECODING, PIXELS_AT_ONCE, ROOM, Picture, cells, open_image
from hf_soups.errors import CheckpointError, InputError
from hf_soups.models.family import Augment, Batch
from hf_soups.models.row_cache import cache_key, cached_rows, write_rows
from hf_soups.recipe import LARGEST_SIDE

if TYPE_CHECKING:
    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

ROWS_AT_ONCE = 64
# Everything a processor does to values; what is left moves pixels only. Unknown options are not passed.
VALUE_STEPS = ("do_rescale", "do_normalize", "include_top", "rescale_offset")
TOLERANCE = 1e-5  # of normalised pixel values, relative to the largest where that is above 1


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """All images of a split: 8 bits (rows, height, width, channels) with scale and shift, or float32 as they are."""

    row_ids: np.ndarray
    pixels: np.ndarray
    scale: Float32[np.ndarray, " channels"] | None
    shift: Float32[np.ndarray, " channels"] | None

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """1 for each image: all cost the same."""
        return np.ones(len(self), dtype=np.int64)

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """Normalised pixel_values (batch, channels, height, width) in float32, changed by `augment` before that.

        Raises:
            CheckpointError: if images are to be augmented and the processor's values are not 8-bit ones.
        """
        at = np.asarray(indices, dtype=np.int64)
        pixels = np.asarray(self.pixels[at])
        if augment is not None:
            if self.scale is None:
                raise CheckpointError(
                    "this checkpoint's image processor does more than scale and shift 8-bit values, so its images "
                    "cannot be augmented. Set horizontal_flip, random_crop and randaugment_operations to 0."
                )
            pixels = np.stack([augment(image, int(row)) for image, row in zip(pixels, self.row_ids[at], strict=True)])
        values = torch.from_numpy(pixels).permute(0, 3, 1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        if self.scale is not None and self.shift is not None:
            values.mul_(torch.from_numpy(self.scale)[:, None, None]).add_(torch.from_numpy(self.shift)[:, None, None])
        return {"pixel_values": values}


def encode_images(split: Split, processor: Any, task: Task, data: Data, cache: Path | None) -> EncodedImages:
    """Decode, resize and crop a split, or read what was made before."""
    processor = resized_processor(processor, data.image_size)
    key = cache_key("image", split.fingerprint, len(split), task.image, processor.to_dict(), DECODING)

    def read(folder: Path) -> EncodedImages:
        affine = json.loads((folder / "values.json").read_text()) or {}
        scale, shift = (np.asarray(affine[key], np.float32) if affine else None for key in ("scale", "shift"))
        return EncodedImages(split.row_ids, np.load(folder / "pixels.npy", mmap_mode="r"), scale, shift)

    return cached_rows(cache, key, lambda into: _decode(split, processor, str(task.image), into), read)


def resized_processor(processor: Any, image_size: int | None) -> Any:
    """A copy that gives square images of `image_size` pixels; the share that a centre crop keeps stays the same."""
    if image_size is None:
        return processor
    check_side(image_size)
    other, square = copy.deepcopy(processor), {"height": image_size, "width": image_size}
    size, crop = dict(processor.size), dict(getattr(processor, "crop_size", None) or {})
    crops = bool(getattr(processor, "do_center_crop", False)) and bool(crop)
    if crops:
        kept = crop.get("height") or crop["shortest_edge"]
        other.crop_size = type(processor.crop_size)(**square) if not isinstance(processor.crop_size, dict) else square
        size = {edge: round(pixels * image_size / kept) for edge, pixels in size.items() if pixels}
    elif size.get("shortest_edge"):
        size = {"shortest_edge": image_size}
    else:
        size = square
    other.size = type(processor.size)(**size) if not isinstance(processor.size, dict) else size
    return other


def check_side(pixels: int) -> None:
    """Refuse images that no model here reads.

    Raises:
        InputError: if they are larger than `LARGEST_SIDE`.
    """
    if not 1 <= pixels <= LARGEST_SIDE:
        raise InputError(f"images of {pixels} pixels a side; expected 1 to {LARGEST_SIDE:,}. Choose another size.")


def check_processor(processor: Any) -> None:
    """Try a processor whose file may say anything on a small image.

    Raises:
        Exception: of any kind, if it cannot process it; nothing large is allocated.
    """
    for name in ("size", "crop_size", "pad_size"):
        for pixels in _sides(getattr(processor, name, None)):
            if isinstance(pixels, bool) or not isinstance(pixels, int) or not 1 <= pixels <= LARGEST_SIDE:
                raise ValueError(f"{name} has {str(pixels)[:60]!r}; expected pixels, 1 to {LARGEST_SIDE:,}")
    with np.errstate(all="ignore"):
        made = normalised(processor, [np.zeros((40, 30, 3), dtype=np.uint8)])[0]
    if made.ndim != 3 or not np.isfinite(made).all():
        raise ValueError(f"it makes {made.shape} numbers of a black image, or such that are not finite")


def moved(processor: Any, images: list[Any]) -> list[np.ndarray]:
    """Images (channels, height, width) after resizing and cropping alone."""
    off = {step: False for step in VALUE_STEPS if hasattr(processor, step)}
    return [np.asarray(image) for image in processor(images, **off)["pixel_values"]]


def normalised(processor: Any, images: list[Any]) -> list[np.ndarray]:
    """Images (channels, height, width) as the model reads them."""
    return [np.asarray(image, dtype=np.float32) for image in processor(images)["pixel_values"]]


def affine_of(
    processor: Any,
) -> tuple[Float32[np.ndarray, " channels"], Float32[np.ndarray, " channels"]] | None:
    """Scale and shift per channel that take 8-bit values to the processor's, or None when it does something else.

    Found by what the processor makes of a black and a white image, and held against it on random ones.
    """
    random = np.random.default_rng(0).integers(0, 256, (2, 301, 403, 3), dtype=np.uint8)
    black, white = (normalised(processor, [np.full((403, 403, 3), value, np.uint8)])[0] for value in (0, 255))
    centre = (slice(None), black.shape[1] // 2, black.shape[2] // 2)  # the border may be padding
    shift = black[centre].astype(np.float64)
    scale = (white[centre] - shift) / 255
    pixels, wanted = moved(processor, list(random)), normalised(processor, list(random))
    if any(image.dtype != np.uint8 for image in pixels):
        return None
    scale, shift = scale.astype(np.float32), shift.astype(np.float32)
    for image, values in zip(pixels, wanted, strict=True):
        off = np.abs(image * scale[:, None, None] + shift[:, None, None] - values).max()
        if off > TOLERANCE * max(1.0, float(np.abs(values).max())):
            return None
    return scale, shift


def edge_of(processor: Any) -> int | None:
    """The longest edge, in pixels, that a processor resizes images to before it crops them; None where it does not."""
    if not getattr(processor, "do_resize", False):
        return None
    sides = _sides(processor.size)
    kept = getattr(processor, "crop_pct", None) or 1.0  # ConvNeXT resizes to size / crop_pct
    return math.ceil(max(sides) / kept) if sides else None


def _sides(size: Any) -> list[int]:
    """The numbers in what a processor calls a size."""
    if isinstance(size, int):
        return [size]
    return [n for n in dict(size or {}).values() if n is not None]


Step = Callable[[Any, list[Any]], list[np.ndarray]]  # `moved` or `normalised`


def processed(step: Step, processor: Any, images: Iterable[Any], *, threads: int = 1) -> list[np.ndarray]:
    """What a processor makes of images and of pictures that are not decoded yet, a bounded number of pixels at once.

    Raises:
        DataError: if a picture is damaged.
    """
    edge = edge_of(processor)

    def made(piece: list[Any]) -> list[np.ndarray]:
        if not isinstance(piece[0], Picture):
            return step(processor, piece)
        with ROOM.taken(piece[0].pixels(edge)):
            return step(processor, [piece[0].decoded(edge)])

    if threads == 1:
        return [image for piece in _pieces(images) for image in made(piece)]
    with ThreadPoolExecutor(threads) as pool:
        return [image for piece in pool.map(made, _pieces(images)) for image in piece]


def _pieces(images: Iterable[Any]) -> Iterator[list[Any]]:
    """Every large picture alone, and the images between them together as far as their pixels allow."""
    held: list[Any] = []
    pixels = 0
    for image in images:
        alone = isinstance(image, Picture)
        own = 0 if alone else _pixels(image)
        if held and (alone or pixels + own > PIXELS_AT_ONCE):
            yield held
            held, pixels = [], 0
        if alone:
            yield [image]
        else:
            held.append(image)
            pixels += own
    if held:
        yield held


def _pixels(image: Any) -> int:
    size = image.size
    return int(size if isinstance(size, int) else size[0] * size[1])  # of an array: of an image


def _decode(split: Split, processor: Any, column: str, into: Path) -> None:
    affine = affine_of(processor)

    def encode(start: int) -> np.ndarray:
        values = cells(split.rows, column, start, min(start + ROWS_AT_ONCE, len(split)))
        named = zip(values, split.row_ids[start : start + ROWS_AT_ONCE], strict=True)
        images = (open_image(value, f"{row} of {split.source}", column) for value, row in named)
        return stacked_images(processed(normalised if affine is None else moved, processor, images))

    first = encode(0)
    kind = np.dtype(np.float32 if affine is None else np.uint8)
    write_rows(into / "pixels.npy", kind, (len(split), *first.shape[1:]), _blocks(encode, first, len(split)))
    about = None if affine is None else {"scale": affine[0].tolist(), "shift": affine[1].tolist()}
    (into / "values.json").write_text(json.dumps(about))


def _blocks(encode: Any, first: np.ndarray, rows: int) -> Iterator[np.ndarray]:
    """Blocks in order, a few at a time in threads: decoding and resizing release the interpreter's lock."""
    yield first
    threads = max(1, torch.get_num_threads())
    with ThreadPoolExecutor(threads) as pool:
        starts = list(range(ROWS_AT_ONCE, rows, ROWS_AT_ONCE))
        for i in range(0, len(starts), threads):  # no more blocks in memory than threads
            for block in pool.map(encode, starts[i : i + threads]):
                if block.shape[1:] != first.shape[1:]:
                    raise _uneven({first.shape[1:3], block.shape[1:3]})
                yield block


def stacked_images(images: list[np.ndarray]) -> np.ndarray:
    """Images (channels, height, width) as one array (images, height, width, channels).

    Raises:
        CheckpointError: if their sizes differ.
    """
    shapes = {image.shape[1:] for image in images}
    if len(shapes) > 1:
        raise _uneven(shapes)
    return np.stack(images).transpose(0, 2, 3, 1)


def _uneven(shapes: set[tuple[int, ...]]) -> CheckpointError:
    sizes = " and ".join("x".join(map(str, shape)) for shape in sorted(shapes)[:2])
    return CheckpointError(
        f"the image processor gives images of different sizes ({sizes}), which cannot be put in one batch. "
        "Give the checkpoint's preprocessor_config.json a do_center_crop and crop_size, or a size of height and width."
    )
