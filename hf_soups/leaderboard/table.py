"""The leaderboard as people and programs read it: a terminal table that fits its width, CSV and parquet."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.files.writing import write_csv, write_file
from hf_soups.wording import amount, score_in_words

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType

    from hf_soups.leaderboard.board import Leaderboard
    from hf_soups.leaderboard.rows import Row


@dataclass(frozen=True, slots=True)
class BoardColumn:
    """One column of the terminal's table; where the width does not allow all, the highest `rank` goes first."""

    title: str
    text: Callable[[Row, str], str]  # row, metric
    rank: float
    left: bool = False


COLUMNS = (
    BoardColumn("model", lambda row, metric: row_name(row), rank=0, left=True),
    BoardColumn("select", lambda row, metric: score_in_words(row.select, metric), rank=2),
    BoardColumn("[95%]", lambda row, metric: _ends(row.select_low, row.select_high, metric), rank=9),
    BoardColumn("report [95%]", lambda row, metric: _report(row, metric), rank=1),
    BoardColumn("gain on best", lambda row, metric: row.gain, rank=3),
    BoardColumn("NLL", lambda row, metric: _decimals(row.report_nll, 3), rank=4),
    BoardColumn("ECE", lambda row, metric: score_in_words(row.report_ece, "ece"), rank=5),
    BoardColumn("param.", lambda row, metric: amount(row.parameters), rank=8),
    BoardColumn("MACs", lambda row, metric: amount(row.macs), rank=7),
    BoardColumn("train s", lambda row, metric: _decimals(row.train_seconds, 0), rank=6),
)
BETWEEN = 3  # spaces between two columns


@dataclass(frozen=True)
class LeaderboardTable:
    """Renders a leaderboard with as many columns as fit."""

    board: Leaderboard

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterable[RenderableType]:
        from rich.text import Text

        rows = [row for row in self.board.rows if row.report is not None]
        if rows:
            yield self._table(rows, options.max_width)
        for line in notes(self.board):
            yield Text(line, style="dim")

    def _table(self, rows: Sequence[Row], width: int) -> RenderableType:
        from rich import box
        from rich.table import Table

        table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
        columns = _fitting(_columns(self.board), rows, self.board.metric, width)
        for column in columns:
            table.add_column(
                column.title, justify="left" if column.left else "right", no_wrap=not column.left, overflow="fold"
            )
        for row, following in zip(rows, [*rows[1:], None], strict=True):
            style = "bold" if row.kind in ("soup", "best on select") else None
            last_before_runs = row.kind != "run" and following is not None and following.kind == "run"
            table.add_row(*(c.text(row, self.board.metric) for c in columns), style=style, end_section=last_before_runs)
        return table


def text_cells(board: Leaderboard) -> tuple[tuple[str, ...], tuple[tuple[str, ...], ...]]:
    """Titles of all columns, each once, and the texts of all rows with scores, for other tables than the terminal's."""
    columns, titles = _columns(board), list[str]()
    for column in columns:
        titles.append(f"{titles[-1]} {column.title}" if column.title == "[95%]" else column.title)
    rows = [row for row in board.rows if row.report is not None]
    return tuple(titles), tuple(tuple(column.text(row, board.metric) for column in columns) for row in rows)


def _columns(board: Leaderboard) -> list[BoardColumn]:
    """Those of every leaderboard and, behind report, one for each shift and their mean."""
    shifts = []
    for name in board.shifts:
        shifts += [
            BoardColumn(name, partial(_shift, name), rank=2.5),
            BoardColumn("[95%]", partial(_shift_ends, name), rank=3.5),
        ]
    if len(board.shifts) > 1:
        shifts.append(
            BoardColumn("shifts", lambda row, metric: score_in_words(board.shift_mean(row), metric), rank=2.7)
        )
    after = [column.title for column in COLUMNS].index("report [95%]") + 1
    return [*COLUMNS[:after], *shifts, *COLUMNS[after:]]


def _fitting(columns: Sequence[BoardColumn], rows: Sequence[Row], metric: str, width: int) -> list[BoardColumn]:
    """The most important columns that fit side by side without a line break; at least name and report score."""
    widths = {c: max(len(text) for text in (c.title, *(c.text(row, metric) for row in rows))) for c in columns}
    chosen: list[BoardColumn] = []
    for column in sorted(columns, key=lambda c: c.rank):
        together = [*chosen, column]
        if len(chosen) >= 2 and sum(widths[c] + BETWEEN for c in together) > width:
            break
        chosen = together
    return [c for c in columns if c in chosen]


def notes(board: Leaderboard) -> list[str]:
    """What the table cannot say: units, devices, and each run or soup without scores with its reason."""
    lines = []
    scored = [row for row in board.rows if row.report is not None]
    if scored:
        scale = "" if score_in_words(0.5, board.metric) != "50.0" else " x 100"
        lines.append(
            f"{board.metric}{scale}; select: {board.select_rows} rows, chosen on; report: {board.report_rows} rows, "
            "not looked at when choosing. Gains are over the best on select; NLL and ECE (x 100) are of report."
        )
        if board.shifts:
            lines.append(_shifts(board))
        lines.append(_training(board.rows))
        lines += _made_of(scored)
    else:
        lines.append("No run has finished yet: there is nothing to score.")
    for row in board.rows:
        if row.status not in ("finished", ""):
            lines.append(f"{row.name}: {row.status}" + (f" ({row.reason})" if row.reason else ""))
    return [*lines, *board.notes]


def save_csv(board: Leaderboard, path: Path) -> None:
    """Write all rows and fields; scores at full precision, nothing for what is not known."""
    write_csv(path, [_values(board, row) for row in board.rows])


def save_parquet(board: Leaderboard, path: Path) -> None:
    """Write all rows and fields with their types, also where a column holds nothing."""
    import pyarrow
    import pyarrow.parquet

    types: dict[str, Any] = {
        "str": pyarrow.string(),
        "int | None": pyarrow.int64(),
        "float | None": pyarrow.float64(),
    }
    rows = [_values(board, row) for row in board.rows]
    own = {f.name: types[str(f.type)] for f in fields(board.rows[0]) if f.name != "shifts"}
    schema = pyarrow.schema([(name, own.get(name, pyarrow.float64())) for name in rows[0]])
    table = pyarrow.Table.from_pylist(rows, schema=schema)
    write_file(path, lambda staged: pyarrow.parquet.write_table(table, staged))


def _values(board: Leaderboard, row: Row) -> dict[str, Any]:
    """All of a row by column; each shift is three of them, shift_<name> and the ends of its interval."""
    values = {f.name: getattr(row, f.name) for f in fields(row) if f.name != "shifts"}
    for name in board.shifts:
        found = row.shifts.get(name)
        values[f"shift_{name}"] = None if found is None else found.value
        values[f"shift_{name}_low"] = None if found is None else found.low
        values[f"shift_{name}_high"] = None if found is None else found.high
    if len(board.shifts) > 1:
        values["shifts_mean"] = board.shift_mean(row)
    return values


def _shifts(board: Leaderboard) -> str:
    told = [
        f"{name}: {about.rows} rows"
        + (f" of {about.present} of the {about.classes} classes" if about.present < about.classes else "")
        for name, about in board.shifts.items()
    ]
    mean = "; shifts: their plain mean" if len(told) > 1 else ""
    return f"Shifts, other distributions that nothing was chosen on: {', '.join(told)}{mean}."


def training_of(rows: Sequence[Row]) -> tuple[int, float, str]:
    """How many runs have their training seconds recorded, the sum of these, and the devices they were measured on."""
    runs = [row for row in rows if row.kind == "run" and row.train_seconds is not None]
    devices = " + ".join(sorted({row.device for row in runs if row.device})) or "a device that was not recorded"
    return len(runs), sum(row.train_seconds or 0.0 for row in runs), devices


def _training(rows: Sequence[Row]) -> str:
    runs, total, devices = training_of(rows)
    return (
        f"Training seconds on {devices}: those of soups, ensembles and cascades are the sum over all runs in them; "
        f"the whole pile of {runs} took {total:.0f} s."
    )


def _made_of(rows: Sequence[Row]) -> list[str]:
    """What was chosen: weights of an ensemble, members of a cascade."""
    told = [f"{row.name}: {row.made_of}" for row in rows if row.made_of]
    cascades = any(row.kind == "cascade" for row in rows)
    return told + (["MACs of a cascade are the average over report rows."] if cascades else [])


def row_name(row: Row, optimistic: str = " *") -> str:
    """The row's name, with how many ingredients it has of how many, and what marks it."""
    count = "" if row.ingredients is None else f" {row.ingredients}/{row.pool or row.ingredients}"
    mark = " (best on select)" if row.kind == "best on select" else ""
    return f"{row.name}{count}{mark}" + (optimistic if row.status == "optimistic" else "")


def _report(row: Row, metric: str) -> str:
    return f"{score_in_words(row.report, metric)} {_ends(row.report_low, row.report_high, metric)}"


def _shift(name: str, row: Row, metric: str) -> str:
    found = row.shifts.get(name)
    return "-" if found is None else score_in_words(found.value, metric)


def _shift_ends(name: str, row: Row, metric: str) -> str:
    found = row.shifts.get(name)
    return "" if found is None else _ends(found.low, found.high, metric)


def _ends(low: float | None, high: float | None, metric: str) -> str:
    return f"[{score_in_words(low, metric)}, {score_in_words(high, metric)}]"


def _decimals(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
