"""Board kept: the leaderboard of a moment as a JSON file in each soup's folder, for its card.

It goes to the Hub with the weights, so it names no place on this machine.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from hf_soups.contenders import Row, pointers, soup_folder_of
from hf_soups.errors import InputError
from hf_soups.leaderboard import Leaderboard, ShiftRows
from hf_soups.metrics import Score
from hf_soups.run_folder import finite
from hf_soups.soups.folder import write_file

BOARD_FILE = "leaderboard.json"
FORMAT = "hf_soups.leaderboard.v1"


def keep_with_soups(board: Leaderboard, sweep: str | Path) -> tuple[Path, ...]:
    """Keep a sweep's leaderboard in the folders of the soups that were cooked from it; the paths.

    Raises:
        HfSoupsError: if a folder cannot be written.
    """
    folders = []
    for pointer in pointers(Path(sweep)):
        try:
            folders.append(soup_folder_of(pointer)[0])
        except (OSError, ValueError, KeyError):  # its row on the board says that it is gone
            continue
    return keep_board(board, (folder for folder in folders if folder.is_dir()))


def keep_board(board: Leaderboard, folders: Iterable[Path]) -> tuple[Path, ...]:
    """Write a leaderboard as leaderboard.json into folders; the paths."""
    text, paths = board_text(board), []
    for folder in folders:
        paths.append(folder / BOARD_FILE)
        write_file(paths[-1], lambda partial: partial.write_text(text, encoding="utf-8"))
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
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}; expected {FORMAT!r}")
        shifts = {str(name): ShiftRows(**rows) for name, rows in told["shifts"].items()}
        counts = (int(told["select_rows"]), int(told["report_rows"]))
        return Leaderboard(tuple(map(_row_of, told["rows"])), str(told["metric"]), *counts, "", shifts)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no leaderboard ({type(error).__name__}: {error}). Run the same `hf-soups cook` again: it "
            "writes this file anew."
        ) from error


def _row_values(row: Row) -> dict[str, Any]:
    told: dict[str, Any] = finite(asdict(row))
    del told["reason"]
    return {key: value for key, value in told.items() if value not in (None, "", {})}


def _row_of(told: Mapping[str, Any]) -> Row:
    known = {f.name: told[f.name] for f in fields(Row) if f.name in told and f.name != "shifts"}
    return Row(**known, shifts={name: Score(**found) for name, found in told.get("shifts", {}).items()})
