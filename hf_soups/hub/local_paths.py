"""Paths of this machine in records that are pushed: of each only its last name stays.

Records say where an ingredient lay (`/home/me/runs/run_00`, `../../runs/run_00`), which is nobody else's business and
leads nowhere elsewhere; the SHA-256 beside it tells which weights it was.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

from hf_soups.errors import InputError
from hf_soups.hub.contents import LocalFile, Stage
from hf_soups.weights.places import place_shown

RECORDS = ("soup.json", "pool.json", "frontier.json", "recipe.yaml")
NAMES = ("label_names", "id2label", "label2id")  # labels may look like paths: AudioSet's are "/m/09x0r"


def without_local_paths(value: Any) -> Any:
    """The value with every path in it that is absolute or leads out of the folder cut to its last name.

    >>> without_local_paths({"source": "/home/me/runs/run_00", "label_names": ["/m/09x0r"], "model": "org/model"})
    {'source': './run_00', 'label_names': ['/m/09x0r'], 'model': 'org/model'}
    """
    if isinstance(value, Mapping):
        return {key: inner if key in NAMES else without_local_paths(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [without_local_paths(inner) for inner in value]
    return _last_name(value) if isinstance(value, str) else value


def cleaned(files: list[LocalFile], stage: Stage) -> list[LocalFile]:
    """The records among the files that name places of this machine, as they are pushed instead.

    Raises:
        InputError: if one cannot be read.
    """
    made = []
    for file in files:
        name = PurePosixPath(file.path).name
        if name in RECORDS:
            told = _read(file.source)
            clean = without_local_paths(told)
            if clean != told:
                made.append(stage.text(file.path, as_text(name, clean)))
    return made


def told_of(clean: list[LocalFile]) -> tuple[str, ...]:
    """What to tell the user of the records that are pushed in other words than the folder's."""
    return (
        (f"places on this machine go by their last name alone: {', '.join(f.path for f in clean)}.",) if clean else ()
    )


def as_text(name: str, told: Any) -> str:
    """A record as the text of its file, by the ending of its name."""
    import yaml

    if name.endswith(".yaml"):
        return str(yaml.safe_dump(told, sort_keys=False, allow_unicode=True))
    return json.dumps(told, indent=2, ensure_ascii=False) + "\n"


def _read(path: Path) -> Any:
    import yaml

    try:
        text = path.read_text(encoding="utf-8")
        return yaml.safe_load(text) if path.suffix == ".yaml" else json.loads(text)
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise InputError(f"{path}: cannot be read ({error}). Make the folder again.") from error


def _last_name(text: str) -> str:
    windows = PureWindowsPath(text)
    leads_out = text.startswith(("/", "~/", "../")) or bool(windows.drive and windows.root)
    return place_shown(windows.as_posix()) if leads_out and "\n" not in text else text
