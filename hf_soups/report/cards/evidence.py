"""What a cascade's folder keeps of its pool and search, as its card reads it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.errors import InputError

EVIDENCE_FILE = "evidence.json"
FORMAT = "hf_soups.evidence.v1"
PICTURES = ("score_vs_cost.png", "exits.png")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Parts of evidence.json; all empty where a cascade was built without a pool."""

    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by role: select and perhaps report
    share: str = ""  # of the select split's rows that became report rows; "": other rows
    recipe: Mapping[str, Any] = field(default_factory=dict)  # task and data of the pool, where it was a recipe's
    search: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    report: tuple[Mapping[str, Any], ...] = ()  # best single, perhaps best ensemble, chosen

    def reported(self, name: str) -> Mapping[str, Any] | None:
        """What "chosen", "best single" or "best ensemble" scored on report rows."""
        return next((told for told in self.report if told["name"] == name), None)


def read_evidence(folder: Path) -> Evidence:
    """The evidence that a cascade's folder keeps; empty where there is none.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / EVIDENCE_FILE
    if not path.is_file():
        return Evidence()
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"format {told['format']!r}; expected {FORMAT!r}")
        recipe, share = told.get("recipe", {}), str(told["report_share"])
        return Evidence(told["data"], share, recipe, told["search"], told["members"], tuple(told["report"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(
            f"{path} is no evidence of a cascade ({type(error).__name__}: {error}). Build the cascade again."
        ) from error
