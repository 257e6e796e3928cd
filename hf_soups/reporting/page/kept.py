"""What `diagnose` and `by-number` left in the sweep's folder, on the page: their words, pictures and numbers."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Iterator
from pathlib import Path

from hf_soups.errors import HfSoupsError
from hf_soups.files.reading import is_there, read_bytes, read_json, read_text
from hf_soups.reporting.page.html import Block, Cell, PageTable, Picture, Section, page_table
from hf_soups.reporting.page.sources import ReportContent

# as `hf_soups.diagnosis` has them, which a test holds: importing that would take longer than the page
DIAGNOSIS, RECORD, BY_NUMBER = "diagnosis", "diagnosis.json", "by_number"
PNG = b"\x89PNG\r\n\x1a\n"
LARGEST = 2_000_000  # bytes of a picture
ROWS = 200  # of a picture's table
PICTURES = {
    "barriers": "Score along the line between the weights of two runs",
    "angles": "Angle between two fine-tunes against what averaging them gained",
    "plane": "Score over the plane through three runs",
    "soup_vs_ensemble": "Averaged weights against averaged answers of the same runs",
    "by_number": "Score by number of runs: the mean of random subsets, and the worst and best of them",
}


def kept_section(content: ReportContent) -> Section | None:
    """The section; None where neither command has left anything."""
    if content.sweep is None:
        return None
    folder = content.sweep.folder
    blocks = [*_diagnosis(folder / DIAGNOSIS), *_by_number(folder / BY_NUMBER)]
    return Section("why", "Why averaging pays, or does not", tuple(blocks)) if blocks else None


def _diagnosis(folder: Path) -> Iterator[Block]:
    if not is_there(folder / RECORD):
        return
    try:
        words = read_json(folder / RECORD).get("words")
    except (OSError, HfSoupsError) as error:
        yield Block("Diagnosis", words=(f"{folder / RECORD} cannot be read: {error}",))
        return
    said = tuple(w for w in words if isinstance(w, str)) if isinstance(words, list) else ()
    pictures = tuple(_pictures(folder, ("barriers", "angles", "plane", "soup_vs_ensemble")))
    yield Block("Diagnosis", words=said[:1], listed=said[1:], pictures=pictures)


def _by_number(folder: Path) -> Iterator[Block]:
    pictures = tuple(_pictures(folder, ("by_number",)))
    if pictures:
        words = "Whether a further run still adds: scores of random subsets of the runs by their number."
        yield Block("By number of runs", words=(words,), pictures=pictures)


def _pictures(folder: Path, names: tuple[str, ...]) -> Iterator[Picture]:
    for name in names:
        try:
            drawn = read_bytes(folder / f"{name}.png") if is_there(folder / f"{name}.png") else b""
        except (OSError, HfSoupsError):
            continue
        if drawn.startswith(PNG) and len(drawn) <= LARGEST:
            uri = f"data:image/png;base64,{base64.b64encode(drawn).decode('ascii')}"
            title = PICTURES[name]
            yield Picture(title, uri, f"{title}; its numbers are below.", _numbers(folder / f"{name}.csv", name, title))


def _numbers(path: Path, name: str, title: str) -> PageTable | None:
    """The picture's numbers; None where they are not there or are no table."""
    try:
        lines = list(csv.reader(io.StringIO(read_text(path)))) if is_there(path) else []
    except (OSError, HfSoupsError, csv.Error):
        return None
    if len(lines) < 2 or any(len(line) != len(lines[0]) for line in lines):
        return None
    more = f": the first {ROWS} of {len(lines) - 1} rows, all are in {path.name}" if len(lines) - 1 > ROWS else ""
    rows = [[_cell(text) for text in line] for line in lines[1 : 1 + ROWS]]
    left = sum(1 for column in zip(*rows, strict=True) if any(isinstance(cell.value, str) for cell in column))
    titles = [column.replace("_", " ") for column in lines[0]]
    return page_table(f"{name.replace('_', '-')}-numbers", title + more, titles, rows, left=left)


def _cell(text: str) -> Cell:
    try:
        value = float(text)
    except ValueError:
        return Cell.words(text) if text else Cell("-")
    return Cell(f"{value:.4g}" if "." in text or "e" in text.lower() else text, value)
