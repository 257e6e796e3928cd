"""Contenders: every run, soup and ensemble of a sweep with all that each answered, read from files alone."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_soups.cook.pool import Run, find_runs, task_of
from hf_soups.ensembles import geometric_mean
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import Metric, Score, metric_for
from hf_soups.predictions import Predictions
from hf_soups.run_folder import PREDICTIONS
from hf_soups.tasks import SHIFT

KINDS = ("best on select", "soup", "ensemble", "run")


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the leaderboard; scores as the metric gives them, not x 100."""

    kind: str  # one of KINDS
    name: str
    status: str  # "finished", or why there are no scores
    reason: str = ""
    ingredients: int | None = None
    pool: int | None = None  # how many there were to choose from
    select: float | None = None
    select_low: float | None = None  # 95% bootstrap interval by row
    select_high: float | None = None
    report: float | None = None
    report_low: float | None = None
    report_high: float | None = None
    report_gain: float | None = None  # over the best on select
    gain: str = ""  # the same in words
    report_nll: float | None = None
    report_ece: float | None = None
    parameters: int | None = None
    macs: int | None = None  # multiply-adds per example
    train_seconds: float | None = None  # of all ingredients together
    device: str = ""  # that the training seconds were measured on
    shifts: Mapping[str, Score] = field(default_factory=dict)  # by shift; those that were answered


@dataclass(frozen=True, eq=False)
class Contender:
    """Something that answered select and report, and the row that says what it is."""

    row: Row
    answers: Mapping[str, Predictions]  # select, report, shift-<name>

    @property
    def select(self) -> Predictions:
        """Its answers on the rows that soups are chosen on."""
        return self.answers["select"]

    @property
    def report(self) -> Predictions:
        """Its answers on the rows that are looked at once."""
        return self.answers["report"]


@dataclass(frozen=True, eq=False)
class Contenders:
    """All that can be compared, and what cannot be and why. All answers of one split have their rows in one order."""

    metric: Metric
    runs: tuple[Contender, ...]  # the best on select first
    soups: tuple[Contender, ...]
    ensembles: tuple[Contender, ...]
    unscored: tuple[Row, ...]
    notes: tuple[str, ...]  # answers on shifts that cannot be used

    @property
    def shifts(self) -> tuple[str, ...]:
        """Names of the shifts that anything answered, in alphabetical order."""
        everything = (*self.runs, *self.soups)
        return tuple(sorted({r.removeprefix(SHIFT) for c in everything for r in c.answers if r.startswith(SHIFT)}))


def read_contenders(folder: str | Path) -> Contenders:
    """Everything under a sweep's folder that answered, from its cached predictions; no model is loaded.

    Args:
        folder: a sweep's folder, or one that holds run folders.
    Raises:
        InputError: if there is no run in the folder.
    """
    at = Path(folder)
    runs = find_runs(at)
    if not runs:
        raise InputError(f"{at}: no runs here. Give the folder of a sweep (it holds plan.json and run folders).")
    metric = metric_for(task_of(at, runs))
    reader = _Reader()
    answered = [c for run in runs if (c := reader.run(run)) is not None]
    answered.sort(key=lambda c: rank_of(metric, metric.compute(c.select)))
    members = {c.row.name: c.row for c in answered}
    soups = [c for pointer in pointers(at) if answered and (c := reader.soup(pointer, members)) is not None]
    ensembles = [_mean_logits(answered)] if len(answered) > 1 else []
    return Contenders(
        metric, tuple(answered), tuple(soups), tuple(ensembles), tuple(reader.unscored), tuple(reader.notes)
    )


def pointers(sweep: Path) -> list[Path]:
    """The files by which a sweep knows where its soups lie."""
    return sorted((sweep / "soups").glob("*.json"))


def soup_folder_of(pointer: Path) -> tuple[Path, Path]:
    """A soup's folder and that of its predictions.

    Raises:
        OSError, ValueError, KeyError: if the pointer cannot be read.
    """
    told = json.loads(pointer.read_text(encoding="utf-8"))
    folder = (pointer.parent / told["path"]).resolve()
    return folder, folder / told.get("predictions", PREDICTIONS)


def rank_of(metric: Metric, value: float | None) -> float:
    """Smaller is better; NaN and None come last. Report scores are never ranked."""
    if value is None or math.isnan(value):
        return math.inf
    return -value if metric.greater_is_better else value


class _Reader:
    """Reads predictions, with the rows of each split in the order of the first that was read."""

    def __init__(self) -> None:
        self.unscored: list[Row] = []
        self.notes: list[str] = []
        self._first: dict[str, Predictions] = {}

    def run(self, run: Run) -> Contender | None:
        """The run with its answers; without usable ones it joins the unscored."""
        row = _run_row(run)
        if not run.finished:
            self.unscored.append(row)
            return None
        try:
            return Contender(row, self._answers(run.folder / PREDICTIONS, row.name))
        except PredictionsError as error:
            self.unscored.append(replace(row, status="unusable predictions", reason=str(error)))
            return None

    def soup(self, pointer: Path, members: Mapping[str, Row]) -> Contender | None:
        """A soup cooked from these runs; if it cannot be read any more it joins the unscored."""
        row = Row("soup", f"{pointer.stem} soup", "finished")
        try:
            folder, predictions = soup_folder_of(pointer)
            record = json.loads((folder / "soup.json").read_text(encoding="utf-8"))
            return Contender(_soup_row(row, record, members), self._answers(predictions, row.name))
        except (OSError, ValueError, KeyError, PredictionsError) as error:
            self.unscored.append(replace(row, status="gone", reason=f"{error}. Cook it again."))
            return None

    def _answers(self, folder: Path, name: str) -> dict[str, Predictions]:
        both = [self._aligned(role, folder) for role in ("select", "report")]
        found = dict(zip(("select", "report"), both, strict=True))
        for role, predictions in found.items():
            self._first.setdefault(role, predictions)
        return {**found, **dict(self._shifts(folder, name))}

    def _shifts(self, folder: Path, name: str) -> Iterator[tuple[str, Predictions]]:
        for path in sorted(folder.glob(f"{SHIFT}*.safetensors")):
            try:
                found = self._aligned(path.stem, folder)
            except PredictionsError as error:
                shift = path.stem.removeprefix(SHIFT)
                self.notes.append(f"{name} on {shift}: {error} `hf-soups answer` makes these answers again.")
                continue
            self._first.setdefault(path.stem, found)
            yield path.stem, found

    def _aligned(self, role: str, folder: Path) -> Predictions:
        found = Predictions.load(folder / f"{role}.safetensors")
        return found.aligned_to(self._first[role]) if role in self._first else found


def _run_row(run: Run) -> Row:
    if run.record is None:
        return Row("run", run.name, run.status, run.reason)
    about = {key: getattr(run.record, key) for key in ("parameters", "macs", "train_seconds", "device")}
    return Row("run", run.name, run.status, run.reason, **about)


def _soup_row(row: Row, record: Mapping[str, Any], runs: Mapping[str, Row]) -> Row:
    pool = record.get("pool") or []
    # without the start, which Model Stock and its like mix in: it was not trained here, and is not one of the pool
    names = [i["name"] for i in record["ingredients"] if not pool or i["name"] in pool]
    members = [runs[name] for name in names if name in runs]
    optimistic = bool(record.get("optimistic"))
    return replace(
        row,
        status="optimistic" if optimistic else "finished",
        reason="chosen on the report rows, so its report score is too good" if optimistic else "",
        ingredients=len(names),
        pool=len(pool) or None,
        parameters=members[0].parameters if members else None,
        macs=members[0].macs if members else None,
        train_seconds=_sum([m.train_seconds for m in members]) if len(members) == len(names) else None,
        device=_devices(members),
    )


def _mean_logits(answered: Sequence[Contender]) -> Contender:
    members = [a.row for a in answered]
    row = Row(
        "ensemble",
        "mean-logit ensemble",
        "finished",
        ingredients=len(members),
        pool=len(members),
        parameters=_sum([m.parameters for m in members]),
        macs=_sum([m.macs for m in members]),
        train_seconds=_sum([m.train_seconds for m in members]),
        device=_devices(members),
    )
    shared = [role for role in answered[0].answers if all(role in a.answers for a in answered)]
    return Contender(row, {role: geometric_mean([a.answers[role] for a in answered]) for role in shared})


def _sum(values: Sequence[Any]) -> Any:
    """The sum, or None when a part of it is not known."""
    return None if any(v is None for v in values) else sum(values)


def _devices(rows: Sequence[Row]) -> str:
    return " + ".join(sorted({row.device for row in rows if row.device}))
