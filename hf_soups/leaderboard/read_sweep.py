"""Reading contenders: every run and soup of a sweep with all that each answered, from files alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from hf_soups.errors import InputError, PredictionsError
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.leaderboard.rows import (
    UNUSABLE,
    Row,
    ScoredModel,
    ScoredModels,
    devices_of,
    rank_of,
    sum_of,
    with_cascades,
    with_ensembles,
)
from hf_soups.metrics import metric_for
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import SHIFT
from hf_soups.soups.soup_record import SoupRecord, read_soup
from hf_soups.sweep.folder import Run, SoupPointer, SweepFolder


def read_scored_models(folder: str | Path) -> ScoredModels:
    """Everything under a sweep's folder that answered, from its cached predictions; no model is loaded.

    Args:
        folder: a sweep's folder, or one that holds run folders.
    Raises:
        InputError: if there is no run in the folder.
    """
    at = Path(folder)
    sweep = SweepFolder(at)
    runs = sweep.runs()
    if not runs:
        raise InputError(f"{at}: no runs here. Give the folder of a sweep (it holds plan.json and run folders).")
    metric = metric_for(sweep.task(runs))
    reader = _Reader()
    answered = [c for run in runs if (c := reader.run(run)) is not None]
    answered.sort(key=lambda c: rank_of(metric, metric.compute(c.select)))
    members = {c.row.name: c.row for c in answered}
    soups = [c for pointer in sweep.soups() if answered and (c := reader.soup(pointer, members)) is not None]
    found = ScoredModels(metric, tuple(answered), tuple(soups), (), tuple(reader.unscored), tuple(reader.notes))
    return with_cascades(with_ensembles(found), at)


class _Reader:
    """Reads predictions, with the rows of each split in the order of the first that was read."""

    def __init__(self) -> None:
        self.unscored: list[Row] = []
        self.notes: list[str] = []
        self._first: dict[str, Predictions] = {}

    def run(self, run: Run) -> ScoredModel | None:
        """The run with its answers; without usable ones it joins the unscored."""
        row = _run_row(run)
        if not run.finished:
            self.unscored.append(row)
            return None
        try:
            return ScoredModel(row, self._answers(run.folder / PREDICTIONS, row.name), trained=(row.name,))
        except PredictionsError as error:
            self.unscored.append(replace(row, status=UNUSABLE[0], reason=str(error)))
            return None

    def soup(self, pointer: SoupPointer, members: Mapping[str, Row]) -> ScoredModel | None:
        """A soup cooked from these runs; if it cannot be read any more it joins the unscored."""
        row = Row("soup", f"{pointer.method} soup", "finished")
        try:
            folder = pointer.folder()
            record = read_soup(folder)
            answers = self._answers(folder / PREDICTIONS, row.name)
            return ScoredModel(_soup_row(row, record, members), answers, trained=record.models)
        except (OSError, InputError) as error:
            self.unscored.append(replace(row, status=UNUSABLE[1], reason=f"{error}. Cook it again."))
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
        path = folder / f"{role}.safetensors"
        found = Predictions.load(path)
        try:
            return found.aligned_to(self._first[role]) if role in self._first else found
        except PredictionsError as error:
            raise PredictionsError(f"{path}: {error}") from error


def _run_row(run: Run) -> Row:
    if run.record is None:
        return Row("run", run.name, run.status, run.reason)
    about = {key: getattr(run.record, key) for key in ("parameters", "macs", "train_seconds", "device")}
    return Row("run", run.name, run.status, run.reason, **about)


def _soup_row(row: Row, record: SoupRecord, runs: Mapping[str, Row]) -> Row:
    members = [runs[name] for name in record.models if name in runs]
    return replace(
        row,
        status="optimistic" if record.optimistic else "finished",
        reason="chosen on the report rows, so its report score is too good" if record.optimistic else "",
        ingredients=len(record.models),
        pool=len(record.pool) or None,
        parameters=members[0].parameters if members else None,
        macs=members[0].macs if members else None,
        train_seconds=sum_of([m.train_seconds for m in members]) if len(members) == len(record.models) else None,
        device=devices_of(members),
    )
