"""Inputs as people give them: lines of texts, and a folder or file of examples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_soups.errors import InputError

BETWEEN = "|||"  # or a tab: between the two texts of a pair
MOST_EXAMPLES = 64


def texts_of(lines: str) -> list[str]:
    """The texts of a text field or file, one on a line; empty lines are left out.

    >>> texts_of("a film\\n\\n a dull one ")
    ['a film', 'a dull one']
    """
    return [line.strip() for line in lines.splitlines() if line.strip()]


def pairs_of(lines: str) -> list[tuple[str, str]]:
    """Pairs, one on a line, their two texts separated by a tab or by |||.

    Raises:
        InputError: if a line has not two texts.

    >>> pairs_of("a cat ||| an animal")
    [('a cat', 'an animal')]
    """
    found = []
    for number, line in enumerate(lines.splitlines(), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.replace("\t", BETWEEN).split(BETWEEN)]
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"line {number}: {line.strip()[:80]!r} is no pair. Write the first text, {BETWEEN} or a tab, and the "
                "second text."
            )
        found.append((parts[0], parts[1]))
    return found


def examples_of(source: str | Path | None, kind: str) -> Sequence[Any]:
    """What visitors can try: image files of a folder, or the lines of a text file.

    Args:
        source: a folder of images or one image file; for texts a UTF-8 file with one text, or pair, on a line.
        kind: what an input is: "image", "text" or "text-pair".
    Returns:
        At most 64 of them.
    Raises:
        InputError: if it is missing, or holds none.
    """
    if source is None:
        return ()
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"{path}: no such folder or file of examples. Check the path.")
    found = _images(path) if kind == "image" else _lines(path, kind)
    if not found:
        raise InputError(f"{path}: no examples in it. Give {_wanted(kind)}.")
    return found[:MOST_EXAMPLES]


def _wanted(kind: str) -> str:
    if kind == "image":
        return "a folder of images, or an image file"
    return (
        "a text file with one text on a line" if kind == "text" else f"a text file with one pair (a {BETWEEN} b) a line"
    )


def _images(path: Path) -> list[Any]:
    from hf_soups.errors import DataError
    from hf_soups.pool.rows import ImageFolder

    if path.is_file():
        return [path]
    try:
        folder = ImageFolder.of(path, MOST_EXAMPLES)
    except DataError:
        return []
    return [path / name for name in folder.files]


def _lines(path: Path, kind: str) -> list[Any]:
    if path.is_dir():
        raise InputError(f"{path}: a folder, but the cascade takes texts. Give {_wanted(kind)}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}). Give {_wanted(kind)}.") from error
    return list(texts_of(text) if kind == "text" else pairs_of(text))
