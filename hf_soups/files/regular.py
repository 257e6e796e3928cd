"""Regular files alone: a pipe or a device that bears a file's name would hang whoever reads it, or never end."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO

_HOW = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class NotRegular(OSError):
    """A folder, pipe, socket or device where a file was expected."""


def open_regular(path: str | Path) -> BinaryIO:
    """A file, opened for reading.

    Raises:
        OSError: if it is missing or cannot be read.
        NotRegular: if it is a folder, pipe, socket or device.
    """
    _check(Path(path).stat().st_mode, path)
    number = os.open(path, _HOW)  # never waits, should it have become a pipe meanwhile
    try:
        _check(os.fstat(number).st_mode, path)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def _check(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise NotRegular(f"{path} is {kind}, not a regular file")
