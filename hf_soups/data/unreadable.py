"""Broken images and rows without text: left out where the recipe says `data.on_error: skip`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import numpy as np

from hf_soups.data.images import DECODERS, DECODING, ROOM, Picture, cells, picture
from hf_soups.errors import DataError, DataWarning, HfSoupsError, InputError
from hf_soups.files.digests import place
from hf_soups.files.reading import read_json
from hf_soups.files.writing import write_json

if TYPE_CHECKING:
    from hf_soups.data.split import Split
    from hf_soups.recipe.task import Task

ROWS_AT_ONCE = 256
SHOWN = 3
EDGE = 64  # a large photo is decoded near that, which reads the whole file too


def readable(split: Split, task: Task) -> Split:
    """The rows of a split that can be read, with their ids; a warning counts and names the others.

    Raises:
        DataError: if none can be read.
    """
    broken = unreadable(split, task)
    if not broken:
        return split
    shown = "; ".join([*broken.values()][:SHOWN]) + (f"; and {len(broken) - SHOWN} more" if len(broken) > SHOWN else "")
    if len(broken) == len(split):
        raise DataError(f"{split.source}: none of its {len(split)} {split.role} rows can be read: {shown}")
    warnings.warn(
        f"{split.source}: {len(broken)} of {len(split)} {split.role} rows cannot be read and are left out: {shown}",
        DataWarning,
        stacklevel=2,
    )
    return split.take(np.setdiff1d(np.arange(len(split)), [*broken]))


def unreadable(split: Split, task: Task) -> Mapping[int, str]:
    """Positions of rows that cannot be read, and why; found once for rows of one content."""
    if task.image is None:
        return dict(_without_text(split, task))
    kept = place().parent / "unreadable" / f"{split.fingerprint}.json"
    about = repr(DECODING)
    with suppress(OSError, InputError, KeyError, ValueError, AttributeError):
        known = read_json(kept)
        if known["decoding"] == about:
            return {int(at): str(why) for at, why in known["rows"].items()}
    found = dict(_broken_images(split, str(task.image)))
    with suppress(HfSoupsError):  # where nothing can be kept, images are decoded again
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_json(kept, {"decoding": about, "rows": found})
    return found


def _without_text(split: Split, task: Task) -> Iterator[tuple[int, str]]:
    for start in range(0, len(split), ROWS_AT_ONCE):
        rows = split.rows[start : start + ROWS_AT_ONCE]
        for i, texts in enumerate(zip(*(rows[name] for name in task.columns), strict=True), start):
            empty = [name for name, text in zip(task.columns, texts, strict=True) if not isinstance(text, str)]
            if empty:
                yield i, f"row {split.row_ids[i]}: column {empty[0]!r} holds no text"


def _broken_images(split: Split, column: str) -> Iterator[tuple[int, str]]:
    def why(at: int, cell: Any) -> str:
        try:
            found = picture(cell, f"row {split.row_ids[at]}: the image")
            if isinstance(found, Picture):
                with ROOM.taken(found.pixels(EDGE)):
                    found.decoded(EDGE)
        except DataError as error:
            return str(error).removesuffix(". Replace or remove it.")
        return ""

    with ThreadPoolExecutor(DECODERS) as decoders:
        for start in range(0, len(split), ROWS_AT_ONCE):
            held = cells(split.rows, column, start, start + ROWS_AT_ONCE)
            for at, reason in enumerate(decoders.map(why, range(start, start + len(held)), held), start):
                if reason:
                    yield at, reason
