"""Shifts that a sweep learned of after its runs were planned: shifts.json beside the recipe."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hf_soups.errors import InputError
from hf_soups.soups.folder import write_file
from hf_soups.tasks import Shift

SHIFTS_FILE = "shifts.json"
FORMAT = "hf_soups.shifts.v1"


def remember_shifts(sweep: Path, shifts: Mapping[str, Shift]) -> None:
    """Write the shifts down, in the place of those that were there."""
    told = {name: shift.model_dump(mode="json", exclude_defaults=True) for name, shift in shifts.items()}
    text = json.dumps({"format": FORMAT, "shifts": told}, indent=1, ensure_ascii=False) + "\n"
    write_file(sweep / SHIFTS_FILE, lambda partial: partial.write_text(text, encoding="utf-8"))


def remembered_shifts(sweep: Path) -> dict[str, Any]:
    """The remembered shifts as changes of the sweep's recipe: "task.shifts.<name>" -> values.

    Raises:
        InputError: if there is a file that cannot be read.
    """
    path = sweep / SHIFTS_FILE
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}")
        return {f"task.shifts.{name}": values for name, values in told["shifts"].items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: cannot be read ({error!r}). Remove it and answer the shifts again.") from error
