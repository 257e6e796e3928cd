"""Tables and code of a card as markdown, written and read back."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

Cell = tuple[str, str, str]  # section, first cell of the row, column
_FENCE = re.compile(r"^```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PIPE = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its section's title; the first cell of a row is its name and stands there once."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> str:
        """The table as text.

        >>> print(Table("Data", ("What", "Value"), (("columns", "a|b"),)).markdown())
        | What | Value |
        | --- | --- |
        | columns | a\\|b |
        """
        return "\n".join(map(_line, (self.columns, ("---",) * len(self.columns), *self.rows)))


def cells_of(text: str) -> dict[Cell, str]:
    """Every cell of every table below a heading of the second level, but the first cells of rows."""
    found: dict[Cell, str] = {}
    for title, section in _sections(_ANY_FENCE.sub("", text)):
        header: list[str] = []
        for line in section:
            if not line.startswith("|"):
                header = []
            elif not header:
                header = _cells(line)
            elif set(line) - set("|-: "):
                name, *values = _cells(line)
                found |= {(title, name, column): v for column, v in zip(header[1:], values, strict=False)}
    return found


def code_of(text: str) -> str | None:
    """The first block of Python code; None if there is none."""
    found = _FENCE.search(text)
    return None if found is None else found[1]


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, *lines = part.splitlines()
        yield title.strip(), [line.strip() for line in lines]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _PIPE.split(line.strip())[1:-1]]
