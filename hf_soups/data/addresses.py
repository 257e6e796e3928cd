"""Rows at an address: parquet files of an object store or a web server, by fsspec, and data sets of the Hub as hf://."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hf_soups.errors import DataError

if TYPE_CHECKING:
    from hf_soups.recipe.task import Task

HUB = re.compile(r"hf://datasets/([^/@]+/[^/@]+)(?:@([^/]+))?(?:/(.+))?")
PASSWORD = re.compile(r"://[^/@:]*:[^/@]*@")
OWN = ("memory", "dask", "reference", "tar", "zip", "dir")  # of one process, or inside other files


def place_of(task: Task, split_name: str) -> tuple[Task, str]:
    """The task and split with an address of this machine or the Hub as everything else knows it.

    >>> from hf_soups.recipe.task import Task
    >>> at = Task(kind="text", path="hf://datasets/org/name@main/data/x.parquet", text=("text",))
    >>> task, split = place_of(at, "train")
    >>> task.path, task.revision, split
    ('org/name', 'main', 'data/x.parquet')
    """
    path = task.path
    if path.startswith("file://"):
        return task.model_copy(update={"path": path.removeprefix("file://")}), split_name
    if (found := HUB.fullmatch(path)) is None:
        return task, split_name
    repo, revision, file = found.groups()
    there = {"path": repo, "revision": revision or task.revision}
    return task.model_copy(update=there), file or split_name


def read_address(task: Task, split_name: str, where: str) -> Any:
    """All rows of the parquet files at the task's path.

    Raises:
        DataError: if it is no address of parquet files, its kind needs a package, or it cannot be read.
    """
    from datasets import load_dataset

    where = where.partition("?")[0]
    check_address(task.path, where)
    if split_name != "train":
        raise DataError(f"{where}: an address is the split 'train' and no other, but {split_name!r} is asked for.")
    try:
        return load_dataset("parquet", data_files={"train": task.path}, split="train")
    except Exception as error:  # of fsspec and each store's own package
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        told = " ".join(str(cause).split())[:300] or type(cause).__name__
        raise DataError(
            f"{where}: cannot be read there ({type(cause).__name__}: {told}). Check the address and the login that its "
            "store asks for, or fetch the file and give its path."
        ) from error


def check_address(path: str, where: str) -> None:
    """Whether rows can be read from an address, before anything is fetched.

    Raises:
        DataError: if not; saying which package is missing, where that is all.
    """
    from fsspec import get_filesystem_class

    if PASSWORD.search(path):
        raise DataError("an address with a password is refused: results keep it. Give the login in the environment.")
    kind = path.partition(":")[0].lower()
    if kind == "hf" or kind in OWN:
        raise DataError(
            f"{where}: no address of rows. Expected hf://datasets/OWNER/NAME, or parquet files at s3://, gs://, "
            "https:// and the like."
        )
    if not path.lower().endswith(".parquet"):
        raise DataError(f"{where}: at an address only parquet files are read. Give one that ends in .parquet.")
    try:
        get_filesystem_class(kind)
    except ValueError as error:
        raise DataError(f"{where}: {kind}:// is no kind of address that fsspec knows.") from error
    except ImportError as error:
        raise DataError(
            f"{where}: {kind}:// needs a package that is not installed. {str(error).rstrip('.')}: pip install it, on "
            "every node of a cluster."
        ) from error
