"""Places as published files show them: an id of the Hub as it is, a place on somebody's machine by its name alone."""

from __future__ import annotations

from pathlib import Path, PurePath

from hf_soups.weights.hub import is_repo_id


def place_shown(place: str) -> str:
    """What a record that leaves this machine says of a model's or data set's place.

    A path would tell others of a user and a disk, and lead nowhere. "./" in front keeps a folder's name apart from an
    id of the Hub.

    >>> place_shown("/home/me/data/glue"), place_shown("data/*.csv"), place_shown("nyu-mll/glue")
    ('./glue', './*.csv', 'nyu-mll/glue')
    """
    if is_repo_id(place) and not Path(place).exists():
        return place
    return f"./{PurePath(place).name or 'data'}"
