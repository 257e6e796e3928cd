"""The stages of a long job as they go: a list that lives on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text


class Stages:
    """Stages by their titles, run one after another, each in a `with` block of `stage`.

    On a terminal a list says which stage runs, what it said last, and how long the others took; elsewhere each stage
    prints what it does.
    """

    def __init__(self, titles: Sequence[str], console: Console) -> None:
        self._titles, self._console = titles, console
        self._seconds: list[float] = []  # of the stages that are done
        self._began = time.monotonic()
        self._said = _LastLine()
        self._spinner = Spinner("dots")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Shows the list while the block runs, where there is a terminal."""
        with ExitStack() as stack:
            if self._console.is_terminal:
                stack.enter_context(Live(self, console=self._console, refresh_per_second=8, redirect_stdout=False))
                stack.enter_context(redirect_stdout(self._said))
            yield

    @contextmanager
    def stage(self, where: Path) -> Iterator[None]:
        """The next stage, which writes to `where`."""
        number, self._began = f"{len(self._seconds) + 1}/{len(self._titles)}", time.monotonic()
        plain = not self._console.is_terminal
        if plain:
            self._console.print(f"\n{number} {self._titles[len(self._seconds)]}  ({where})", highlight=False)
        yield
        self._seconds.append(time.monotonic() - self._began)
        if plain:
            self._console.print(f"{number} took {self._seconds[-1]:.0f} s", highlight=False)

    def show(self, what: Any) -> None:
        """Print what stays, above the list."""
        self._console.print(what)

    def __rich__(self) -> Table:
        table, done = Table.grid(padding=(0, 1)), len(self._seconds)
        for number, title in enumerate(self._titles):
            if number < done:
                table.add_row(Text("✓", "green"), f"{number + 1}", Text(title), f"{self._seconds[number]:.0f} s")
            elif number == done:
                seconds = f"{time.monotonic() - self._began:.0f} s"
                table.add_row(self._spinner, f"{number + 1}", Text(title, "bold"), seconds)
                table.add_row("", "", Text(self._said.line[: self._console.width - 16], "dim"), "")
            else:
                table.add_row("", f"{number + 1}", Text(title, "dim"), "")
        return table


class _LastLine(io.TextIOBase):
    """A stream that keeps the last line written to it."""

    line = ""

    def write(self, text: str) -> int:
        self.line = next((line.strip() for line in reversed(text.splitlines()) if line.strip()), self.line)
        return len(text)
