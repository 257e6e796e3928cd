"""Soup folders and single files that appear complete or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hf_soups import run_folder
from hf_soups.run_folder import writable

SOUP_FILE = "soup.json"  # only a folder that holds one is ever replaced


def refuse_existing(out: Path, *, overwrite: bool) -> None:
    """Check before any work that a soup may be written to `out`.

    Raises:
        InputError: if something is there that may not be replaced.
    """
    run_folder.refuse_existing(out, overwrite=overwrite, marker=SOUP_FILE)


@contextmanager
def soup_folder(out: Path, *, overwrite: bool = False) -> Iterator[Path]:
    """A folder to fill; it becomes `out` by one rename when the block ends well, else it is removed.

    Raises:
        InputError: if something is there that may not be replaced.
        HfSoupsError: if the place cannot be written.
    """
    with run_folder.written_whole(out, overwrite=overwrite, marker=SOUP_FILE) as partial:
        yield partial


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` with a temporary path beside `path`, then rename it to `path`.

    Raises:
        HfSoupsError: if it cannot be written; an earlier file is intact then.
    """
    # The suffix stays last: matplotlib and others choose the format by it.
    partial = path.with_name(f".{path.stem}.partial-{os.getpid()}{path.suffix}")
    with writable(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(partial)
            partial.replace(path)
        finally:
            partial.unlink(missing_ok=True)
