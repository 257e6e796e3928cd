"""Links are followed only while they stay inside the folder; the Hub's cache consists of links to its own blobs."""

from __future__ import annotations

import os
import re
from pathlib import Path

from hf_soups.errors import CheckpointError

_CACHED_REPO = re.compile(r"(model|dataset|space)s--.+")  # its folder in the Hub's cache


def places_of(folder: Path) -> tuple[Path, ...]:
    """Where the links of a folder may lead: into itself.

    Of a snapshot in the Hub's cache also into the rest of the repo's folder there, and into the blobs that repos share.
    """
    at = folder.resolve()
    for place in (at, *at.parents):
        if place.name == "snapshots" and _CACHED_REPO.fullmatch(place.parent.name):
            return (place.parent, place.parent.parent / "blobs")
    return (at,)


def leads_out(path: Path, places: tuple[Path, ...]) -> bool:
    """Whether a path, its links followed, lies in none of these places."""
    try:
        real = path.resolve()
    except (OSError, RuntimeError):  # a link that leads to itself
        return True
    return not any(real.is_relative_to(place) for place in places)


def inside_of(folder: Path, name: str) -> Path:
    """The path of a name that a record of the folder gives.

    Raises:
        CheckpointError: if it leads out of the folder, by its name or by a link.
    """
    if leads_out(folder / name, places_of(folder)):
        _refuse(folder / name, folder)
    return folder / name


def refuse_links_out(folder: Path, *, inside: Path | None = None) -> None:
    """Refuse a folder that is a link, or holds one, that leads out of `inside` (default: the folder itself).

    Raises:
        CheckpointError: naming the first such link.
    """
    whole = folder if inside is None else inside
    places = places_of(whole)
    if leads_out(folder, places):
        _refuse(folder, whole)
    for at, folders, files in os.walk(folder):
        for name in sorted((*folders, *files)):
            path = Path(at) / name
            if path.is_symlink() and leads_out(path, places):
                _refuse(path, whole)


def _refuse(path: Path, whole: Path) -> None:
    raise CheckpointError(
        f"{path}: leads to {os.path.realpath(path)}, outside {whole}. Nothing outside is read: put a copy there, or "
        "remove it."
    )
