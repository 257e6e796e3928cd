"""Inspecting checkpoints without torch: pre-flight, names, ties, distances and angles; and labels put in one order."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.checkpoint import Checkpoint, sources_of
from hf_soups.errors import CheckpointError, InputError
from hf_soups.files.weights import json_object
from hf_soups.files.writing import finite, write_text, written_whole
from hf_soups.inspection.comparison import ComparedCheckpoint, Pair, distances_of, row_of
from hf_soups.soups.compatibility import PreflightReport, preflight
from hf_soups.soups.head_starts import heads_apart
from hf_soups.soups.ingredients import gather
from hf_soups.soups.model_input import ExtraRows
from hf_soups.soups.preflight_findings import Finding
from hf_soups.soups.soup import Soup, display_names
from hf_soups.sweep.folder import SweepFolder

if TYPE_CHECKING:
    from rich.console import RenderableType


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
        if (sweep := SweepFolder(Path(source))).planned:
            yield from _of_sweep(sweep)
            return
        pool = gather([source], least=0)
    except InputError as error:
        yield Candidate(str(source), None, str(error), refused=True)
        return
    for checkpoint in pool.checkpoints:
        yield Candidate(checkpoint.name, checkpoint)
    for left in pool.left_out:
        yield Candidate(left.name, None, left.reason)


def _of_sweep(sweep: SweepFolder) -> Iterator[Candidate]:
    for run in sweep.runs():
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
        start = Checkpoint.named(named)
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
    """The folder that a run names as its start, or the start of the sweep that it is in."""
    try:
        recorded = (checkpoint.run or {}).get("start")
        beside = checkpoint.folder.parent / "start"
    except CheckpointError:
        return None
    places = [Path(str(recorded))] if recorded else []
    if (beside / START_FILE).is_file() or SweepFolder(beside.parent).planned:
        places.append(beside)  # the recorded path may be that of another machine, or relative to another folder
    return next((place.resolve() for place in places if (place / "config.json").is_file()), None)


UNMEASURABLE = frozenset({"files", "architecture", "tensors", "tied weights", "values"})  # topics of errors


@dataclass(frozen=True)
class Inspection:
    """What was found of some checkpoints; each is compared with the first that can be read."""

    rows: tuple[ComparedCheckpoint, ...]  # one for everything that was named
    pairs: tuple[Pair, ...]  # of those that can be compared
    errors: tuple[Finding, ...]
    warnings: tuple[Finding, ...]
    checkpoints: tuple[Checkpoint, ...]  # that were read, their labels aligned where that was asked for
    start: str | None = None
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Inspection({self.verdict})"

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
        """For each checkpoint whose labels are in another order: its own index of each class of the first."""
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
        from hf_soups.inspection.table import InspectionTable

        return InspectionTable(self)


def inspect_checkpoints(
    sources: Sequence[str | Path | Checkpoint] | str | Path | Checkpoint,
    *,
    start: str | Path | None = None,
    align_labels: bool = False,
    processor: str | Path | None = None,
    force: bool = False,
    extra_rows: ExtraRows = "keep",
    threads: int = 2,
) -> Inspection:
    """Compare checkpoints with the first: names, shapes, dtypes, ties, labels, processor, head, values, distances.

    Weights are streamed by NumPy; a checkpoint that cannot be read is a row with the reason.

    Args:
        sources: folders, run folders, Hub repos, a sweep's folder, or checkpoints.
        start: what they were fine-tuned from; default: what the runs record, or start/ in their sweep.
        align_labels: count labels in another order as put right, as `cook` with the same option does.
        processor: as of `cook`.
        force: as of `cook`.
        extra_rows: as of `cook`.
        threads: that read side by side.
    Raises:
        InputError: if nothing is named.
        CheckpointError: if `start` or `processor` is named and cannot be read.
    """
    found = candidates(sources_of(sources))
    named = [c.checkpoint for c in found if c.checkpoint is not None]
    report = preflight(
        named, align_labels=align_labels, processor=processor, force=force, extra_rows=extra_rows, threads=threads
    )
    origin, note = find_start(report.checkpoints, start)
    spoilt = {f.checkpoint for f in report.errors if f.topic in UNMEASURABLE}
    apart = distances_of([c for c in report.checkpoints if str(c) not in spoilt], origin, threads)
    names = dict(zip(map(str, named), display_names(named), strict=True))
    first = str(report.checkpoints[0]) if report.checkpoints else ""
    left_out = [c for c in found if c.checkpoint is None and not c.refused]
    heads = heads_apart([c for c in report.checkpoints if str(c) not in spoilt], origin)
    return Inspection(
        rows=tuple(
            replace(
                row,
                from_start=apart.from_start(row.source),
                angle=None if row.source == first else apart.angle(row.source, first),
            )
            for row in _rows(found, names, report)
        ),
        pairs=apart.pairs([names[one] for one in apart.measured]),
        errors=(*(Finding(c.name, "files", c.reason) for c in found if c.refused), *report.errors),
        warnings=(
            *(Finding(c.name, "run", f"{c.name}: left out: {c.reason}") for c in left_out),
            *report.warnings,
            *heads,
        ),
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


def _rows(
    found: Sequence[Candidate], names: Mapping[str, str], report: PreflightReport
) -> Iterator[ComparedCheckpoint]:
    """A row for everything that was named, also for what could not be read."""
    readable = {str(summary): summary for summary in report.summaries}
    first = next(iter(report.summaries), None)
    mixed = {str(checkpoint): checkpoint for checkpoint in report.checkpoints}
    for candidate in found:
        one = candidate.checkpoint
        if one is None:
            yield ComparedCheckpoint(candidate.name, candidate.name, candidate.reason)
        elif first is None or str(one) not in readable:
            reason = next(f.message for f in report.errors if f.checkpoint == str(one))
            yield ComparedCheckpoint(names[str(one)], str(one), reason)
        else:
            as_mixed = mixed[str(first)], mixed[str(one)]
            yield row_of(first, readable[str(one)], as_mixed, names[str(one)], _about(one, report))


def _about(checkpoint: Checkpoint, report: PreflightReport) -> list[tuple[bool, Finding]]:
    both = ((True, report.errors), (False, report.warnings))
    return [(error, f) for error, findings in both for f in findings if f.checkpoint == str(checkpoint)]


CONFIG = "config.json"


def write_aligned(inspection: Inspection, out: str | Path, *, threads: int = 2) -> tuple[Path, ...]:
    """Write every checkpoint whose labels were put in the order of the first as an ordinary checkpoint in `out`.

    Weights are streamed; config.json names the labels in their new order; tokenizer or image processor are carried.
    Records of a run and cached predictions are not, since they hold the old order.

    Args:
        inspection: made with `align_labels`.
        out: holds one folder for each, by name; each appears whole or not at all.
        threads: that read and write side by side.
    Returns:
        The folders; none where all labels are in one order.
    Raises:
        InputError: if one of the folders is there already.
        CheckpointError: if weights cannot be read, or hold NaN or infinity.
        HfSoupsError: if the place cannot be written.
    """
    places = _places(inspection.checkpoints, Path(out))
    for folder in places.values():
        if os.path.lexists(folder):
            raise InputError(f"{folder} exists already. Choose another folder with --out, or remove it.")
    for checkpoint, folder in places.items():
        with written_whole(folder, marker=CONFIG) as partial:
            Soup((checkpoint,), (1.0,)).write_model(partial, threads=threads)
            _rename_labels(partial / CONFIG, checkpoint.label_names)
    return tuple(places.values())


def _places(checkpoints: Sequence[Checkpoint], out: Path) -> dict[Checkpoint, Path]:
    names = display_names(checkpoints)
    return {c: out / _folder_name(name) for c, name in zip(checkpoints, names, strict=True) if c.label_order}


def _folder_name(name: str) -> str:
    """A name as one folder's: "org/model" and paths hold slashes.

    >>> _folder_name("org/model@main"), _folder_name("../runs/run_01")
    ('org_model_main', 'runs_run_01')
    """
    return re.sub(r"[^\w.-]+", "_", name).strip("._") or "checkpoint"


def _rename_labels(path: Path, names: Sequence[str] | None) -> None:
    if names is None:
        raise CheckpointError(f"{path}: no label names to write.")
    config = json_object(path)
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    write_text(path, json.dumps(config, indent=2, ensure_ascii=False) + "\n")  # as transformers wrote it
