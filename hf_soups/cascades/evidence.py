"""What a cascade's folder keeps of the pool and the search that it came from (evidence.json), for its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.files.reading import as_record, is_there, read_json
from hf_soups.recipe import recipe_from

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


@dataclass(frozen=True, slots=True)
class _Rows:
    path: str
    split: str
    rows: int
    config: str | None = None
    revision: str | None = None
    columns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Reported:
    name: str
    members: tuple[str, ...] = ()
    score: float | None = None
    low: float | None = None
    high: float | None = None
    average_cost: float | None = None
    exit_shares: tuple[float, ...] = ()
    p_value: float | None = None


@dataclass(frozen=True, slots=True)
class _Member:
    source: str = ""
    sha256: str = ""
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None


@dataclass(frozen=True, slots=True)
class _EvidenceTypes:
    """The types of the values inside that a card shows."""

    data: Mapping[str, _Rows] = field(default_factory=dict)
    members: Mapping[str, _Member] = field(default_factory=dict)
    report: tuple[_Reported, ...] = ()


def read_evidence(folder: Path) -> Evidence:
    """The evidence that a cascade's folder keeps; empty where there is none.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / EVIDENCE_FILE
    if not is_there(path):
        return Evidence()
    what = "the evidence of a cascade"
    told = read_json(path, what=what, format=FORMAT, again=AGAIN)
    as_record(told, _EvidenceTypes, path, what=what, again=AGAIN)
    found = as_record(told, Evidence, path, what=what, again=AGAIN)
    if found.recipe:
        recipe_from({"model": "any", **found.recipe}, where=str(path))
    return found
