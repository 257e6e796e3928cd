"""Outputs: answers as parquet files, one output row for each input row, each file whole or absent."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.batch.inputs import Unreadable
from hf_soups.errors import InputError
from hf_soups.files.reading import read_json
from hf_soups.files.writing import writable, write_file, write_json

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_soups.batch.answering import Answers

MANIFEST = "_answers.json"
FORMAT = "hf_soups.answers.v1"


@dataclass(frozen=True, slots=True)
class Parts:
    """The files of one call's answers."""

    folder: Path
    rows: int
    size: int  # rows of each but the last

    def __len__(self) -> int:
        return math.ceil(self.rows / self.size)

    def span(self, number: int) -> tuple[int, int]:
        """The first row of a part, and the first after it."""
        return number * self.size, min((number + 1) * self.size, self.rows)

    def path(self, number: int) -> Path:
        """Its file; their names sort as the rows do."""
        return self.folder / f"part-{number:06d}.parquet"

    def missing(self) -> list[int]:
        """Parts that are still to be answered."""
        return [number for number in range(len(self)) if not self.path(number).is_file()]

    def write(self, number: int, table: pa.Table) -> None:
        """Write a part through a temporary file and a rename."""
        import pyarrow.parquet as pq

        write_file(self.path(number), lambda partial: pq.write_table(table, partial))

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All parts behind one another, in the rows' order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pa.concat_tables(
            [pq.read_table(self.path(i), columns=None if columns is None else list(columns)) for i in range(len(self))]
        )


def table_of(
    ids: Sequence[Any], values: Sequence[Any], answers: Answers | None, label_names: Sequence[str], top_k: int
) -> pa.Table:
    """The output rows of some input rows.

    Args:
        ids: of all rows.
        values: what was read of them; `Unreadable` where a row is answered by an error.
        answers: of the readable ones, in order; None if there is none.
        label_names: of the classes.
        top_k: so many labels with their scores.
    """
    import pyarrow as pa

    at = [i for i, value in enumerate(values) if not isinstance(value, Unreadable)]
    blank: list[Any] = [None] * len(values)
    columns: dict[str, list[Any]] = {
        name: list(blank)
        for name in ("label", "score", "top_labels", "top_scores", "exit_stage", "members_used", "cost")
    }
    for column, told in _told(answers, label_names, top_k).items():
        for i, value in zip(at, told, strict=True):
            columns[column][i] = value
    errors = [value.reason if isinstance(value, Unreadable) else None for value in values]
    row_id = pa.array(list(ids))
    kinds = {
        "label": pa.string(), "score": pa.float32(), "top_labels": pa.list_(pa.string()),
        "top_scores": pa.list_(pa.float32()), "exit_stage": pa.int32(), "members_used": pa.int32(),
        "cost": pa.float64(),
    }  # fmt: skip
    arrays = {name: pa.array(columns[name], type=kind) for name, kind in kinds.items()}
    return pa.table({"row_id": row_id, **arrays, "error": pa.array(errors, type=pa.string())})


def _told(answers: Answers | None, label_names: Sequence[str], top_k: int) -> Mapping[str, Sequence[Any]]:
    """The columns of the rows that were answered."""
    if answers is None:
        return {}
    scores = np.exp(answers.log_probs)
    # stable: of equal classes the lower stands first, as everywhere
    order = np.argsort(-answers.log_probs, axis=1, kind="stable")[:, : min(top_k, len(label_names))]
    best = np.take_along_axis(scores, order, axis=1)
    labels = [[label_names[i] for i in row] for row in order]
    return {
        "label": [row[0] for row in labels],
        "score": best[:, 0].tolist(),
        "top_labels": labels,
        "top_scores": best.tolist(),
        "exit_stage": answers.exits.tolist(),
        "members_used": (answers.exits + 1).tolist(),
        **({} if answers.costs is None else {"cost": answers.costs.tolist()}),
    }


def claim(folder: Path, told: Mapping[str, Any]) -> None:
    """Say in the folder what its files answer, or check that they answer just this.

    Raises:
        InputError: if the folder holds answers of something else, or other files.
    """
    path = folder / MANIFEST
    wanted = {"format": FORMAT, **told}
    if path.is_file():
        there = read_json(path, what="the record of answers", again="Choose another folder (--out).")
        differ = [key for key in wanted if there.get(key) != wanted[key]]
        if differ:
            raise InputError(
                f"{folder}: it holds answers with {differ[0]} {there.get(differ[0])!r:.100}, not "
                f"{wanted[differ[0]]!r:.100}. Choose another folder (--out), or delete that one."
            )
        return
    if folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir()):
        raise InputError(f"{folder}: there are other files, and no {MANIFEST}. Choose another folder (--out).")
    with writable(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, wanted)
