"""Files of answers made elsewhere: tables (csv, tsv, parquet, jsonl) and arrays (npy), read without guessing types.

Ids and labels are read as text, so that "007" and "NA" stay what they are; numbers are numbers where all of them are.
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hf_soups.errors import DataError, InputError
from hf_soups.predictions.given import EXACT, is_missing, sum_tolerance
from hf_soups.predictions.stored import POSITIVE
from hf_soups.predictions.topk import load_predictions

if TYPE_CHECKING:
    import pandas as pd

Values = Literal["probs", "log-probs", "logits"]
# .txt: a value a line; .safetensors: what Predictions.save wrote
ENDINGS = (".csv", ".tsv", ".csv.gz", ".tsv.gz", ".parquet", ".jsonl", ".npy", ".txt", ".safetensors")
IDS = ("id", "ids", "row_id", "idx", "guid", "", "Unnamed: 0")  # the last two: the index that pandas writes
LABELS = ("label", "labels", "target", "y", "y_true", "true_label", "gold")
ODD = 1e-3  # numbers that are less below 0 may be probabilities that were computed carelessly
EMPTY = ["", "NA", "NaN", "nan", "null", "None"]  # cells of numbers that hold none
SEPARATED = (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz")
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?inf")
WHOLE = re.compile(r"-?(0|[1-9]\d*)")


@dataclass(frozen=True)
class AnswerFile:
    """One file: an array, or the columns of a table with those that are ids and labels read as text."""

    path: Path
    columns: tuple[str, ...]  # of a table; of an array none
    values: Any  # the array, or a pandas table

    @property
    def is_table(self) -> bool:
        """Whether it has named columns."""
        return bool(self.columns)

    def column(self, name: str) -> list[Any]:
        """A column's cells: whole numbers if all are, else texts.

        Raises:
            DataError: if a cell is empty.
        """
        return plain_cells(self.values[name].tolist(), f"{self.path}: column {name!r}")

    def first_of(self, known: Sequence[str]) -> str | None:
        """The first of the known names that is a column, whatever its case."""
        own = {name.strip().casefold(): name for name in reversed(self.columns)}
        return next((own[name.casefold()] for name in known if name.casefold() in own), None)


def plain_cells(cells: Sequence[Any], where: str) -> list[Any]:
    """Cells as whole numbers if all of them are, else as texts; "007" is a text.

    Raises:
        DataError: if one is empty.

    >>> plain_cells(["1", "20"], "ids"), plain_cells([1.0, 2.0], "ids"), plain_cells(["007", "8"], "ids")
    ([1, 20], [1, 2], ['007', '8'])
    """
    empty = next((i for i, cell in enumerate(cells) if is_missing(cell) or cell == ""), None)
    if empty is not None:
        raise DataError(f"{where}: row {empty} is empty. Fill it in or remove the row.")
    whole = [int(c) if isinstance(c, float) and c.is_integer() else c for c in cells]
    texts = [str(int(c)) if isinstance(c, bool) else str(c) for c in whole]
    return [int(text) for text in texts] if all(map(WHOLE.fullmatch, texts)) else texts


def read_answers(path: Path, texts: Sequence[str] | None = ()) -> AnswerFile:
    """A file of answers, labels or ids.

    Args:
        path: the file; its ending says what it is. Lines of numbers without a header (NumPy's savetxt) are an array.
        texts: columns to read as text besides those whose names say that they are ids or labels; None: all.
    Raises:
        InputError: if there is no such file, or it is of no kind that is read.
        DataError: if it cannot be read.
    """
    ending = next((end for end in ENDINGS if path.name.lower().endswith(end)), None)
    if not path.is_file():
        raise InputError(f"{path}: no such file. Give a file that ends in {', '.join(ENDINGS)}.")
    if ending is None:
        raise InputError(
            f"{path}: expected a file that ends in {', '.join(ENDINGS)}. Save the answers as one of these."
        )
    try:
        if ending == ".npy":
            return AnswerFile(path, (), np.load(path, allow_pickle=False))
        if ending in SEPARATED and (bare := _without_header(path)) is not None:
            return AnswerFile(path, (), bare)
        if ending == ".txt":
            return AnswerFile(path, (), np.asarray(path.read_text(encoding="utf-8-sig").splitlines(), dtype=object))
        table = _of_predictions(path) if ending == ".safetensors" else _table(path, ending, texts)
    except InputError:
        raise
    except (OSError, ValueError, ImportError) as error:  # pyarrow's and pandas' own errors are ValueErrors
        raise DataError(f"{path}: cannot be read ({str(error).splitlines()[0]}). Write it again.") from error
    return AnswerFile(path, tuple(map(str, table.columns)), table)


def _table(path: Path, ending: str, texts: Sequence[str] | None) -> pd.DataFrame:
    import pandas as pd

    if ending == ".parquet":
        table = pd.read_parquet(path)
        return table.set_axis([str(name) for name in table.columns], axis=1)
    if ending == ".jsonl":
        return pd.read_json(path, lines=True, dtype=False, convert_dates=False)
    separator, names = _header(path)
    known = {name.casefold() for name in (*IDS, *LABELS)}
    text = {name for name in names if texts is None or name in texts or name.strip().casefold() in known}
    numbers = {name: EMPTY for name in names if name not in text}
    return pd.read_csv(
        path, sep=separator, encoding="utf-8-sig", dtype=dict.fromkeys(text, str), keep_default_na=False,
        na_values=numbers,
    )  # fmt: skip


def _of_predictions(path: Path) -> pd.DataFrame:
    """Saved predictions as a table of log-probabilities."""
    import pandas as pd

    p = load_predictions(path)
    names = p.label_names or tuple(map(str, range(p.classes)))
    labels = {} if p.labels is None else {"label": [names[i] for i in p.labels.tolist()]}
    return pd.DataFrame({"row_id": p.row_ids.tolist(), **labels, **dict(zip(names, p.log_probs.T, strict=True))})


def _header(path: Path) -> tuple[str, list[str]]:
    """What separates the columns, and their names as pandas calls them."""
    import pandas as pd

    separator = max(",\t;", key=_first_line(path).count)
    return separator, list(pd.read_csv(path, sep=separator, encoding="utf-8-sig", nrows=0).columns)


def _first_line(path: Path) -> str:
    opened = gzip.open if path.suffix.lower() == ".gz" else open
    with opened(path, "rt", encoding="utf-8-sig") as file:
        return str(file.readline())


def _without_header(path: Path) -> np.ndarray | None:
    """The numbers of a file whose first line holds nothing else, and not whole ones alone, which may be names."""
    first = _first_line(path).strip()
    separator = next((mark for mark in ",;\t" if mark in first), None)
    cells = first.split(separator)
    if not all(map(NUMBER.fullmatch, (cell.strip() for cell in cells))) or all(map(WHOLE.fullmatch, cells)):
        return None
    return np.asarray(np.loadtxt(path, delimiter=separator, encoding="utf-8-sig", ndmin=1))


def find_ids(file: AnswerFile, wanted: str | None, notes: list[str]) -> tuple[list[Any] | None, set[str]]:
    """The ids of a file's rows, and the column that holds them; None where there are none.

    Raises:
        InputError: if the ids that are wanted are neither a column nor a file.
    """
    if wanted is not None and wanted not in file.columns:
        other, column = _other_file(wanted, file, "--ids")
        if not other.is_table:
            return plain_cells(other.values.reshape(-1).tolist(), str(other.path)), set()
        return other.column(column or other.first_of(IDS) or _only(other, "--ids", wanted)), set()
    name = wanted or file.first_of(IDS)
    if name is None:
        return None, set()
    if wanted is None:
        notes.append(f"its ids are those of column {name!r}")
    return file.column(name), {name}


def find_labels(
    file: AnswerFile, wanted: str, ids: list[Any] | None, ids_wanted: str | None, notes: list[str]
) -> tuple[list[Any] | None, list[Any]]:
    """The ids that true labels belong to (None: they are in the order of the rows), and the labels.

    Args:
        file: of the answers.
        wanted: a column of it, or another file.
        ids: of the answers' rows.
        ids_wanted: the column of ids that the user named; it holds those of the labels too, where they have it.
        notes: how labels without ids are joined is added.
    Raises:
        InputError: if it is neither a column nor a file.
    """
    if wanted in file.columns:
        return ids, file.column(wanted)
    other, column = _other_file(wanted, file, "--labels")
    if not other.is_table:
        notes.append(f"the labels of {other.path} are joined by the order of the rows: they have no ids")
        return None, plain_cells(other.values.reshape(-1).tolist(), str(other.path))
    own = ids_wanted if ids_wanted in other.columns else other.first_of(IDS)
    rest = [name for name in other.columns if name != own]
    if own is None or ids is None:
        lacking = other.path if own is None else file.path
        notes.append(f"the labels of {other.path} are joined by the order of the rows: {lacking} has no ids")
    column = column or other.first_of(LABELS) or (rest[0] if len(rest) == 1 else _only(other, "--labels", wanted))
    return (None if own is None or ids is None else other.column(own)), other.column(column)


def _other_file(wanted: str, file: AnswerFile, option: str) -> tuple[AnswerFile, str]:
    """A file that the user named, perhaps with a column (FILE#COLUMN)."""
    place, _, column = (wanted, "", "") if Path(wanted).exists() else wanted.rpartition("#")
    if not Path(place or wanted).is_file():
        seen = f" {file.path} has the columns {', '.join(file.columns)}." if file.is_table else ""
        raise InputError(f"{option} {wanted}: no such file, and no column of the answers.{seen}")
    other = read_answers(Path(place or wanted), None)
    if column and column not in other.columns:
        raise InputError(f"{option} {wanted}: no column {column!r}; there are: {', '.join(other.columns) or 'none'}.")
    return other, column


def _only(file: AnswerFile, option: str, wanted: str) -> str:
    if len(file.columns) != 1:
        raise InputError(
            f"{option} {wanted}: it is not clear which of the columns {', '.join(file.columns)} is meant. Name it: "
            f"{option} {wanted}#COLUMN."
        )
    return file.columns[0]


def values_of(numbers: np.ndarray, normalise: bool) -> tuple[Values, str]:
    """What numbers can only be, and why: probabilities, log-probabilities or logits.

    Args:
        numbers: (rows, classes), or one a row for the second of two.
        normalise: whether rows of probabilities may have any sum.
    Raises:
        InputError: if they could be several of them.
    """
    rows = numbers.ndim == 2
    if (numbers >= 0).all() and (normalise or (numbers <= 1).all()):
        if normalise or not rows or _sum_to_1(numbers):
            return "probs", "none is negative" if normalise else "each row sums to 1" if rows else "all are in [0, 1]"
    elif (numbers <= POSITIVE).all():
        if rows and (normalise or _sum_to_1(np.exp(numbers))):
            return "log-probs", "none is positive" if normalise else "their exponentials sum to 1 in each row"
    elif numbers.min() < -ODD:
        return "logits", "some are negative, some positive"
    low, high = float(numbers.min()), float(numbers.max())
    sums = f" and rows sum to {numbers[0].sum():.4g} (the first)" if rows else ""
    raise InputError(
        f"the numbers lie between {low:.4g} and {high:.4g}{sums}, so it is not clear what they are. Say it with "
        "--values probs, log-probs or logits; probabilities that do not sum to 1 also need --normalise."
    )


def _sum_to_1(probs: np.ndarray) -> bool:
    return bool((np.abs(probs.sum(axis=1) - 1) <= sum_tolerance(probs) + EXACT).all())
