"""Inputs: the rows to answer, read a shard at a time; a row that cannot be read is an error in its place."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hf_soups.data.images import DECODERS, cells, encoding, image_endings, open_image
from hf_soups.errors import DataError
from hf_soups.files.digests import fast_digest
from hf_soups.pool.data_rows import Wanted, task_columns

if TYPE_CHECKING:
    import datasets

TABLES = (".parquet", ".arrow")  # files that make a folder a data set, not one of images
NOTES = (".csv", ".json", ".jsonl")  # so do these, where there are no images


@dataclass(frozen=True, slots=True)
class Unreadable:
    """In the place of a value: why the row has none."""

    reason: str

    @classmethod
    def of(cls, error: DataError) -> Unreadable:
        """What the error of one row says."""
        return cls(str(error).removesuffix(" Replace or remove it."))


class Inputs(Protocol):
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


def find_inputs(wanted: Wanted, *, kind: str | None = None, id_column: str | None = None) -> Inputs:
    """A folder of images, or a data set with or without labels.

    Args:
        wanted: the data and their columns; labels are not looked at.
        kind: what the model takes.
        id_column: whose values call the rows; default: their numbers.
    Raises:
        DataError: if there are no rows, or they are not of the model's kind.
    """
    folder = Path(str(wanted.data)).expanduser()
    if folder.is_dir() and wanted.split is None and not _is_data_set(folder):
        return ImageFolder.of(folder, wanted.limit)
    from hf_soups.data import load_dataset_split
    from hf_soups.data.sources import source_name
    from hf_soups.recipe.task import Task

    place = Task(kind="image", image="image", path=str(wanted.data), config=wanted.config, revision=wanted.revision)
    split = wanted.split or "train"
    rows, where = load_dataset_split(place, split), source_name(place, split)
    columns = task_columns(rows, Wanted(text=wanted.text, image=wanted.image, label=wanted.label, kind=kind), where)
    if id_column is not None and id_column not in rows.column_names:
        raise DataError(f"{where}: no column {id_column!r}; there are: {', '.join(rows.column_names)}.")
    if wanted.limit is not None:
        rows = rows.select(range(min(wanted.limit, len(rows))))
    named = (columns["image"],) if columns["kind"] == "image" else columns["text"]
    return DataSet(columns["kind"], rows.with_format(None), tuple(named), id_column, where)


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
        found = [
            (Path(place) / name).relative_to(folder).as_posix()
            for place, _, names in os.walk(folder)
            for name in names
            if name.lower().endswith(endings) and not name.startswith(".")
        ]
        if not found:
            raise DataError(
                f"{folder}: no images there (files that end in .jpg, .png, ...), nor parquet or csv files. Give the "
                "folder that holds them."
            )
        odd = next((name for name in sorted(found) if not _is_utf8(name)), None)
        if odd is not None:  # parquet holds no such row id
            told = os.fsencode(odd).decode("utf-8", "backslashreplace")
            raise DataError(f"{folder}: the file name {told!r} is not UTF-8, so it cannot be a row id. Rename it.")
        return cls(folder, tuple(sorted(found)[:limit]))

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
    where: str

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
