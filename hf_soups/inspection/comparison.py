"""One checkpoint against the first as plain data; how far apart checkpoints lie, and their angles at the start."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import HfSoupsError
from hf_soups.files.dtypes import FLOATS
from hf_soups.files.label_names import order_of, same_labels
from hf_soups.soups.compatibility import CheckpointSummary
from hf_soups.soups.mixing import Geometry, measure, shared_names
from hf_soups.soups.mixing.spans import self_made
from hf_soups.soups.model_input import with_all_rows
from hf_soups.soups.preflight_findings import Finding
from hf_soups.soups.tensor_names import ties
from hf_soups.soups.whole_start import whole_start


@dataclass(frozen=True, slots=True)
class ComparedCheckpoint:
    """What of one checkpoint matches the first; of one that cannot be read or used only `reason` is known."""

    name: str
    source: str
    reason: str = ""  # why it cannot be used; "" for all others
    tensors: int = 0
    parameters: int = 0  # elements of all float tensors
    missing: tuple[str, ...] = ()  # tensors that the first has and it lacks
    extra: tuple[str, ...] = ()  # and the other way round; tied ones that are stored twice are none of them
    other_shapes: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()  # of its float tensors, that of most elements first
    other_dtypes: tuple[str, ...] = ()  # tensors that the first stores as another one
    ties: Mapping[str, str] = field(default_factory=dict)  # name -> the tensor it is tied to
    tied: Literal["none", "same", "stored twice", "not recorded", "other"] = "none"
    label_names: tuple[str, ...] | None = None
    labels: Literal["same", "not named", "other order", "other"] = "same"
    label_order: tuple[int, ...] = ()  # its own index of each class of the first, where the order is another
    processor: Literal["same", "none", "slightly other", "other"] = "same"
    head: Literal["same", "not recorded", "other"] = "same"  # the start of the head, by fingerprint
    finite: bool = True  # neither NaN nor infinity in its weights
    one_class: bool | None = None  # gives one answer to all its cached select rows; None: none are cached
    from_start: float | None = None  # Euclidean distance of all learned weights
    angle: float | None = None  # at the start, to the first; degrees

    @property
    def usable(self) -> bool:
        """Whether it could be read at all."""
        return not self.reason


def row_of(
    first: CheckpointSummary,
    other: CheckpointSummary,
    as_mixed: tuple[Checkpoint, Checkpoint],
    name: str,
    findings: Collection[tuple[bool, Finding]],
) -> ComparedCheckpoint:
    """Compare one checkpoint with the first.

    Args:
        first: of pre-flight.
        other: may be the first itself.
        as_mixed: both as pre-flight gives them, with one name for each tensor.
        name: in the table.
        findings: pre-flight's of `other`, each with whether it is an error.
    """
    a, b = as_mixed[0].tensors, as_mixed[1].tensors
    common = set(a) & set(b)
    theirs, own = ties(as_mixed[0], common), ties(as_mixed[1], common)
    topics = {finding.topic: error for error, finding in sorted(findings, key=lambda f: f[0])}  # errors overwrite
    labels, order = _labels(first, other)
    return ComparedCheckpoint(
        name,
        str(other),
        tensors=len(other.checkpoint.tensors),
        parameters=other.checkpoint.parameters,
        missing=tuple(n for n in a if n not in {*common, *theirs} and not self_made(as_mixed[0], n)),
        extra=tuple(n for n in b if n not in {*common, *own} and not self_made(as_mixed[1], n)),
        other_shapes=tuple(n for n in b if n in common and b[n].shape != a[n].shape),
        dtypes=_dtypes(other.checkpoint),
        other_dtypes=tuple(n for n in b if n in common and b[n].dtype != a[n].dtype),
        ties=own,
        tied=_tied(theirs, own, as_mixed[1], topics),
        label_names=other.label_names,
        labels=labels,
        label_order=order,
        processor=_processor(other, topics),
        head=_head(first.head, other.head),
        finite="values" not in topics,
        one_class=other.one_class,
    )


def _dtypes(checkpoint: Checkpoint) -> tuple[str, ...]:
    counted: Counter[str] = Counter()
    for info in checkpoint.tensors.values():
        if info.dtype in FLOATS:
            counted[info.dtype] += info.elements
    return tuple(dtype for dtype, _ in counted.most_common())


def _tied(
    theirs: Mapping[str, str], own: Mapping[str, str], other: Checkpoint, topics: Mapping[str, bool]
) -> Literal["none", "same", "stored twice", "not recorded", "other"]:
    if topics.get("tied weights"):
        return "other"
    if any(name in other.tensors for name in own):
        return "stored twice"
    if set(map(frozenset, own.items())) == set(map(frozenset, theirs.items())):
        return "same" if own else "none"
    return "not recorded"


def _labels(
    first: CheckpointSummary, other: CheckpointSummary
) -> tuple[Literal["same", "not named", "other order", "other"], tuple[int, ...]]:
    a, b = first.label_names, other.label_names
    if a is None or b is None:
        return "not named", ()
    if same_labels(a, b):
        return "same", ()
    order = order_of(b, a)
    return ("other", ()) if order is None else ("other order", order)


def _head(a: str | None, b: str | None) -> Literal["same", "not recorded", "other"]:
    if a is None or b is None:
        return "not recorded"
    return "same" if a == b else "other"


def _processor(
    other: CheckpointSummary, topics: Mapping[str, bool]
) -> Literal["same", "none", "slightly other", "other"]:
    if "processor" in topics:
        return "other" if topics["processor"] else "slightly other"
    return "same" if other.checkpoint.processor_files() else "none"


@dataclass(frozen=True, slots=True)
class Pair:
    """Two checkpoints: how far apart their weights lie."""

    a: str
    b: str
    distance: float  # Euclidean, of all learned weights
    angle: float | None  # at the start, degrees; None without a start, or where one of them lies at it


@dataclass(frozen=True, eq=False)
class Distances:
    """What could be measured; checkpoints are known by their text (`str(checkpoint)`)."""

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
            longest = with_all_rows(start, checkpoints[:1])
            whole = whole_start(longest, checkpoints, threads=threads)
            geometry = measure(checkpoints, _as_first(whole, checkpoints[0]), threads=threads)
            notes = (
                () if whole is longest else (f"The start {start} lacks the heads: their mean is taken for its own.",)
            )
            return replace(found, geometry=geometry, start=str(start), notes=notes)
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
    return start.with_labels(a) if a and b and order_of(b, a) is not None else start
