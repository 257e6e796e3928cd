"""Outputs: answers as parquet files, one output row for each input row, each file whole or absent."""

from __future__ import annotations

import hashlib
import itertools
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.files.reading import read_json
from hf_soups.files.writing import write_file, write_json
from hf_soups.pool.entries import is_cascade
from hf_soups.pool.rows import Rows, Unreadable
from hf_soups.pool.shards import Shards
from hf_soups.predictions.predictions import HALF

if TYPE_CHECKING:
    import pyarrow as pa

    from hf_soups.models.answers import Answers

MANIFEST = "_answers.json"
FORMAT = "hf_soups.answers.v1"
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class AnswerFiles(Shards["pa.Table"]):
    """The files of one call's answers."""

    def path(self, number: int) -> Path:
        """Its file; their names sort as the rows do."""
        return self.folder / f"part-{number:06d}.parquet"

    def present(self) -> list[int]:
        """Numbers of the parts that are there, also beyond the last row."""
        matches = (re.fullmatch(r"part-(\d{6,})\.parquet", path.name) for path in self.folder.iterdir())
        return sorted(int(match[1]) for match in matches if match)

    def metadata(self, number: int) -> dict[str, str] | None:
        """The metadata of a part; None if it cannot be read."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            about = pq.ParquetFile(self.path(number)).schema_arrow.metadata or {}
        except (pa.ArrowException, OSError):
            return None
        return {key.decode("utf-8", "replace"): value.decode("utf-8", "replace") for key, value in about.items()}

    def write(self, number: int, table: pa.Table) -> None:
        """Write a part through a temporary file and a rename."""
        import pyarrow.parquet as pq

        write_file(self.path(number), lambda partial: pq.write_table(table, partial))

    def has(self, column: str) -> bool:
        """Whether the parts, of which there is one at least, have a column."""
        import pyarrow.parquet as pq

        return column in pq.read_schema(self.path(0)).names

    def read(self, columns: Sequence[str] | None = None) -> pa.Table:
        """All parts behind one another, in the rows' order."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        return pa.concat_tables(
            [pq.read_table(self.path(i), columns=None if columns is None else list(columns)) for i in range(len(self))]
        )


def table_of(
    ids: Sequence[Any],
    values: Sequence[Any],
    answers: Answers | None,
    label_names: Sequence[str],
    top_k: int,
    of_type: ProblemType = CLASSIFICATION,
    abstains: bool = False,
    falls_back: bool = False,
) -> pa.Table:
    """The output rows of some input rows.

    Args:
        ids: of all rows.
        values: what was read of them; `Unreadable` where a row is answered by an error.
        answers: of the readable ones, in order; None if there is none.
        label_names: of the classes.
        top_k: so many labels with their scores. Of a multi-label problem `labels` are all more probable than not.
        of_type: what the answers are: of a regression `score` is the number, and the labels are empty.
        abstains: whether some rows may be for a human; the column `abstained` says which.
        falls_back: whether an endpoint may leave rows to the members before it; the column `fell_back` says which.
    """
    import pyarrow as pa

    numbers = itertools.count()
    place = pa.array([None if isinstance(v, Unreadable) else next(numbers) for v in values], type=pa.int64())
    kinds: dict[str, pa.DataType] = {
        "label": pa.string(), "score": pa.float32(), "top_labels": pa.list_(pa.string()),
        "top_scores": pa.list_(pa.float32()), "exit_stage": pa.int32(), "members_used": pa.int32(),
        "cost": pa.float64(),
    }  # fmt: skip
    columns = _columns(answers, label_names, top_k, of_type)
    if of_type == MULTI_LABEL:
        kinds["labels"] = pa.list_(pa.string())
    if abstains:
        kinds["abstained"] = pa.bool_()
    if falls_back:
        kinds["fell_back"] = pa.bool_()
    arrays = {
        name: pa.array(columns[name], type=kind).take(place) if name in columns else pa.nulls(len(values), kind)
        for name, kind in kinds.items()
    }
    errors = pa.array([v.reason if isinstance(v, Unreadable) else None for v in values], type=pa.string())
    return pa.table({"row_id": pa.array(list(ids)), **arrays, "error": errors})


def _columns(
    answers: Answers | None, label_names: Sequence[str], top_k: int, of_type: ProblemType
) -> Mapping[str, Sequence[Any]]:
    """The columns of the rows that were answered."""
    if answers is None:
        return {}
    stages = {"exit_stage": answers.exits.tolist(), "members_used": (answers.exits + 1).tolist()}
    if of_type == REGRESSION:
        return {"score": answers.log_probs[:, 0].tolist(), **stages}
    scores = np.exp(answers.log_probs)
    # stable: of equal classes the lower stands first, as everywhere
    order = np.argsort(-answers.log_probs, axis=1, kind="stable")[:, : min(top_k, len(label_names))]
    best = np.take_along_axis(scores, order, axis=1)
    labels = [[label_names[i] for i in row] for row in order]
    several = {} if of_type == CLASSIFICATION else {"labels": _labels_said(answers.log_probs, label_names)}
    return {
        "label": [row[0] for row in labels],
        "score": best[:, 0].tolist(),
        "top_labels": labels,
        "top_scores": best.tolist(),
        **several,
        **stages,
        **({} if answers.costs is None else {"cost": answers.costs.tolist()}),
        **({} if answers.abstained is None else {"abstained": answers.abstained.tolist()}),
        **({} if answers.fell_back is None else {"fell_back": answers.fell_back.tolist()}),
    }


def _labels_said(log_probs: np.ndarray, label_names: Sequence[str]) -> list[list[str]]:
    """Of each row the labels that are more probable than not."""
    return [[label_names[i] for i in np.flatnonzero(row > HALF).tolist()] for row in log_probs]


def claim(files: AnswerFiles, settings: Mapping[str, Any], made_from: MadeFrom) -> list[str]:
    """Write the settings into the folder, or check that its files have them; what became stale is removed.

    Args:
        files: of the answers.
        settings: of the call, as _answers.json keeps them.
        made_from: what each part should be made from.
    Returns:
        What was removed, and why, in words.
    Raises:
        InputError: if the folder holds answers of another model, other data or settings, or other files.
    """
    path, lines = files.folder / MANIFEST, []
    wanted = {"format": FORMAT, **settings}
    if path.is_file():
        there = read_json(path, what="the record of answers", format=FORMAT, again="Choose another folder (--out).")
        if files.present():  # a call that failed before its first answer decides nothing
            _check_settings(files.folder, there, wanted)
        lines = _remove_stale(files, there, wanted, made_from)
        if there == wanted:
            return lines
    elif files.folder.is_dir() and any(not entry.name.startswith(".") for entry in files.folder.iterdir()):
        raise InputError(f"{files.folder}: there are other files, and no {MANIFEST}. Choose another folder (--out).")
    write_json(path, wanted)
    return lines


# keys of _answers.json that may change: each part keeps what it was made from
FOLLOWED = ("format", "data", "model", "weights", "rows", "fingerprint")


def _check_settings(folder: Path, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    # keys that 0.1.0 did not write: it wrote no part that is not stale
    differ = [key for key in wanted if key not in FOLLOWED and key in there and there[key] != wanted[key]]
    if differ:
        raise _other(folder, differ[0], there, wanted)


def _other(folder: Path, key: str, there: Mapping[str, Any], wanted: Mapping[str, Any]) -> InputError:
    return InputError(
        f"{folder}: it holds answers with {key} {there.get(key)!r:.100}, not {wanted[key]!r:.100}. Choose another "
        "folder (--out), or delete that one."
    )


def _remove_stale(
    files: AnswerFiles, there: Mapping[str, Any], wanted: Mapping[str, Any], made_from: MadeFrom
) -> list[str]:
    """Remove parts that were made from other rows or another model, and those beyond the last row."""
    stale: dict[str, list[int]] = {}
    for number in files.present():
        reason = "there is no such row any more" if number >= len(files) else made_from.why_stale(files, number)
        if reason:
            stale.setdefault(reason, []).append(number)
    for key in ("model", "data"):  # the same job, with something in it that changed, or another one?
        if stale and key in there and there[key] != wanted[key]:
            raise _other(files.folder, key, there, wanted)
    for number in (number for numbers in stale.values() for number in numbers):
        files.path(number).unlink(missing_ok=True)
    lines = [f"answering {_numbered(numbers)} again: {reason}" for reason, numbers in stale.items()]
    for line in lines:
        _log.warning("%s: %s", files.folder, line)
    return lines


def _numbered(numbers: Sequence[int]) -> str:
    if len(numbers) > 5:
        return f"{len(numbers)} parts"
    return ("parts " if len(numbers) > 1 else "part ") + ", ".join(map(str, numbers))


@dataclass(frozen=True, slots=True)
class MadeFrom:
    """What answers are made from: rows, and a model."""

    rows: Rows
    weights: str  # of the model, see `weights_of`

    def metadata(self, start: int, stop: int) -> dict[bytes, bytes]:
        """What the file of a part keeps of it."""
        known = {
            "hf_soups.weights": self.weights,
            "hf_soups.rows": self.rows.fingerprint(start, stop),
            "hf_soups.stamp": self.rows.stamp(start, stop),
        }
        return {key.encode(): value.encode() for key, value in known.items()}

    def why_stale(self, files: AnswerFiles, number: int) -> str:
        """Why a part that is there is not what would be made now; empty if it is."""
        kept, span = files.metadata(number), files.span(number)
        if kept is None:
            return "it cannot be read"
        if "hf_soups.rows" not in kept:
            return "an earlier version made it, which kept no fingerprint"
        if kept["hf_soups.weights"] != self.weights:
            return "the model's weights, config or processor changed"
        if kept["hf_soups.stamp"] and kept["hf_soups.stamp"] == self.rows.stamp(*span):
            return ""
        return "" if kept["hf_soups.rows"] == self.rows.fingerprint(*span) else "its rows changed"


def weights_of(checkpoint: Checkpoint) -> str:
    """Tells whether the model is still the same: weights, config and processor, of a cascade those of its members.

    Members in other repos are named by their commit, which the config holds.
    """
    digest = hashlib.sha256(checkpoint.files_digest().encode())
    if not is_cascade(checkpoint):
        digest.update(checkpoint.sha256().encode())
        return digest.hexdigest()
    listed = checkpoint.config.get("members")
    members = [m for m in listed if isinstance(m, dict)] if isinstance(listed, list) else []
    for subfolder in sorted({m["subfolder"] for m in members if m.get("subfolder") and not m.get("repo")}):
        member = Checkpoint(checkpoint.source, checkpoint.revision, subfolder)
        digest.update(f"{subfolder} {member.sha256()} {member.files_digest()}".encode())
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class KeptAnswers:
    """Answers that a call of `predict_rows` wrote, as far as it came."""

    folder: Path
    budget: float | None  # of a cascade
    weights: str  # of the model, see `weights_of`
    table: pa.Table  # of the rows that are there: label, score, exit_stage, perhaps abstained, and error


def read_answers(folder: str | Path) -> KeptAnswers:
    """Answers from a folder.

    Raises:
        InputError: if it holds none, or they cannot be read.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    at = Path(folder)
    if not at.is_dir():
        raise InputError(f"{at}: no such folder. Name one that hf-soups predict wrote answers into.")
    if not (at / MANIFEST).is_file():
        raise InputError(
            f"{at} holds no {MANIFEST}, so it is no folder of answers. Name one that hf-soups predict wrote."
        )
    about = read_json(at / MANIFEST, what="the record of answers", format=FORMAT, again="Answer the rows again.")
    wanted = ("label", "score", "exit_stage", "abstained", "error")
    tables = []
    for path in sorted(at.glob("part-*.parquet")):
        try:
            there = pq.read_schema(path).names
            tables.append(pq.read_table(path, columns=[name for name in wanted if name in there]))
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path}: it cannot be read ({error}). Answer the rows again, which repairs it."
            ) from error
    if not tables:
        raise InputError(f"{at}: no answers are there yet.")
    budget = about.get("budget")
    table = pa.concat_tables(tables, promote_options="default")
    return KeptAnswers(at, None if budget is None else float(budget), str(about.get("weights", "")), table)
