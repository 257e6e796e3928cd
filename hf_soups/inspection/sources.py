"""Sources: the checkpoints that are named, those that cannot be used with their reason, and what all started from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hf_soups.checkpoint import Checkpoint
from hf_soups.cook.pool import find_runs, gather, is_sweep
from hf_soups.errors import CheckpointError, InputError

START_FILE = "start.json"


@dataclass(frozen=True, slots=True)
class Candidate:
    """One checkpoint to look at, or why there is none."""

    name: str
    checkpoint: Checkpoint | None
    reason: str = ""
    refused: bool = False  # cook would stop here, not go on without it


def candidates(sources: Sequence[str | Path | Checkpoint]) -> tuple[Candidate, ...]:
    """All that the sources name, in their order; sweeps give every planned run.

    Raises:
        InputError: if no source is given.
    """
    if not sources:
        raise InputError("nothing to inspect: name checkpoints, run folders or a sweep's folder.")
    return tuple(candidate for source in sources for candidate in _found(source))


def _found(source: str | Path | Checkpoint) -> Iterator[Candidate]:
    if isinstance(source, Checkpoint):
        yield Candidate(source.name, source)
        return
    try:
        if is_sweep(Path(source)):
            yield from _of_sweep(Path(source))
            return
        pool = gather([source], least=0)
    except InputError as error:
        yield Candidate(str(source), None, str(error), refused=True)
        return
    for checkpoint in pool.checkpoints:
        yield Candidate(checkpoint.name, checkpoint)
    for left in pool.left_out:
        yield Candidate(left.name, None, left.reason)


def _of_sweep(sweep: Path) -> Iterator[Candidate]:
    for run in find_runs(sweep):
        reason = " ".join(filter(None, (run.status, f"({run.reason})" if run.reason else "")))
        yield Candidate(run.name, Checkpoint(run.folder)) if run.finished else Candidate(run.name, None, reason)


def find_start(checkpoints: Sequence[Checkpoint], named: str | Path | None) -> tuple[Checkpoint | None, str]:
    """What the checkpoints were fine-tuned from, and a note where that is not known.

    Args:
        checkpoints: run folders record it, or lie beside start/ in their sweep.
        named: by the user; goes first.
    Raises:
        CheckpointError: if the one that the user named cannot be read.
    """
    if named is not None:
        start = Checkpoint(named)
        _ = start.tensors
        return start, ""
    found = {place for place in map(_recorded_start, checkpoints) if place is not None}
    if len(found) == 1:
        return Checkpoint(found.pop()), ""
    if not checkpoints:
        return None, ""
    if found:
        return None, f"They come from {len(found)} starts, so there are no distances to one (--start names one)."
    return None, "No start is known (--start names it), so there are no distances to it and no angles at it."


def _recorded_start(checkpoint: Checkpoint) -> Path | None:
    """The folder that a run names as its start, or the start of the sweep that it lies in."""
    try:
        recorded = (checkpoint.run or {}).get("start")
        beside = checkpoint.folder.parent / "start"
    except CheckpointError:
        return None
    places = [Path(str(recorded))] if recorded else []
    if (beside / START_FILE).is_file() or is_sweep(beside.parent):
        places.append(beside)  # the recorded path may be that of another machine, or relative to another folder
    return next((place.resolve() for place in places if (place / "config.json").is_file()), None)
