"""Tables and code of a card as Markdown: written, read back, and run."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from hf_soups.errors import InputError
from hf_soups.files.writing import temporary_folder

Cell = tuple[str, str, str]  # section, first cell of the row, column
MISSING = "-"  # in a cell: not known
_ANY_FENCE = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)
_PIPE = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True, slots=True)
class MarkdownTable:
    """A table with its section's title; the first cell of a row is its name and stands there once."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    record: str = ""  # the file that its figures come from; "": the card's own
    folded: int = 0  # so many of the last rows are shown when asked for
    summary: str = ""  # what these are
    other_records: Mapping[str, str] = field(default_factory=dict)  # by row, where its figures come from another file

    @classmethod
    def of(cls, title: str, rows: Sequence[Mapping[str, str]], *, record: str = "") -> MarkdownTable:
        """A table with the columns of all rows; what a row does not know is missing in it.

        >>> MarkdownTable.of("T", [{"Rows": "a", "x": "1"}, {"Rows": "b", "y": "2"}]).rows
        (('a', '1', '-'), ('b', '-', '2'))
        """
        columns = tuple(dict.fromkeys(name for row in rows for name in row))
        return cls(title, columns, tuple(tuple(row.get(c, MISSING) for c in columns) for row in rows), record)

    @classmethod
    def of_values(cls, title: str, values: Mapping[str, object], *, record: str = "") -> MarkdownTable:
        """A table of names and values; those that are None or empty are left out."""
        rows = tuple((name, str(value)) for name, value in values.items() if value not in (None, ""))
        return cls(title, ("What", "Value"), rows, record)

    def markdown(self) -> str:
        """The table as text.

        >>> print(MarkdownTable("Data", ("What", "Value"), (("columns", "a|b"),)).markdown())
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


TIMEOUT = 600.0  # seconds: large cascades are read from slow disks


def snippet_for(
    pipeline_tag: str, name: str, *, cascade: bool, pair: bool = False, ours: bool = False, words: bool = False
) -> str:
    """Python code that classifies one row with a model.

    Args:
        pipeline_tag: "image-classification" or "text-classification".
        name: the model's id, or its folder.
        cascade: it is one.
        pair: it takes pairs of texts.
        ours: its class is one that hf_soups adds to transformers.
        words: it answers with label words.
    """
    if words:
        return _with_words(name, pair)
    image = pipeline_tag == "image-classification"
    row = "image" if image else '"A text to classify."'
    if pair:
        row = '{"text": "A text.", "text_pair": "Another text."}'
    lines = [
        *(["import hf_soups  # so that transformers knows cascades"] if cascade else []),
        *(["import hf_soups  # so that transformers knows this class of models"] if ours else []),
        *(["from PIL import Image"] if image else []),
        "from transformers import pipeline",
        "",
        *(['image = Image.new("RGB", (224, 224))  # put your own here: Image.open(...)'] if image else []),
        f'classify = pipeline("{"cascade-" if cascade else ""}{pipeline_tag}", model={json.dumps(name)})',
        f"print(classify({row}{', return_exits=True' if cascade else ''}))",
    ]
    return "\n".join(lines)


def _with_words(name: str, pair: bool) -> str:
    row = '("A text.", "Another text.")' if pair else '"A text to classify."'
    return (
        "from hf_soups import WordClassifier\n\n"
        f"classify = WordClassifier.load({json.dumps(name)})\nprint(classify([{row}]))"
    )


def run_code(code: str, folder: Path, name: str, *, timeout: float = TIMEOUT) -> str:
    """Run code in a process of its own, in a place where `name` is `folder`; what it printed.

    Args:
        code: Python, of a card made here; never of a file that was downloaded.
        folder: of the model.
        name: what the code loads it by.
        timeout: seconds.
    Raises:
        InputError: if it fails, or takes longer.
    """
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise InputError(f"{name!r} is no name of a model. Give one such as 'me/my-soup'.")
    with temporary_folder("card") as empty:
        place = Path(empty, name)
        place.parent.mkdir(parents=True, exist_ok=True)
        place.symlink_to(folder.resolve(), target_is_directory=True)
        # -P: nothing that lies beside the model is imported
        command = [sys.executable, "-P", "-c", code]
        try:
            done = subprocess.run(command, cwd=empty, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise InputError(
                f"{folder}: the code of its card was not done after {timeout:g} seconds. Run it by hand."
            ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"{folder}: the code of its card fails ({last}). Whoever copies it would meet the same: make the folder "
            "whole again."
        )
    return done.stdout
