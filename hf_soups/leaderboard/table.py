"""The leaderboard's columns, once for the terminal, cards and the page; and its files: CSV, parquet, leaderboard.json.

leaderboard.json is the board of a moment in each soup's folder, for its card. It goes to the Hub with the weights, so
it names no place on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.errors import InputError
from hf_soups.files.reading import is_there, read_record
from hf_soups.files.writing import finite, write_csv, write_file, write_text
from hf_soups.leaderboard.board import Leaderboard
from hf_soups.metrics import traits_of
from hf_soups.plots.canvas import unit_of
from hf_soups.sweep.folder import SweepFolder
from hf_soups.wording import amount, interval_in_words, score_in_words

if TYPE_CHECKING:
    import pyarrow
    from rich.console import Console, ConsoleOptions, RenderableType

    from hf_soups.leaderboard.rows import Row

BOARD_FILE = "leaderboard.json"
FORMAT = "hf_soups.leaderboard.v1"
AGAIN = "Run the same `hf-soups cook` again: it writes this file anew."
BETWEEN = 3  # spaces between two columns
ScoreEnds = tuple[float | None, float | None, float | None]  # a score, and the ends of its 95% interval
OPTIMISTIC = " (optimistic)"


@dataclass(frozen=True, slots=True)
class BoardColumn:
    """One column; where a terminal's width does not allow all, the highest `rank` goes first."""

    title: str
    rank: float
    text: Callable[[Row], str]
    value: Callable[[Row], float | str | None]  # what it sorts by
    ends: Callable[[Row], str] | None = None  # the 95% interval of the value, in brackets
    ends_rank: float = 0.0  # of a column of its own for the interval; 0: beside the value
    lower: bool = False  # whether less is better: losses and costs

    @property
    def left(self) -> bool:
        """Whether it holds words."""
        return self.title == "model"

    def full_text(self, row: Row) -> str:
        """The value with its interval."""
        return self.text(row) if self.ends is None else f"{self.text(row)} {self.ends(row)}".rstrip()


def board_columns(board: Leaderboard, optimistic: str = OPTIMISTIC) -> list[BoardColumn]:
    """All columns; behind report one for each shift and, of several, their mean.

    Args:
        board: the leaderboard.
        optimistic: what marks the names of rows that were chosen on report.
    """
    metric, mean, lower = board.metric, board.shift_mean, traits_of(board.metric).sign < 0

    def scored(title: str, rank: float, ends_rank: float, score: Callable[[Row], ScoreEnds]) -> BoardColumn:
        return BoardColumn(
            title, rank,
            lambda row: score_in_words(score(row)[0], metric),
            lambda row: score(row)[0],
            lambda row: interval_in_words(*score(row)[1:], metric=metric),
            ends_rank,
            lower,
        )  # fmt: skip

    def on_shift(name: str) -> Callable[[Row], ScoreEnds]:
        def score(row: Row) -> ScoreEnds:
            found = row.shifts.get(name)
            return (None, None, None) if found is None else (found.value, found.low, found.high)

        return score

    shifts = [scored(name, 2.5, 3.5, on_shift(name)) for name in board.shifts]
    if len(shifts) > 1:
        shifts.append(BoardColumn("shifts", 2.7, lambda row: score_in_words(mean(row), metric), mean, lower=lower))
    return [
        BoardColumn("model", 0, lambda row: row_name(row, optimistic), lambda row: row_name(row, optimistic)),
        scored("select", 2, 9, lambda row: (row.select, row.select_low, row.select_high)),
        scored("report", 1, 0, lambda row: (row.report, row.report_low, row.report_high)),
        *shifts,
        BoardColumn("gain on best", 3, lambda row: row.gain, lambda row: row.report_gain, lower=lower),
        BoardColumn("NLL", 4, lambda row: _decimals(row.report_nll, 3), lambda row: row.report_nll, lower=True),
        BoardColumn(
            "ECE", 5, lambda row: score_in_words(row.report_ece, "ece"), lambda row: row.report_ece, lower=True
        ),
        BoardColumn("param.", 8, lambda row: amount(row.parameters), lambda row: row.parameters, lower=True),
        BoardColumn("MACs", 7, lambda row: amount(row.macs), lambda row: row.macs, lower=True),
        BoardColumn(
            "train s", 6, lambda row: _decimals(row.train_seconds, 0), lambda row: row.train_seconds, lower=True
        ),
    ]


def row_name(row: Row, optimistic: str = OPTIMISTIC) -> str:
    """The row's name, with how many ingredients it has of how many, and what marks it."""
    count = "" if not row.ingredients else f" {row.ingredients}/{row.pool or row.ingredients}"
    mark = " (best on select)" if row.kind == "best on select" else ""
    return f"{row.name}{count}{mark}" + (optimistic if row.status == "optimistic" else "")


def _decimals(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


# On a terminal and on cards


@dataclass(frozen=True, slots=True)
class _TextColumn:
    title: str
    texts: tuple[str, ...]
    rank: float
    left: bool

    @property
    def width(self) -> int:
        return max(map(len, (self.title, *self.texts)))


def _text_columns(board: Leaderboard) -> list[_TextColumn]:
    """The columns of the rows with scores; intervals, of which each fills a column, behind their scores."""
    made = []
    for c in board_columns(board, " *"):
        beside = c.ends is not None and not c.ends_rank
        texts = tuple((c.full_text if beside else c.text)(row) for row in board.scored)
        made.append(_TextColumn(f"{c.title} [95%]" if beside else c.title, texts, c.rank, c.left))
        if c.ends is not None and c.ends_rank:
            made.append(_TextColumn("[95%]", tuple(c.ends(row) for row in board.scored), c.ends_rank, left=False))
    return made


def text_cells(board: Leaderboard) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Titles of all columns, each once, and the texts of all rows with scores, for other tables than the terminal's."""
    titles, columns = list[str](), _text_columns(board)
    for column in columns:
        titles.append(f"{titles[-1]} {column.title}" if column.title == "[95%]" else column.title)
    return tuple(titles), tuple(zip(*(column.texts for column in columns), strict=True))


@dataclass(frozen=True)
class LeaderboardTable:
    """Renders a leaderboard; columns that do not fit side by side stand in tables below, under the same names."""

    board: Leaderboard

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich.text import Text

        for columns in _folded(_text_columns(self.board), options.max_width) if self.board.scored else ():
            yield self._table(columns)
        for line in notes(self.board):
            yield Text(line, style="dim")

    def _table(self, columns: Sequence[_TextColumn]) -> RenderableType:
        from rich import box
        from rich.table import Table

        table, rows = Table(box=box.SIMPLE_HEAD, pad_edge=False), self.board.scored
        for c in columns:
            table.add_column(c.title, justify="left" if c.left else "right", no_wrap=not c.left, overflow="fold")
        for i, (row, following) in enumerate(zip(rows, [*rows[1:], None], strict=True)):
            style = "bold" if row.kind in ("soup", "best on select") else None
            last_before_runs = row.kind != "run" and following is not None and following.kind == "run"
            table.add_row(*(c.texts[i] for c in columns), style=style, end_section=last_before_runs)
        return table


def _folded(columns: Sequence[_TextColumn], width: int) -> Iterator[list[_TextColumn]]:
    """The columns in as many tables as the width asks for, the first of which, the names, in each of them.

    The interval of select is shown where there is room in the first table alone.
    """
    name, rest = columns[0], list(columns[1:])
    while rest:
        shown = _fitting([name, *rest], width)
        yield shown
        rest = [c for c in rest if c.title != "[95%]" and not any(c is one for one in shown)]


def _fitting(columns: Sequence[_TextColumn], width: int) -> list[_TextColumn]:
    """The most important columns that fit side by side without a line break; at least name and report score."""
    chosen: list[_TextColumn] = []
    for column in sorted(columns, key=lambda c: c.rank):
        together = [*chosen, column]
        if len(chosen) >= 2 and sum(c.width + BETWEEN for c in together) > width:
            break
        chosen = together
    return [c for c in columns if any(c is one for one in chosen)]


# What a table cannot say


def notes(board: Leaderboard) -> list[str]:
    """Units, rows, devices, what was chosen, and each run or soup without scores with its reason."""
    lines = []
    if board.scored:
        lines.append(
            f"{unit_of(board.metric)}; select: {board.select_rows} validation rows, which choices were made on; "
            f"report: {board.report_rows} test rows, not looked at when choosing. Gains are over the best on select; "
            "NLL and ECE (x 100) are on report."
        )
        lines += [_shifts(board)] if board.shifts else []
        lines += [_training(board.rows)] if any(row.train_seconds is not None for row in board.rows) else []
        lines += [f"{row.name}: {row.made_of}" for row in board.scored if row.made_of]
        if any(row.kind == "cascade" for row in board.scored):
            lines.append("MACs of a cascade are the average over report rows.")
    else:
        lines.append("No run has finished yet: there is nothing to score.")
    for row in board.rows:
        if row.status not in ("finished", ""):
            lines.append(f"{row.name}: {row.status}" + (f" ({row.reason})" if row.reason else ""))
    return [*lines, *board.notes]


def _shifts(board: Leaderboard) -> str:
    each = [
        f"{name}: {about.rows} rows"
        + (f" of {about.present} of the {about.classes} classes" if about.present < about.classes else "")
        for name, about in board.shifts.items()
    ]
    mean = "; shifts: their plain mean" if len(each) > 1 else ""
    return f"Shifts, other distributions that nothing was chosen on: {', '.join(each)}{mean}."


def training_of(rows: Sequence[Row]) -> tuple[int, float, str]:
    """How many runs have their training seconds recorded, the sum of these, and the devices they were measured on."""
    runs = [row for row in rows if row.kind == "run" and row.train_seconds is not None]
    devices = " + ".join(sorted({row.device for row in runs if row.device})) or "a device that was not recorded"
    return len(runs), sum(row.train_seconds or 0.0 for row in runs), devices


def _training(rows: Sequence[Row]) -> str:
    runs, total, devices = training_of(rows)
    return (
        f"Training seconds on {devices}: those of soups, ensembles and cascades are the sum over all runs in them; "
        f"all {runs} runs together took {total:.0f} s."
    )


# CSV and parquet


def save_csv(board: Leaderboard, path: Path) -> None:
    """Write all rows and fields; scores at full precision, nothing for what is not known."""
    write_csv(path, [row_values(board, row) for row in board.rows])


def save_parquet(board: Leaderboard, path: Path) -> None:
    """Write all rows and fields with their types, also where a column holds nothing."""
    import pyarrow
    import pyarrow.parquet

    rows = [row_values(board, row) for row in board.rows]
    own = {f.name: str(f.type).removesuffix(" | None") for f in fields(board.rows[0])}
    columns = {name: _column([row[name] for row in rows], own.get(name, "float")) for name in rows[0]}
    table = pyarrow.Table.from_arrays(list(columns.values()), names=list(columns))
    write_file(path, lambda staged: pyarrow.parquet.write_table(table, staged))


def _column(values: Sequence[Any], kind: str) -> pyarrow.Array:
    """Texts or numbers, or None, as a column; from buffers, since `pyarrow.array` imports pandas."""
    import pyarrow

    known = np.packbits([value is not None for value in values], bitorder="little")
    if kind == "str":
        texts = [(value or "").encode() for value in values]
        of_type, parts = pyarrow.string(), [np.cumsum([0, *map(len, texts)], dtype=np.int32), b"".join(texts)]
    else:
        of_type = pyarrow.int64() if kind == "int" else pyarrow.float64()
        parts = [np.array([0 if value is None else value for value in values], np.dtype(f"{kind}64"))]
    return pyarrow.Array.from_buffers(of_type, len(values), [pyarrow.py_buffer(part) for part in (known, *parts)])


def row_values(board: Leaderboard, row: Row) -> dict[str, Any]:
    """All of a row by column; each shift is three of them, shift_<name> and the ends of its interval."""
    values = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "shifts"}
    for name in board.shifts:
        found = row.shifts.get(name)
        for end, key in (("", "value"), ("_low", "low"), ("_high", "high")):
            values[f"shift_{name}{end}"] = getattr(found, key, None)
    if len(board.shifts) > 1:
        values["shifts_mean"] = board.shift_mean(row)
    return values


# leaderboard.json


def keep_with_soups(board: Leaderboard, sweep: str | Path) -> tuple[Path, ...]:
    """Keep a sweep's leaderboard in the folders of the soups that were cooked from it; the paths.

    Raises:
        HfSoupsError: if a folder cannot be written.
    """
    folders = []
    for pointer in SweepFolder(Path(sweep)).soups():
        try:
            folders.append(pointer.folder())
        except InputError:  # its row on the board says that it is gone
            continue
    return keep_board(board, (folder for folder in folders if folder.is_dir()))


def keep_board(board: Leaderboard, folders: Iterable[Path]) -> tuple[Path, ...]:
    """Write a leaderboard as leaderboard.json into folders; the paths."""
    text, paths = board_text(board), [folder / BOARD_FILE for folder in folders]
    for path in paths:
        write_text(path, text)
    return tuple(paths)


def board_text(board: Leaderboard) -> str:
    """A leaderboard as leaderboard.json holds it, a row a line; of what has no scores only name and state.

    Reasons and notes are left out: they name files.
    """
    about = {
        "format": FORMAT,
        "metric": board.metric,
        "select_rows": board.select_rows,
        "report_rows": board.report_rows,
        "shifts": {name: asdict(rows) for name, rows in board.shifts.items()},
    }
    lines = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)}" for key, value in about.items()]
    rows = []
    for row in board.rows:
        known = {k: v for k, v in finite(asdict(row)).items() if k != "reason" and v not in (None, "", {})}
        rows.append("\n  " + json.dumps(known, ensure_ascii=False, allow_nan=False))
    return "{\n" + ",\n".join([*lines, f'"rows": [{",".join(rows)}]']) + "\n}\n"


def load_board(folder: Path) -> Leaderboard | None:
    """The leaderboard that a soup's folder keeps; None where it keeps none.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / BOARD_FILE
    if not is_there(path):
        return None
    return read_record(path, Leaderboard, what="a leaderboard", format=FORMAT, again=AGAIN)
