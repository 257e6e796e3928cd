"""A cascade of two members that need numpy alone, and rows that are numbers: for tests of what happens around them."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hf_soups.batch_predict.outputs import AnswerFiles
from hf_soups.batch_predict.parts import Halfway, PartsJob, Route, one_stage
from hf_soups.errors import HfSoupsError
from hf_soups.files.problem_types import CLASSIFICATION, ProblemType
from hf_soups.models.answers import Answers
from hf_soups.pool.rows import Unreadable

CLASSES = 4


@dataclass(frozen=True)
class FakeRows:
    """Row i is the number i; every hundredth cannot be read."""

    count: int
    kind: str = "text"
    columns: tuple[str, ...] = ("text",)

    def __len__(self) -> int:
        return self.count

    def fingerprint(self, start: int, stop: int) -> str:
        return hashlib.sha256(f"{start} {stop}".encode()).hexdigest()

    def stamp(self, start: int, stop: int) -> str:
        return ""

    def ids(self, start: int, stop: int) -> list[Any]:
        return [f"row {i}" for i in range(start, stop)]

    def values(self, start: int, stop: int) -> list[Any]:
        return [Unreadable("it is empty") if i % 100 == 7 else i for i in range(start, stop)]


@dataclass(frozen=True)
class FakeMember:
    """Answers a row by its number; notes in a log which process answered how many rows, when."""

    name: str
    seconds: float  # of a row
    log: Path
    fails_at: int | None = None
    deferral: float = 0.3
    kind: str = "text"
    unit: str = "macs"
    label_names: tuple[str, ...] = tuple("abcd")
    problem_type: ProblemType = CLASSIFICATION
    abstains: bool = False

    def answer(self, values: Sequence[Any]) -> Answers:
        numbers = np.asarray(values, dtype=np.int64)
        if self.fails_at is not None and (numbers >= self.fails_at).all():
            raise HfSoupsError(f"{self.name}: its weights are not a number. Train it again.")
        time.sleep(self.seconds * len(numbers))
        line = f"{self.name} {os.getpid()} {len(numbers)} {time.time():.3f}\n"
        with self.log.open("a", encoding="utf-8") as file:
            file.write(line)
        logits = np.sin(np.outer(numbers + 1.0, np.arange(1, CLASSES + 1)) * (1 + len(self.name))) / 2
        sure = numbers % 20 >= 20 * self.deferral
        logits[np.flatnonzero(sure), numbers[sure] % CLASSES] += 6.0
        own = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        return Answers(own.astype(np.float32), np.zeros(len(numbers), dtype=np.int64), None)


def fake_member(device: str, **how: Any) -> FakeMember:
    return FakeMember(**how)


def fake_job(
    out: Path,
    log: Path,
    rows: int = 2000,
    *,
    seconds: float = 0.0,
    fails_at: int | None = None,
    size: int = 100,
    deferral: float = 0.3,
) -> PartsJob:
    return PartsJob(
        Route(("small", "large"), (0.55,), costs=(1.0, 11.0)),
        partial(FakeRows, rows),
        (
            partial(fake_member, name="small", seconds=seconds, log=log, deferral=deferral),
            partial(fake_member, name="large", seconds=3 * seconds, log=log, fails_at=fails_at),
        ),
        AnswerFiles(out, rows, size),
        "weights", 2, 16,
    )  # fmt: skip


def answer_serially(job: PartsJob, numbers: Sequence[int] | None = None) -> None:
    """Every part, one after another, in this process."""
    job.files.folder.mkdir(parents=True, exist_ok=True)
    rows, members = job.open_rows(), [open_member("cpu") for open_member in job.open_members]
    for number in job.files.missing() if numbers is None else numbers:
        known, needing, stage = Halfway(), 1, 0
        while needing:
            known, needing = one_stage(job, rows, members[stage], number, known)
            stage += 1


class SerialParts:
    """An executor that answers member by member, in this process."""

    def answer(self, job: PartsJob, tick: Any) -> int:
        missing = job.files.missing()
        answer_serially(job)
        return sum(stop - start for start, stop in map(job.files.span, missing))
