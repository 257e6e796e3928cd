"""A prediction pool as a data set: its folder, so that `read_pool` works there, and a table for each member.

The tables are parquet, so that `load_dataset` and the Hub's viewer show them: a row for each row of the data with the
label, the answer and the log-probabilities. Equal predictions give equal bytes (with one version of pyarrow), so that
a second push makes no commit.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.cascades.frontier import Frontier
from hf_soups.errors import InputError
from hf_soups.files.writing import writable
from hf_soups.from_pool.opening import check_frontier
from hf_soups.from_pool.search import FRONTIER_FILE
from hf_soups.hub.choosing import CARD, chosen, inside_file, pictures_of
from hf_soups.hub.contents import Contents, Stage, replaced
from hf_soups.hub.data_cards import TableOf, pool_card
from hf_soups.hub.local_paths import cleaned, told_of
from hf_soups.pool.store import POOL_FILE, Pool, read_pool
from hf_soups.recipe_kept import RECIPE_FILE
from hf_soups.report.card import README
from hf_soups.topk import TopKPredictions

if TYPE_CHECKING:
    import pyarrow

    from hf_soups.predictions import Predictions

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
