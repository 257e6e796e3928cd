"""The job of a call that fills a pool: the entries that are still to be answered, one after another until they are."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from hf_soups.errors import CheckpointError, PredictionsError
from hf_soups.models.classifier import PredictSettings
from hf_soups.models.endpoint_requests import Spending
from hf_soups.models.loading import NotAnswered, one_of_several
from hf_soups.pool.endpoints import EndpointMember
from hf_soups.pool.entries import PoolEntry
from hf_soups.pool.label_order import doubt
from hf_soups.pool.member_model import MemberModel, OnnxMember
from hf_soups.pool.predict import PoolResult, first_score
from hf_soups.pool.rows import LabelledRows
from hf_soups.pool.shards import WORK, MemberShards, Processes, answer_missing, check_disk
from hf_soups.pool.store import POOL_FILE, Member, Pool, free_file, read_pool, write_pool
from hf_soups.predictions import Predictions
from hf_soups.progress import Meter


@dataclass(frozen=True, slots=True)
class Job:
    """One call: the rows, how they are answered, and by which process."""

    rows: LabelledRows
    settings: PredictSettings
    group: Processes
    measure: bool
    shard_rows: int | None
    spending: Spending = field(default_factory=Spending)

    def run(self, pool: Pool, entries: Sequence[PoolEntry], progress: bool) -> PoolResult:
        """Answer what is not there yet; every process of the group calls it and gets the same pool."""
        failed: dict[str, str] = {}
        kept, todo = self._sorted(pool, entries, failed)
        n, classes = len(self.rows.split), len(pool.label_names)
        check_disk(pool.folder, members=len(todo), rows=n, classes=classes, top_k=pool.top_k)
        seconds = {}
        with Meter("predict", len(todo) * n, visible=progress and self.group.is_main) as meter:
            for i, entry in enumerate(todo):
                started = time.perf_counter()
                pool = self._member(pool, entry, meter, i * n, failed)
                seconds[entry.name] = time.perf_counter() - started
        if self.group.is_main:
            if not failed:  # what failed models left there is theirs to go on with
                shutil.rmtree(pool.folder / WORK, ignore_errors=True)
            if self.measure:
                pool = self._measure(pool, [e for e in entries if e.name in kept], failed)
        self.group.wait()
        pool = read_pool(pool.folder) if (pool.folder / POOL_FILE).is_file() else pool
        done = tuple(entry.name for entry in todo if entry.name not in failed)
        return PoolResult(pool, done, kept, failed, {name: seconds[name] for name in done})

    def _sorted(
        self, pool: Pool, entries: Sequence[PoolEntry], failed: dict[str, str]
    ) -> tuple[tuple[str, ...], list[PoolEntry]]:
        """Names of the members that are there, and the entries that are still to be answered."""
        kept: list[PoolEntry] = []
        todo: list[PoolEntry] = []
        for entry in entries:
            try:
                with one_of_several(entry.name):
                    (kept if _is_there(pool, entry, self.settings) else todo).append(entry)
            except NotAnswered as error:
                failed[entry.name] = str(error)
        return tuple(entry.name for entry in kept), todo

    def _member(self, pool: Pool, entry: PoolEntry, meter: Meter, before: int, failed: dict[str, str]) -> Pool:
        """The pool with this member, answered by all processes and put together by the main one."""
        shards, model, took = self._shards(pool, entry), None, 0.0
        shards.forget_failure(self.group.rank)
        try:
            with one_of_several(entry.name):
                model = self._loaded(entry)
                model.begin(pool.folder, self.spending)
                _, took = answer_missing(
                    shards, self.group, model.answer, lambda done: meter(before + done, entry.name)
                )
        except NotAnswered as error:
            shards.failed(self.group.rank, str(error))
        self.group.wait()  # for the shards of the others
        if self.group.is_main:
            try:
                with one_of_several(entry.name):
                    pool = self._finished(pool, entry, model, shards)
            except NotAnswered as error:
                shards.failed(self.group.rank, str(error))
            else:
                rows = len(self.rows.split)
                meter.line(f"{entry.name}: {rows} rows, {took:.1f} s{_accuracy(pool.predictions[entry.name])}")
        self.group.wait()
        reason = shards.failure()
        if reason:
            failed[entry.name] = reason
        return pool if reason or self.group.is_main else read_pool(pool.folder)

    def _finished(self, pool: Pool, entry: PoolEntry, model: MemberModel | None, shards: MemberShards) -> Pool:
        reason = shards.failure()
        if model is None or reason:
            raise PredictionsError(reason)
        file = free_file(pool, entry.name)
        shards.assemble(pool.folder / file)
        of, zero_shot = entry.checkpoint, model.classifier.family.name == "zero-shot"
        member = Member(
            entry.name, of.source, of.revision, of.subfolder, entry.image_size, _dtype(entry, self.settings),
            templates=self.settings.templates if zero_shot else (), sha256=of.sha256(), files=of.files_digest(),
            file=file,
        )  # fmt: skip
        member = model.with_counts(member)
        wider = pool.with_member(member)
        member = replace(member, notes=_notes(wider.predictions[entry.name], model, pool.folder / file))
        if self.measure:
            member = model.with_seconds(member)
        wider = pool.with_member(member)
        write_pool(wider)
        shards.remove()
        model.end(pool.folder)
        return wider

    def _measure(self, pool: Pool, entries: Sequence[PoolEntry], failed: dict[str, str]) -> Pool:
        """Measure members that were answered before without it."""
        for entry in entries:
            member = pool.members[entry.name]
            if member.seconds is None:
                try:
                    with one_of_several(entry.name):
                        pool = pool.with_member(self._loaded(entry).with_seconds(member))
                except NotAnswered as error:
                    failed[entry.name] = f"not measured: {error}"
                else:
                    write_pool(pool)
        return pool

    def _loaded(self, entry: PoolEntry) -> MemberModel:
        of = entry.checkpoint
        kind = EndpointMember if of.is_endpoint else OnnxMember if of.is_onnx else MemberModel
        return kind.load(entry, self.rows, self.settings)

    def _shards(self, pool: Pool, entry: PoolEntry) -> MemberShards:
        try:
            of = entry.checkpoint
            sha, names = (of.sha256(), of.files_digest()), of.label_names
        except CheckpointError:  # loading it says so again, with a reason
            sha, names = ("", ""), None
        settings = [
            entry.name, *sha, entry.image_size, self.settings.dtype, self.settings.templates,
            self.rows.split.fingerprint, pool.label_names, names, self.rows.data.max_length,
        ]  # fmt: skip
        return MemberShards.of(
            pool.folder, len(self.rows.split), batch_size=self.settings.batch_size, top_k=pool.top_k, settings=settings,
            size=self.shard_rows,
        )  # fmt: skip


def _is_there(pool: Pool, entry: PoolEntry, settings: PredictSettings) -> bool:
    """Whether the pool has this entry: the same weights at the same size, with a file that can be read.

    Raises:
        CheckpointError: if the name belongs to other weights.
    """
    member = pool.members.get(entry.name)
    if member is None:
        return False
    if not member.has_model:
        raise CheckpointError(
            f"{pool.folder} has a member {entry.name!r} already, whose answers come from {member.from_file}. Give this "
            "one another name: NAME=MODEL."
        )
    same = (member.source, member.revision, member.subfolder, member.image_size) == (
        entry.checkpoint.source, entry.checkpoint.revision, entry.checkpoint.subfolder, entry.image_size,
    )  # fmt: skip
    sha = entry.checkpoint.sha256()
    if not same and member.sha256 != sha:
        raise CheckpointError(
            f"{pool.folder} has a member {entry.name!r} already, of other weights ({member.source}). Give this one "
            "another name: NAME=MODEL."
        )
    if (member.sha256, member.image_size, member.dtype) != (sha, entry.image_size, _dtype(entry, settings)) or (
        (member.templates and member.templates != settings.templates)
        or (member.files and member.files != entry.checkpoint.files_digest())
    ):
        return False
    try:
        return len(pool.predictions[entry.name]) == pool.data.rows
    except PredictionsError:  # damaged or gone: answered again
        return False


def _dtype(entry: PoolEntry, settings: PredictSettings) -> str:
    """Endpoints answer in their own precision, whatever the others are asked for in."""
    return "float32" if entry.checkpoint.is_endpoint else settings.dtype


def _notes(p: Predictions, model: MemberModel, path: Path) -> tuple[str, ...]:
    """What to know of the order of its labels.

    Raises:
        PredictionsError: if the order was only assumed, and the data speak against it.
    """
    wrong = doubt(p)
    if wrong and not model.labels.by_name:
        path.unlink(missing_ok=True)
        raise PredictionsError(
            f"its labels were assumed to be in the data's order, but {wrong}. Write its label names into its "
            "config.json (id2label)."
        )
    said = (model.labels.note, wrong and f"its label names may be wrong: {wrong}")
    return tuple(note for note in said if note)


def _accuracy(p: Predictions) -> str:
    name, shown = first_score(p)
    return f", {name} {shown}" if shown else ""
