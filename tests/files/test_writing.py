"""The one writer, and what a kill at any moment leaves."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from hf_soups.errors import HfSoupsError, InputError
from hf_soups.files import writing
from hf_soups.files.writing import (
    is_gone,
    owner,
    refuse_existing,
    remove_abandoned,
    write_json,
    write_text,
    written_whole,
)

MARKER = "mark"


def make(out: Path, content: str, *, overwrite: bool = False) -> None:
    with written_whole(out, overwrite=overwrite, marker=MARKER) as partial:
        (partial / MARKER).write_text(content)


def hidden(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if p.name.startswith("."))


@pytest.fixture(params=["one step", "two renames"])
def swap(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to put a folder in the place of another: the system's exchange, and where there is none."""
    if request.param == "two renames":
        monkeypatch.setattr(writing, "_renameat2", lambda: None)
    return str(request.param)


def test_a_replaced_folder_holds_the_new_content_and_nothing_is_left(tmp_path: Path, swap: str) -> None:
    make(tmp_path / "out", "old")
    make(tmp_path / "out", "new", overwrite=True)
    assert (tmp_path / "out" / MARKER).read_text() == "new"
    assert hidden(tmp_path) == []


KILLED = """
import os, signal, sys
from pathlib import Path
from hf_soups.files import writing
if sys.argv[3] == "two renames":
    writing._renameat2 = lambda: None
left = int(sys.argv[2])
replace, swap = os.replace, writing._exchanged
def counted(work):
    def wrapped(*args, **kwargs):
        global left
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left -= 1
        return work(*args, **kwargs)
    return wrapped
Path.replace = counted(Path.replace)
writing._exchanged = counted(swap)
with writing.written_whole(Path(sys.argv[1]), overwrite=True, marker="mark") as partial:
    (partial / "mark").write_text("new")
"""


def test_a_kill_before_any_rename_leaves_the_old_or_the_new_folder_after_the_next_run(tmp_path: Path) -> None:
    """With two renames the old folder is out of sight in between; the next run brings it back."""
    for way in ("one step", "two renames"):
        for at in range(4):
            out = tmp_path / f"{way[:3]}{at}" / "out"
            out.parent.mkdir()
            make(out, "old")
            done = subprocess.run([sys.executable, "-c", KILLED, str(out), str(at), way], timeout=60)
            assert done.returncode in (0, -signal.SIGKILL)
            with pytest.raises(InputError, match="exists already"):
                refuse_existing(out, marker=MARKER)
            assert (out / MARKER).read_text() == ("new" if done.returncode == 0 else "old")
            make(out, "newer", overwrite=True)
            assert (out / MARKER).read_text() == "newer"
            assert hidden(out.parent) == []


def dead(state: str, path: Path) -> Path:
    """What a process that is gone left beside a path."""
    done = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    machine = owner().partition("-")[0]
    return path.with_name(f".{path.stem}.{state}-{machine}-{done.stdout.strip()}{path.suffix}")


def test_leftovers_of_the_dead_go_with_the_next_write_and_others_stay(tmp_path: Path) -> None:
    path = tmp_path / "record.json"
    left = dead("partial", path)
    left.write_text("{")
    others = [
        tmp_path / f".record.partial-{owner()}.json",  # mine
        tmp_path / ".record.partial-00000000-1.json",  # of another machine
        dead("partial", tmp_path / "other.json"),
    ]
    for other in others:
        other.write_text("{")
    remove_abandoned(path)
    assert not left.exists()
    assert all(other.exists() for other in others)


def test_owners_are_told_apart() -> None:
    assert not is_gone(owner())
    assert not is_gone("00000000-1")
    assert not is_gone("nonsense")
    assert is_gone(f"{owner().partition('-')[0]}-{2**22 + 1}")


def test_not_a_number_becomes_null_and_text_is_utf8(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": float("inf"), "name": "Gänse"})
    assert (tmp_path / "a.json").read_bytes() == '{\n "x": null,\n "name": "Gänse"\n}\n'.encode()
    assert json.loads((tmp_path / "a.json").read_bytes()) == {"x": None, "name": "Gänse"}


def test_a_name_that_is_not_utf8_is_refused_and_the_earlier_file_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")
    with pytest.raises(InputError, match=r"a\.json: cannot hold a name that is not UTF-8 .*run-\\\\udcff"):
        write_json(path, {"source": os.fsdecode(b"run-\xff")})
    assert path.read_text() == "old"


def test_a_full_disk_names_the_path_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, data: bytes) -> int:
        self.touch()
        raise OSError(28, os.strerror(28))

    write_text(tmp_path / "a.json", "old")
    monkeypatch.setattr(Path, "write_bytes", full)
    with pytest.raises(HfSoupsError, match=r"a\.json: could not be written: the disk is full"):
        write_text(tmp_path / "a.json", "new")
    assert (tmp_path / "a.json").read_text() == "old"
    assert hidden(tmp_path) == []
