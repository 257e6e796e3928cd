"""What a page is made of (words, tables that sort, charts, examples), and all of it as one HTML file."""

from __future__ import annotations

import base64
import hashlib
import importlib.util
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import MissingExtra
from hf_soups.metrics import traits_of
from hf_soups.reporting.page.terms import TERMS, parts_of, term_of

if TYPE_CHECKING:
    from jinja2 import Environment


Value = float | str | None  # what a cell sorts by; None is last in either direction


@dataclass(frozen=True, slots=True)
class Cell:
    """What one cell of a table shows, and what it sorts by."""

    text: str
    value: Value = None

    @classmethod
    def words(cls, text: str) -> Cell:
        """A text that sorts by itself."""
        return cls(text, text)

    @property
    def sorts_by(self) -> str:
        """What the page's script sorts by: a number or a word; nothing for what is not known."""
        if isinstance(self.value, int | float):
            return repr(self.value) if math.isfinite(self.value) else ""
        return self.value or ""


@dataclass(frozen=True, slots=True)
class Column:
    """One column of a table."""

    title: str
    number: bool = True  # aligned to the right
    lower: bool = False  # whether less is better: the smallest comes first

    @property
    def first(self) -> str:
        """The order of the first click: the best first, words from A."""
        return "descending" if self.number and not self.lower else "ascending"


@dataclass(frozen=True, slots=True)
class PageTable:
    """Rows under columns; the first column names the row."""

    name: str  # unique in the page: letters, digits and dashes
    caption: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]
    strong: tuple[int, ...] = ()  # rows that stand out

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.columns) for row in self.rows), self.name


def page_table(
    name: str,
    caption: str,
    titles: Sequence[str],
    rows: Sequence[Sequence[Cell]],
    *,
    left: int = 1,
    strong: Sequence[int] = (),
    lower: Collection[str] = (),
) -> PageTable:
    """A table whose first `left` columns hold words and whose others hold numbers; of `lower` less is better."""
    columns = tuple(Column(title, number=i >= left, lower=title in lower) for i, title in enumerate(titles))
    return PageTable(name, caption, columns, tuple(map(tuple, rows)), tuple(strong))


def losses(metric: str, *titles: str) -> tuple[str, ...]:
    """The titles of a metric's scores if less of it is better, else none."""
    return titles if traits_of(metric).sign < 0 else ()


@dataclass(frozen=True, slots=True)
class Chart:
    """A picture with the table of what it shows."""

    name: str  # unique in the page
    title: str
    text: str  # what it shows, for who does not see it
    spec: Mapping[str, Any]  # Vega-Lite
    table: PageTable
    wide: bool = False  # on a phone it is not squeezed, but scrolls


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
class Picture:
    """A picture that was drawn already, with the table of what it shows."""

    title: str
    image: str  # a data: URI
    text: str  # for who does not see it
    table: PageTable | None


@dataclass(frozen=True, slots=True)
class Block:
    """A part of a section under a heading of its own, or none; shown in this order."""

    title: str = ""
    lead: tuple[str, ...] = ()  # words that stand out
    words: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    charts: tuple[Chart, ...] = ()
    table: PageTable | None = None
    folded: bool = False  # the table opens on demand
    examples: tuple[Examples, ...] = ()
    listed: tuple[str, ...] = ()  # words as a list
    pictures: tuple[Picture, ...] = ()


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


HERE = Path(__file__).parent
MARK = '<meta name="generator" content="hf_soups'  # by which an earlier report is known
PACKAGES = ("altair", "vl_convert")


def require_extra() -> None:
    """Check before any work that charts can be drawn.

    Raises:
        MissingExtra: if Altair or vl-convert is not installed.
    """
    missing = [name for name in PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingExtra(
            f"The report's charts need {' and '.join(missing)}, which is not installed. "
            'Run: pip install "hf_soups[report]".'
        )


def is_ours(path: Path) -> bool:
    """Whether a file is a report of ours."""
    try:
        with path.open(encoding="utf-8") as file:
            return MARK in file.read(2048)
    except (OSError, UnicodeDecodeError):
        return False


def to_html(page: Page) -> str:
    """The whole file. Names and texts come from anywhere, so all of them are escaped."""
    style, script = (_own(name) for name in ("page.css", "page.js"))
    charts = _vega() if page.charts else ""
    policy = _policy([charts, script] if charts else [script], style)
    about = {"version": metadata.version("hf_soups"), "policy": policy}
    template = _environment().get_template("page.html")
    return str(template.render(page=page, style=style, charts=charts, script=script, **about)).strip() + "\n"


def _environment() -> Environment:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    made = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    made.globals.update(terms=TERMS, term_of=term_of, parts_of=parts_of, nothing_seen=set)
    made.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return made


@cache
def _own(name: str) -> str:
    return (HERE / name).read_text(encoding="utf-8").strip()


@cache
def _vega() -> str:
    """The code of Vega, Vega-Lite and Vega-Embed in one piece."""
    import vl_convert

    bundle = str(vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")).replace("\r", "\\r").strip()
    return bundle.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: list[str], style: str) -> str:
    """What the browser may run and load: these scripts and this style by their hashes, images inside the file."""
    allowed = " ".join(map(_hash, scripts))
    return (
        f"default-src 'none'; script-src {allowed}; style-src {_hash(style)}; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
