"""Whether other processes run. A killed one ends when the system gets to it, perhaps after its killer has ended."""

from __future__ import annotations

import time
from pathlib import Path

from tests.makers.patience import PATIENCE


def alive(pid: int) -> bool:
    """Whether it runs: one that has ended and that nobody has asked about yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def gone(*pids: int) -> bool:
    """Whether all have ended, waiting for them."""
    deadline = time.monotonic() + PATIENCE
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not any(map(alive, pids))
