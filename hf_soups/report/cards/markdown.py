"""Tables and code of a card as markdown, written and read back."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

Cell = tuple[str, str, str]  # section, first cell of the row, column
MISSING = "-"  # in a cell: not known
_ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PIPE = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its section's title; the first cell of a row is its name and stands there once."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    record: str = ""  # the file that its figures come from; "": the card's own
    folded: int = 0  # so many of the last rows are shown when asked for
    summary: str = ""  # what these are
    other_records: Mapping[str, str] = field(default_factory=dict)  # by row, where its figures come from another file

    @classmethod
    def of(cls, title: str, rows: Sequence[Mapping[str, str]], *, record: str = "") -> Table:
        """A table with the columns of all rows; what a row does not know is missing in it.

        >>> Table.of("T", [{"Rows": "a", "x": "1"}, {"Rows": "b", "y": "2"}]).rows
        (('a', '1', '-'), ('b', '-', '2'))
        """
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        return cls(title, columns, tuple(tuple(row.get(c, MISSING) for c in columns) for row in rows), record)

    @classmethod
    def of_values(cls, title: str, values: Mapping[str, object], *, record: str = "") -> Table:
        """A table of names and values; those that are None or empty are left out."""
        rows = tuple((name, str(value)) for name, value in values.items() if value not in (None, ""))
        return cls(title, ("What", "Value"), rows, record)

    def markdown(self) -> str:
        """The table as text.

        >>> print(Table("Data", ("What", "Value"), (("columns", "a|b"),)).markdown())
        | What | Value |
        | --- | --- |
        | columns | a\\|b |
        """
        open_rows = self.rows[: len(self.rows) - self.folded]
        shown = self._lines(open_rows)
        if not self.folded:
            return shown
        folded = self._lines(self.rows[len(open_rows) :])
        inside = f"<details><summary>{self.summary}</summary>\n\n{folded}\n\n</details>"
        return f"{shown}\n\n{inside}" if open_rows else inside

    def _lines(self, rows: tuple[tuple[str, ...], ...]) -> str:
        return "\n".join(map(_line, (self.columns, ("---",) * len(self.columns), *rows)))


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


def code_of(text: str, language: str = "python") -> str | None:
    """The first block of code in a language; None if there is none."""
    found = re.search(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return None if found is None else found[1]


def _sections(text: str) -> Iterator[tuple[str, list[str]]]:
    for part in re.split(r"^## ", text, flags=re.MULTILINE)[1:]:
        title, *lines = part.splitlines()
        yield title.strip(), [line.strip() for line in lines]


def _line(cells: tuple[str, ...]) -> str:
    return "| " + " | ".join(" ".join(cell.split()).replace("|", "\\|") for cell in cells) + " |"


def _cells(line: str) -> list[str]:
    return [cell.strip().replace("\\|", "|") for cell in _PIPE.split(line.strip())[1:-1]]
