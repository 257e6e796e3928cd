"""Headers that lie are refused; files appear whole or not at all."""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from hf_soups.errors import CheckpointError, HfSoupsError
from hf_soups.files.tensorfile import TensorWriter, lay_out, read_header
from tests.makers.folders import TORCH, names_below


def file_of(path: Path, header: Any, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(begin: int, end: int, shape: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize("dtype", sorted(TORCH))
def test_headers_written_by_safetensors_are_read(dtype: str, tmp_path: Path) -> None:
    tensors = {"b": torch.ones(2, 3).to(TORCH[dtype]), "scalar": torch.tensor(1.0).to(TORCH[dtype])}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    header = read_header(tmp_path / "x.safetensors")
    assert {n: (i.dtype, i.shape) for n, i in header.tensors.items()} == {"b": (dtype, (2, 3)), "scalar": (dtype, ())}
    assert header.metadata == {"format": "pt"}
    raw = (tmp_path / "x.safetensors").read_bytes()
    info = header.tensors["b"]
    assert raw[info.offset : info.offset + info.nbytes] == tensors["b"].view(torch.uint8).numpy().tobytes()


BAD: dict[str, tuple[Any, bytes, str]] = {
    "not json": (b"{nonsense", b"", "corrupt: its header is not JSON"),
    "not utf-8": (b"\xff\xfe{}", b"", "corrupt: its header is not JSON"),
    "a list": ([1], b"", "not a JSON object"),
    "no offsets": ({"w": {"dtype": "F32", "shape": [1]}}, b"1234", "'w' lacks dtype, shape or data_offsets"),
    "negative": ({"w": entry(-4, 0, [1])}, b"1234", "'w' has shape [1] and offsets [-4, 0]"),
    "size": ({"w": entry(0, 4, [2])}, b"1234", "needs 8 bytes of F32, but has 4"),
    "overlap": ({"a": entry(0, 4, [1]), "b": entry(0, 4, [1])}, b"1234", "'b' overlaps another one"),
    "hole": ({"a": entry(4, 8, [1])}, b"12345678", "4 bytes before tensor 'a' belong to no tensor"),
    "beyond": ({"a": entry(0, 8, [2])}, b"1234", "truncated: its tensors need"),
    "too long": ({"a": entry(0, 4, [1])}, b"12345", "1 bytes at its end belong to no tensor"),
    "twice": (b'{"a":{},"a":{}}', b"", "a name occurs twice"),
    "no dtype": ({"a": {**entry(0, 1, [2]), "dtype": {}}}, b"1", "stored as {}, which hf_soups cannot average"),
    "dtype": ({"a": entry(0, 1, [2], "F4")}, b"1", "stored as F4, which hf_soups cannot average"),
    "metadata": ({"__metadata__": {"a": 1}}, b"", "its metadata are not texts"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_header_is_refused_with_path_and_reason(case: str, tmp_path: Path) -> None:
    header, data, said = BAD[case]
    path = file_of(tmp_path / "model.safetensors", header, data)
    with pytest.raises(CheckpointError) as error:
        read_header(path)
    assert str(error.value).startswith(f"{path}: ")
    assert said in str(error.value)


@pytest.mark.parametrize("size", [0, 7, 8, 20, 100])
def test_a_truncated_file_is_refused_wherever_it_ends(size: int, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    save_file({"w": torch.ones(100)}, path)
    os.truncate(path, size)
    with pytest.raises(CheckpointError, match=r"truncated.*again"):
        read_header(path)


def test_a_header_of_absurd_length_is_refused_unread(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff" * 16)
    with pytest.raises(CheckpointError, match="announce a header of"):
        read_header(tmp_path / "x")


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such file"):
        read_header(tmp_path / "gone")


def test_a_pipe_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(CheckpointError, match=r"x: cannot be read .*not a regular file"):
        read_header(tmp_path / "x")


@given(st.binary(max_size=300))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_random_bytes_never_raise_anything_else(tmp_path: Path, junk: bytes) -> None:
    (tmp_path / "x").write_bytes(struct.pack("<Q", len(junk)) + junk)
    with pytest.raises(CheckpointError):
        read_header(tmp_path / "x")


names = st.text(min_size=1, max_size=12).filter(lambda n: n != "__metadata__" and n.isprintable())
shapes = st.lists(st.integers(0, 5), max_size=3).map(tuple)


@given(st.dictionaries(names, shapes, min_size=1, max_size=6), st.randoms(use_true_random=False))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_what_is_written_in_any_order_is_what_safetensors_reads(tmp_path: Path, shapes: Any, order: Any) -> None:
    path = tmp_path / "out.safetensors"
    values = {n: np.random.default_rng(i).standard_normal(s).astype("f4") for i, (n, s) in enumerate(shapes.items())}
    layout = lay_out(((n, "F32", v.shape) for n, v in values.items()), {"format": "pt"})
    with TensorWriter({path: layout}) as writer:
        for name in order.sample(sorted(values), len(values)):
            writer.write(path, values[name].reshape(-1), layout.offsets[name])
    read = load_file(path)
    assert set(read) == set(values)
    assert all(np.array_equal(read[n].numpy(), values[n]) for n in values)
    with safe_open(path, "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_nothing_appears_before_the_end_and_nothing_stays_after_a_failure(tmp_path: Path) -> None:
    layout = lay_out([("w", "F32", (4,))], {})

    def stop_half_way() -> None:
        with TensorWriter({tmp_path / "a": layout, tmp_path / "b": layout}) as writer:
            writer.write(tmp_path / "a", np.zeros(4, "f4"), layout.offsets["w"])
            assert not (tmp_path / "a").exists()
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        stop_half_way()
    assert names_below(tmp_path) == set()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda f, data, at: whole(f, data[: max(1, len(data) // 2)], at))
    layout = lay_out([("w", "F32", (1000,))], {})
    values = np.arange(1000, dtype="f4")
    with TensorWriter({tmp_path / "a.safetensors": layout}) as writer:
        writer.write(tmp_path / "a.safetensors", values, layout.offsets["w"])
    assert np.array_equal(load_file(tmp_path / "a.safetensors")["w"].numpy(), values)


def test_a_disk_too_small_is_told_before_the_work(tmp_path: Path) -> None:
    layout = lay_out([("w", "F32", (1 << 50,))], {})
    with (
        pytest.raises(HfSoupsError, match=r"the disk is full .* bytes are needed"),
        TensorWriter({tmp_path / "a": layout}),
    ):
        pass
    assert names_below(tmp_path) == set()
