"""What lies in the folders that a report is asked for: a sweep, pools of predictions, cascades."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hf_soups.errors import InputError
from hf_soups.files.reading import read_json
from hf_soups.pool.store import POOL_FILE
from hf_soups.run_folder import RUN_FILE
from hf_soups.soups.record import SOUP_FILE
from hf_soups.sweep.plan import PLAN_FILE

Kind = Literal["sweep", "pool", "cascade"]
WANTED = (
    "Name a sweep (hf-soups sweep), a pool of predictions (hf-soups predict), a cascade (hf-soups cascade build), or a "
    "folder that holds them."
)
DEPTH = 2  # levels below a folder that holds them: preds/select


@dataclass(frozen=True, slots=True)
class Sources:
    """The folders by what they are, each as the user named it."""

    sweep: Path | None = None
    pools: tuple[Path, ...] = ()
    cascades: tuple[Path, ...] = ()


def find_sources(folders: Sequence[str | Path]) -> Sources:
    """The sweep, pools and cascades among `folders`, or inside them.

    Raises:
        InputError: if there is no folder, one is none of these, or there are two sweeps.
    """
    if not folders:
        raise InputError(f"no folder is named, so there is nothing to report. {WANTED}")
    found: dict[Path, tuple[Kind, Path]] = {}  # by resolved path: a folder named twice is one
    for folder in map(Path, folders):
        for kind, path in _inside(folder):
            found.setdefault(path.resolve(), (kind, path))
    sweeps, pools, cascades = (
        tuple(path for kind, path in found.values() if kind == wanted) for wanted in ("sweep", "pool", "cascade")
    )
    if len(sweeps) > 1:
        raise InputError(
            f"{' and '.join(map(str, sweeps))} are sweeps; a report is about one, since scores of two are of other "
            "rows or starts. Make a report of each."
        )
    return Sources(next(iter(sweeps), None), pools, cascades)


def _inside(folder: Path) -> list[tuple[Kind, Path]]:
    """What a folder is, or else what it holds; never empty."""
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder. {WANTED}")
    kind = _kind_of(folder)
    if kind is not None:
        return [(kind, folder)]
    if (folder / SOUP_FILE).is_file():
        raise InputError(
            f"{folder} is a soup; a report finds the soups of a sweep by itself. Name the sweep that it was cooked "
            "from."
        )
    held = list(_below(folder, DEPTH))
    if held:
        return held
    if any(folder.glob(f"*/{RUN_FILE}")):
        return [("sweep", folder)]
    raise InputError(f"{folder} holds no sweep, pool or cascade. {WANTED}")


def _below(folder: Path, depth: int) -> Iterator[tuple[Kind, Path]]:
    for path in sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")):
        kind = _kind_of(path)
        if kind is not None:
            yield kind, path
        elif depth > 1:
            yield from _below(path, depth - 1)


def _kind_of(folder: Path) -> Kind | None:
    if (folder / PLAN_FILE).is_file():
        return "sweep"
    if (folder / POOL_FILE).is_file():
        return "pool"
    return "cascade" if _model_type(folder / "config.json") == "cascade" else None


def _model_type(config: Path) -> Any:
    try:
        return read_json(config).get("model_type")
    except (OSError, InputError):
        return None
