"""How far a long job is: a bar on a terminal, and elsewhere a plain line every few seconds."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress

SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """Shows one job of `total` steps; use it in a `with` block.

    Nothing is shown when `visible` is False (the other processes of a distributed job).
    """

    def __init__(self, title: str, total: int, *, visible: bool = True, stream: TextIO | None = None) -> None:
        self._title, self._total, self._visible = title, total, visible
        self._stream = stream if stream is not None else sys.stdout
        self._bar: Progress | None = None
        self._last = time.monotonic()

    def __enter__(self) -> Meter:
        if self._visible and self._stream.isatty():
            self._bar = _bar(self._stream)
            self._bar.add_task(self._title, total=self._total, note="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, note: str = "") -> None:
        """`done` of the steps are done; `note` is what is worth knowing now."""
        if not self._visible:
            return
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=done, note=note)
        elif done >= self._total or time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self.line(f"{self._title}: {done} of {self._total}{'  ' if note else ''}{note}")

    def line(self, text: str) -> None:
        """A line that stays, above the bar if there is one."""
        if not self._visible:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            print(text, file=self._stream, flush=True)


def _bar(stream: TextIO) -> Progress:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False),
        console=Console(file=stream),
    )
