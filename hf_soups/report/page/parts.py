"""What a page is made of: sections with words, tables that sort, charts, and examples; nothing of HTML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Value = float | str | None  # what a cell sorts by; None stands last in either direction


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell of a table shows, and what it sorts by."""

    text: str
    value: Value = None

    @classmethod
    def words(cls, text: str) -> Cell:
        """A text that sorts by itself."""
        return cls(text, text)


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    number: bool = True  # stands to the right, and sorts the largest first


@dataclass(frozen=True, slots=True)
class Table:
    """Rows under columns; the first column names the row."""

    name: str  # unique in the page: letters, digits and dashes
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    strong: tuple[int, ...] = ()  # rows that stand out

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.name


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with the table of what it shows."""

    name: str  # unique in the page
    title: str
    text: str  # what it shows, for who does not see it
    spec: Mapping[str, Any]  # Vega-Lite
    table: Table


@dataclass(frozen=True, slots=True)
class Example:
    """One row of the data with its answer."""

    title: str  # "row 12"
    answer: str  # "3 (98%)"
    label: str
    right: bool
    texts: tuple[str, ...] = ()
    image: str = ""  # a data: URI
    size: tuple[int, int] = (0, 0)  # pixels of the image: width, height
    broken: str = ""  # why there is nothing to show


@dataclass(frozen=True, slots=True)
class Examples:
    """Some rows that left a cascade at one stage."""

    title: str
    text: str
    rows: tuple[Example, ...]


@dataclass(frozen=True, slots=True)
class Fact:
    """One key figure."""

    title: str
    value: str
    text: str


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a section under a heading of its own, or none; shown in this order."""

    title: str = ""
    words: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: Table | None = None
    folded: bool = False  # the table opens on demand
    examples: tuple[Examples, ...] = ()
    listed: tuple[str, ...] = ()  # words as a list


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page that the navigation names."""

    name: str  # unique in the page
    title: str
    blocks: tuple[Block, ...]


@dataclass(frozen=True, slots=True)
class Page:
    """The whole report."""

    title: str
    about: str  # one line under the title
    sections: tuple[Section, ...] = field(default_factory=tuple)

    @property
    def charts(self) -> tuple[Chart, ...]:
        """All charts, in their order."""
        return tuple(chart for section in self.sections for block in section.blocks for chart in block.charts)


def plain_table(
    name: str, caption: str, titles: Sequence[str], rows: Sequence[Sequence[Cell]], *, left: int = 1
) -> Table:
    """A table whose first `left` columns hold words and whose others hold numbers."""
    columns = tuple(Column(title, number=i >= left) for i, title in enumerate(titles))
    return Table(name, caption, columns, tuple(tuple(row) for row in rows))
