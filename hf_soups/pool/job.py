"""The job of a call that fills a pool: which entries are to be answered, and one after another until they are."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import CheckpointError, IncompatibleCheckpoints, InputError, PredictionsError
from hf_soups.files.writing import writable
from hf_soups.pool.data_rows import LabelledRows
from hf_soups.pool.entries import PoolEntry
from hf_soups.pool.label_order import doubt
from hf_soups.pool.member_model import How, MemberModel, load_member
from hf_soups.pool.shards import WORK, Processes, Shards, check_disk
from hf_soups.pool.store import POOL_FILE, Member, Pool, file_of, read_pool, write_pool
from hf_soups.predictions import Predictions
from hf_soups.progress import Meter

OF_ONE_MODEL = (CheckpointError, IncompatibleCheckpoints, PredictionsError)  # the others go on
LOCK = ".lock"


@contextlib.contextmanager
def alone(out: Path, group: Processes) -> Iterator[None]:
    """Keep a second call from writing the same pool meanwhile; the lock goes with the process, however it ends.

    Raises:
        InputError: if another call writes it now.
    """
    if not group.is_main:
        yield
        return
    from filelock import FileLock, Timeout

    with writable(out):
        out.mkdir(parents=True, exist_ok=True)
    lock = FileLock(out / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise InputError(f"{out}: another call of hf-soups predict writes there now. Let it finish first.") from error
    try:
        yield
    finally:
        lock.release()
        (out / LOCK).unlink(missing_ok=True)


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a job; see `PoolResult`."""

    pool: Pool
    answered: tuple[str, ...]
    kept: tuple[str, ...]
    failed: Mapping[str, str]
    seconds: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Job:
    """One call: the rows, how they are answered, and by which process."""

    rows: LabelledRows
    how: How
    group: Processes
    measure: bool
    shard_rows: int | None

    def run(self, pool: Pool, asked: Sequence[PoolEntry], progress: bool) -> Done:
        """Answer what is not there yet; every process of the group calls it and gets the same pool."""
        failed: dict[str, str] = {}
        kept, todo = self._sorted(pool, asked, failed)
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
                pool = self._measure(pool, [a for a in asked if a.name in kept])
        self.group.wait()
        pool = read_pool(pool.folder) if (pool.folder / POOL_FILE).is_file() else pool
        done = tuple(entry.name for entry in todo if entry.name not in failed)
        return Done(pool, done, kept, failed, {name: seconds[name] for name in done})

    def _sorted(
        self, pool: Pool, asked: Sequence[PoolEntry], failed: dict[str, str]
    ) -> tuple[tuple[str, ...], list[PoolEntry]]:
        """Names of the members that are there, and the entries that are still to be answered."""
        kept, todo = [], []
        for entry in asked:
            try:
                if _is_there(pool, entry, self.how):
                    kept.append(entry.name)
                else:
                    todo.append(entry)
            except OF_ONE_MODEL as error:
                failed[entry.name] = str(error)
        return tuple(kept), todo

    def _member(self, pool: Pool, entry: PoolEntry, meter: Meter, before: int, failed: dict[str, str]) -> Pool:
        """The pool with this member, answered by all processes and put together by the main one."""
        shards, opened, took = self._shards(pool, entry), None, 0.0
        shards.forget_failure(self.group.rank)
        try:
            opened = load_member(entry, self.rows, self.how)
            took = self._answer(opened, shards, meter, before)
        except OF_ONE_MODEL as error:
            shards.failed(self.group.rank, str(error))
        self.group.wait()  # for the shards of the others
        if self.group.is_main:
            try:
                pool = self._finished(pool, entry, opened, shards)
            except OF_ONE_MODEL as error:
                shards.failed(self.group.rank, str(error))
            else:
                rows = len(self.rows.split)
                meter.line(f"{entry.name}: {rows} rows, {took:.1f} s{_accuracy(pool.predictions[entry.name])}")
        self.group.wait()
        reason = shards.failure()
        if reason:
            failed[entry.name] = reason
        return pool if reason or self.group.is_main else read_pool(pool.folder)

    def _answer(self, opened: MemberModel, shards: Shards, meter: Meter, before: int) -> float:
        """Answer this process's shards that are missing; the seconds that it took."""
        started = time.perf_counter()
        for number in range(len(shards)):
            start, stop = shards.span(number)
            if self.group.mine(number) and not shards.path(number).is_file():

                def tick(done: int, _: int, start: int = start) -> None:
                    meter(before + start + done, opened.asked.name)

                shards.write(number, opened.answer(start, stop, tick))
            meter(before + stop, opened.asked.name)
        return time.perf_counter() - started

    def _finished(self, pool: Pool, entry: PoolEntry, opened: MemberModel | None, shards: Shards) -> Pool:
        reason = shards.failure()
        if opened is None or reason:
            raise PredictionsError(reason)
        file = _free_file(pool, entry.name)
        shards.assemble(pool.folder / file)
        member = Member(
            entry.name, entry.checkpoint.source, entry.checkpoint.revision, entry.checkpoint.subfolder,
            entry.image_size, self.how.dtype, self._templates(opened), entry.checkpoint.sha256(),
            *opened.counted(), file=file, files=entry.checkpoint.files_digest(),
        )  # fmt: skip
        wider = pool.with_member(member)
        member = replace(member, notes=_notes(wider.predictions[entry.name], opened, pool.folder / file))
        if self.measure:
            member = _with_seconds(member, opened)
        wider = pool.with_member(member)
        write_pool(wider)
        shards.remove()
        return wider

    def _measure(self, pool: Pool, asked: Sequence[PoolEntry]) -> Pool:
        """Measure members that were answered before without it."""
        for entry in asked:
            member = pool.members[entry.name]
            if member.seconds is None:
                pool = pool.with_member(_with_seconds(member, load_member(entry, self.rows, self.how)))
                write_pool(pool)
        return pool

    def _templates(self, opened: MemberModel) -> tuple[str, ...]:
        return self.how.templates if opened.family.name == "zero-shot" else ()

    def _shards(self, pool: Pool, entry: PoolEntry) -> Shards:
        try:
            sha, names = _digests(entry.checkpoint), entry.checkpoint.label_names
        except CheckpointError:  # loading it says so again, with a reason
            sha, names = ("", ""), None
        settings = [
            entry.name, *sha, entry.image_size, self.how.dtype, self.how.templates, self.rows.split.fingerprint,
            pool.label_names, names, self.rows.data.max_length,
        ]  # fmt: skip
        return Shards.of(
            pool.folder, len(self.rows.split), batch_size=self.how.batch_size, top_k=pool.top_k, settings=settings,
            size=self.shard_rows,
        )  # fmt: skip


def _is_there(pool: Pool, entry: PoolEntry, how: How) -> bool:
    """Whether the pool has this entry: the same weights at the same size, with a file that can be read.

    Raises:
        CheckpointError: if the name belongs to other weights.
    """
    member = pool.members.get(entry.name)
    if member is None:
        return False
    same = (member.source, member.revision, member.subfolder, member.image_size) == (
        entry.checkpoint.source, entry.checkpoint.revision, entry.checkpoint.subfolder, entry.image_size,
    )  # fmt: skip
    sha = entry.checkpoint.sha256()
    if not same and member.sha256 != sha:
        raise CheckpointError(
            f"{pool.folder} has a member {entry.name!r} already, of other weights ({member.source}). Give this one "
            "another name: NAME=MODEL."
        )
    if (member.sha256, member.image_size, member.dtype) != (sha, entry.image_size, how.dtype) or (
        (member.templates and member.templates != how.templates)
        or (member.files and member.files != entry.checkpoint.files_digest())
    ):
        return False
    try:
        return len(pool.predictions[entry.name]) == pool.data.rows
    except PredictionsError:  # damaged or gone: answered again
        return False


def _digests(checkpoint: Checkpoint) -> tuple[str, str]:
    return checkpoint.sha256(), checkpoint.files_digest()


def _free_file(pool: Pool, name: str) -> str:
    """The file for a member, which no other member has."""
    taken = {member.file for other, member in pool.members.items() if other != name}
    file = file_of(name)
    while file in taken:
        file = f"_{file}"
    return file


def _notes(p: Predictions, opened: MemberModel, path: Path) -> tuple[str, ...]:
    """What to know of the order of its labels.

    Raises:
        PredictionsError: if the order was only assumed, and the data speak against it.
    """
    wrong = doubt(p)
    if wrong and not opened.labels.by_name:
        path.unlink(missing_ok=True)
        raise PredictionsError(
            f"its labels were assumed to be in the data's order, but {wrong}. Write its label names into its "
            "config.json (id2label)."
        )
    said = (opened.labels.note, wrong and f"its label names may be wrong: {wrong}")
    return tuple(note for note in said if note)


def _with_seconds(member: Member, opened: MemberModel) -> Member:
    took = opened.measured()
    return replace(
        member, seconds=took.best, seconds_batch_1=took.batch_1, best_batch=took.best_batch, hardware=took.hardware
    )


def _accuracy(p: Predictions) -> str:
    return "" if p.labels is None or not len(p) else f", accuracy {(p.answers == p.labels).mean():.2%}"
