"""Temporary folders that say whose they are, so that those of processes that were killed can be told and removed."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from hf_soups.ending import remove_at_end, removed_at_end
from hf_soups.errors import HfSoupsError
from hf_soups.files.writing import is_gone, owner, writable
from hf_soups.limits import limit_reached

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
