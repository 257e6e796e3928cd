"""SHA-256 of weight files: hashed once, and again as soon as anything about the file is another."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path

import pytest

from hf_soups.errors import CheckpointError
from hf_soups.files import digests
from hf_soups.files.digests import place, sha256_of
from hf_soups.files.tensorfile import FileStamp


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HF_SOUPS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(digests, "SETTLED", -1.0)
    return tmp_path / "cache"


def file(path: Path, content: bytes = b"weights") -> dict[Path, FileStamp]:
    path.write_bytes(content)
    return {path: FileStamp.of(path.stat())}


def poisoned() -> None:
    """Replace what is remembered: an answer from memory is told by it."""
    place().write_text(json.dumps(dict.fromkeys(json.loads(place().read_text()), "f" * 64)))


def test_it_is_the_sha256_of_the_bytes_one_file_after_the_other(tmp_path: Path) -> None:
    files = file(tmp_path / "a", b"one") | file(tmp_path / "b", b"two")
    assert sha256_of(files) == hashlib.sha256(b"onetwo").hexdigest()


def test_an_unchanged_file_is_not_read_again(tmp_path: Path) -> None:
    files = file(tmp_path / "a")
    sha256_of(files)
    poisoned()
    assert sha256_of(files) == "f" * 64


def test_other_content_with_the_same_size_and_time_is_read_again(tmp_path: Path) -> None:
    first = file(tmp_path / "a", b"weights")
    sha256_of(first)
    poisoned()
    before = (tmp_path / "a").stat()
    time.sleep(0.02)  # the file system's clock ticks in milliseconds
    with (tmp_path / "a").open("r+b") as handle:
        handle.write(b"WEIGHTS")
    os.utime(tmp_path / "a", ns=(before.st_atime_ns, before.st_mtime_ns))
    assert FileStamp.of((tmp_path / "a").stat()) == first[tmp_path / "a"]
    assert sha256_of(first) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_a_file_touched_just_now_is_not_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "SETTLED", 60.0)
    sha256_of(file(tmp_path / "a"))
    assert not place().exists()


def test_a_file_that_changes_while_it_is_hashed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = file(tmp_path / "a")
    real = os.preadv

    def preadv(handle: int, buffers: list[bytearray], offset: int) -> int:
        with (tmp_path / "a").open("ab") as other:
            other.write(b"more")
        return real(handle, buffers, offset) if offset == 0 else 0

    monkeypatch.setattr(os, "preadv", preadv)
    with pytest.raises(CheckpointError, match="changed while it was read"):
        sha256_of(files)


@pytest.mark.parametrize("content", ["", "[]", '{"a": 1}', "no json"])
def test_a_broken_memory_is_only_forgotten(tmp_path: Path, content: str) -> None:
    place().parent.mkdir()
    place().write_text(content)
    assert sha256_of(file(tmp_path / "a")) == hashlib.sha256(b"weights").hexdigest()


def test_a_memory_that_cannot_be_written_is_no_error(tmp_path: Path, cache: Path) -> None:
    cache.write_text("a file where the folder should be")
    assert sha256_of(file(tmp_path / "a")) == hashlib.sha256(b"weights").hexdigest()


def test_only_the_latest_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "MOST", 2)
    for name in "abc":
        sha256_of(file(tmp_path / name))
    assert len(json.loads(place().read_text())) == 2
