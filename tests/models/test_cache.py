"""The cache: built once whoever asks, whole or not at all."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.models.row_cache import cache_key, cached_folder, read_rows, write_rows
from tests.makers.patience import PATIENCE


def folders(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def test_many_who_ask_at_once_build_once(tmp_path: Path) -> None:
    built, everyone = [], threading.Barrier(4)

    def build(into: Path) -> None:
        built.append(into)
        time.sleep(0.05)
        (into / "done").touch()

    def ask(_: int) -> bool:
        everyone.wait()
        return (cached_folder(tmp_path / "cache", "key", build) / "done").exists()

    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(ask, range(4)))
    assert len(built) == 1


PROCESS = """
import sys, time
from pathlib import Path
from hf_soups.models.row_cache import cached_folder
def build(into):
    time.sleep(0.2)
    (into / "a").write_text("whole")
    with (Path(sys.argv[1]) / "log").open("a") as log: log.write("built ")
print((cached_folder(Path(sys.argv[1]), "key", build) / "a").read_text())
"""


@pytest.mark.slow
def test_processes_share_one_build(tmp_path: Path) -> None:
    command = [sys.executable, "-c", PROCESS, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert [process.communicate(timeout=PATIENCE)[0].strip() for process in running] == ["whole"] * 3
    assert (tmp_path / "log").read_text() == "built "


def test_a_failed_build_leaves_nothing_and_can_be_repeated(tmp_path: Path) -> None:
    def fail(into: Path) -> None:
        (into / "half").touch()
        raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        cached_folder(tmp_path, "key", fail)
    assert folders(tmp_path) == []
    assert cached_folder(tmp_path, "key", lambda into: None).is_dir()


def test_what_a_killed_process_left_is_removed(tmp_path: Path) -> None:
    gone = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (tmp_path / f".key.partial-{gone.stdout.strip()}").mkdir()
    cached_folder(tmp_path, "key", lambda into: None)
    assert folders(tmp_path) == ["key"]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    def full(into: Path) -> None:
        (into / "half").touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(HfSoupsError, match=r"could not be written: the disk is full. Free some space") as told:
        cached_folder(tmp_path, "key", full)
    assert str(tmp_path) in str(told.value)
    assert folders(tmp_path) == []


def test_a_cache_that_is_a_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(HfSoupsError, match="file: could not be written"):
        cached_folder(tmp_path / "file", "key", lambda into: None)


def test_a_finished_entry_needs_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cached_folder(tmp_path, "key", lambda into: None)
    monkeypatch.setattr("filelock.FileLock", None)  # a read-only cache: no lock can be taken
    assert cached_folder(tmp_path, "key", lambda into: None) == made


def test_keys_are_stable_and_differ() -> None:
    assert cache_key("a", {"x": 1, "y": 2}) == cache_key("a", {"y": 2, "x": 1})
    assert len({cache_key("a"), cache_key("b"), cache_key("a", 1), cache_key("a", 2)}) == 4


def test_damaged_rows_are_named_with_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "key" / "values.npy"
    path.parent.mkdir()
    np.save(path, np.arange(4, dtype=np.int32))
    np.testing.assert_array_equal(read_rows(path, np.int32), np.arange(4))
    whole = path.read_bytes()
    for damage in (b"", b"junk", whole[:-1], whole.replace(b"<i4", b"<f4")):
        path.write_bytes(damage)
        with pytest.raises(InputError, match=r"values\.npy: damaged encoded rows .*Delete .*key: it is made again"):
            read_rows(path, np.int32)


def test_rows_written_in_blocks_are_one_array(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.uint8).reshape(10, 2, 3)
    write_rows(tmp_path / "a.npy", values.dtype, values.shape, (values[i : i + 4] for i in range(0, 10, 4)))
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy", mmap_mode="r"), values)
    with pytest.raises(ValueError, match="6 rows written, 10 announced"):
        write_rows(tmp_path / "b.npy", values.dtype, values.shape, [values[:6]])
