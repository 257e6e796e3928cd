"""Folders and files that appear complete or not at all: written under a temporary name, then renamed."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_soups.errors import HfSoupsError, InputError

MARKER = "soup.json"  # only a folder that holds one may be overwritten


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Check before any work that `out` may be written.

    Raises:
        InputError: if `out` exists and may not be replaced.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not overwrite:
        raise InputError(f"{out} exists. Choose another folder, or overwrite it on purpose (--overwrite).")
    if not (out / MARKER).is_file():
        raise InputError(
            f"{out} exists and holds no {MARKER}: it is no soup, so it is not overwritten. Choose another folder."
        )


@contextmanager
def written_whole(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill; it becomes `out` by one rename when the block ends well, else it is removed.

    An earlier `out` stays as it was until then.

    Raises:
        InputError: if `out` exists and may not be replaced.
        HfSoupsError: if the disk is full, the place cannot be written, ...
    """
    refuse_existing(out, overwrite=overwrite)
    staged = out.with_name(f".{out.name}.partial-{socket.gethostname()}-{os.getpid()}")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(out)
        staged.mkdir()
        yield staged
        _put_in_place(staged, out)
    except OSError as error:
        raise HfSoupsError(_told(out, error)) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it to `path`.

    Raises:
        HfSoupsError: if it cannot be written; an earlier file is intact then.
    """
    # The suffix stays last: matplotlib and others choose the format by it.
    staged = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(staged)
        os.replace(staged, path)
    except OSError as error:
        raise HfSoupsError(_told(path, error)) from error
    finally:
        staged.unlink(missing_ok=True)


def _put_in_place(staged: Path, out: Path) -> None:
    if not (out.is_dir() and any(out.iterdir())):
        os.replace(staged, out)
        return
    old = out.with_name(f".{out.name}.replaced-{os.getpid()}")
    os.replace(out, old)
    try:
        os.replace(staged, out)
    except OSError:
        os.replace(old, out)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _remove_abandoned(out: Path) -> None:
    """Remove what processes of this machine that are gone (kill -9) left half-written."""
    mine = f".{out.name}.partial-{socket.gethostname()}-"
    for entry in out.parent.iterdir():
        pid = entry.name.removeprefix(mine)
        if entry.name.startswith(mine) and pid.isdigit() and not _alive(int(pid)):
            shutil.rmtree(entry, ignore_errors=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _told(path: Path, error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        told = "the disk is full. Free some space"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        told = f"no permission to write there ({error.strerror}). Choose another place"
    else:
        told = f"{error}. Solve that"
    return f"{path}: could not be written: {told} and run the same command again; nothing half-written was left."
