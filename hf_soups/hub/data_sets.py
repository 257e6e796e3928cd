"""A leaderboard or a pool of predictions as a data set of the Hub, without any weights.

The tables are parquet, so that `load_dataset` and the Hub's viewer show them: a row for each row of the data with the
label, the answer and the log-probabilities. Equal predictions give equal bytes (with one version of pyarrow), so that
a second push makes no commit.
"""

from __future__ import annotations

import csv
import glob
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.cascades.frontier import Frontier
from hf_soups.errors import InputError
from hf_soups.files.writing import writable
from hf_soups.hub.contents import BOARD, CARD, Contents, LocalFile, Stage, chosen, inside_file, pictures_of, replaced
from hf_soups.hub.local_paths import cleaned, told_of, without_local_paths
from hf_soups.pool.store import POOL_FILE, Pool, read_pool
from hf_soups.pool_jobs.plans import check_frontier
from hf_soups.pool_jobs.search import FRONTIER_FILE
from hf_soups.predictions.topk import TopKPredictions
from hf_soups.recipe.origin import RECIPE_FILE
from hf_soups.report.cards.card import README
from hf_soups.report.cards.data_sets import COSTS, TableOf, board_card, pool_card

if TYPE_CHECKING:
    import pyarrow

    from hf_soups.predictions import Predictions


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


POOL_FILES = (POOL_FILE, FRONTIER_FILE, RECIPE_FILE, *CARD)
ROWS_AT_ONCE = 4096


def pool_contents(folder: Path, repo_id: str, stage: Stage, include: Sequence[str] = ()) -> Contents:
    """A pool as it would be pushed; the members' predictions are read, so that no torn file is.

    Raises:
        InputError: if it has no members or cannot be read, or its frontier was searched on other answers.
        PredictionsError: if a member's predictions are missing, damaged or of other rows.
    """
    pool = read_pool(folder)
    if not pool.members:
        raise InputError(f"{folder}: a pool without members. Add some with hf-soups predict.")
    if (folder / FRONTIER_FILE).exists():
        check_frontier(folder / FRONTIER_FILE, Frontier.load(folder / FRONTIER_FILE), folder)
    answers = [inside_file(folder, member.file).path for member in pool.members.values()]
    files, left_out = chosen(folder, [*POOL_FILES, *answers, *pictures_of(folder)], include)
    tables = tables_of(pool)
    made = cleaned(files, stage)
    notes = (*_notes(pool), *told_of(made))
    for table in tables:
        write_table(pool.predictions[table.member], stage.place(table.path))
        made.append(inside_file(stage.folder, table.path))
    if all(file.path != README for file in files):
        made.append(stage.text(README, pool_card(repo_id, pool, tables)))
    usage = f'datasets.load_dataset("{repo_id}", "{tables[0].config}"{{revision}}, split="{tables[0].split}")'
    return Contents("pool", replaced(tuple(files), made), tuple(left_out), notes, usage)


def tables_of(pool: Pool) -> list[TableOf]:
    """A table for each member: its config, split and place, with none of the characters that these cannot have.

    "@" would be taken for a revision in the paths that `load_dataset` makes.
    """
    split = re.sub(r"\W+", "_", pool.data.split).strip("_") or "rows"
    tables: list[TableOf] = []
    for name in pool.members:
        stem = re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-.") or "member"
        config = stem if all(stem != t.config for t in tables) else f"{stem}-{len(tables)}"
        tables.append(TableOf(name, config, split, f"tables/{config}.parquet"))
    return tables


def write_table(answers: Predictions, path: Path) -> None:
    """Write predictions as parquet, some thousand rows at a time.

    Raises:
        HfSoupsError: if the place cannot be written.
    """
    import pyarrow.parquet

    schema = _schema(answers)
    # log-probabilities hardly repeat: with a dictionary the files were a sixth larger
    with writable(path), pyarrow.parquet.ParquetWriter(path, schema, use_dictionary=False) as writer:
        for columns in _blocks(answers):
            writer.write_table(pyarrow.table(columns, schema=schema))


def _blocks(answers: Predictions) -> Iterator[dict[str, Any]]:
    for start in range(0, len(answers), ROWS_AT_ONCE):
        part = answers.take(np.arange(start, min(start + ROWS_AT_ONCE, len(answers))))
        labels = None if part.labels is None else part.labels.tolist()
        columns = {
            "row_id": part.row_ids.tolist(),
            "label": [None] * len(part) if labels is None else labels,
            "answer": part.answers.tolist(),
        }
        if isinstance(part, TopKPredictions):
            yield {**columns, "classes": list(part.indices), "log_probs": list(part.top), "left": part.left}
        else:
            yield {**columns, "log_probs": list(part.block(0, len(part)))}


def _schema(answers: Predictions) -> pyarrow.Schema:
    """The columns' types; `datasets` reads the names of the classes from the metadata."""
    import pyarrow

    ids = pyarrow.int64() if answers.row_ids.dtype.kind == "i" else pyarrow.string()
    types = {"row_id": ids, "label": pyarrow.int64(), "answer": pyarrow.int64()}
    if isinstance(answers, TopKPredictions):
        types |= {"classes": pyarrow.list_(pyarrow.int64())}
    types |= {"log_probs": pyarrow.list_(pyarrow.float32())}
    if isinstance(answers, TopKPredictions):
        types |= {"left": pyarrow.float32()}
    features = {name: _feature(name, kind, answers) for name, kind in types.items()}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    return pyarrow.schema(list(types.items()), metadata=about)


def _feature(name: str, kind: Any, answers: Predictions) -> dict[str, Any]:
    import pyarrow

    if name in ("label", "answer") and answers.label_names is not None:
        return {"names": list(answers.label_names), "_type": "ClassLabel"}
    if pyarrow.types.is_list(kind):
        return {"feature": _value(kind.value_type), "_type": "List"}
    return _value(kind)


def _value(kind: Any) -> dict[str, Any]:
    return {"dtype": {"float": "float32"}.get(str(kind), str(kind)), "_type": "Value"}


def _notes(pool: Pool) -> list[str]:
    told = "the rows' ids" if pool.data.label is None else "the rows' ids and labels"
    return [
        f"{told} go along, since a pool is what answers on rows; the rows themselves and members' weights stay here."
    ]
