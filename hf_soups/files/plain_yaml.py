"""YAML as people write it by hand: of a bounded size, no key given twice, and one line about what is wrong."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from hf_soups.errors import InputError
from hf_soups.files.reading import open_regular

LARGEST = 2**20  # bytes of a file
DEEPEST = 32  # mappings and lists inside one another
MOST_VALUES = 100_000  # once every alias (*name) stands for what its anchor (&name) holds
LONGEST_NUMBER = 100  # characters of what is not text; thousands of digits take minutes to read
FRONT_MATTER = re.compile(r"^\s*---[\r\n]+([\S\s]*?)[\r\n]+---(?:\r\n|\n|$)")  # as huggingface_hub finds it in a card


def read_yaml(path: str | Path, kind: type[InputError] = InputError, *, what: str = "it") -> Any:
    """What a YAML file holds.

    Args:
        path: the file.
        kind: of the error.
        what: how the error calls the file.
    Raises:
        kind: naming the file, if it is missing, no regular file, too large, no UTF-8, or no valid YAML.
    """
    return parse_yaml(_text(path, kind, what), str(path), kind)


def check_front_matter(path: str | Path, kind: type[InputError] = InputError) -> None:
    """Refuse a card whose metadata others would read at any cost.

    Raises:
        kind: naming the file, as `read_yaml` does.
    """
    with _named(path, kind, "the card"), open_regular(path) as file:
        text = file.read(LARGEST + 1).decode("utf-8", errors="replace")  # a character may be cut
    found = FRONT_MATTER.match(text)
    if found:
        parse_yaml(found[1], str(path), kind)
    elif len(text.encode()) > LARGEST and text.lstrip().startswith("---"):
        raise kind(f"{path}: its metadata do not end within {LARGEST:,} bytes. Write the card again.")


def parse_yaml(text: str, where: str, kind: type[InputError] = InputError) -> Any:
    """What a YAML text holds; `where` names it in errors.

    Raises:
        kind: if it is no valid YAML, gives a key twice, or stands for more than the bounds above.
    """
    loader = None
    try:
        if len(text) > LARGEST:
            raise _Refused(f"{len(text):,} characters; at most {LARGEST:,} are read")
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _Walk(loader).measure(node)
        return loader.construct_document(node)
    except Exception as error:  # yaml's own, and what int() and dates raise
        raise kind(f"{where}: not valid YAML: {_in_one_line(error)}") from error
    finally:
        if loader is not None:
            loader.dispose()


class _Refused(Exception):
    """Valid YAML that is not read."""


class _Loader(yaml.SafeLoader):
    """Counts how deep it is: the composer calls itself for each level."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > DEEPEST:
            line = self.peek_event().start_mark.line + 1  # type: ignore[no-untyped-call]  # PyYAML's
            raise _Refused(f"more than {DEEPEST} mappings and lists inside one another, line {line}")
        try:
            return super().compose_node(parent, index)
        finally:
            self.depth -= 1


class _Walk:
    """Looks at every node once; those that aliases name are remembered with what they stand for."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._known: dict[int, tuple[int, int]] = {}  # values and depth
        self._open: set[int] = set()

    def measure(self, node: Any) -> tuple[int, int]:
        if id(node) in self._known:
            return self._known[id(node)]
        if id(node) in self._open:
            raise _Refused(f"a value that contains itself, {_line(node)}")
        self._open.add(id(node))
        inner = [self.measure(child) for child in self._children(node)]
        self._open.discard(id(node))
        values, depth = 1 + sum(n for n, _ in inner), 1 + max((d for _, d in inner), default=0)
        if values > MOST_VALUES:
            raise _Refused(f"aliases that stand for {values:,} values; at most {MOST_VALUES:,} are read, {_line(node)}")
        if depth > DEEPEST:
            raise _Refused(f"more than {DEEPEST} mappings and lists inside one another, {_line(node)}")
        self._known[id(node)] = values, depth
        return values, depth

    def _children(self, node: Any) -> list[Any]:
        if isinstance(node, yaml.ScalarNode):
            if len(node.value) > LONGEST_NUMBER and not node.tag.endswith(":str"):
                raise _Refused(f"a number or date of {len(node.value):,} characters, {_line(node)}")
            node.value.encode()  # half of a surrogate pair, as an escape gives it, cannot be written again
            return []
        if isinstance(node, yaml.SequenceNode):
            return list(node.value)
        self._check_keys(node)
        return [child for pair in node.value for child in pair]

    def _check_keys(self, node: Any) -> None:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _Refused(f"a key that is a list or mapping, {_line(key)}")
            self._children(key)
            merges = key.tag.endswith(":merge")
            value = key.value if merges else self._loader.construct_object(key)
            if value in seen:
                raise _Refused(f"the key {key.value[:100]!r} is given twice, {_line(key)}")
            seen.add(value)


def _line(node: Any) -> str:
    return f"line {node.start_mark.line + 1}"


def _in_one_line(error: Exception) -> str:
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        parts = (error.context, error.problem, f"line {mark.line + 1}" if mark else None)
        return ", ".join(" ".join(part.split())[:200] for part in parts if part)
    return " ".join(str(error).split())[:300] or type(error).__name__


def _text(path: str | Path, kind: type[InputError], what: str) -> str:
    with _named(path, kind, what), open_regular(path) as file:
        data = file.read(LARGEST + 1)
        if len(data) > LARGEST:
            raise kind(f"{path}: more than {LARGEST:,} bytes, which are not read as YAML. Write {what} shorter.")
        return data.decode("utf-8")


@contextmanager
def _named(path: str | Path, kind: type[InputError], what: str) -> Iterator[None]:
    try:
        yield
    except UnicodeDecodeError as error:
        raise kind(f"{path}: cannot read {what} ({error}). Save it as UTF-8.") from error
    except OSError as error:
        raise kind(f"{path}: cannot read {what} ({error.strerror or error}).") from error
