"""Rows to answer: a data set's labelled split, a recipe's, or any rows of a data set or a folder of images.

A pool is scored, so its rows have labels (`load_rows`). Other rows (`find_rows`) are read a shard at a time; one that
cannot be read is an error in its place.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypedDict

from hf_soups.data.columns import problem_type_of_column, task_columns
from hf_soups.data.images import DECODERS, cells, encoding, image_endings, open_image
from hf_soups.errors import DataError, InputError
from hf_soups.files.digests import fast_digest
from hf_soups.files.problem_types import OF_CONFIG, PROBLEM_TYPES, REGRESSION
from hf_soups.pool.store import Pool, PoolData
from hf_soups.predictions import same_rows

if TYPE_CHECKING:
    import datasets

    from hf_soups.data import Split
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

TABLES = (".parquet", ".arrow")  # files that make a folder a data set, not one of images
NOTES = (".csv", ".json", ".jsonl")  # so do these, where there are no images


class RowsOptions(TypedDict, total=False):
    """The fields of `RowsWanted`, as keywords of the functions that take rows."""

    data: str | None
    split: str | None
    config: str | None
    revision: str | None
    kind: str | None
    text: Sequence[str]
    image: str | None
    label: str | None
    label_names: Sequence[str] | None
    limit: int | None
    max_length: int
    on_error: Literal["stop", "skip"] | None
    id_column: str | None
    recipe: str | Path | None
    overrides: Mapping[str, Any] | None
    problem_type: str | None


@dataclass(frozen=True)
class RowsWanted:
    """Which rows, as the user names them; what is None is found in the data."""

    data: str | None = None  # Hub id, Hub-layout folder, imagefolder, parquet or csv files; or give `recipe`
    split: str | None = None  # default: "train"; of a recipe "select"
    config: str | None = None  # of the data set
    revision: str | None = None  # of the data set
    kind: str | None = None  # text, text-pair or image; default: as the columns are
    text: Sequence[str] = ()  # one or two text columns; default: the only ones
    image: str | None = None  # column; default: the only one
    label: str | None = None  # column, or several as "a,b"; default: "label", "labels" or the only one of classes
    label_names: Sequence[str] | None = None  # of the classes; default: as the column has them
    limit: int | None = None  # at most so many rows: of a pool a stratified subset, else the first
    max_length: int = 128  # tokens of a text
    on_error: Literal["stop", "skip"] | None = None  # what a row that cannot be read does; default: the recipe's, stop
    id_column: str | None = None  # whose values are the row ids; default: the rows' numbers
    recipe: str | Path | None = None  # a YAML file that gives task and data
    overrides: Mapping[str, Any] | None = None  # values of the recipe to change
    problem_type: str | None = None  # of labelled rows; default: as the label column is


@dataclass(frozen=True)
class LabelledRows:
    """A labelled split with the task it belongs to."""

    task: Task
    data: Data
    split: Split
    called: str  # the split, as the user calls it

    @property
    def about(self) -> PoolData:
        """What pool.json says of it."""
        return PoolData(
            path=self.task.path,
            split=self.called,
            config=self.task.config,
            revision=self.task.revision,
            rows=len(self.split),
            fingerprint=self.split.fingerprint,
            columns=self.task.columns,
            label=",".join(self.task.label_columns),
            problem_type=self.task.problem_type,
            max_length=None if self.task.kind == "image" else self.data.max_length,
        )


def load_rows(wanted: RowsWanted) -> LabelledRows:
    """The rows, with labels.

    Raises:
        InputError: if neither data nor a recipe is given, or both.
        DataError: if rows cannot be found or read, or it is not clear which columns are meant.
    """
    if (wanted.data is None) == (wanted.recipe is None):
        raise InputError("give either data (--data, with --split) or a recipe that names them (--recipe).")
    return _of_recipe(wanted) if wanted.recipe is not None else _of_data(wanted)


def _of_recipe(wanted: RowsWanted) -> LabelledRows:
    from hf_soups.data import load_report, load_splits
    from hf_soups.recipe import load_recipe

    assert wanted.recipe is not None
    chosen = {} if wanted.on_error is None else {"data.on_error": wanted.on_error}
    recipe = load_recipe(wanted.recipe, {**(wanted.overrides or {}), **chosen})
    name = wanted.split or "select"
    alone = load_report(recipe.task, recipe.data) if name == "report" else None  # train may be large, and far
    answered = load_splits(recipe.task, recipe.data).answered if alone is None else {name: alone}
    if name not in answered:
        raise InputError(f"{wanted.recipe}: no split {name!r} to answer; there are: {', '.join(answered)}.")
    return LabelledRows(recipe.task, recipe.data, _limited(answered[name], wanted.limit), name)


def _of_data(wanted: RowsWanted) -> LabelledRows:
    from hf_soups.data.load import labelled_split
    from hf_soups.data.unreadable import readable
    from hf_soups.recipe import Data
    from hf_soups.recipe.task import Task

    split = wanted.split or "train"
    table, about, where = _read_data(wanted)
    if about["label"] is None:
        raise DataError(
            f"{where}: no label column among {', '.join(table.column_names)}. A pool is scored, so its rows need "
            "labels: name the column (--label). To answer rows without labels, predict with one model or cascade."
        )
    names = None if wanted.label_names is None else tuple(wanted.label_names)
    given = wanted.problem_type
    about["problem_type"] = problem_type_of_column(table, about) if given is None else OF_CONFIG.get(given, given)
    if about["problem_type"] not in PROBLEM_TYPES:
        raise InputError(f"problem_type is {about['problem_type']!r}; expected one of {', '.join(PROBLEM_TYPES)}.")
    task = Task(**about, label_names=names, train=split, report=split)
    made = _limited(labelled_split(table, task, where, gaps=wanted.on_error == "skip"), wanted.limit)
    data = Data(max_length=wanted.max_length, on_error=wanted.on_error or "stop")
    return LabelledRows(task, data, made if data.on_error == "stop" else readable(made, task), split)


def _read_data(wanted: RowsWanted) -> tuple[datasets.Dataset, dict[str, Any], str]:
    """The rows of a data set, what a task over them says of its place, kind and columns, and how errors call them."""
    from hf_soups.data import load_dataset_split
    from hf_soups.data.sources import source_name
    from hf_soups.recipe.task import Task

    split = wanted.split or "train"
    place = {"path": str(wanted.data), "config": wanted.config, "revision": wanted.revision}
    any_kind = Task(kind="image", image="image", **place)
    rows, where = load_dataset_split(any_kind, split), source_name(any_kind, split)
    return rows, {**place, **task_columns(rows, wanted, where)}, where


def _limited(split: Split, limit: int | None) -> Split:
    from hf_soups.data.split import strata, stratified_rows

    if limit is None or limit >= len(split):
        return split
    if limit < 1:
        raise InputError(f"a limit of {limit} rows; expected 1 or more.")
    return split.take(stratified_rows(strata(split.labels), limit, 0, stream=0))


def rows_of_pool(pool: Pool) -> Split | None:
    """The rows that a pool's members answered; None where they cannot be had any more, or are not the same.

    Raises:
        HfSoupsError: as `load_rows`, other than DataError.
    """
    data, image = pool.data, pool.kind == "image"
    wanted = RowsWanted(
        data=data.path, split=data.split, config=data.config, revision=data.revision, kind=pool.kind,
        text=() if image else data.columns, image=data.columns[0] if image else None, label=data.label,
        label_names=None if data.problem_type == REGRESSION else pool.label_names, limit=data.rows,
        problem_type=data.problem_type,
    )  # fmt: skip
    try:
        split = load_rows(wanted).split
    except DataError:  # moved, or a recipe's own split, which data sets do not know by name
        return None
    return split if same_rows(split.fingerprint, data.fingerprint) else None


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In the place of a value: why the row has none."""

    reason: str

    @classmethod
    def of(cls, error: DataError) -> Unreadable:
        """What the error of one row says."""
        return cls(str(error).removesuffix(" Replace or remove it."))


class Rows(Protocol):
    """Rows to answer, in a fixed order."""

    @property
    def kind(self) -> str:
        """What a row is: image, text or text-pair."""

    @property
    def columns(self) -> tuple[str, ...]:
        """That are read, of a table."""

    def fingerprint(self, start: int, stop: int) -> str:
        """Tells whether a later call has the same rows there: of all that is read of them, and of their ids."""

    def stamp(self, start: int, stop: int) -> str:
        """What the file system says of the rows' files: while it is the same, so are the rows. Empty: not known."""

    def __len__(self) -> int: ...

    def ids(self, start: int, stop: int) -> list[Any]:
        """How the rows are called: numbers, or names of files."""

    def values(self, start: int, stop: int) -> list[Any]:
        """Images, or pairs (text, text or None); `Unreadable` where there is none."""


def find_rows(wanted: RowsWanted) -> Rows:
    """A folder of images, or a data set with or without labels: they are not looked at.

    Raises:
        DataError: if there are no rows, or they are not of the kind that is wanted.
    """
    folder = Path(str(wanted.data)).expanduser()
    if folder.is_dir() and wanted.split is None and not _is_data_set(folder):
        return ImageFolder.of(folder, wanted.limit)
    rows, about, where = _read_data(wanted)
    if wanted.id_column is not None and wanted.id_column not in rows.column_names:
        raise DataError(f"{where}: no column {wanted.id_column!r}; there are: {', '.join(rows.column_names)}.")
    if wanted.limit is not None:
        rows = rows.select(range(min(wanted.limit, len(rows))))
    columns = (about["image"],) if about["kind"] == "image" else tuple(about["text"])
    return DataSet(about["kind"], rows.with_format(None), columns, wanted.id_column)


def _is_data_set(folder: Path) -> bool:
    """A README that configures it, or tables of rows; a csv file among images is a note beside them."""
    readme = folder / "README.md"
    if readme.is_file() and "configs:" in readme.read_text(encoding="utf-8", errors="replace"):
        return True
    endings = {path.suffix.lower() for path in folder.rglob("*")}
    return bool(endings & {*TABLES}) or (bool(endings & {*NOTES}) and not endings & {*image_endings()})


@dataclass(frozen=True)
class ImageFolder:
    """All image files below a folder, in order of their paths; they are called by these."""

    folder: Path
    files: tuple[str, ...]  # relative to the folder, with forward slashes
    kind: str = "image"
    columns: tuple[str, ...] = ()

    @classmethod
    def of(cls, folder: Path, limit: int | None = None) -> ImageFolder:
        """The images of a folder, told by their file names' endings; links to folders are not followed.

        Raises:
            DataError: if there is none.
        """
        endings = image_endings()
        files = [
            (Path(place) / name).relative_to(folder).as_posix()
            for place, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith(endings) and not name.startswith(".")
        ]
        if not files:
            raise DataError(
                f"{folder}: no images there (files that end in .jpg, .png, ...), nor parquet or csv files. Give the "
                "folder that holds them."
            )
        odd = next((name for name in sorted(files) if not _is_utf8(name)), None)
        if odd is not None:  # parquet holds no such row id
            shown = os.fsencode(odd).decode("utf-8", "backslashreplace")
            raise DataError(f"{folder}: the file name {shown!r} is not UTF-8, so it cannot be a row id. Rename it.")
        return cls(folder, tuple(sorted(files)[:limit]))

    def __len__(self) -> int:
        return len(self.files)

    def fingerprint(self, start: int, stop: int) -> str:
        """Of names and bytes."""
        files = self.files[start:stop]
        cells = ({"bytes": None, "path": self.folder / name} for name in files)
        return fast_digest(chain([name.encode()], encoding(cell)) for name, cell in zip(files, cells, strict=True))

    def stamp(self, start: int, stop: int) -> str:
        """Of names, sizes and both times."""
        return fast_digest([f"{name} {_stamped(self.folder / name)}".encode()] for name in self.files[start:stop])

    def ids(self, start: int, stop: int) -> list[Any]:
        """Paths of the files inside the folder."""
        return list(self.files[start:stop])

    def values(self, start: int, stop: int) -> list[Any]:
        """The images in RGB."""
        return _opened([str(self.folder / name) for name in self.files[start:stop]], self.ids(start, stop), "file")


@dataclass(frozen=True)
class DataSet:
    """Rows of a data set; called by a column's values, or by their numbers."""

    kind: str
    rows: datasets.Dataset
    columns: tuple[str, ...]
    id_column: str | None

    def __len__(self) -> int:
        return len(self.rows)

    def fingerprint(self, start: int, stop: int) -> str:
        """Of ids, texts and the images' bytes."""
        values = [self.ids(start, stop), *(cells(self.rows, name, start, stop) for name in self.columns)]
        return fast_digest(_parts(value) for row in zip(*values, strict=True) for value in row)

    def stamp(self, start: int, stop: int) -> str:
        """Nothing: rows of a table have no files of their own."""
        return ""

    def ids(self, start: int, stop: int) -> list[Any]:
        """Values of the id column, or numbers of the rows."""
        if self.id_column is None:
            return list(range(start, stop))
        return list(self.rows.select_columns([self.id_column])[start:stop][self.id_column])

    def values(self, start: int, stop: int) -> list[Any]:
        """Images in RGB, or texts."""
        if self.kind == "image":
            column = self.columns[0]
            return _opened(cells(self.rows, column, start, stop), self.ids(start, stop), column)
        columns = [cells(self.rows, name, start, stop) for name in self.columns]
        return [self._text(row) for row in zip(*columns, strict=True)]

    def _text(self, row: tuple[Any, ...]) -> Any:
        for name, text in zip(self.columns, row, strict=True):
            if not isinstance(text, str):
                return Unreadable(f"column {name!r} holds {text!r:.60}, not text")
        return (row[0], row[1] if len(row) > 1 else None)


def _opened(values: Sequence[Any], ids: Sequence[Any], column: str) -> list[Any]:
    """The images, decoded in threads unless they are large."""
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(DECODERS) as threads:
        return list(threads.map(_image, values, ids, [column] * len(values)))


def _image(value: Any, row: Any, column: str) -> Any:
    try:
        return open_image(value, row, column)
    except DataError as error:
        return Unreadable.of(error)


def _is_utf8(name: str) -> bool:
    try:
        name.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _parts(value: Any) -> Iterable[Any]:
    """A raw value as bytes: an id, a text, or an image as data sets have it."""
    return encoding(value) if isinstance(value, dict) else (repr(value).encode("utf-8", "surrogatepass"),)


def _stamped(path: Path) -> tuple[int, ...]:
    try:
        now = path.stat()
    except OSError:
        return ()
    return (now.st_size, now.st_mtime_ns, now.st_ctime_ns)
