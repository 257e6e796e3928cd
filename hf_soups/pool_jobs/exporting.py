"""Export: a classifier, or every member of a cascade, in ONNX form; calibrated on rows where int8 asks for them."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.evidence import EVIDENCE_FILE
from hf_soups.cascades.running.stored import HANDLER_FILE, Place, StoredCascade, place_values, read_stored
from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.onnx import RECORD, Int8, OnnxRecord
from hf_soups.files.reading import read_json
from hf_soups.files.writing import check_place, json_text, written_whole
from hf_soups.pool.entries import PoolEntry, is_cascade, kind_of_head, pool_entries
from hf_soups.pool.rows import RowsWanted, load_rows

if TYPE_CHECKING:
    from hf_soups.models.family import Batch
    from hf_soups.pool.rows import LabelledRows

BATCH = 16  # rows to calibrate on at once
LEFT = ("README.md", "config.json", "requirements.txt")  # of a cascade: written anew


@dataclass(frozen=True, slots=True)
class Exported:
    """One classifier in ONNX form.

    Attributes:
        name: of the model, or of the cascade's member.
        folder: that ONNX Runtime loads.
        record: of the export.
        bytes_before: of its weight files.
        bytes_after: of the graph and its weights.
    """

    name: str
    folder: Path
    record: OnnxRecord
    bytes_before: int
    bytes_after: int


def export_onnx(
    model: str | Path,
    out: str | Path,
    *,
    int8: Int8 | None = None,
    rows: RowsWanted | None = None,
    overwrite: bool = False,
) -> tuple[Exported, ...]:
    """Write a model for ONNX Runtime; it is then a member like any other.

    A classifier becomes the folder `out`. A cascade in float32 becomes the cascade `out`: the same plan over members
    that answer alike. With int8 a cascade's members become the folders `out`/NAME-int8, and no cascade is made of
    them: they answer otherwise, so thresholds are to be searched on their own predictions.

    Args:
        model: folder or Hub repo of a classifier, soup or cascade; "MODEL@160" at an input size of 160 pixels.
        out: the folder to make.
        int8: see `hf_soups.models.onnx_export.write_onnx`; "static" needs `rows`.
        rows: labelled rows to calibrate on; their labels are not used.
        overwrite: replace what an export left there.
    Raises:
        MissingExtra: if the extra is not installed.
        InputError: if static int8 has no rows, or rows are given for another form.
        CheckpointError, MemberError: if a model cannot be loaded or exported.
    """
    if (int8 == "static") != (rows is not None):
        raise InputError(
            f"int8={int8!r} {'with' if rows else 'without'} rows: static int8 takes the ranges of activations from "
            "rows, and nothing else does. Give both, or neither."
        )
    entries = pool_entries([model])
    if len(entries) > 1:
        raise InputError(f"{model} is a sweep of {len(entries)} models. Name one of them, or a soup.")
    calibrated = None if rows is None else load_rows(rows)
    if not is_cascade(entries[0].checkpoint):
        return (_single(entries[0], Path(out), int8, calibrated, overwrite),)
    cascade = _Cascade.of(entries[0].checkpoint)
    if int8 is None:
        return cascade.exported(Path(out), overwrite)
    return cascade.members_exported(Path(out), int8, calibrated, overwrite)


def _single(entry: PoolEntry, out: Path, int8: Int8 | None, rows: LabelledRows | None, overwrite: bool) -> Exported:
    kind = kind_of_head(entry.checkpoint) if rows is None else rows.task.kind
    with written_whole(out, overwrite=overwrite, marker=RECORD) as partial:
        record = _export(entry, partial, kind, int8, rows)
    return _done(entry, out, record)


def _done(entry: PoolEntry, folder: Path, record: OnnxRecord) -> Exported:
    before, after = (_size(one) for one in (entry.checkpoint, Checkpoint(folder)))
    return Exported(entry.name, folder, record, before, after)


def _size(checkpoint: Checkpoint) -> int:
    return sum(path.stat().st_size for path in checkpoint.weight_files)


def _export(entry: PoolEntry, into: Path, kind: str, int8: Int8 | None, rows: LabelledRows | None) -> OnnxRecord:
    from hf_soups.models import onnx_export

    return onnx_export.write_onnx(
        entry.checkpoint, into, kind=kind, image_size=entry.image_size, int8=int8,
        calibration=() if rows is None else _batches(entry, rows),
    )  # fmt: skip


def _batches(entry: PoolEntry, rows: LabelledRows) -> list[Batch]:
    """The rows as the model reads them, in batches of like length."""
    from hf_soups.models.inference import length_buckets
    from hf_soups.models.registry import family_for

    checkpoint = entry.checkpoint
    family = family_for(checkpoint.config, rows.task.kind, checkpoint)
    data = rows.data.model_copy(update={"image_size": entry.image_size or rows.data.image_size})
    encoded = family.encode(rows.split, family.processor(checkpoint.processor_folder), rows.task, data)
    return [encoded.batch(some) for some in length_buckets(encoded.lengths, BATCH)]


@dataclass(frozen=True)
class _Cascade:
    """A cascade that is exported, and the entries that its members are."""

    folder: Path
    stored: StoredCascade
    entries: tuple[PoolEntry, ...]  # one for each place

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> _Cascade:
        from hf_soups.cascades.running.members import check_weights, member_checkpoint

        stored, entries = read_stored(checkpoint.folder), []
        hub: dict[str, Any] = {} if checkpoint.revision is None else {"revision": checkpoint.revision}
        for place in stored.places:
            member = member_checkpoint(place, checkpoint.source, dict(hub))
            check_weights(place, member.folder)
            entries.append(PoolEntry(place.name, member, place.image_size))
        return cls(checkpoint.folder, stored, tuple(entries))

    def exported(self, out: Path, overwrite: bool) -> tuple[Exported, ...]:
        """The cascade over members in ONNX form."""
        from hf_soups.cascades.running.build_folder import write_requirements

        raw = read_json(self.folder / "config.json", what="a cascade's config", again="Build the cascade again.")
        if "auto_map" in raw:
            raise InputError(
                f"{self.folder}: its code for people without hf_soups loads PyTorch members alone. Build the cascade "
                "without code, then export that."
            )
        other = next((place for place in self.stored.places if place.dtype != "float32"), None)
        if other is not None:
            raise InputError(
                f"{self.folder}: its member {other.name!r} answers in {other.dtype}, and an export in float32 answers "
                "otherwise. Predict with the exported member (hf-soups export of its folder), and search again."
            )
        made: dict[Any, tuple[str, OnnxRecord]] = {}
        with written_whole(out, overwrite=overwrite, marker=HANDLER_FILE) as partial:
            places = [self._exported(i, partial, made) for i in range(len(self.entries))]
            raw["members"] = [place_values(place) for place in places]
            (partial / "config.json").write_text(json_text(raw), encoding="utf-8")
            for file in self._beside():
                shutil.copyfile(file, partial / file.name)
            write_requirements(partial, onnx=True)
            if (partial / EVIDENCE_FILE).is_file():
                _retell(partial / EVIDENCE_FILE, places, [made[_key(entry)][1] for entry in self.entries])
        return tuple(
            _done(entry, out / str(place.subfolder), made[_key(entry)][1])
            for entry, place in zip(self.entries, places, strict=True)
        )

    def _exported(self, number: int, into: Path, made: dict[Any, tuple[str, OnnxRecord]]) -> Place:
        entry, place = self.entries[number], self.stored.places[number]
        if _key(entry) not in made:
            name = f"member_{number}"
            made[_key(entry)] = (name, _export(entry, into / name, self.stored.kind, None, None))
        name = made[_key(entry)][0]
        own = Checkpoint(into, subfolder=name).sha256()
        return replace(place, subfolder=name, repo=None, revision=None, sha256=own, backend="onnx")

    def _beside(self) -> Sequence[Path]:
        files = (path for path in sorted(self.folder.iterdir()) if path.is_file() and not path.name.startswith("."))
        return [path for path in files if path.name not in LEFT]

    def members_exported(
        self, out: Path, int8: Int8, rows: LabelledRows | None, overwrite: bool
    ) -> tuple[Exported, ...]:
        """The members alone, each in a folder of its own."""
        folders = [out / f"{re.sub(r'[^A-Za-z0-9_.-]', '_', entry.name)}-int8" for entry in self.entries]
        if len(set(folders)) < len(folders):
            raise InputError(f"{self.folder}: two members would have one folder's name. Export them one by one.")
        for folder in folders:
            check_place(folder, overwrite=overwrite, marker=RECORD)
        done = []
        for entry, folder in zip(self.entries, folders, strict=True):
            with written_whole(folder, overwrite=overwrite, marker=RECORD) as partial:
                record = _export(entry, partial, self.stored.kind, int8, rows)
            done.append(_done(entry, folder, record))
        return tuple(done)


def _retell(file: Path, places: Sequence[Place], records: Sequence[OnnxRecord]) -> None:
    """Give the evidence the members' weights as they are now, and say that its figures are of what they were."""
    told = read_json(file, what="evidence of a cascade", again="Build the cascade again.")
    for place, record in zip(places, records, strict=True):
        member = told.get("members", {}).get(place.name, {})
        note = (
            "exported to ONNX after scores and costs were taken with PyTorch; on a trial batch its logits differ by "
            f"{record.difference:.1g}"
        )
        member |= {"sha256": place.sha256, "notes": [*member.get("notes", []), note]}
    file.write_text(json_text(told), encoding="utf-8")


def _key(entry: PoolEntry) -> Any:
    return (entry.checkpoint.folder.resolve(), entry.image_size)


def print_exported(done: Sequence[Exported], out: Path, *, cascade: bool, rows: str) -> None:
    """Print what was written, how far its answers are from the model's, and what to do next.

    Args:
        done: what was exported.
        out: where.
        cascade: of a cascade.
        rows: the options that name rows to predict.
    """
    from rich.console import Console
    from rich.table import Table

    table = Table("model", "form", "MB before", "after", "logits differ by")
    for one in done:
        form = "float32" if one.record.int8 is None else f"int8, {one.record.int8}"
        sizes = [f"{count / 1e6:.1f}" for count in (one.bytes_before, one.bytes_after)]
        table.add_row(one.name, form, *sizes, f"{one.record.difference:.1g}")
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(table)
    if cascade and done[0].record.int8 is None:
        console.print(f"{out}: the same plan over these members. Its costs are as they were measured before.")
        return
    console.print(
        f"Next: hf-soups predict {' '.join(str(one.folder) for one in done)} {rows} --out POOL --measure-seconds"
    )
