"""Tables: how text files of rows are encoded and delimited, as each file itself shows, and which a folder holds."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import io
import json
import lzma
import re
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

from hf_soups.errors import DataError, DataWarning
from hf_soups.files.reading import open_regular

# only an empty cell is missing: pandas would also drop the texts "NA", "null" and "None"
_CELLS: dict[str, Any] = {"keep_default_na": False, "na_values": [""]}
_TABS: dict[str, Any] = {**_CELLS, "sep": "\t"}
# of `datasets.load_dataset`: the builder that reads files of this ending, and its options
READERS: dict[str, tuple[str, dict[str, Any]]] = {
    ".parquet": ("parquet", {}),
    ".csv": ("csv", _CELLS),
    ".tsv": ("csv", _TABS),
    ".tab": ("csv", _TABS),
    ".txt": ("csv", _TABS),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".ndjson": ("json", {}),
}
_COMPRESSED = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DELIMITERS = (",", ";", "\t", "|")
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # begins as UTF-16's does
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_PART = 2**20  # bytes or characters that are looked at together
_COLUMNS = "columns"  # beside the builders of `datasets`: a JSON file that holds columns by name
_WHOLE_FIELD = re.compile(r'"(?:[^"]|"")*"')


def ending_of(name: str) -> str:
    """The ending by which files are read, without that of a compression.

    >>> ending_of("train-*.CSV.gz"), ending_of("reviews.tsv"), ending_of("validation")
    ('.csv', '.tsv', '')
    """
    path = Path(name)
    return (Path(path.stem).suffix if path.suffix.lower() in _COMPRESSED else path.suffix).lower()


def read_tables(files: Iterable[str], columns: Collection[str]) -> Any:
    """The rows of one or more files, in their order, as a data set.

    Args:
        files: each with an ending among `READERS`; they may differ in encoding and delimiter.
        columns: that are wanted; the delimiter is the one by which the first line names them.
    """
    from datasets import Dataset, concatenate_datasets, load_dataset

    def rows_of(builder: str, options: dict[str, Any], some: list[str]) -> Any:
        if builder == _COLUMNS:
            return concatenate_datasets([Dataset.from_dict(_columns_of(file, **options)) for file in some])
        return load_dataset(builder, data_files={"train": some}, split="train", **options)

    groups: list[tuple[tuple[str, dict[str, Any]], list[str]]] = []
    for file in files:
        open_regular(file).close()  # a pipe would be read for ever
        how = _how_to_read(file, columns)
        if not groups or groups[-1][0] != how:
            groups.append((how, []))
        groups[-1][1].append(file)
    read = [rows_of(builder, options, some) for (builder, options), some in groups]
    return read[0] if len(read) == 1 else concatenate_datasets(read)


def tables_of_folder(folder: Path) -> dict[str, list[str]]:
    """The text tables of a folder by split, as `datasets` deals files out by their names; nothing for other folders."""
    from datasets.data_files import DataFilesDict, get_data_patterns

    try:
        found = DataFilesDict.from_patterns(get_data_patterns(str(folder)), base_path=str(folder))
    except Exception:  # whatever is wrong with the folder, `datasets` says it when it loads it
        return {}
    splits = {str(name): [str(file) for file in files] for name, files in found.items()}
    kept = {name: [file for file in files if _is_text(file)] for name, files in splits.items()}
    others = [
        f for files in splits.values() for f in files if not _is_text(f) and Path(f).suffix not in (".md", ".txt")
    ]
    return {} if others or not all(kept.values()) else kept


def _is_text(file: str) -> bool:
    return ending_of(file) != ".txt" and READERS.get(ending_of(file), ("",))[0] in ("csv", "json")


def _how_to_read(file: str, columns: Collection[str]) -> tuple[str, dict[str, Any]]:
    """The builder for a file and its options, with what the file shows of itself."""
    builder, options = READERS[ending_of(file)]
    if builder not in ("csv", "json") or not _size(file):
        return builder, options
    encoding = _encoding_of(file)
    shown = {} if encoding == "utf-8" else {"encoding": encoding}
    if builder == "json":
        field = _field_of(file, encoding)
        return (_COLUMNS, {"encoding": encoding}) if field == "" else (
            builder, {**options, **shown, **({"field": field} if field else {})}
        )  # fmt: skip
    return builder, {**options, **shown, **_dialect_of(file, encoding, options.get("sep", ","), columns)}


def _size(file: str) -> int:
    return Path(file).stat().st_size


def _opened(file: str) -> IO[bytes]:
    opener: Any = _COMPRESSED.get(Path(file).suffix.lower(), open_regular)
    return cast("IO[bytes]", opener(file))


def _parts(file: str) -> Iterator[bytes]:
    with _opened(file) as content:
        while part := content.read(_PART):
            yield part


def _encoding_of(file: str) -> str:
    """By the mark at its beginning, else UTF-8 where all of it is; else as older Windows programs write."""
    with _opened(file) as content:
        head = content.read(4)
    marked = next((name for mark, name in _BOMS if head.startswith(mark)), None)
    if marked or _decodes(file, "utf-8"):
        return marked or "utf-8"
    encoding = "cp1252" if _decodes(file, "cp1252") else "latin-1"
    warnings.warn(
        f"{file} is not UTF-8; it is read as {encoding} (Western European). If it is of another encoding, write it "
        "again as UTF-8.",
        DataWarning,
        stacklevel=2,
    )
    return encoding


def _decodes(file: str, encoding: str) -> bool:
    decoder = codecs.getincrementaldecoder(encoding)()
    try:
        for part in _parts(file):
            decoder.decode(part)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return False
    return True


def _text(file: str, encoding: str) -> IO[str]:
    return io.TextIOWrapper(_opened(file), encoding=encoding, newline="")


def _dialect_of(file: str, encoding: str, usual: str, columns: Collection[str]) -> Mapping[str, Any]:
    """The delimiter and quotes of a table, where they are not the usual ones of its ending."""
    with _text(file, encoding) as content:
        head = content.read(_PART)
    names = {mark: _first_row(head, mark) for mark in dict.fromkeys((usual, *_DELIMITERS))}
    bare = {mark: {name.strip() for name in row} for mark, row in names.items()}
    fitting = [mark for mark in names if bare[mark].issuperset(columns)]
    mark = fitting[0] if fitting else usual if len(names[usual]) > 1 else max(names, key=lambda m: len(names[m]))
    options: dict[str, Any] = {"sep": mark} if mark != usual else {}
    if any(name != name.lstrip() for name in names[mark]):
        options["skipinitialspace"] = True
    if mark == "\t" and not _quotes_are_quotes(file, encoding, len(names[mark])):
        options["quoting"] = csv.QUOTE_NONE
    return options


def _first_row(head: str, mark: str) -> list[str]:
    try:
        return next(csv.reader(io.StringIO(head), delimiter=mark), [])
    except csv.Error:
        return []


def _quotes_are_quotes(file: str, encoding: str, columns: int) -> bool:
    """Whether quotes enclose fields, as programs write them, or are signs of the text, as in many tab-delimited files.

    They are signs where every line has all its fields and some field begins with a quote that does not end with it.
    """
    odd = False
    with _text(file, encoding) as content:
        for line in content:
            fields = line.rstrip("\r\n").split("\t")
            if len(fields) != columns and line.strip():
                return True
            odd = odd or any(field.startswith('"') and not _WHOLE_FIELD.fullmatch(field) for field in fields)
    return not odd


def _field_of(file: str, encoding: str) -> str | None:
    """The key under which a JSON file keeps its rows, as in {"data": [{...}, ...]}; "" where it holds columns by name.

    None for rows alone, in a list or one a line.
    """
    with _text(file, encoding) as content:
        first = content.readline()
        if not first.lstrip().startswith("{") or (_is_json(first) is not None and content.readline().strip()):
            return None
        whole = _is_json(first + content.read())
    if not isinstance(whole, dict):
        return None
    lists = [key for key, rows in whole.items() if isinstance(rows, list) and rows and isinstance(rows[0], dict)]
    if len(lists) > 1:
        raise DataError(f"{file}: holds several lists of rows ({', '.join(lists)}). Write the one that is meant alone.")
    lengths = {len(column) if isinstance(column, list | dict) else None for column in whole.values()}
    return lists[0] if lists else "" if len(lengths) == 1 and None not in lengths else None


def _columns_of(file: str, encoding: str) -> dict[str, list[Any]]:
    """The columns of {"text": [...], ...}, or of {"text": {"0": ..., "1": ...}, ...}, as pandas writes them."""
    with _text(file, encoding) as content:
        whole = json.load(content)
    return {name: list(cells.values()) if isinstance(cells, dict) else cells for name, cells in whole.items()}


def _is_json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return None
