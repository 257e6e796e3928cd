"""What each run and soup of a sweep answers on the rows of the diagnosis: from its folder, else asked once and kept."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from hf_soups.checkpoint import Checkpoint
from hf_soups.data.split import stratified_rows
from hf_soups.errors import PredictionsError
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.models.inference import NonFiniteLogits
from hf_soups.predictions import Predictions, same_rows
from hf_soups.soups.journal import digest, identity
from hf_soups.soups.soup import Soup, Step
from hf_soups.soups.soup_record import StepRecord, read_soup
from hf_soups.sweep.folder import SoupPointer, SweepFolder

if TYPE_CHECKING:
    from hf_soups.models.family import Augment, Batch, Encoded
    from hf_soups.soups.scoring import SoupScorer


STREAM = 7  # of the seed: other rows than those that other subsets of the same seed take


@dataclass(frozen=True, eq=False)
class SomeRows:
    """Some of the rows of an encoded split, in the order of `at`."""

    whole: Encoded
    at: Int64[np.ndarray, " rows"]

    @property
    def row_ids(self) -> np.ndarray:
        """Of the rows that are left."""
        return np.asarray(self.whole.row_ids[self.at])

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row; 1 for images."""
        return np.asarray(self.whole.lengths[self.at])

    def __len__(self) -> int:
        return len(self.at)

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """The rows at `indices` among those that are left."""
        return self.whole.batch(self.at[np.asarray(indices)], augment=augment)


def with_fewer_rows(scorer: SoupScorer, rows: int, seed: int) -> SoupScorer:
    """The same scorer on a seeded subset of select in which every class keeps its share."""
    select = scorer.split
    if rows >= len(select):
        return scorer
    at = stratified_rows(select.labels, rows, seed, stream=STREAM)
    fewer = select.take(at)
    cached = {c: taken(p, fewer.row_ids, fewer.fingerprint) for c, p in scorer.cached.items()}
    return replace(scorer, split=fewer, encoded=SomeRows(scorer.encoded, at), cached=cached)


def taken(p: Predictions, row_ids: np.ndarray, data: str) -> Predictions:
    """The predictions of these rows alone."""
    return replace(p.take(np.isin(p.row_ids, row_ids)), data=data)


def answers_of(checkpoint: Checkpoint, scorer: SoupScorer, folder: Path) -> Predictions | None:
    """What a run answers on the rows; None if it answers NaN. A forward pass only if nobody asked before.

    Args:
        checkpoint: the run.
        scorer: of the rows.
        folder: where answers that no run's folder keeps are kept.
    """
    if checkpoint in scorer.cached:
        return scorer.cached[checkpoint]
    split = scorer.split
    key = digest([identity(checkpoint), checkpoint.label_order, split.fingerprint])
    path = folder / f"{key[:16]}.safetensors"
    if path.is_file():
        try:
            return Predictions.load(path)
        except PredictionsError:
            pass  # corrupt: asked again
    try:
        answered = scorer.predictions(Soup((checkpoint,), (1.0,), method=checkpoint.name))
    except NonFiniteLogits:
        return None
    answered.save(path)
    return answered


def settings_of(recipe: Mapping[str, Any] | None, knobs: Sequence[str]) -> dict[str, float]:
    """The values of these settings in a run's recorded recipe, where it has them."""
    train = (recipe or {}).get("train") or {}
    return {knob: float(train[knob]) for knob in knobs if isinstance(train.get(knob), int | float)}


@dataclass(frozen=True, slots=True)
class CookedSoup:
    """A soup found in a sweep, with what it answers on select."""

    method: str
    members: tuple[str, ...]  # ingredients with a share in it
    answers: Predictions
    steps: tuple[Step, ...]


def cooked_soups(
    sweep: SweepFolder, runs: Collection[str], data: str
) -> tuple[tuple[CookedSoup, ...], tuple[str, ...]]:
    """The soups that a sweep's pointers lead to, and a note for each that cannot be used.

    Args:
        sweep: the sweep's folder.
        runs: names of the runs that are diagnosed; soups with other ingredients are left out.
        data: fingerprint of the select rows.
    """
    found, notes = [], []
    for pointer in sweep.soups():
        try:
            soup = _read(pointer)
        except (OSError, ValueError, KeyError, TypeError, PredictionsError) as error:
            notes.append(f"The {pointer.method} soup is left out: {error}. Cook it again.")
            continue
        reason = _unusable(soup, runs, data)
        if reason:
            notes.append(f"The {pointer.method} soup is left out: {reason}.")
        else:
            found.append(soup)
    return tuple(found), tuple(notes)


def _read(pointer: SoupPointer) -> CookedSoup:
    folder = pointer.folder()
    record = read_soup(folder)
    # steps that were chosen on report are not looked at here
    steps = record.steps if record.selected_on == "select" else ()
    return CookedSoup(
        pointer.method,
        tuple(i.name for i in record.ingredients if i.coefficient != 0),
        Predictions.load(folder / PREDICTIONS / "select.safetensors"),
        tuple(_step(step) for step in steps),
    )


def _unusable(soup: CookedSoup, runs: Collection[str], data: str) -> str:
    strangers = [name for name in soup.members if name not in runs]
    if strangers:
        return f"{strangers[0]} is an ingredient of it, but no run that is diagnosed"
    return "it answered other select rows than those of this recipe" if not same_rows(soup.answers.data, data) else ""


def _step(kept: StepRecord) -> Step:
    """A step of soup.json, where NaN is null."""
    score, best = (math.nan if value is None else value for value in (kept.score, kept.best_so_far))
    return Step(kept.candidate, score, best, kept.accepted, kept.ingredients, kept.removes)
