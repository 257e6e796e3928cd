"""Cooked: the soups that lie in a sweep, as far as a diagnosis on select can use them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.errors import PredictionsError
from hf_soups.predictions import Predictions, same_rows
from hf_soups.soups.record import read_soup, soup_folder_of
from hf_soups.soups.soup import Step


@dataclass(frozen=True, slots=True)
class CookedSoup:
    """A soup found in a sweep, with what it answers on select."""

    method: str
    members: tuple[str, ...]  # ingredients with a share in it
    answers: Predictions
    steps: tuple[Step, ...]


def cooked_soups(sweep: Path, runs: Collection[str], data: str) -> tuple[tuple[CookedSoup, ...], tuple[str, ...]]:
    """The soups that a sweep's pointers lead to, and a note for each that cannot be used.

    Args:
        sweep: the sweep's folder.
        runs: names of the runs that are diagnosed; soups with other ingredients are left out.
        data: fingerprint of the select rows.
    """
    found, notes = [], []
    for pointer in sorted((sweep / "soups").glob("*.json")):
        try:
            soup = _read(pointer)
        except (OSError, ValueError, KeyError, TypeError, PredictionsError) as error:
            notes.append(f"The {pointer.stem} soup is left out: {error}. Cook it again.")
            continue
        reason = _unusable(soup, runs, data)
        if reason:
            notes.append(f"The {pointer.stem} soup is left out: {reason}.")
        else:
            found.append(soup)
    return tuple(found), tuple(notes)


def _read(pointer: Path) -> CookedSoup:
    folder, predictions = soup_folder_of(pointer)
    record = read_soup(folder)
    # steps that were chosen on report are not looked at here
    steps = record.get("steps", []) if record.get("selected_on") == "select" else []
    return CookedSoup(
        pointer.stem,
        tuple(i["name"] for i in record["ingredients"] if i["coefficient"] != 0),
        Predictions.load(predictions / "select.safetensors"),
        tuple(_step(step) for step in steps),
    )


def _unusable(soup: CookedSoup, runs: Collection[str], data: str) -> str:
    strangers = [name for name in soup.members if name not in runs]
    if strangers:
        return f"{strangers[0]} is an ingredient of it, but no run that is diagnosed"
    return "it answered other select rows than those of this recipe" if not same_rows(soup.answers.data, data) else ""


def _step(told: Mapping[str, Any]) -> Step:
    """A step of soup.json, where NaN stands as null."""
    score, best = (math.nan if told[key] is None else float(told[key]) for key in ("score", "best_so_far"))
    removes = {"removes": True} if told.get("removes") else {}
    return Step(told["candidate"], score, best, bool(told["accepted"]), int(told["ingredients"]), **removes)
