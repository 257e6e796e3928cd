"""Pictures: photos are decoded near the size that is wanted, within bounds, and files of other kinds are not opened."""

from __future__ import annotations

import base64
import functools
import http.server
import io
import math
import os
import struct
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_soups.batch_predict import predict_rows
from hf_soups.data.images import MARGIN, MOST_PIXELS, PIXELS_AT_ONCE, WHOLE, Picture, cells, open_image, picture
from hf_soups.errors import DataError
from hf_soups.models.pixels import edge_of, encode_images, moved
from hf_soups.models.readers import ImageReader
from hf_soups.models.vision import Vision
from hf_soups.recipe import Data
from tests.makers.tiny import TINY_IMAGE, tiny_vit
from tests.models.conftest import split_of, task_of

RANDOM = np.random.default_rng(0)


def photo(width: int = 1504, height: int = 1104) -> Image.Image:
    """Structure at all scales down to single pixels, the finer the weaker, as in what cameras see."""
    made, cells_of = np.zeros((height, width, 3)), (1, 4, 16, 64)
    for cell in cells_of:
        noise = RANDOM.integers(0, 256, (height // cell + 1, width // cell + 1, 3), dtype=np.uint8)
        drawn = Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)
        made += np.asarray(drawn) * np.sqrt(cell) / np.sum(np.sqrt(cells_of))
    return Image.fromarray(made.astype(np.uint8))


def as_bytes(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **({"quality": 92, **options} if form == "JPEG" else options))
    return file.getvalue()


PHOTO = as_bytes(photo())


def bomb(width: int = 30_000, height: int = 30_000) -> bytes:
    """A PNG of a few bytes that announces so many pixels."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
    )


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n"


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_vit(tmp_path_factory.mktemp("vit"))


def as_rows(values: list[Any]) -> datasets.Dataset:
    return datasets.Dataset.from_dict({"image": values}).cast_column("image", datasets.Image())


class TestSize:
    @pytest.mark.parametrize(
        ("size", "most", "mean"),  # of 255; what is not in its place differs more
        [((1504, 1104), 2, 0.5), ((2047, 1537), 8, 1.25)],
        ids=["edges divide", "edges are rounded up"],
    )
    def test_what_is_made_of_a_photo_hardly_differs_from_what_full_decoding_gives(
        self, processor: Any, size: tuple[int, int], most: int, mean: float
    ) -> None:
        data = as_bytes(photo(*size))
        whole = Image.open(io.BytesIO(data)).convert("RGB")
        opened = open_image(data, 0, "image")
        assert isinstance(opened, Picture)
        near = opened.decoded(edge_of(processor))
        assert near.size[0] < whole.size[0] * 0.6
        got, wanted = (moved(processor, [image])[0].astype(int) for image in (near, whole))
        assert np.abs(got - wanted).max() <= most
        assert np.abs(got - wanted).mean() <= mean

    @pytest.fixture(scope="class", params=TINY_IMAGE.values(), ids=TINY_IMAGE)
    def processor(self, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
        return Vision().processor(request.param(tmp_path_factory.mktemp("image")))

    @given(width=st.integers(1, 9000), height=st.integers(1, 9000), edge=st.integers(1, 3000), jpeg=st.booleans())
    def test_edges_stay_three_times_as_long_as_needed_and_no_more_pixels_are_held_than_there_are(
        self, width: int, height: int, edge: int, jpeg: bool
    ) -> None:
        opened = Picture(b"", (width, height), jpeg, "")
        scale = math.prod(opened._scales(edge))
        assert scale == 1 or min(width, height) // scale >= MARGIN * edge
        assert opened.pixels(edge) <= width * height

    @pytest.mark.parametrize("size", [(1504, 1104), (4004, 1004), (1004, 4004), (2501, 2501)])
    @pytest.mark.parametrize("form", ["JPEG", "PNG"])
    def test_it_is_decoded_to_the_size_that_was_announced(self, size: tuple[int, int], form: str) -> None:
        opened = picture(as_bytes(Image.new("RGB", size), form), "it")
        assert isinstance(opened, Picture)
        got = opened.decoded(100)
        assert min(got.size) >= MARGIN * 100
        assert max(got.size) < max(size)
        if form == "JPEG":
            assert opened.pixels(100) >= got.size[0] * got.size[1]
        assert opened.decoded(None).size == size

    def test_a_turned_photo_is_upright_when_it_was_decoded_small(self) -> None:
        about = Image.Exif()
        about[0x0112] = 6
        opened = picture(as_bytes(photo(), exif=about), "it")
        assert isinstance(opened, Picture)
        got = opened.decoded(100)
        assert got.size == (552, 752)
        assert (
            np.abs(
                np.asarray(got, int) - np.asarray(opened.decoded(None).resize(got.size, Image.Resampling.BOX))
            ).mean()
            < 2
        )

    def test_up_to_a_million_pixels_nothing_changes(self) -> None:
        data = as_bytes(photo(1024, WHOLE // 1024))
        np.testing.assert_array_equal(picture(data, "it"), Image.open(io.BytesIO(data)))


class TestOneFunction:
    """Pools and fine-tunes encode, pipelines and batches read: the same pixels for the same file."""

    @pytest.mark.parametrize("form", ["JPEG", "PNG"])
    def test_pixels_of_a_pool_are_those_of_a_cascade(self, vit: Path, tmp_path: Path, form: str) -> None:
        from hf_soups.cascades.pipelines import CascadeImageClassificationPipeline

        data = as_bytes(photo(), form)
        (tmp_path / "a.img").write_bytes(data)
        small = as_bytes(photo(90, 70), form)
        processor = Vision().processor(vit)
        values = [{"bytes": small, "path": None}, {"bytes": data, "path": None}, {"bytes": small, "path": None}]
        pool = encode_images(split_of(as_rows(values)), processor, task_of("image"), Data(), None).pixels
        read = CascadeImageClassificationPipeline.preprocess
        rows = [
            read(None, base64.b64encode(small).decode()),
            read(None, str(tmp_path / "a.img")),
            read(None, "data:image/png;base64," + base64.b64encode(small).decode()),
        ]  # type: ignore[arg-type]
        assert [isinstance(row, Picture) for row in rows] == [False, True, False]
        np.testing.assert_array_equal(ImageReader(processor).read(rows).pixels, pool)
        assert len(np.unique(pool.reshape(3, -1), axis=0)) == 2

    def test_a_pipeline_fetches_an_image_within_a_bound(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        from hf_soups.cascades import pipelines as images

        (tmp_path / "a.png").write_bytes(as_bytes(photo(90, 70), "PNG"))
        (tmp_path / "a.eps").write_bytes(EPS)
        handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(tmp_path))
        monkeypatch.setattr(http.server.SimpleHTTPRequestHandler, "log_message", lambda *_: None)
        read: Any = functools.partial(images.CascadeImageClassificationPipeline.preprocess, None)
        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_address[1]}"
            np.testing.assert_array_equal(read(f"{url}/a.png"), Image.open(tmp_path / "a.png"))
            for name, why in (("a.eps", "cannot identify"), ("gone.png", "404")):
                with pytest.raises(DataError, match=rf"^the image {url}/{name} cannot be read \(.*{why}"):
                    read(f"{url}/{name}")
            monkeypatch.setattr(images, "MOST_FETCHED", 1000)
            with pytest.raises(DataError, match=r"a\.png cannot be read \(more than 1,000 bytes\)"):
                read(f"{url}/a.png")
            server.shutdown()

    @given(
        st.lists(st.none() | st.binary(max_size=5) | st.text("ab", min_size=1, max_size=5), min_size=1, max_size=20),
        st.data(),
    )
    def test_cells_are_those_of_the_rows_whatever_was_chosen(self, values: list[Any], data: st.DataObject) -> None:
        told = [
            v if v is None else {"bytes": v, "path": None} if isinstance(v, bytes) else {"bytes": None, "path": v}
            for v in values
        ]
        chosen = data.draw(st.lists(st.integers(0, len(told) - 1), min_size=1, max_size=20))
        start = data.draw(st.integers(0, len(chosen)))
        stop = data.draw(st.integers(start, len(chosen)))
        rows = as_rows(told).select(chosen)
        got = [
            c and {**c, "bytes": None if c["bytes"] is None else bytes(c["bytes"])}
            for c in cells(rows, "image", start, stop)
        ]
        assert got == [told[i] for i in chosen[start:stop]]

    def test_cells_are_not_copied(self, tmp_path: Path) -> None:
        datasets.Dataset.from_dict({"image": [{"bytes": bytes(10**6), "path": None}] * 20}).save_to_disk(tmp_path)
        rows = datasets.load_from_disk(tmp_path).cast_column("image", datasets.Image()).select([7, *range(15)])
        before = pa.total_allocated_bytes()
        held = cells(rows, "image", 0, 16)
        assert pa.total_allocated_bytes() - before < 10**6
        assert {len(cell["bytes"]) for cell in held} == {10**6}


class TestRefused:
    """A file that cannot be read costs its row and nothing else."""

    @pytest.fixture(scope="class")
    def answered(self, vit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str | None]:
        folder, out = tmp_path_factory.mktemp("mixed"), tmp_path_factory.mktemp("out")
        programs = tmp_path_factory.mktemp("programs")
        (programs / "gs").write_text(f"#!/bin/sh\ntouch {programs}/started\n")
        (programs / "gs").chmod(0o755)
        os.mkfifo(folder / "pipe.jpg")
        (folder / "zero.png").symlink_to("/dev/zero")
        (folder / "script.png").write_bytes(EPS)
        (folder / "bomb.png").write_bytes(bomb())
        (folder / "large.png").write_bytes(bomb(MOST_PIXELS, 2))
        (folder / "cut.jpg").write_bytes(PHOTO[: len(PHOTO) // 2])
        (folder / "cut2.jpg").write_bytes(PHOTO[:-40_000])
        (folder / "fine.jpg").write_bytes(PHOTO)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PATH", str(programs), prepend=":")
            with pytest.warns(Image.DecompressionBombWarning):
                predict_rows(vit, data=str(folder), out=out / "answers", progress=False)
        assert not (programs / "started").exists()
        told = pq.read_table(out / "answers").to_pydict()
        return dict(zip(told["row_id"], told["error"], strict=True))

    @pytest.mark.parametrize(
        ("name", "why"),
        [
            ("pipe.jpg", "a pipe, socket or device, not a regular file"),
            ("zero.png", "a pipe, socket or device, not a regular file"),
            ("script.png", "cannot identify image file"),
            ("bomb.png", "could be decompression bomb DOS attack"),
            ("large.png", f"{MOST_PIXELS} x 2 pixels; at most {MOST_PIXELS:,} are decoded"),
            ("cut.jpg", "image file is truncated"),
            ("cut2.jpg", "image file is truncated"),
        ],
    )
    def test_as_a_row_that_names_the_file(self, answered: dict[str, str | None], name: str, why: str) -> None:
        said = str(answered[name])
        assert said.startswith(f"row {name}: the image in column 'file' cannot be read (")
        assert why in said

    def test_and_the_others_are_answered(self, answered: dict[str, str | None]) -> None:
        assert answered["fine.jpg"] is None

    @pytest.mark.parametrize("data", [bomb(), EPS, PHOTO[:-40_000]], ids=["bomb", "eps", "cut"])
    def test_in_data_to_learn_from_as_an_error_that_names_the_row(self, vit: Path, data: bytes, tmp_path: Path) -> None:
        rows = as_rows([PHOTO, data, PHOTO])
        with pytest.raises(DataError, match=r"row 101 of made here: the image in column 'image' cannot be read \("):
            encode_images(split_of(rows), Vision().processor(vit), task_of("image"), Data(), tmp_path)
        assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == []

    def test_all_rows_of_a_batch_without_ending_the_job(self, vit: Path, tmp_path: Path) -> None:
        (tmp_path / "photos").mkdir()
        for i in range(3):
            (tmp_path / "photos" / f"{i}.jpg").write_bytes(PHOTO[:-40_000])
        assert predict_rows(vit, data=str(tmp_path / "photos"), out=tmp_path / "out", progress=False).errors == 3


PEAK = """
import resource, sys
from hf_soups.batch_predict import predict_rows
model, small, large, out = sys.argv[1:]
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
predict_rows(model, data=small, out=out + "/answers of small", progress=False)
before = peak()
predict_rows(model, data=large, out=out + "/answers of large", progress=False)
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("form", "held"),
    [("JPEG", PIXELS_AT_ONCE), ("PNG", 24_000_000)],
    ids=["decoded near their size", "decoded one at a time"],
)
def test_memory_for_photos_is_that_of_the_pixels_held_at_once(vit: Path, tmp_path: Path, form: str, held: int) -> None:
    """12 photos of 24 megapixels: decoded in whole 1.2 GB, four bytes a pixel."""
    for name, size, count in (("small", (40, 30), 2), ("large", (6000, 4000), 12)):
        (tmp_path / name).mkdir()
        data = as_bytes(Image.new("RGB", size, (200, 90, 20)), form)
        for i in range(count):
            (tmp_path / name / f"{i}.{form.lower()}").write_bytes(data)
    said = subprocess.run(
        [sys.executable, "-c", PEAK, vit, tmp_path / "small", tmp_path / "large", tmp_path],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    # 4 bytes a pixel as Pillow holds them, and as much again for what is made of them
    assert int(said.stdout.split()[-1]) < 2 * 4 * held
