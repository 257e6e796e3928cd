"""Distances: how far apart checkpoints lie, how far from their start, and the angles between them there."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.mixing import Geometry, measure, shared_names


@dataclass(frozen=True, slots=True)
class Pair:
    """Two checkpoints: how far apart their weights lie."""

    a: str
    b: str
    distance: float  # Euclidean, of all learned weights
    angle: float | None  # at the start, degrees; None without a start, or where one of them lies at it


@dataclass(frozen=True, eq=False)
class Distances:
    """What could be measured; checkpoints are told by their text (`str(checkpoint)`)."""

    measured: tuple[str, ...] = ()
    geometry: Geometry | None = None
    start: str | None = None  # None: distances between checkpoints alone
    notes: tuple[str, ...] = ()

    def from_start(self, one: str) -> float | None:
        """Distance of one checkpoint from the start."""
        if self.geometry is None or self.start is None or one not in self.measured:
            return None
        return float(self.geometry.from_origin[self.measured.index(one)])

    def angle(self, one: str, two: str) -> float | None:
        """Angle at the start between two checkpoints, degrees."""
        if self.geometry is None or self.start is None or not {one, two} <= set(self.measured):
            return None
        degrees = float(self.geometry.angles[self.measured.index(one), self.measured.index(two)])
        return None if math.isnan(degrees) else degrees

    def pairs(self, names: Sequence[str]) -> tuple[Pair, ...]:
        """Every two of them; `names` are those to show, one for each that was measured."""
        if self.geometry is None:
            return ()
        apart, angles = self.geometry.apart, self.geometry.angles
        known = self.start is not None
        return tuple(
            Pair(
                names[i], names[j], float(apart[i, j]),
                float(angles[i, j]) if known and not math.isnan(angles[i, j]) else None,
            )
            for i in range(len(names))
            for j in range(i + 1, len(names))
        )  # fmt: skip


def distances_of(checkpoints: Sequence[Checkpoint], start: Checkpoint | None, threads: int) -> Distances:
    """Measure all in one pass; what cannot be measured becomes a note."""
    if not checkpoints:
        return Distances()
    found = Distances(tuple(map(str, checkpoints)))
    if start is not None:
        try:
            geometry = measure(checkpoints, _as_first(start, checkpoints[0]), threads=threads)
            return replace(found, geometry=geometry, start=str(start))
        except HfSoupsError as error:
            found = replace(found, notes=(f"Distances and angles to the start {start} are left out: {error}",))
    try:
        # offsets from the first are shorter than from zero, and so are the rounding errors of what is subtracted
        return replace(found, geometry=measure(checkpoints, checkpoints[0], threads=threads))
    except HfSoupsError as error:
        return replace(found, notes=(*found.notes, f"Distances are left out: {error}"))


def _as_first(start: Checkpoint, first: Checkpoint) -> Checkpoint:
    """The start, its labels in the order of the first where it names the same."""
    shared_names([start, first])
    a, b = first.label_names, start.label_names
    return start.with_labels(a) if a and b and a != b and sorted(a) == sorted(b) else start
