"""What a cascade's folder keeps of its pool and search, as its card reads it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.files.reading import is_there, read_record

EVIDENCE_FILE = "evidence.json"
FORMAT = "hf_soups.evidence.v1"
AGAIN = "Build the cascade again."
PICTURES = ("score_vs_cost.png", "exits.png")


@dataclass(frozen=True, slots=True)
class Evidence:
    """Parts of evidence.json; all empty where a cascade was built without a pool."""

    data: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # by role: select and perhaps report
    report_share: str = ""  # of the select split's rows that became report rows; "": other rows
    recipe: Mapping[str, Any] = field(default_factory=dict)  # task and data of the pool, where it was a recipe's
    search: Mapping[str, int] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)  # that the report scores are of; empty: by 0.1.0
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
    if not is_there(path):
        return Evidence()
    return read_record(
        path, Evidence, what="the evidence of a cascade", format=FORMAT, again="Build the cascade again."
    )
