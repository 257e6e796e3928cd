"""Board kept: the leaderboard of a moment as a JSON file in each soup's folder, for its card.

It goes to the Hub with the weights, so it names no place on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hf_soups.errors import InputError
from hf_soups.files.reading import is_there, read_record
from hf_soups.files.writing import finite, write_text
from hf_soups.leaderboard.board import Leaderboard
from hf_soups.leaderboard.rows import Row
from hf_soups.sweep.folder import SweepFolder

BOARD_FILE = "leaderboard.json"
FORMAT = "hf_soups.leaderboard.v1"
AGAIN = "Run the same `hf-soups cook` again: it writes this file anew."


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
    text, paths = board_text(board), []
    for folder in folders:
        paths.append(folder / BOARD_FILE)
        write_text(paths[-1], text)
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
    rows = [json.dumps(_row_values(row), ensure_ascii=False, allow_nan=False) for row in board.rows]
    lines.append('"rows": [' + ",".join(f"\n  {row}" for row in rows) + "]")
    return "{\n" + ",\n".join(lines) + "\n}\n"


def load_board(folder: Path) -> Leaderboard | None:
    """The leaderboard that a soup's folder keeps; None where it keeps none.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / BOARD_FILE
    if not is_there(path):
        return None
    return read_record(path, Leaderboard, what="a leaderboard", format=FORMAT, again=AGAIN)


def _row_values(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = finite(asdict(row))
    del told["reason"]
    return {key: value for key, value in told.items() if value not in (None, "", {})}
