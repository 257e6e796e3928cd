"""Split: rows in one role, with ids, class indices and a fingerprint of what they hold; and stratified subsets."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from jaxtyping import Int64, Shaped, UInt64
from numpy.typing import ArrayLike

from hf_soups.data.images import Picture, cell_reader, cells, encoding, picture
from hf_soups.errors import DataError
from hf_soups.files.digests import fast_digest, remembered
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.recipe.task import SHIFT

if TYPE_CHECKING:
    import datasets
    import PIL.Image
    import pyarrow as pa


def stratified_rows(
    labels: Int64[np.ndarray, " rows"], size: int, seed: int, *, stream: int = 0, leave_one: bool = False
) -> Int64[np.ndarray, " chosen"]:
    """Indices of `size` rows in ascending order, each class with its share of them.

    A class gets at least one row where `size` allows, the larger classes first. With one seed a smaller subset
    of a class lies inside a larger one.

    Args:
        labels: class indices.
        size: how many rows; fewer come back if `leave_one` leaves fewer to take.
        seed: not negative.
        stream: other streams of one seed draw independently.
        leave_one: keep at least one row of every class out of the subset.
    """
    counts = np.bincount(labels, minlength=1) if len(labels) else np.zeros(1, dtype=np.int64)
    upper = np.maximum(counts - 1, 0) if leave_one else counts
    taken = _shares(counts, np.minimum(counts > 0, upper), upper, min(size, int(upper.sum())))
    order = np.argsort(_raw(len(labels), seed, stream), kind="stable")
    by_class = order[np.argsort(labels[order], kind="stable")]
    starts = np.cumsum(counts) - counts
    chosen = [by_class[start : start + take] for start, take in zip(starts, taken, strict=True)]
    return np.sort(np.concatenate(chosen)).astype(np.int64)


BANDS = 10  # of a regression's numbers, with equally many rows each
ROWS_OF_A_BAND = 4  # at least


def strata(labels: Shaped[np.ndarray, "rows ..."]) -> Int64[np.ndarray, " rows"]:
    """The stratum of each row, for `stratified_rows`: its class, the rarest of its labels, or the band of its number.

    >>> strata(np.array([[1, 0], [1, 1], [1, 0], [0, 0]])).tolist()
    [1, 2, 1, 0]
    """
    of_type = problem_type_of_labels(labels)
    if of_type == CLASSIFICATION:
        return labels
    if of_type == REGRESSION:
        bands = max(1, min(BANDS, len(labels) // ROWS_OF_A_BAND))
        edges = np.quantile(labels, np.arange(1, bands) / bands) if bands > 1 else np.empty(0)
        return np.searchsorted(edges, labels).astype(np.int64)
    rarity = np.where(labels == 1, 1.0 + len(labels) - labels.sum(axis=0), 0.0)
    return np.where(rarity.max(axis=1, initial=0) > 0, rarity.argmax(axis=1) + 1, 0).astype(np.int64)


def problem_type_of_labels(labels: Shaped[np.ndarray, "rows ..."]) -> ProblemType:
    """What kind of labels they are: class indices, 0 and 1 for each of several labels, or numbers."""
    if labels.dtype.kind == "f":
        return REGRESSION
    return MULTI_LABEL if labels.ndim == 2 else CLASSIFICATION


def _shares(
    counts: Int64[np.ndarray, " classes"],
    lower: Int64[np.ndarray, " classes"],
    upper: Int64[np.ndarray, " classes"],
    size: int,
) -> Int64[np.ndarray, " classes"]:
    """Rows of each class: the largest remainders of size x share, within the bounds; ties to the lower class."""
    if lower.sum() >= size:
        first = np.argsort(-counts * (lower > 0), kind="stable")[:size]
        return np.asarray(np.bincount(first, minlength=len(counts)), dtype=np.int64)
    wanted = size * counts / counts.sum()
    taken: np.ndarray = np.clip(np.floor(wanted).astype(np.int64), lower, upper)
    while (short := size - int(taken.sum())) != 0:
        free = taken < upper if short > 0 else taken > lower
        missing = np.where(free, np.sign(short) * (wanted - taken), -np.inf)
        taken[int(np.argmax(missing))] += np.sign(short)
    return taken


def _raw(count: int, seed: int, stream: int) -> UInt64[np.ndarray, " rows"]:
    # The raw output of PCG64 is fixed for ever; Generator.permutation may change between releases of NumPy.
    return np.asarray(np.random.PCG64(np.random.SeedSequence([seed, stream])).random_raw(count), dtype=np.uint64)


Role = Literal["train", "select", "report", "shift"]  # shift: report rows of another distribution
ROWS_AT_ONCE = 5000
IMAGES_READ = 64  # of each split for the first part of its fingerprint


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Rows in one role. Their `labels` are indices into `label_names`, whatever the label column of `rows` holds.

    Of a multi-label problem they are 0 and 1 (rows, labels), of a regression numbers.
    """

    role: Role
    rows: datasets.Dataset  # the columns that the model reads, and the label column as it came
    row_ids: Int64[np.ndarray, " rows"]  # index of the row in its source
    labels: Shaped[np.ndarray, "rows ..."]
    label_names: tuple[str, ...]
    source: str  # "nyu-mll/glue:mrpc:train"
    fingerprint: str  # of the content alone: the path, the machine and the files' layout do not matter
    answerable: tuple[int, ...] | None = None  # the classes that an answer is chosen from; None: all

    @classmethod
    def of(
        cls,
        role: Role,
        rows: datasets.Dataset,
        row_ids: Int64[np.ndarray, " rows"],
        labels: Shaped[np.ndarray, "rows ..."],
        label_names: tuple[str, ...],
        source: str,
        answerable: tuple[int, ...] | None = None,
    ) -> Split:
        """A split with its fingerprint."""
        of_content = fingerprint(rows, row_ids, labels, label_names, answerable)
        return cls(role, rows, row_ids, labels, label_names, source, of_content, answerable)

    @property
    def problem_type(self) -> ProblemType:
        """What its labels are."""
        return problem_type_of_labels(self.labels)

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({self.role}: {len(self)} rows of {self.source}, fingerprint {self.fingerprint})"

    def take(self, indices: ArrayLike) -> Split:
        """The rows at these positions, in that order."""
        at = np.asarray(indices, dtype=np.int64)
        rows = self.rows.select(at)
        return Split.of(
            self.role, rows, self.row_ids[at], self.labels[at], self.label_names, self.source, self.answerable
        )


@dataclass(frozen=True, eq=False)
class Splits:
    """One task's rows by role; no row is in both train and select, and nothing is chosen on report or a shift."""

    train: Split
    select: Split
    report: Split
    shifts: Mapping[str, Split] = field(default_factory=dict)  # by name

    @property
    def label_names(self) -> tuple[str, ...]:
        """The class names, the same for all."""
        return self.train.label_names

    @property
    def answered(self) -> dict[str, Split]:
        """The splits that a finished model answers, as its predictions are called: select, report, shift-<name>."""
        shifts = {f"{SHIFT}{name}": split for name, split in self.shifts.items()}
        return {"select": self.select, "report": self.report, **shifts}


def read_image(split: Split, index: int, *, edge: int | None = None) -> PIL.Image.Image:
    """The image at a position of the split, decoded, in RGB.

    Args:
        split: with an image column.
        index: position in the split.
        edge: pixels of the longer side of what is made of it: a large photo is decoded near that. Default: whole.
    Raises:
        DataError: if it cannot be decoded; says which row of which source it is and how to look at it.
    """
    column = next((name for name, feature in split.rows.features.items() if type(feature).__name__ == "Image"), None)
    if column is None:
        raise DataError(f"{split.source} has no image column, only {', '.join(split.rows.column_names)}.")
    raw = cells(split.rows, column, index, index + 1)[0] or {"bytes": None, "path": None}
    try:
        image = picture(raw, "it")
        return image.decoded(edge) if isinstance(image, Picture) else image
    except DataError as error:
        held = f"file {raw['path']}" if raw["bytes"] is None else f"{len(raw['bytes'])} bytes inside the data set"
        row = int(split.row_ids[index])
        raise DataError(
            f"{split.source}: the image of row {row} cannot be decoded ({held}; {error.__cause__}). Look at it with "
            f"datasets.load_dataset(...)[{row}] after cast_column({column!r}, Image(decode=False)), then replace "
            "or remove that row."
        ) from error


def fingerprint(
    rows: datasets.Dataset,
    row_ids: Int64[np.ndarray, " rows"],
    labels: Shaped[np.ndarray, "rows ..."],
    label_names: tuple[str, ...],
    answerable: tuple[int, ...] | None = None,
) -> str:
    """SHA-256 (16 hex digits of it) of ids, labels, names, all texts, and the images' sizes and a sample of them.

    Behind a plus stand 16 digits of all images, where there are more than the sample: 0.1.0 wrote the first part alone.
    """
    sha = hashlib.sha256(json.dumps([label_names, rows.column_names, len(rows)], ensure_ascii=False).encode())
    sha.update(np.ascontiguousarray(row_ids, dtype="<i8").tobytes())
    sha.update(np.ascontiguousarray(labels, dtype="<f8" if labels.dtype.kind == "f" else "<i8").tobytes())
    if answerable is not None:
        sha.update(json.dumps(answerable).encode())
    for name, feature in rows.features.items():
        parts = _image_bytes(rows, name) if type(feature).__name__ == "Image" else _text_bytes(rows, name)
        for part in parts:
            sha.update(part)
    first = sha.hexdigest()[:16]
    images = [name for name, feature in rows.features.items() if type(feature).__name__ == "Image"]
    return f"{first}+{_of_all_images(rows, images, first)}" if images and len(rows) > IMAGES_READ else first


def _of_all_images(rows: datasets.Dataset, names: Sequence[str], about: str) -> str:
    """16 hex digits of every image's bytes; remembered while no file of the data set changes."""
    arrow = [str(file["filename"]) for file in rows.cache_files]
    files = [*arrow, *(path for name in names for path in _paths(rows, name))]

    def read() -> str:
        columns = (cell_reader(rows, name) for name in names)
        blocks = (column(at, at + ROWS_AT_ONCE) for column in columns for at in range(0, len(rows), ROWS_AT_ONCE))
        return fast_digest(encoding(cell) for block in blocks for cell in block)

    return remembered(files if arrow else (), about, read)[:16]


def _paths(rows: datasets.Dataset, name: str) -> Iterator[str]:
    """Files of the images that the data set only points to."""
    for embedded, paths in _image_blocks(rows, name):
        yield from (str(path) for n, path in _sizes(embedded, paths) if n is None and path)


def _image_blocks(rows: datasets.Dataset, name: str) -> Iterator[tuple[pa.Array, pa.Array]]:
    """The bytes and the paths of an image column, block by block."""
    import pyarrow.compute as pc

    column = rows.select_columns([name]).with_format("arrow")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        for chunk in column[start : start + ROWS_AT_ONCE].column(name).chunks:  # one array of them would be a copy
            yield pc.struct_field(chunk, "bytes"), pc.struct_field(chunk, "path")


def _text_bytes(rows: datasets.Dataset, name: str) -> Iterator[bytes]:
    # Arrow's own buffers depend on how the rows were cut into chunks; JSON lines do not.
    column = rows.select_columns([name]).with_format("arrow")
    for start in range(0, len(rows), ROWS_AT_ONCE):
        values = column[start : start + ROWS_AT_ONCE].column(name).to_pylist()
        yield json.dumps(values, ensure_ascii=False, default=repr).encode("utf-8", "surrogatepass")


def _image_bytes(rows: datasets.Dataset, name: str) -> Iterator[bytes]:
    for embedded, paths in _image_blocks(rows, name):
        sizes = [_file_size(path) if n is None else n for n, path in _sizes(embedded, paths)]
        yield np.asarray(sizes, dtype="<i8").tobytes()
    read = cell_reader(rows, name)
    for index in np.unique(np.linspace(0, max(len(rows) - 1, 0), IMAGES_READ).astype(np.int64))[: len(rows)]:
        yield from encoding(read(int(index), int(index) + 1)[0])


def _sizes(embedded: pa.Array, paths: pa.Array) -> Iterator[tuple[int | None, str | None]]:
    import pyarrow.compute as pc

    return zip(pc.binary_length(embedded).to_pylist(), paths.to_pylist(), strict=True)


def _file_size(path: str | None) -> int:
    try:
        return Path(str(path)).stat().st_size
    except OSError:
        return -1  # reading it will say so, with the row
