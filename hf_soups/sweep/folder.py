"""Shifts that a sweep learned of after its runs were planned: shifts.json beside the recipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.files.reading import is_there, read_record
from hf_soups.files.writing import write_json
from hf_soups.recipe.task import Shift

SHIFTS_FILE = "shifts.json"
FORMAT = "hf_soups.shifts.v1"
AGAIN = "Remove it and answer the shifts again."


@dataclass(frozen=True, slots=True)
class _KeptShifts:
    shifts: dict[str, dict[str, Any]]


def remember_shifts(sweep: Path, shifts: Mapping[str, Shift]) -> None:
    """Write the shifts down, in the place of those that were there."""
    told = {name: shift.model_dump(mode="json", exclude_defaults=True) for name, shift in shifts.items()}
    write_json(sweep / SHIFTS_FILE, {"format": FORMAT, "shifts": told})


def remembered_shifts(sweep: Path) -> dict[str, Any]:
    """The remembered shifts as changes of the sweep's recipe: "task.shifts.<name>" -> values.

    Raises:
        InputError: if there is a file that cannot be read.
    """
    path = sweep / SHIFTS_FILE
    if not is_there(path):
        return {}
    kept = read_record(path, _KeptShifts, what="a sweep's shifts", format=FORMAT, again=AGAIN)
    return {f"task.shifts.{name}": values for name, values in kept.shifts.items()}
