"""Look: pre-flight, names, ties, distances and angles of some checkpoints in one table, without torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.compatibility import Finding, PreflightReport, preflight
from hf_soups.files.writing import finite, write_text
from hf_soups.inspection.distances import Distances, Pair, distances_of
from hf_soups.inspection.rows import Row, row_of
from hf_soups.inspection.sources import Candidate, candidates, find_start
from hf_soups.soups.soup import display_names

if TYPE_CHECKING:
    from rich.console import RenderableType

UNMEASURABLE = frozenset({"files", "architecture", "tensors", "tied weights", "values"})  # topics of errors


@dataclass(frozen=True)
class Inspection:
    """What was found of some checkpoints; each is compared with the first that can be read."""

    rows: tuple[Row, ...]  # one for everything that was named
    pairs: tuple[Pair, ...]  # of those that can be compared
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    checkpoints: tuple[Checkpoint, ...]  # that were read, their labels aligned where that was asked for
    start: str | None = None
    notes: tuple[str, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """All of them, errors first."""
        return (*self.errors, *self.warnings)

    @property
    def mixable(self) -> bool:
        """Whether `hf-soups cook` would take them."""
        return not self.errors and len(self.checkpoints) > 1

    @property
    def permutations(self) -> Mapping[str, tuple[int, ...]]:
        """For each checkpoint whose labels stand in another order: its own index of each class of the first."""
        return {row.source: row.label_order for row in self.rows if row.label_order}

    @property
    def verdict(self) -> str:
        """One line."""
        left_out = sum(not row.usable for row in self.rows)
        if self.mixable:
            return f"can be mixed: {len(self.checkpoints)} checkpoints" + (f", {left_out} left out" * bool(left_out))
        if not self.errors:
            return f"cannot: a soup needs at least two checkpoints, got {len(self.checkpoints)}"
        topics: dict[str, list[str]] = {row.name: [] for row in self.rows}
        names = {row.source: row.name for row in self.rows}
        for finding in self.errors:
            mine = topics.setdefault(names.get(finding.checkpoint, finding.checkpoint), [])
            mine += [finding.topic] * (finding.topic not in mine)
        return "cannot: " + "; ".join(f"{name} ({', '.join(mine)})" for name, mine in topics.items() if mine)

    def record(self) -> dict[str, Any]:
        """Everything as plain data, as the command's --json writes it."""
        return {
            "mixable": self.mixable,
            "verdict": self.verdict,
            "start": self.start,
            "rows": [asdict(row) for row in self.rows],
            "pairs": [asdict(pair) for pair in self.pairs],
            "errors": [asdict(finding) for finding in self.errors],
            "warnings": [asdict(finding) for finding in self.warnings],
            "notes": list(self.notes),
        }

    def to_rich(self) -> RenderableType:
        """The tables and findings for a terminal."""
        from hf_soups.report.inspection import InspectionTable

        return InspectionTable(self)


def inspect_checkpoints(
    sources: Sequence[str | Path | Checkpoint],
    *,
    start: str | Path | None = None,
    align_labels: bool = False,
    threads: int = 2,
) -> Inspection:
    """Compare checkpoints with the first: names, shapes, dtypes, ties, labels, processor, head, values, distances.

    Weights are streamed by NumPy; a checkpoint that cannot be read is a row with the reason.

    Args:
        sources: folders, run folders, Hub repos, a sweep's folder, or checkpoints.
        start: what they were fine-tuned from; default: what the runs record, or start/ in their sweep.
        align_labels: count labels in another order as put right, as `cook` with the same option does.
        threads: that read side by side.
    Raises:
        InputError: if nothing is named.
        CheckpointError: if `start` is named and cannot be read.
    """
    found = candidates(sources)
    named = [c.checkpoint for c in found if c.checkpoint is not None]
    report = preflight(named, align_labels=align_labels, threads=threads)
    origin, note = find_start(report.checkpoints, start)
    spoilt = {f.checkpoint for f in report.errors if f.topic in UNMEASURABLE}
    apart = distances_of([c for c in report.checkpoints if str(c) not in spoilt], origin, threads)
    names = dict(zip(map(str, named), display_names(named), strict=True))
    first = str(report.checkpoints[0]) if report.checkpoints else ""
    return Inspection(
        rows=tuple(
            replace(row, from_start=apart.from_start(row.source), angle=_angle(apart, row.source, first))
            for row in _rows(found, names, report)
        ),
        pairs=apart.pairs([names[one] for one in apart.measured]),
        errors=(*(Finding(c.name, "files", c.reason) for c in found if c.refused), *report.errors),
        warnings=(*map(_left_out, (c for c in found if c.checkpoint is None and not c.refused)), *report.warnings),
        checkpoints=report.checkpoints,
        start=apart.start,
        notes=(*((note,) if note else ()), *apart.notes),
    )


def save_json(inspection: Inspection, path: str | Path) -> None:
    """Write `Inspection.record()` as strict JSON.

    Raises:
        HfSoupsError: if it cannot be written.
    """
    text = json.dumps(finite(inspection.record()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
    write_text(Path(path), text)


def _left_out(candidate: Candidate) -> Finding:
    return Finding(candidate.name, "run", f"{candidate.name}: left out: {candidate.reason}")


def _angle(apart: Distances, one: str, first: str) -> float | None:
    return None if one == first else apart.angle(one, first)


def _rows(found: Sequence[Candidate], names: Mapping[str, str], report: PreflightReport) -> Iterator[Row]:
    """A row for everything that was named, also for what could not be read."""
    readable = set(map(str, report.checkpoints))
    first = next((c.checkpoint for c in found if str(c.checkpoint) in readable), None)
    for candidate in found:
        one = candidate.checkpoint
        if one is None:
            yield Row(candidate.name, candidate.name, candidate.reason)
        elif first is None or str(one) not in readable:
            yield Row(names[str(one)], str(one), next(f.message for f in report.errors if f.checkpoint == str(one)))
        else:
            yield row_of(first, one, names[str(one)], _about(one, report))


def _about(checkpoint: Checkpoint, report: PreflightReport) -> list[tuple[bool, Finding]]:
    both = ((True, report.errors), (False, report.warnings))
    return [(error, f) for error, findings in both for f in findings if f.checkpoint == str(checkpoint)]
