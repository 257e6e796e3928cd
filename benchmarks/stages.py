"""Where the seconds of a fine-tune go: imported by each run of benchmarks/sweep.py, before it does anything else.

As the folder SWEEP_STAGES says, each run writes a file there: when it was born, and begin and end of each stage.
"""

from __future__ import annotations

import atexit
import functools
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WATCHED = ("_rows_of", "load_start", "train_model", "predict_split", "_write_run_folder")


def born() -> float:
    """When this process was started or forked, on the clock of `time.time`, to a hundredth of a second."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    up = float(Path("/proc/uptime").read_text().split()[0])
    return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")


def watched(marks: list[tuple[str, float, float]], name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose calls are noted."""

    @functools.wraps(function)
    def call(*args: Any, **given: Any) -> Any:
        began = time.time()
        try:
            return function(*args, **given)
        finally:
            marks.append((name, began, time.time()))

    return call


def watch(folder: Path) -> None:
    """From now on; the file is written at the end."""
    from hf_soups.finetune import run

    began = born()
    marks = [("start-up", began, time.time())]
    for name in WATCHED:
        setattr(run, name, watched(marks, name, getattr(run, name)))
    mine = os.getpid()

    def write() -> None:
        if os.getpid() == mine:
            (folder / f"{began:.3f}-{mine}.json").write_text(json.dumps([*marks, ("end", time.time(), time.time())]))

    atexit.register(write)


if "SWEEP_STAGES" in os.environ:
    watch(Path(os.environ["SWEEP_STAGES"]))
