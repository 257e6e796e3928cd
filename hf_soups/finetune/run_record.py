"""A run's folder: an ordinary checkpoint, run.json and cached predictions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from hf_soups.errors import RUN_FAILURES, CheckpointError
from hf_soups.files.reading import read_record
from hf_soups.files.writing import json_text, write_text

RUN_FILE = "run.json"
FORMAT = "hf_soups.run.v1"
AGAIN = "Repeat the run."
PREDICTIONS = "predictions"  # folder of select.safetensors, report.safetensors, shift-<name>.safetensors
STATUSES = ("finished", *RUN_FAILURES)


@dataclass(frozen=True, slots=True)
class RunRecord:
    """What run.json says about one fine-tune."""

    status: str  # one of STATUSES
    reason: str = ""  # why it failed, and what to do
    recipe: Mapping[str, Any] = field(default_factory=dict)  # resolved: every value that was used
    seed: int = 0
    versions: Mapping[str, str] = field(default_factory=dict)
    head_fingerprint: str | None = None  # of the head's start
    start: str = ""
    weights: str = ""  # digest or SHA-256 of the weight files, which the cached predictions are of; empty: by 0.1.0
    label_names: tuple[str, ...] = ()
    family: str = ""
    metric: str = ""
    scores: Mapping[str, Mapping[str, float | None]] = field(
        default_factory=dict
    )  # by predictions file -> metric, and beside it nll and ece, or of a regression rmse
    parameters: int | None = None
    macs: int | None = None  # multiply-adds per example
    device: str = ""
    processes: int = 1
    train_seconds: float | None = None
    steps: int = 0  # done
    train_rows: int = 0
    history: tuple[Mapping[str, Any], ...] = ()  # step, epoch, loss, learning_rate and, once an epoch, select
    started: str = ""  # UTC, ISO 8601
    finished: str = ""

    def __post_init__(self) -> None:
        if self.status not in STATUSES:
            raise ValueError(f"status {self.status!r} is none of {', '.join(STATUSES)}")

    def to_json(self) -> str:
        """The text of run.json."""
        return json_text({"format": FORMAT, **{f.name: getattr(self, f.name) for f in fields(self)}})


def read_run(folder: str | Path) -> RunRecord:
    """What a run's folder says about itself.

    Raises:
        CheckpointError: if there is no run.json, or one that cannot be read.
    """
    path = Path(folder) / RUN_FILE
    try:
        return read_record(
            path, RunRecord, what="the record of a run", format=FORMAT, again=AGAIN, error=CheckpointError
        )
    except FileNotFoundError:
        raise CheckpointError(f"{folder}: no {RUN_FILE} here, so this is no run's folder.") from None


def write_run(folder: Path, record: RunRecord) -> None:
    """Write run.json through a temporary file and a rename."""
    write_text(folder / RUN_FILE, record.to_json())
