"""Leases: who works on a run, on a file system that grants a lock (flock) to everybody who asks.

A lease is a file that only one process can make (O_EXCL), and that its owner touches as long as it works. Where it is
not touched any more, or its owner on this machine has ended, the next one makes a file of the next number: of two who
try, one can. Whoever has the highest number works.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from hf_soups.errors import InputError
from hf_soups.files.reading import read_bytes
from hf_soups.files.writing import is_gone, owner

HEARTBEAT_SECONDS = 15.0
STALE_SECONDS = 150.0  # a network file system may show a file's time as it was a minute ago
PROBE_SECONDS = 30.0
GIVEN_UP = "given up"
GRANTED = 7  # exit status of a second process that was given the lock too
SECOND = (
    "import fcntl, sys\n"
    "try: fcntl.flock(open(sys.argv[1], 'r+'), fcntl.LOCK_EX | fcntl.LOCK_NB)\n"
    "except BlockingIOError: sys.exit(0)\n"
    f"sys.exit({GRANTED})"
)


def locks_hold(folder: Path) -> bool:
    """Whether a second process is refused a lock that this one holds, on the file system of a folder."""
    return _locks_hold(folder.stat().st_dev, folder)


@functools.lru_cache(maxsize=16)
def _locks_hold(device: int, folder: Path) -> bool:
    path = folder / f".probe-{owner()}-{threading.get_ident()}"
    try:
        with path.open("w") as held:
            fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
            second = [sys.executable, "-ESs", "-c", SECOND, str(path)]
            done = subprocess.run(second, timeout=PROBE_SECONDS, check=False, stderr=subprocess.DEVNULL)
        return done.returncode != GRANTED
    except subprocess.TimeoutExpired:
        return True
    except OSError:  # no locks at all
        return False
    finally:
        path.unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class _Seen:
    """A lease of somebody else's, as it was when it was last seen to change."""

    path: Path
    touched: int
    at: float


class Leases:
    """The leases on the runs of one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._owned: set[Path] = set()
        self._seen: dict[str, _Seen] = {}
        self._heart: threading.Thread | None = None

    def take(self, name: str) -> Path | None:
        """Take the lease on a run; None while somebody else has it."""
        last = self._last(name)
        if last is not None and not self._ended(name, last):
            return None
        number = 1 if last is None else _number(last) + 1
        mine = self._folder / f"{name}.lease-{number:06d}"
        try:
            descriptor = os.open(mine, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644)
        except FileExistsError:
            return None
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(owner())
        if self._last(name) != mine:  # this number was given up long ago, and others came after it
            mine.unlink(missing_ok=True)
            return None
        for path in self._all(name)[:-1]:
            path.unlink(missing_ok=True)
        self._owned.add(mine)
        self._beat()
        return mine

    def give_up(self, lease: Path) -> None:
        """Let others take it, at once."""
        self._owned.discard(lease)
        with contextlib.suppress(OSError):
            lease.write_text(GIVEN_UP, encoding="utf-8")

    def _all(self, name: str) -> list[Path]:
        with os.scandir(self._folder) as entries:
            names = sorted(e.name for e in entries if e.name.startswith(f"{name}.lease-"))
        return [self._folder / each for each in names]

    def _last(self, name: str) -> Path | None:
        return next(reversed(self._all(name)), None)

    def _ended(self, name: str, lease: Path) -> bool:
        """Whether its owner gave it up, has ended on this machine, or has not touched it for long."""
        if lease in self._owned:
            return False
        try:
            touched = lease.stat().st_mtime_ns
            whose = read_bytes(lease).decode("utf-8", "replace")
        except (OSError, InputError):  # gone meanwhile
            touched, whose = 0, ""
        if whose == GIVEN_UP or is_gone(whose):
            return True
        seen = self._seen.get(name)
        if seen is None or (seen.path, seen.touched) != (lease, touched):
            # by this machine's own clock: another one's may be wrong
            seen = self._seen[name] = _Seen(lease, touched, time.monotonic())
        return time.monotonic() - seen.at > STALE_SECONDS

    def _beat(self) -> None:
        if self._heart is None:
            self._heart = threading.Thread(target=self._touch_all, name="leases", daemon=True)
            self._heart.start()

    def _touch_all(self) -> None:
        while True:
            time.sleep(HEARTBEAT_SECONDS)
            for lease in list(self._owned):
                with contextlib.suppress(OSError):  # gone: another one has the next number
                    os.utime(lease)


def _number(lease: Path) -> int:
    digits = lease.name.rpartition("-")[2]
    return int(digits) if digits.isdigit() else 0
