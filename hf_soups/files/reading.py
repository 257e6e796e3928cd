"""Reading text and JSON files that anybody may have changed: what they hold, or one clear error that names the file."""

from __future__ import annotations

import functools
import glob
import json
import os
import stat
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from hf_soups.errors import InputError

if TYPE_CHECKING:
    from pydantic import TypeAdapter


_HOW = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)


class NotRegular(OSError):
    """A folder, pipe, socket or device where a file was expected."""


def open_regular(path: str | Path) -> BinaryIO:
    """A file, opened for reading.

    Raises:
        OSError: if it is missing or cannot be read.
        NotRegular: if it is a folder, pipe, socket or device.
    """
    _check(Path(path).stat().st_mode, path)
    number = os.open(path, _HOW)  # never waits, should it have become a pipe meanwhile
    try:
        _check(os.fstat(number).st_mode, path)
        return os.fdopen(number, "rb")
    except BaseException:
        os.close(number)
        raise


def _check(mode: int, path: str | Path) -> None:
    if not stat.S_ISREG(mode):
        kind = "a folder" if stat.S_ISDIR(mode) else "a pipe, socket or device"
        raise NotRegular(f"{path} is {kind}, not a regular file")


MOST_DIGITS = 300  # of an integer; a few more, and it is no float any more
LARGEST = 1 << 28  # bytes of a text file that is read whole: a tokenizer.json has 35 MB, a frontier of 50,000 plans 20
_T = TypeVar("_T")


def is_there(path: Path) -> bool:
    """Whether there is anything at a path; where that is no file, reading it says so."""
    return os.path.lexists(path)


def visible(folder: Path, pattern: str) -> list[Path]:
    """What matches in a folder, by name; hidden entries are not read, as another process may be writing them."""
    return sorted(folder / name for name in glob.glob(pattern, root_dir=folder))  # noqa: PTH207 (Path.glob gives hidden ones)


def read_bytes(path: Path, *, error: type[InputError] = InputError, again: str = "") -> bytes:
    """The bytes of a regular file of at most `LARGEST` bytes.

    Args:
        path: the file; a pipe or a device is refused, as reading it may never end.
        error: the class of what is raised.
        again: what to do if the file cannot be used, as a sentence.
    Raises:
        FileNotFoundError: if there is no such file: what that means the caller knows.
        InputError: if it cannot be read.
    """
    refuse = functools.partial(_refusal, error, path, again)
    try:
        with open_regular(path) as file:
            about = os.fstat(file.fileno())
            if about.st_size > LARGEST:
                raise refuse(f"{about.st_size:,} bytes, more than the {LARGEST:,} that are read")
            return file.read()
    except FileNotFoundError:
        if path.is_symlink():
            raise refuse("a link that leads nowhere") from None
        raise
    except InputError:
        raise
    except NotRegular as failure:
        raise refuse("no regular file") from failure
    except (OSError, ValueError) as failure:  # ValueError: a zero byte in the name
        raise refuse(f"cannot be read ({getattr(failure, 'strerror', None) or failure})") from failure


def read_text(path: Path, *, error: type[InputError] = InputError, again: str = "") -> str:
    """The text of a UTF-8 file; see `read_bytes`."""
    data = read_bytes(path, error=error, again=again)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as failure:
        raise _refusal(error, path, again, f"not UTF-8 text ({failure})") from failure


def read_json(
    path: Path, *, what: str = "", format: str = "", again: str = "", error: type[InputError] = InputError
) -> dict[str, Any]:
    """The object that a JSON file holds.

    Args:
        path: the file.
        what: the record that is expected, in words, such as "a pool of predictions".
        format: the value of its key "format"; empty: any.
        again: what to do if the file cannot be used, as a sentence.
        error: the class of what is raised.
    Raises:
        FileNotFoundError: if there is no such file.
        InputError: if it cannot be read, or holds something else.
    """
    text = read_text(path, error=error, again=again)
    refuse = functools.partial(_refusal, error, path, again)
    try:
        content = json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as failure:
        why = "nested too deep" if isinstance(failure, RecursionError) else str(failure)
        raise refuse(f"cannot be read: no valid JSON ({why})") from failure
    if not isinstance(content, dict):
        raise refuse(f"expected {what or 'a JSON object'}, got {type(content).__name__}")
    if format and content.get("format") != format:
        raise refuse(f"expected {what} ({format!r}), got the format {content.get('format')!r:.60}")
    return content


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits)} digits")
    return int(digits)


def read_record(
    path: Path, kind: type[_T], *, what: str, format: str, again: str, error: type[InputError] = InputError
) -> _T:
    """The record that a JSON file holds, as the dataclass `kind`: every value has the type that is declared there.

    Keys that `kind` does not know, as a later version may have added, are left out. For the rest see `read_json`.
    """
    content = read_json(path, what=what, format=format, again=again, error=error)
    return as_record(content, kind, path, what=what, again=again, error=error)


def as_record(
    content: Mapping[str, Any],
    kind: type[_T],
    path: str | os.PathLike[str],
    *,
    what: str,
    again: str,
    error: type[InputError] = InputError,
) -> _T:
    """Values that JSON held as the dataclass `kind`; `path` is where they come from."""
    from pydantic import ValidationError

    try:
        # through JSON, whose strict rules take a list for a tuple and 1 for 1.0, and nothing else
        adapter = _adapter(cast(Hashable, kind))
        return cast(_T, adapter.validate_json(json.dumps(content, allow_nan=False), strict=True))
    except ValidationError as failure:
        raise _refusal(error, path, again, f"not valid as {what}: {_first_of(failure)}") from failure
    except (RecursionError, TypeError, ValueError) as failure:  # values that are not JSON's: NaN, or from Python code
        raise _refusal(error, path, again, f"not valid as {what} ({failure})") from failure


@functools.cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    from pydantic import TypeAdapter

    return TypeAdapter(kind)


def _first_of(failure: Any) -> str:
    first = failure.errors(include_url=False, include_context=False)[0]
    at = ".".join(map(str, first["loc"]))
    said = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    return f"{at}: {said}" if at else said


def _refusal(error: type[InputError], path: str | os.PathLike[str], again: str, why: str) -> InputError:
    return error(f"{path}: {why}. {again}".rstrip())
