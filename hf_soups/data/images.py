"""Pictures: image files of known kinds, opened within bounds and decoded no larger than who reads them needs.

One function for all of hf_soups, so that a photo gives the same pixels in a fine-tune, a pool, a batch and a pipeline.
An image of at most `WHOLE` pixels is decoded as it is. A larger one stays encoded until somebody needs it, and is then
made smaller by a whole number (by the JPEG decoder, or after decoding) that leaves both its edges `MARGIN` times as
long as needed, and its content in its place within `SHIFT`.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np

from hf_soups.errors import DataError
from hf_soups.files.reading import open_regular

if TYPE_CHECKING:
    import datasets
    from PIL.Image import Image

# No kind for which Pillow starts another program (EPS) or opens files inside files (FPX, MIC); in Pillow's names.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "AVIF", "JPEG2000")
MOST_PIXELS = 89_478_485  # of an image, 4 bytes each when decoded; Pillow's own bound, above which it warns of a bomb
WHOLE = 2**20  # pixels up to which an image is decoded as it is
MARGIN = 3  # Pillow's reducing_gap: from 3 on, what is resized afterwards "in most cases" looks the same
SHIFT = 1 / 16  # pixels of what is made of it: edges that the number does not divide are rounded up
PIXELS_AT_ONCE = 2**24  # decoded pixels of large images that the process holds; one that is larger is held alone
SIXTEEN_BITS = ("I;16", "I;16L", "I;16B", "I;16N")  # Pillow's modes of values from 0 to 65535
DECODING = (FORMATS, WHOLE, MARGIN, SHIFT, SIXTEEN_BITS)  # what the pixels depend on, for keys of caches
DECODERS = max(1, min(8, os.cpu_count() or 1))  # threads that decode: Pillow releases the interpreter's lock
FILE_PART = 2**20  # bytes of a file that are read at once for its digest
OPENED = re.compile(r" <_io\.[^>]*>")  # how Pillow calls what it read from
JPEG_SCALE = 8  # that its decoder divides by at most; by 4 and 2 too


@dataclass(frozen=True, slots=True)
class Picture:
    """A large image that is not decoded yet."""

    source: Any  # bytes, or the path of a file
    size: tuple[int, int]  # width and height as stored
    jpeg: bool  # whether its decoder can make it smaller at once
    where: str  # how errors call it

    def pixels(self, edge: int | None) -> int:
        """How many are held while it is decoded."""
        scale = self._scales(edge)[0]
        return -(-self.size[0] // scale) * -(-self.size[1] // scale)

    def decoded(self, edge: int | None) -> Image:
        """The upright image in RGB; it may be smaller than stored, but its edges are at least `MARGIN * edge` pixels.

        Args:
            edge: pixels of the longer side of what is made of it; None: it is decoded whole.
        Raises:
            DataError: if it is damaged.
        """
        scale, rest = self._scales(edge)
        with _refusing(self.where), _opened(self.source) as image:
            if scale > 1:
                image.draft(None, (self.size[0] // scale, self.size[1] // scale))
            made = _upright(image)
            return made.reduce(rest) if rest > 1 else made

    def _scales(self, edge: int | None) -> tuple[int, int]:
        """What the decoder divides its edges by, and what they are divided by afterwards."""
        width, height = self.size
        most = 1 if edge is None else min(self.size) // (MARGIN * edge)
        for n in range(most, 1, -1):
            scale = math.gcd(n, JPEG_SCALE) if self.jpeg else 1
            in_place = all(-side % n * (edge or 1) <= SHIFT * side for side in (width, height))
            if in_place and (scale in (n, JPEG_SCALE) or not self.jpeg):
                return scale, n // scale
        return 1, 1


def picture(value: Any, where: str) -> Image | Picture:
    """An image of what holds one, in RGB: encoded bytes, a path, an array of 8-bit values, or an image of Pillow's.

    Orientation and colour modes are handled as transformers' pipelines do: grey and palettes become RGB, and an alpha
    channel is dropped, so that what lies under transparent pixels shows. Unlike there, 16-bit values are scaled to
    8 bits (Pillow's own conversion cuts them off at 255, which leaves nearly white pixels), and values of an unknown
    range, such as 32-bit ones, are refused where 8 bits do not hold them.

    Args:
        value: also a mapping of "bytes" and "path", as data sets have them.
        where: how errors call it.
    Raises:
        DataError: if it cannot be read, is of none of the `FORMATS`, or has more than `MOST_PIXELS`.
    """
    from PIL import ImageOps

    if isinstance(value, Mapping) and "bytes" in value:
        value = value["path"] if value["bytes"] is None else value["bytes"]
    named = str(value) if isinstance(value, str | Path) and Path(value).name not in where else ""
    with _refusing(where, named):
        if isinstance(value, io.BytesIO):
            value = value.getbuffer()
        if isinstance(value, list | np.ndarray):
            return _of_array(np.asarray(value))
        if _is_file(value):
            return _of_file(value, where)
        if not hasattr(value, "getexif"):
            raise TypeError(f"{type(value).__name__} is none of bytes, path, array or image")
        return _upright(ImageOps.exif_transpose(value))


def open_image(value: Any, row: object, column: str) -> Image | Picture:
    """As `picture`; errors name the row."""
    return picture(value, f"row {row}: the image in column {column!r}")


def cells(rows: datasets.Dataset, column: str, start: int, stop: int) -> list[Any]:
    """What a column of a data set holds in some rows: of images their encoding, as it is in the files, not copied."""
    return cell_reader(rows, column)(start, stop)


def cell_reader(rows: datasets.Dataset, column: str) -> Callable[[int, int], list[Any]]:
    """`cells` of one column, for many calls: making a view of the column costs more than reading a few rows."""
    from datasets import Image as ImageColumn

    view, is_image = rows.select_columns([column]), isinstance(rows.features[column], ImageColumn)
    if is_image:
        view = view.with_format("arrow")

    def read(start: int, stop: int) -> list[Any]:
        held = view[start : min(stop, len(view))]
        if not is_image:
            return list(held[column])
        return [cell for chunk in held.column(column).chunks for cell in _cells(chunk)]

    return read


def _cells(chunk: Any) -> Iterator[dict[str, Any] | None]:
    import pyarrow.compute as pc

    encoded, paths = pc.struct_field(chunk, "bytes"), pc.struct_field(chunk, "path").to_pylist()
    for there, data, path in zip(chunk.is_valid().to_pylist(), _buffers(encoded), paths, strict=True):
        yield {"bytes": data, "path": path} if there else None


def _buffers(encoded: Any) -> Iterator[Any]:
    """Each value of an array of bytes as a part of the array's own memory: Arrow's scalars are copies."""
    _, ends, data = encoded.buffers()
    wide = str(encoded.type).startswith("large")
    at = np.frombuffer(ends, np.int64 if wide else np.int32)[encoded.offset :] if len(encoded) else ()
    for i, there in enumerate(encoded.is_valid().to_pylist()):
        yield data.slice(int(at[i]), int(at[i + 1] - at[i])) if there and data is not None else b"" if there else None


def encoding(cell: Any) -> Iterator[Any]:
    """The encoded bytes of what `cells` gives, in parts; nothing of a file that cannot be read, as its row will say."""
    if cell is None:
        return
    if cell["bytes"] is not None:
        yield cell["bytes"]
        return
    with contextlib.suppress(OSError), open_regular(str(cell["path"])) as file:
        while part := file.read(FILE_PART):
            yield part


def image_endings() -> tuple[str, ...]:
    """Endings of file names that Pillow takes for images of the `FORMATS`."""
    from PIL.Image import registered_extensions

    known = _known()
    return tuple(ending for ending, form in registered_extensions().items() if form in known)


class _Room:
    """Lets threads decode while what they hold together stays within `PIXELS_AT_ONCE`."""

    def __init__(self) -> None:
        self._changed, self._held = threading.Condition(), 0

    @contextlib.contextmanager
    def taken(self, pixels: int) -> Iterator[None]:
        """Wait until so many pixels may be held, and hold them for the length of the block."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= PIXELS_AT_ONCE)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()

    def empty(self) -> None:
        """In a process that was forked: what the parent's threads hold, nobody gives back here."""
        self._changed, self._held = threading.Condition(), 0


ROOM = _Room()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=ROOM.empty)


def _known() -> list[str]:
    from PIL.Image import OPEN, init

    init()
    return [form for form in FORMATS if form in OPEN]


def _is_file(value: Any) -> bool:
    try:
        return isinstance(value, str | Path) or bool(memoryview(value).nbytes >= 0)
    except TypeError:
        return False


@contextlib.contextmanager
def _opened(source: Any) -> Iterator[Image]:
    from PIL.Image import open as open_image_file

    file: BinaryIO = open_regular(source) if isinstance(source, str | Path) else io.BytesIO(source)
    with file, open_image_file(file, formats=_known()) as image:
        yield image


def _of_file(value: Any, where: str) -> Image | Picture:
    with _opened(value) as image:
        pixels = image.width * image.height
        if pixels > MOST_PIXELS:
            raise ValueError(f"{image.width} x {image.height} pixels; at most {MOST_PIXELS:,} are decoded")
        if pixels <= WHOLE:
            return _upright(image)
        return Picture(value, image.size, image.format in ("JPEG", "MPO"), where)


def _of_array(values: np.ndarray) -> Image:
    from PIL.Image import fromarray

    if values.dtype.kind not in "iu" or values.min() < 0 or values.max() > 255:
        raise ValueError(f"an array of {values.dtype} from {values.min()} to {values.max()}, not of integers 0 to 255")
    return fromarray(values.astype(np.uint8)).convert("RGB")


def _upright(image: Image) -> Image:
    """Turned as its camera was held, in RGB."""
    from PIL import ImageOps

    ImageOps.exif_transpose(image, in_place=True)  # without a copy, which else it makes of upright ones too
    image.load()
    return image if image.mode == "RGB" else _eight_bits(image).convert("RGB")


def _eight_bits(image: Image) -> Image:
    """The image in values that 8 bits hold, as `convert` expects; it would cut off all above."""
    from PIL.Image import fromarray

    # a PGM's values are scaled to 16 bits by Pillow, whatever their largest one is
    if image.mode in SIXTEEN_BITS or (image.mode == "I" and image.format in ("PPM", "PNG")):
        values = np.asarray(image, dtype=np.uint32)
        return fromarray(((values + 128) // 257).astype(np.uint8))  # 65535 = 255 * 257
    if image.mode in ("I", "F"):
        values = np.asarray(image)
        # floats of at most 1 are shares of white more often than 8-bit values; nobody can know
        if not (values.min() >= 0 and values.max() <= 255) or (image.mode == "F" and values.max() <= 1):
            kind = "32-bit integers" if image.mode == "I" else "floating-point numbers"
            raise ValueError(f"its values are {kind} from {values.min()} to {values.max()}; save it with 8 or 16 bits")
    return image


@contextlib.contextmanager
def _refusing(where: str, file: str = "") -> Iterator[None]:
    try:
        yield
    except DataError:
        raise
    except Exception as error:  # broken files make Pillow's decoders raise nearly anything
        why = OPENED.sub("", str(error))[:200] or type(error).__name__
        why = f"{file}: {why}" if file and file not in why else why
        raise DataError(f"{where} cannot be read ({why}). Replace or remove it.") from error
