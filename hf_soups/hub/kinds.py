"""Which kind of thing a folder is, known from the files that hf_soups itself wrote there."""

from __future__ import annotations

from pathlib import Path

from hf_soups.batch.models import is_cascade
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.hub.contents import Kind
from hf_soups.pool.store import POOL_FILE
from hf_soups.run_folder import RUN_FILE
from hf_soups.soups.record import SOUP_FILE

BOARD = "leaderboard.csv"
SHOWN = 8  # names at most in a message
ELSEWHERE = {
    "plan.json": f"a sweep without {BOARD}. Make it (hf-soups leaderboard {{folder}}), or push one of the soups",
    RUN_FILE: "one fine-tune, which is an ordinary checkpoint: `hf upload` pushes it. Cook a soup of several",
    "frontier.json": "a frontier. Push the pool of predictions it was searched in, or a cascade built from it",
}


def kind_of(folder: Path) -> Kind:
    """Whether a folder is a soup, a cascade, a pool of predictions, or has a leaderboard.

    Raises:
        InputError: if it is none of them.
    """
    if not folder.is_dir():
        raise InputError(
            f"{folder}: no such folder. Name that of a soup, a cascade, a sweep with its leaderboard or a pool."
        )
    if (folder / SOUP_FILE).is_file():
        return "soup"
    if (folder / "config.json").is_file() and is_cascade(Checkpoint(folder)):
        return "cascade"
    if (folder / POOL_FILE).is_file():
        return "pool"
    if (folder / BOARD).is_file():
        return "leaderboard"
    raise InputError(f"{folder}: {_what_else(folder)}.")


def _what_else(folder: Path) -> str:
    for name, words in ELSEWHERE.items():
        if (folder / name).is_file():
            return words.format(folder=folder)
    inside = sorted(path.parent.name for path in folder.glob(f"*/{SOUP_FILE}"))
    if inside:
        more = f" and {len(inside) - SHOWN} more" if len(inside) > SHOWN else ""
        return f"a folder of soups. Push one of them: {', '.join(inside[:SHOWN])}{more}"
    return (
        f"neither a soup (there is no {SOUP_FILE}), nor a cascade (config.json with model_type cascade), nor a "
        f"leaderboard ({BOARD}), nor a pool of predictions ({POOL_FILE}). Push a folder that hf-soups cook, cascade "
        "build, leaderboard or predict wrote"
    )
