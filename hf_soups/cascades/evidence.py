"""What a cascade's folder keeps of the pool and the search that it came from (evidence.json), for its card."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.cascades.drift import AnswersSeen
from hf_soups.files.reading import is_there, read_record
from hf_soups.recipe import recipe_from

EVIDENCE_FILE = "evidence.json"
FORMAT = "hf_soups.evidence.v1"
AGAIN = "Build the cascade again."
PICTURES = ("score_vs_cost.png", "exits.png")


@dataclass(frozen=True, slots=True, kw_only=True)
class EvidenceRows:
    """The rows of one role, and the split that they were taken from."""

    path: str  # an id of the Hub, or ./NAME
    config: str | None = None
    revision: str | None = None
    split: str
    rows: int
    columns: tuple[str, ...] = ()
    fingerprint: str = ""  # of the whole split, also where a share of it is meant


@dataclass(frozen=True, slots=True)
class EvidenceScore:
    """What one plan scored and cost on report rows."""

    name: str  # "best single", "best ensemble" or "chosen"
    members: tuple[str, ...]
    score: float
    average_cost: float
    low: float | None = None  # ends of the 95% interval
    high: float | None = None
    p_value: float | None = None  # against the best single model


@dataclass(frozen=True, slots=True)
class EvidenceMember:
    """One member; what was not counted or measured is None."""

    source: str = ""
    revision: str = ""  # of a source on the Hub
    sha256: str = ""
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    seconds: float | None = None  # per example at the best batch size
    seconds_batch_1: float | None = None
    best_batch: int | None = None
    hardware: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Evidence:
    """Parts of evidence.json; all empty where a cascade was built without a pool."""

    data: Mapping[str, EvidenceRows] = field(default_factory=dict)  # by role: select and perhaps report
    report_share: str = ""  # of the select split's rows that became report rows; "": other rows
    recipe: Mapping[str, Any] = field(default_factory=dict)  # task and data of the pool, where it was a recipe's
    search: Mapping[str, int] = field(default_factory=dict)
    plan: Mapping[str, Any] = field(default_factory=dict)  # that the report scores are of; empty: by 0.1.0
    members: Mapping[str, EvidenceMember] = field(default_factory=dict)
    report: tuple[EvidenceScore, ...] = ()
    answers: AnswersSeen | None = None  # to the select rows; None: by an earlier version
    versions: Mapping[str, str] = field(default_factory=dict)  # of what it was built with

    def reported(self, name: str) -> EvidenceScore | None:
        """What "chosen", "best single" or "best ensemble" scored on report rows."""
        return next((score for score in self.report if score.name == name), None)


def read_evidence(folder: Path) -> Evidence:
    """The evidence that a cascade's folder keeps; empty where there is none.

    Raises:
        InputError: if it cannot be read.
    """
    path = folder / EVIDENCE_FILE
    if not is_there(path):
        return Evidence()
    evidence = read_record(path, Evidence, what="the evidence of a cascade", format=FORMAT, again=AGAIN)
    if evidence.recipe:
        recipe_from({"model": "any", **evidence.recipe}, where=str(path))
    return evidence
