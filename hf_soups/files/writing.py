"""The one writer: files and folders that appear under their names when they are whole, and temporary ones that go away.

Everything is written under a hidden name beside its place, which says who writes it, and then renamed. What a process
that is gone left behind is removed when the same place is written again.
"""

from __future__ import annotations

import contextlib
import csv
import ctypes
import errno
import functools
import json
import math
import os
import re
import shutil
import socket
import tempfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from hf_soups.ending import remove_at_end, removed_at_end
from hf_soups.errors import HfSoupsError, InputError
from hf_soups.limits import limit_reached

_AT_FDCWD, _EXCHANGE = -100, 2  # of renameat2(2)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it to `path`.

    Raises:
        HfSoupsError: if it cannot be written; an earlier file is intact then.
    """
    partial = partial_of(path)
    with writable(path), removed_at_end(partial):
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path)
        try:
            write(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text as UTF-8, whole or not at all; see `write_file`."""
    data = _encoded(path, text)
    write_file(path, lambda partial: partial.write_bytes(data))


def write_json(path: Path, value: Any) -> None:
    """Write a value as JSON, whole or not at all; NaN and infinity become null."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    """The text of our JSON files.

    >>> json_text({"score": float("nan")})
    '{\\n "score": null\\n}\\n'
    """
    return json.dumps(finite(value), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """NaN and infinity as null: JSON has no word for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [finite(inner) for inner in value]
    return value


def _encoded(path: Path, text: str) -> bytes:
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError as error:
        broken = text[max(0, error.start - 40) : error.end + 40].encode("utf-8", "backslashreplace").decode()
        raise InputError(
            f"{path}: cannot hold a name that is not UTF-8 ({broken.strip()!r}). Rename that file or folder."
        ) from error


# Whole folders.


def is_url(place: Path | str) -> bool:
    """Whether a place is an address such as s3://bucket/folder, which `Path` makes s3:/bucket/folder of.

    >>> is_url("s3://bucket/x"), is_url(Path("s3://bucket/x")), is_url("C:/x"), is_url("a/b")
    (True, True, False, False)
    """
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+:/", str(place)) is not None


def refuse_url(out: Path | str) -> None:
    """What is written goes to a file system, where a file can take its place by one rename.

    Raises:
        InputError: if it is an address such as s3://bucket/folder.
    """
    if is_url(out):
        raise InputError(
            f"{out}: addresses of object stores are not supported as --out. Give a folder, on a cluster one that all "
            "nodes share, such as NFS, and copy it when it is done."
        )


def refuse_existing(out: Path, *, overwrite: bool = False, marker: str) -> None:
    """Check before any work that `out` may be written; only a folder that holds `marker` is ever replaced.

    Raises:
        InputError: if something is there that may not be replaced.
    """
    _finish_or_undo(out)
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{out} exists already. Choose another folder with --out, or replace it with --overwrite.")
    if not (out / marker).is_file():
        raise InputError(
            f"{out} exists and holds no {marker}, so it was not made by this command and is not replaced. "
            "Choose another folder with --out."
        )


@contextlib.contextmanager
def written_whole(out: Path, *, overwrite: bool = False, marker: str) -> Iterator[Path]:
    """A partial folder beside `out`, renamed to `out` when the block ends well and removed when it does not.

    Args:
        out: the folder to make.
        overwrite: replace a folder that is there.
        marker: the file by which a folder is known as one that may be replaced.
    Raises:
        InputError: if `out` exists and may not be replaced.
        HfSoupsError: if the place cannot be written.
    """
    refuse_existing(out, overwrite=overwrite, marker=marker)
    partial = partial_of(out)
    with removed_at_end(partial):
        try:
            with writable(out):
                out.parent.mkdir(parents=True, exist_ok=True)
                remove_abandoned(out)
                partial.mkdir()
                yield partial
                _put_in_place(partial, out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def check_place(out: Path, *, overwrite: bool = False, marker: str) -> None:
    """Find out before hours of work whether `out` can be written afterwards.

    Raises:
        InputError: if `out` exists and may not be replaced.
        HfSoupsError: if the place cannot be written.
    """
    refuse_existing(out, overwrite=overwrite, marker=marker)
    with writable(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        probe = partial_of(out)
        probe.mkdir()
        probe.rmdir()


def _put_in_place(partial: Path, out: Path) -> None:
    """Rename to `out`; what is there moves to the partial name in the same moment, where the system can do so."""
    if not os.path.lexists(out) or (out.is_dir() and not any(out.iterdir())):
        partial.replace(out)
    elif not _exchanged(partial, out):
        old = _hidden(out, "replaced")
        out.replace(old)
        try:
            partial.replace(out)
        except OSError:
            old.replace(out)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchanged(a: Path, b: Path) -> bool:
    """Swap two names in one step (Linux); False where the system or the disk cannot."""
    swap = _renameat2()
    return swap is not None and swap(_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b), _EXCHANGE) == 0


@functools.cache
def _renameat2() -> Callable[..., int] | None:
    return getattr(ctypes.CDLL(None), "renameat2", None) if os.name == "posix" else None


def _finish_or_undo(out: Path) -> None:
    """After a kill between the two renames of `_put_in_place` nothing is at `out`: the old folder goes back there."""
    if os.path.lexists(out) or not out.parent.is_dir():
        return
    with writable(out):
        for left in _left_by_the_dead(out, "replaced"):
            left.replace(out)
            return


# Hidden names, and who wrote them.


def partial_of(path: Path) -> Path:
    """The hidden name beside `path` under which this process writes it; the suffix stays, as writers choose by it.

    >>> partial_of(Path("a/b.png")).suffix
    '.png'
    """
    return _hidden(path, "partial")


def _hidden(path: Path, state: str) -> Path:
    return path.with_name(f".{path.stem}.{state}-{owner()}{path.suffix}")


def owner() -> str:
    """This process among all that can see the same disk: its machine, and its number there."""
    return f"{_machine()}-{os.getpid()}"


@functools.cache
def _machine() -> str:
    """What tells apart those who share a disk but not their processes' numbers: other hosts, and containers."""
    try:
        space = os.readlink("/proc/self/ns/pid")  # noqa: PTH115  # no path, but a name
    except OSError:
        space = ""
    return f"{zlib.crc32(f'{socket.gethostname()} {space}'.encode()):08x}"


def is_gone(name: str) -> bool:
    """Whether the process that `owner` named ran on this machine, and is gone.

    >>> is_gone(owner()), is_gone("00000000-1")
    (False, False)
    """
    machine, _, pid = name.rpartition("-")
    if machine not in ("", _machine()) or not pid.isdigit():  # "": written by 0.1.0
        return False
    try:
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        return False
    return False


def remove_abandoned(path: Path) -> None:
    """Remove what processes that are gone (kill -9) left half-written for this place."""
    for state in ("partial", "replaced") if os.path.lexists(path) else ("partial",):
        for left in _left_by_the_dead(path, state):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left, ignore_errors=True)
            else:
                left.unlink(missing_ok=True)


def _left_by_the_dead(path: Path, state: str) -> list[Path]:
    pattern = re.compile(rf"\.{re.escape(path.stem)}\.{state}-((?:[0-9a-f]{{8}}-)?\d+){re.escape(path.suffix)}")
    found = ((left, pattern.fullmatch(left.name)) for left in path.parent.iterdir())
    return sorted(left for left, match in found if match and is_gone(match[1]))


# What the system says.


@contextlib.contextmanager
def writable(out: Path) -> Iterator[None]:
    """Turn what the system says about a full disk or a forbidden place into one clear error."""
    try:
        yield
    except HfSoupsError:
        raise
    except Exception as error:  # libraries wrap what the system says in errors of their own
        if limit := limit_reached(error):
            raise HfSoupsError(f"{out}: not written: {limit} {INTACT.capitalize()}") from error
        # safetensors has an error of its own for the system's errors; their text holds the number
        system = system_error(error)
        if system is None:
            raise
        raise HfSoupsError(f"{out}: {why_not_written(system)} and run the same command again; {INTACT}") from error


INTACT = "nothing half-written was left."


def why_not_written(error: OSError, needed: int | None = None) -> str:
    """What the system says of a place that cannot be written, and what to do; `needed` are bytes."""
    size = "" if needed is None else f" ({needed:,} bytes are needed)"
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return f"could not be written: the disk is full{size}. Free some space"
    if error.errno == errno.EFBIG:
        return f"could not be written: the file is larger than allowed here{size}. Raise the limit (ulimit -f)"
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return f"could not be written: no permission to write there ({error.strerror}). Choose another place with --out"
    return f"could not be written: {error}. Solve that"


def system_error(error: BaseException) -> OSError | None:
    """What the system said, where a library may have kept its number in words alone; None if it was no such error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error
    if not isinstance(error, OSError) and type(error).__name__ not in (
        "SafetensorError",
        "ArrowException",
        "ArrowInvalid",
    ):
        return None
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS, errno.EIO):
        if f"os error {number}" in str(error) or f"[errno {number}]" in str(error).lower():
            return OSError(number, os.strerror(number))
    return error if isinstance(error, OSError) else None


# hf_soups_<purpose>_<machine>-<process>_<when it started>_<chance>
_NAME = re.compile(r"hf_soups_[a-z]+_([0-9a-f]{8}-\d+)_(\d+)_\w+")


@contextmanager
def temporary_folder(purpose: str) -> Iterator[Path]:
    """A temporary folder that is gone when the block ends, however it ends; see `make_temporary`."""
    folder = make_temporary(purpose)
    with removed_at_end(folder):
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def make_temporary(purpose: str) -> Path:
    """A new folder where temporary files lie (TMPDIR), to be removed by the caller; a signal's end removes it too.

    Those that processes of this user left there when they were killed are removed first.

    Raises:
        HfSoupsError: if there is no place for it.
    """
    try:
        place = Path(tempfile.gettempdir())
    except OSError as error:
        raise HfSoupsError(limit_reached(error) or f"temporary files have no place ({error}).") from error
    with writable(place):
        _remove_abandoned(place)
        own = f"{owner()}_{_started(os.getpid())}"
        folder = Path(tempfile.mkdtemp(prefix=f"hf_soups_{purpose}_{own}_"))
    remove_at_end(folder)
    return folder


def _remove_abandoned(place: Path) -> None:
    for folder in place.glob("hf_soups_*"):
        named = _NAME.fullmatch(folder.name)
        if named is None or not _is_dead(named[1], int(named[2])):
            continue
        with suppress(OSError):
            # never another user's, nor what a link of that name leads to
            if folder.lstat().st_uid == os.getuid() and not folder.is_symlink():
                shutil.rmtree(folder, ignore_errors=True)


def _is_dead(process: str, started: int) -> bool:
    """Whether this process of this machine is gone; its number may have gone to another one since."""
    machine, _, number = process.rpartition("-")
    here = machine == owner().rpartition("-")[0]
    return is_gone(process) or (here and _started(int(number)) not in (0, started))


def _started(process: int) -> int:
    """When a process started, in ticks since the machine did; 0 where the system does not say."""
    try:
        text = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace")
        return int(text.rpartition(")")[2].split()[19])  # field 22; the name before it can hold anything
    except (OSError, ValueError, IndexError):
        return 0


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write one or more rows of the same keys, whole or not at all; numbers at full precision."""

    def write(staged: Path) -> None:
        with staged.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)

    write_file(path, write)
