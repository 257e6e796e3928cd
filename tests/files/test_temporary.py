"""Temporary folders of killed processes go, those of living ones and of others stay."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from hf_soups.files.writing import make_temporary, temporary_folder

HOLDS = """
import sys
from hf_soups.files.writing import make_temporary
print(make_temporary("push"), flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_gone_when_its_block_ends_or_is_broken_off(place: Path) -> None:
    with temporary_folder("push") as folder:
        (folder / "a").mkdir()
        assert folder.parent == place
    with pytest.raises(KeyboardInterrupt), temporary_folder("push"):
        raise KeyboardInterrupt
    assert list(place.iterdir()) == []


def test_what_a_killed_process_left_is_removed_and_what_a_living_one_holds_is_not(place: Path) -> None:
    env = {**os.environ, "TMPDIR": str(place)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLDS], env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        left = Path(process.stdout.readline().strip())
        (left / "weights").write_bytes(b"x")
        mine = make_temporary("saved")
        assert left.is_dir()
        process.send_signal(signal.SIGKILL)
        process.wait()
    make_temporary("push")
    assert not left.exists()
    assert mine.is_dir()


def test_a_number_that_went_to_another_process_is_no_sign_of_life(place: Path) -> None:
    mine = make_temporary("push")
    parts = mine.name.split("_")
    parts[4] = str(int(parts[4]) + 1)  # another start: if this process were not the one that made it
    if parts[4] == "1":
        pytest.skip("this system does not tell when a process started")
    left = mine.with_name("_".join(parts))
    left.mkdir()
    make_temporary("push")
    assert mine.is_dir()
    assert not left.exists()


def test_what_is_not_ours_stays(place: Path) -> None:
    name = make_temporary("push").name.split("_")
    name[3] = f"{name[3].split('-')[0]}-999999999"  # no such process
    dead = "_".join(name)
    elsewhere = place / "elsewhere"
    elsewhere.mkdir()
    (place / f"{dead}link").symlink_to(elsewhere)
    name[3] = "00000000-999999999"  # of another machine
    others = [place / "_".join(name), place / "hf_soups_push_abc", place / "hf_soups_notes", place / f"x{dead}"]
    for other in others:
        other.mkdir()
    (place / dead).mkdir()
    make_temporary("push")
    assert not (place / dead).exists()
    assert all(other.is_dir() for other in (*others, elsewhere))
