"""How far a long job is: a bar on a terminal and in a notebook, and elsewhere a plain line every few seconds.

Bars are those of the Hub's libraries: HF_HUB_DISABLE_PROGRESS_BARS turns them off, and so does
`hf_soups.logging.disable_progress_bars()`.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

SECONDS_BETWEEN_LINES = 10.0
NAME = "hf_soups"  # of these bars among those that huggingface_hub turns on and off


class Meter:
    """Shows one job of `total` steps; use it in a `with` block.

    Nothing is shown when `visible` is False (the other processes of a distributed job).
    """

    def __init__(self, title: str, total: int, *, visible: bool = True, stream: TextIO | None = None) -> None:
        self._title, self._total, self._visible = title, total, visible
        self._stream = stream if stream is not None else sys.stdout
        self._bar: Any = None
        self._last = time.monotonic()

    def __enter__(self) -> Meter:
        if self._visible and (self._stream.isatty() or in_a_notebook()):
            self._bar = _bar(self._title, self._total, self._stream)
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, note: str = "") -> None:
        """`done` of the steps are done; `note` is what is worth knowing now."""
        if not self._visible:
            return
        if self._bar is not None:
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif done >= self._total or time.monotonic() - self._last >= SECONDS_BETWEEN_LINES:
            self._last = time.monotonic()
            self.line(f"{self._title}: {done} of {self._total}{'  ' if note else ''}{note}")

    def line(self, text: str) -> None:
        """A line that stays, above the bar if there is one."""
        if not self._visible:
            return
        if self._bar is not None:
            self._bar.write(text, file=self._stream)
        else:
            print(text, file=self._stream, flush=True)


@contextmanager
def search_progress() -> Iterator[Callable[..., None] | None]:
    """A bar on a terminal that is fed with shares in [0, 1], and with what is being done; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield None
        return
    with contextlib.closing(_bar("search", 100, sys.stderr, leave=False)) as bar:

        def show(share: float, doing: str = "") -> None:
            bar.set_description_str(doing or "search", refresh=False)
            bar.n = round(100 * share)
            bar.refresh()

        yield show


def in_a_notebook() -> bool:
    """Whether this process is a notebook's kernel."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"


def _bar(title: str, total: int, stream: TextIO, *, leave: bool = True) -> Any:
    from huggingface_hub.utils.tqdm import tqdm as of_the_hub

    # in a notebook without `file`: a widget where there are widgets
    place = {} if in_a_notebook() else {"file": stream}
    made: Any = of_the_hub  # without annotations
    bar: Any = made(total=total, desc=title, name=NAME, dynamic_ncols=True, leave=leave, **place)
    return bar
