"""Standard streams that are closed, full, or of another encoding: one line or none, never a traceback."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_soups.cli.app import in_one_line
from hf_soups.errors import HfSoupsError
from hf_soups.limits import check_threads, limit_reached


def hf_soups(shell: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """`$H` is the program, in a shell that tells the status of the first part of a pipe."""
    given = {**os.environ, "H": f"{sys.executable} -m hf_soups.cli", **environment}
    return subprocess.run(["bash", "-c", f"{shell}; exit ${{PIPESTATUS[0]}}"], env=given, capture_output=True)


def test_a_reader_that_is_gone_ends_it_quietly() -> None:
    done = hf_soups("(sleep 1; $H version) | true")
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", ["version", "--help", "compare"])
def test_full_output_is_one_line(arguments: str, tmp_path: Path) -> None:
    done = hf_soups(f"$H {arguments} >/dev/full")
    assert done.returncode in (1, 2)
    assert b"Traceback" not in done.stderr
    assert b"ignored" not in done.stderr
    if arguments != "compare":  # which says what it misses on standard error
        assert b"No space left on device" in done.stderr
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize(
    ("closed", "printed"), [("<&-", b"0.1.0\n"), ("2>&-", b"0.1.0\n"), (">&-", b""), ("<&- >&- 2>&-", b"")]
)
def test_closed_streams_change_nothing(closed: str, printed: bytes) -> None:
    done = hf_soups(f"$H version {closed}")
    assert (done.returncode, done.stdout, done.stderr) == (0, printed, b"")


@pytest.mark.parametrize("environment", [{"PYTHONIOENCODING": "ascii"}, {"LANG": "C", "LC_ALL": "C"}, {}])
@pytest.mark.parametrize("name", [b"sch\xc3\xb6n", b"no-utf8-\xff", b"\xe8\x8c\xb6"])
def test_names_that_the_encoding_lacks_are_escaped(tmp_path: Path, name: bytes, environment: dict[str, str]) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    folder.mkdir()
    done = hf_soups(f"$H leaderboard '{os.fsdecode(os.fsencode(folder))}'", **environment)
    assert done.returncode == 2
    assert done.stderr.startswith(b"hf-soups: ")
    assert done.stderr.count(b"\n") == 1
    assert b"unexpected" not in done.stderr


def test_no_home_and_no_right_to_write_in_it_are_no_matter(tmp_path: Path) -> None:
    for home in ("", str(tmp_path / "nowhere"), "/proc"):
        done = hf_soups("$H version", HOME=home)
        assert (done.returncode, done.stderr) == (0, b"")


# Limits


def test_limits_are_named_whatever_hides_them() -> None:
    assert "ulimit -n" in limit_reached(OSError(24, "Too many open files"))
    assert "ulimit -u" in limit_reached(BlockingIOError(11, "Resource temporarily unavailable"))
    assert "ulimit -u" in limit_reached(RuntimeError("can't start new thread"))
    hidden = RuntimeError("cannot import it")
    hidden.__cause__ = OSError(24, "Too many open files")
    assert "ulimit -n" in limit_reached(hidden)
    assert limit_reached(ValueError("else")) == ""


def test_threads_that_cannot_start_are_told_before_anything_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr("threading.Thread.start", refused)
    with pytest.raises(HfSoupsError, match=r"no further thread or process can start: .*ulimit -u"):
        check_threads()


def test_a_name_that_is_not_utf8_is_named_and_wrong_input(tmp_path: Path) -> None:
    name = os.fsdecode(b"model-\xff")
    with pytest.raises(UnicodeEncodeError) as met:
        f"cannot read '{tmp_path}/{name}/config.json': no such file".encode()
    assert in_one_line(met.value) == (
        f"{os.fsencode(tmp_path) + b'/model-' + bytes([255]) + b'/config.json'!r}: a name of a file or folder that is "
        "not UTF-8. Rename it."
    )
