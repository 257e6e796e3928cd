"""A sweep's leaderboard as a data set: a row for every model, soup, ensemble and cascade, without any weights."""

from __future__ import annotations

import csv
import glob
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_soups.errors import InputError
from hf_soups.hub.choosing import CARD, chosen, pictures_of
from hf_soups.hub.contents import Contents, LocalFile, Stage, replaced
from hf_soups.hub.data_cards import COSTS, board_card
from hf_soups.hub.kinds import BOARD
from hf_soups.hub.local_paths import cleaned, told_of, without_local_paths
from hf_soups.recipe_kept import RECIPE_FILE
from hf_soups.report.card import README

TABLE = "leaderboard.parquet"
BOARD_FILES = (BOARD, TABLE, "leaderboard.png", COSTS, RECIPE_FILE, *CARD)
NEEDED = ("kind", "name", "status", "select", "report")
MAKE_IT = "Make it again: hf-soups leaderboard {folder}"


def board_contents(folder: Path, repo_id: str, stage: Stage, include: Sequence[str] = ()) -> Contents:
    """A leaderboard as it would be pushed: CSV for people, parquet for `load_dataset`, pictures and the recipe.

    A README.md of the folder is pushed as it is; else one is made.

    Raises:
        InputError: if the files cannot be read, or the two tables differ.
    """
    rows = _rows(folder)
    shifts = [glob.escape(f"leaderboard_{name}.png") for name in _shifts(rows)]
    files, left_out = chosen(folder, [*BOARD_FILES, *shifts, *pictures_of(folder)], include)
    taken = [file.path for file in files]
    notes = ["run folders, soups and caches stay here: a leaderboard is pushed without weights."]
    table = TABLE if TABLE in taken else BOARD
    if table == TABLE:
        _check_same(folder, rows)
    made = [*cleaned(files, stage), *_clean_table(folder, taken, stage)]
    notes += told_of(made)
    if README in taken:
        notes.append("README.md of the folder is pushed as it is: load_dataset reads what its `configs:` name.")
    else:
        made.append(stage.text(README, board_card(repo_id, rows, table, _recipe(folder), _pictures(files))))
    usage = f'datasets.load_dataset("{repo_id}"{{revision}}, split="train")'
    return Contents("leaderboard", replaced(tuple(files), made), tuple(left_out), tuple(notes), usage)


def _shifts(rows: Sequence[Mapping[str, str]]) -> list[str]:
    """Names of the shifts that have columns of their own."""
    ends = [name for name in rows[0] if name.startswith("shift_") and name.endswith("_low")]
    return [name.removeprefix("shift_").removesuffix("_low") for name in ends]


def _rows(folder: Path) -> list[dict[str, str]]:
    path = folder / BOARD
    again = MAKE_IT.format(folder=folder)
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read ({error}). {again}") from error
    missing = [name for name in NEEDED if not rows or name not in rows[0]]
    if missing:
        raise InputError(
            f"{path}: no leaderboard: it has no {'rows' if not rows else f'column {missing[0]!r}'}. {again}"
        )
    return rows


def _check_same(folder: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """The two tables must say the same: one of them may be left from before."""
    import pyarrow
    import pyarrow.parquet

    path, columns = folder / TABLE, ["kind", "name", "select", "report"]
    try:
        table: list[dict[str, Any]] = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
    except (OSError, pyarrow.ArrowException, KeyError) as error:
        raise InputError(f"{path}: cannot be read ({error}). {MAKE_IT.format(folder=folder)}") from error
    told = [tuple("" if row[name] is None else str(row[name]) for name in columns) for row in table]
    if told != [tuple(row[name] for name in columns) for row in rows]:
        raise InputError(f"{path}: says other things than {BOARD} beside it. {MAKE_IT.format(folder=folder)}")


def _clean_table(folder: Path, taken: Sequence[str], stage: Stage) -> list[LocalFile]:
    """The table without places of this machine, which reasons of failed runs may name, as in the CSV."""
    import pyarrow
    import pyarrow.parquet

    if TABLE not in taken:
        return []
    table = pyarrow.parquet.read_table(folder / TABLE)
    texts = [name for name in table.column_names if pyarrow.types.is_string(table.schema.field(name).type)]
    told = {name: table[name].to_pylist() for name in texts}
    clean = without_local_paths(told)
    if clean == told:
        return []
    for name in texts:
        table = table.set_column(table.column_names.index(name), table.schema.field(name), [clean[name]])
    at = stage.place(TABLE)
    pyarrow.parquet.write_table(table, at)
    return [LocalFile.at(TABLE, at)]


def _recipe(folder: Path) -> Any:
    """The task and metric that the rows are of; None where no recipe lies there."""
    from hf_soups.recipe import load_recipe

    path = folder / RECIPE_FILE
    return load_recipe(path) if path.is_file() else None


def _pictures(files: Sequence[LocalFile]) -> list[str]:
    return [file.path for file in files if file.path.endswith(".png")]
