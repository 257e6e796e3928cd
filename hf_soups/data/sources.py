"""Where rows come from: the Hub, a local folder in its layout or of tables, an imagefolder, or files of rows."""

from __future__ import annotations

import contextlib
import errno
import glob
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.data.addresses import place_of, read_address
from hf_soups.data.tables import READERS, ending_of, read_tables, tables_of_folder
from hf_soups.errors import DataError
from hf_soups.files.hub_refusals import check_token, in_short, is_passing, status_of
from hf_soups.files.plain_yaml import check_front_matter
from hf_soups.files.reading import open_regular
from hf_soups.files.writing import is_url, system_error, why_not_written

if TYPE_CHECKING:
    import datasets

    from hf_soups.recipe.task import Task


class MissingSplit(DataError):
    """A data set has no split of that name; `there` are those that it has."""

    def __init__(self, message: str, there: tuple[str, ...]) -> None:
        super().__init__(message)
        self.there = there


@dataclass(frozen=True, slots=True)
class DataSource:
    """A kind of place that rows come from; a new kind is one entry of `SOURCES`."""

    takes: Callable[[Task, str], bool]  # whether the task's split, by its name, is of this kind
    read: Callable[[Task, str, str], datasets.Dataset]  # its rows, by the split's name and what messages call it


def load_dataset_split(task: Task, split_name: str) -> datasets.Dataset:
    """All rows and columns of one split of the task's data.

    `task.path` is a Hub id, a local folder (Hub layout, tables or imagefolder), or one file or pattern of `READERS`,
    which is the split "train". A `split_name` that ends as these do is itself a file or pattern, looked for in
    `task.path`.

    Raises:
        MissingSplit: if the data set has no such split.
        DataError: if it cannot be found, reached or read, or has no such config or rows.
    """
    where = source_name(task, split_name)
    task, split_name = place_of(task, split_name)
    source = next(source for source in SOURCES if source.takes(task, split_name))
    rows = source.read(task, split_name, where)
    if not len(rows):
        raise DataError(f"{where}: the split has no rows.")
    return rows


def source_name(task: Task, split_name: str) -> str:
    """How a split is called in messages and in `Split.source`: path, config and split."""
    return ":".join(part for part in (task.path, task.config, split_name) if part)


def _is_pattern(text: str) -> bool:
    return ending_of(text) in READERS


def is_local(task: Task) -> bool:
    """Whether the task's path is one of this machine, or can only be meant as one."""
    path = place_of(task, "")[0].path
    return Path(path).expanduser().exists() or (_looks_local(path) and not is_url(path))


def is_single_file(task: Task) -> bool:
    """Whether the task's path is a file or pattern of rows, and so the split "train" alone."""
    return _is_pattern(task.path) and not Path(task.path).expanduser().is_dir()


def _file_pattern(task: Task, split_name: str) -> str | None:
    """The local files that a split name or the task's path stands for; None when they are a data set's split."""
    path = Path(task.path).expanduser()
    if _is_pattern(split_name):
        if Path(split_name).is_absolute():
            return split_name
        if _is_pattern(task.path):
            return str(path.parent / split_name)
        return str(path / split_name) if path.is_dir() or _looks_local(task.path) else None
    if not is_single_file(task):
        return None
    if split_name != "train":
        raise MissingSplit(
            f"{task.path} is the split 'train' and no other, but {split_name!r} is asked for. "
            "Name the file of the other rows as `report` in the recipe's task, such as `report: validation.csv`.",
            ("train",),
        )
    return str(path)


def _from_address(task: Task, split_name: str, where: str) -> datasets.Dataset:
    with quiet():
        rows: datasets.Dataset = read_address(task, split_name, where)
        return rows


def _from_files(task: Task, split_name: str, where: str) -> datasets.Dataset:
    pattern = str(_file_pattern(task, split_name))
    files = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 (absolute patterns)
    if not files:
        raise DataError(
            f"{where}: no file matches {pattern}. Correct `path`, `train` or `report` in the recipe's task."
        )
    return _read(files, task, where)


def _read(files: list[str], task: Task, where: str) -> datasets.Dataset:
    try:
        with quiet():
            rows: datasets.Dataset = read_tables(files, (*task.columns, *task.label_columns))
            return rows
    except DataError:
        raise
    except Exception as error:  # pandas, pyarrow and datasets each raise their own
        if _empty_split(error):
            raise DataError(f"{where}: the split has no rows.") from error
        raise _unreadable(where, files, error) from error


def _from_files_of_a_repo(task: Task, split_name: str, where: str) -> datasets.Dataset:
    options = {"revision": task.revision, "data_files": {"train": split_name}}
    return _loaded(task, where, "train", task.path, **options)["train"]


def _from_folder_or_hub(task: Task, split_name: str, where: str) -> datasets.Dataset:
    path = Path(task.path).expanduser()
    if (file := next((f for f in (path, path / split_name) if f.is_file()), None)) is not None:
        raise DataError(
            f"{where}: files that end in {file.suffix or 'nothing'} are not read. Write the rows as one that is: "
            f"{', '.join(READERS)}, also compressed (.gz, .bz2, .xz)."
        )
    if not path.exists() and _looks_local(task.path):
        raise DataError(f"{where}: no such folder or file: {path}. Correct `path` in the recipe's task.")
    tables = tables_of_folder(path) if path.exists() and not (task.config or _has_configs(path)) else {}
    place = (str(path), None) if path.exists() else (task.path, task.revision)
    found = tables or _loaded(task, where, split_name, place[0], task.config, revision=place[1])
    if split_name not in found:
        raise MissingSplit(
            f"{where}: no split {split_name!r}; there are: {', '.join(map(str, found))}. "
            "Name one of them as `train` or `report` in the recipe's task.",
            tuple(map(str, found)),
        )
    return _read(tables[split_name], task, where) if tables else found[split_name]


def _has_configs(folder: Path) -> bool:
    """Whether a folder's README says which files are which split."""
    card = folder / "README.md"
    return card.is_file() and card.read_bytes().startswith(b"---")


SOURCES = [  # the first that takes a split reads it
    DataSource(lambda task, split_name: is_url(task.path), _from_address),
    DataSource(lambda task, split_name: _file_pattern(task, split_name) is not None, _from_files),
    DataSource(lambda task, split_name: _is_pattern(split_name), _from_files_of_a_repo),
    DataSource(lambda task, split_name: True, _from_folder_or_hub),
]


def _loaded(
    task: Task, where: str, split_name: str, *place: str | None, **options: Any
) -> Mapping[str, datasets.Dataset]:
    """All splits; only the one that is wanted when another one is empty, at which `datasets` gives up."""
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    if not Path(str(place[0])).exists():
        check_token()
    card = Path(str(place[0])) / "README.md"
    if card.is_file():  # `datasets` would follow aliases as far as they go
        check_front_matter(card, DataError)
    try:
        with quiet():
            found: Mapping[str, datasets.Dataset] = load_dataset(*place, **options)
            return found
    except DatasetNotFoundError as error:
        raise DataError(
            f"{where}: the Hub has no data set {task.path!r} that you may read, and there is no such local folder. "
            "Correct `path` and `revision`; for a private or gated one log in with `hf auth login`."
        ) from error
    except Exception as error:  # a data set can fail in nearly any way
        if (refused := _answered(where, error)) is not None:
            raise refused from error
        if isinstance(error, ConnectionError) or type(error).__module__.startswith("httpx"):
            raise _unreachable(task, where, error) from error
        empty = _empty_split(error)
        if empty == split_name:
            raise DataError(f"{where}: the split has no rows.") from error
        if empty and "split" not in options:
            rows: Any = _loaded(task, where, split_name, *place, split=split_name, **options)
            return {split_name: rows}
        if "config" in str(error).lower() and isinstance(error, ValueError):
            told = " ".join(str(error).split("\nExample")[0].split())
            raise DataError(f"{where}: {told} Set `config` in the recipe's task to one of them.") from error
        local = Path(str(place[0]))
        files = [str(f) for suffix in READERS for f in sorted(local.rglob(f"*{suffix}"))] if local.is_dir() else []
        raise _unreadable(where, files, error) from error


def _answered(where: str, error: Exception) -> DataError | None:
    """The Hub's refusal, where it answered with one."""
    told: Any = error
    while told is not None and status_of(told) is None:
        told = told.__cause__
    if told is None:
        return None
    advice = "Check `path`, `revision` and the token (hf auth login, or HF_TOKEN)."
    refused = DataError(f"{where}: {in_short(told)}. {'Try again later.' if is_passing(told) else advice}")
    refused.exit_status = 1 if is_passing(told) else 2  # what may pass is no wrong input
    return refused


def _unreachable(task: Task, where: str, error: Exception) -> DataError:
    offline = next(
        (v for v in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE") if os.environ.get(v, "0") not in ("", "0")), ""
    )
    why = f"{offline}={os.environ[offline]} is set" if offline else str(error)
    return DataError(
        f"{where}: there is no local folder {task.path!r}, the data set is not in the cache, and the Hub cannot be "
        f"reached ({why}). Go online once to fetch it, or give a local copy's path as `path` in the recipe's task."
    )


def _unreadable(where: str, files: list[str], error: Exception) -> DataError:
    damaged = next((f for f in files if Path(f).suffix == ".parquet" and not _has_parquet_footer(f)), None)
    cause: BaseException = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    told = " ".join(str(cause).split())[:300] or type(cause).__name__
    system = system_error(cause)
    if system is not None and system.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        refused = DataError(
            f"{where}: the rows {why_not_written(system)} and run the same command again: `datasets` keeps them in its "
            "cache, which HF_DATASETS_CACHE can place elsewhere."
        )
        refused.exit_status = 1  # no wrong input
        return refused
    if damaged is not None:
        return DataError(f"{where}: {damaged} is truncated or not a parquet file ({told}). Fetch or write it again.")
    among = f" in {files[0]}" if len(files) == 1 else ""
    if wrong := _in_a_line(told):
        return DataError(f"{where}: the rows{among} cannot be read: {wrong}")
    return DataError(f"{where}: the rows{among} cannot be read ({type(cause).__name__}: {told}).")


def _in_a_line(told: str) -> str:
    """What pandas says is wrong with a line of a table, and what to do about it; nothing of what it says else."""
    if found := re.search(r"Expected (\d+) fields in line (\d+), saw (\d+)", told):
        expected, line, got = found.groups()
        return f"line {line} has {got} fields; expected {expected}. Put quotes around fields that hold the delimiter."
    if found := re.search(r"EOF inside string starting at row (\d+)", told):
        return f"a quote in row {found[1]} after the header is never closed. Close it, or double it if it is text."
    return ""


def _empty_split(error: Exception) -> str:
    """The split that `datasets` says has no rows, or nothing."""
    found = re.fullmatch(r'Instruction "(.*)" corresponds to no data!', str(error))
    return found[1] if found else ""


def _has_parquet_footer(path: str) -> bool:
    import pyarrow.parquet as pq

    try:
        with open_regular(path) as file:
            pq.read_metadata(file)
    except Exception:  # any failure is the answer
        return False
    return True


def _looks_local(path: str) -> bool:
    """Whether a path that does not exist can only have been meant as a local one: Hub ids are "name" or "org/name"."""
    return path.startswith((".", "~", "/")) or path.count("/") > 1 or _is_pattern(path) or "\\" in path


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars and no log lines of `datasets` meanwhile; as they were afterwards."""
    import datasets
    from datasets.utils import logging

    bars, level = not datasets.are_progress_bars_disabled(), logging.get_verbosity()
    datasets.disable_progress_bars()
    logging.set_verbosity(logging.CRITICAL)
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()
