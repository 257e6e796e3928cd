"""Shards: answers cut by rows into files that appear whole, shared out between processes and gone on with.

Which rows a shard holds follows from its number and size alone, so any number of processes, and any number of attempts,
write the same files.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np

from hf_soups.errors import HfSoupsError, InputError, PredictionsError
from hf_soups.files.problem_types import REGRESSION
from hf_soups.files.reading import visible
from hf_soups.files.writing import writable
from hf_soups.predictions import Predictions, id_tensor
from hf_soups.predictions.topk import TopKPredictions, load_predictions, write_top_k

DEVICE_HERE = ("cuda", "xpu", "npu")
LOCK = ".lock"


@dataclass(frozen=True, slots=True)
class Processes:
    """This process among those of the job."""

    rank: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None  # until all are here
    device: str | None = None  # this process's own GPU, where there are several processes

    @property
    def is_main(self) -> bool:
        """Whether this is the one that speaks and puts things together."""
        return self.rank == 0

    def mine(self, number: int) -> bool:
        """Whether a shard is this process's: by its number alone, so that nobody needs to agree on anything."""
        return number % self.count == self.rank


def processes() -> Processes:
    """The processes that a launcher started; accelerate is imported only where there are several.

    Raises:
        HfSoupsError: if several were started that do not find each other: each would do all the work.
    """
    started = int(os.environ.get("WORLD_SIZE", "1"))
    if started < 2:
        return Processes()
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available() or bool(os.environ.get("ACCELERATE_USE_CPU")))
    if state.num_processes != started:
        raise HfSoupsError(
            f"{started} processes were asked for, but {state.num_processes} runs. On CPUs start them with "
            "ACCELERATE_USE_CPU=true torchrun --nproc_per_node N."
        )
    device = str(state.device) if state.device.type in DEVICE_HERE else None
    return Processes(state.process_index, state.num_processes, state.wait_for_everyone, device)


@contextlib.contextmanager
def alone(out: Path, group: Processes) -> Iterator[None]:
    """Keep a second call from writing the same folder meanwhile; the lock goes with the process, however it ends.

    Raises:
        InputError: if another call writes there now.
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


A = TypeVar("A")  # what is answered on the rows of a shard
Progress = Callable[[int, int], None]  # rows done, rows to do


@dataclass(frozen=True)
class Shards(ABC, Generic[A]):
    """The files of the answers to some rows, each whole or absent."""

    folder: Path
    rows: int
    size: int  # rows of each but the last

    def __len__(self) -> int:
        return max(1, math.ceil(self.rows / self.size))

    def span(self, number: int) -> tuple[int, int]:
        """The first row of a shard, and the first after it."""
        return number * self.size, min((number + 1) * self.size, self.rows)

    @abstractmethod
    def path(self, number: int) -> Path:
        """Its file."""

    def missing(self) -> list[int]:
        """Shards that are still to be answered."""
        return [number for number in range(len(self)) if not self.path(number).is_file()]

    @abstractmethod
    def write(self, number: int, answered: A) -> None:
        """Keep a shard's answers, in a file that appears whole."""


def answer_missing(
    shards: Shards[A],
    group: Processes,
    answer: Callable[[int, int, Progress], A],
    tick: Callable[[int], object],
) -> tuple[int, float]:
    """Answer this process's shards that are missing, one after another.

    Args:
        shards: of all rows.
        group: this process among those that share them.
        answer: called with the first row of a shard, the first after it, and what to report progress to.
        tick: called with the rows done.
    Returns:
        How many rows were answered, and the seconds that it took.
    """
    started, rows = time.perf_counter(), 0
    for number in range(len(shards)):
        start, stop = shards.span(number)
        if group.mine(number) and not shards.path(number).is_file():

            def progress(done: int, _: int, start: int = start) -> None:
                tick(start + done)

            shards.write(number, answer(start, stop, progress))
            rows += stop - start
        tick(stop)
    return rows, time.perf_counter() - started


ROWS = 1024  # of a member's shard at most: 4 MB in 1,000 classes, 150 MB of decoded images of 224 pixels
PIECES = 16  # a small split is still cut into about so many, for several processes to share
WORK = ".work"  # folder of what is not finished
# a member's file; row ids that are texts come last: they end anywhere, and numbers must not start so
LAYOUT = {"row_ids": "I64", "labels": "I64", "log_probs": "F32", "row_ids_json": "U8"}


@dataclass(frozen=True)
class MemberShards(Shards[Predictions]):
    """The parts of one member's answers, on their way to one file."""

    top_k: int | None = None

    @classmethod
    def of(
        cls, out: Path, rows: int, *, batch_size: int, top_k: int | None, settings: Any, size: int | None = None
    ) -> MemberShards:
        """The shards for answers made under these settings; with other ones they would lie elsewhere."""
        if size is None:
            wanted = min(ROWS, math.ceil(rows / PIECES))
            size = max(1, math.ceil(wanted / batch_size)) * batch_size
        key = hashlib.sha256(json.dumps([rows, size, batch_size, top_k, settings], default=str).encode()).hexdigest()
        return cls(out / WORK / key[:24], rows, size, top_k)

    def path(self, number: int) -> Path:
        """Its file."""
        return self.folder / f"{number:06d}.safetensors"

    def write(self, number: int, answered: Predictions) -> None:
        """Keep a shard's answers."""
        kept = answered if self.top_k is None else TopKPredictions.of(answered, self.top_k)
        with writable(self.path(number)):
            kept.save(self.path(number))

    def failed(self, rank: int, reason: str) -> None:
        """Leave word for the other processes of why this one gave up."""
        with writable(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            (self.folder / f"{rank}.failed").write_text(reason, encoding="utf-8")

    def forget_failure(self, rank: int) -> None:
        """Take back what this process said in an earlier call."""
        (self.folder / f"{rank}.failed").unlink(missing_ok=True)

    def failure(self) -> str:
        """Why a process gave up; empty if none did."""
        reasons = [path.read_text(encoding="utf-8") for path in visible(self.folder, "*.failed")]
        return reasons[0] if reasons else ""

    def assemble(self, path: Path) -> None:
        """Write all shards as one file of predictions. They stay until `remove`: the pool must know the file first.

        Raises:
            PredictionsError: if a shard is missing or damaged; a damaged one is removed, to be answered again.
        """
        if self.missing():
            raise PredictionsError(f"{len(self.missing())} of {len(self)} parts of the answers are missing.")
        parts = [self._read(number) for number in range(len(self))]
        if self.top_k is None:
            _write_dense(path, parts)
        else:
            write_top_k(path, [p for p in parts if isinstance(p, TopKPredictions)])

    def remove(self) -> None:
        """Remove its files."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def _read(self, number: int) -> Predictions:
        start, stop = self.span(number)
        try:
            answers = load_predictions(self.path(number))
            if len(answers) != stop - start:
                raise PredictionsError(f"{self.path(number)}: {len(answers)} rows instead of {stop - start}.")
        except PredictionsError as error:
            self.path(number).unlink(missing_ok=True)
            raise PredictionsError(f"{error} It is removed; run the same command again.") from error
        return answers


def _write_dense(path: Path, parts: Sequence[Predictions]) -> None:
    """One safetensors file, the log-probabilities copied part by part: the whole may be larger than memory."""
    from hf_soups.files.tensorfile import TensorWriter, lay_out

    first = parts[0]
    small = dict([id_tensor(np.concatenate([p.row_ids for p in parts]))])
    if first.labels is not None:
        small["labels"] = np.concatenate([p.needs_labels() for p in parts])
    shapes = {
        **{name: array.shape for name, array in small.items()},
        "log_probs": (sum(map(len, parts)), first.classes),
    }
    kinds = {**LAYOUT, "labels": "F64" if first.problem_type == REGRESSION else "I64"}
    layout = lay_out([(name, kind, shapes[name]) for name, kind in kinds.items() if name in shapes], first.metadata)
    with TensorWriter({path: layout}) as writer:
        for name, array in small.items():
            if array.size:
                writer.write(path, np.ascontiguousarray(array).view(np.uint8).data, layout.offsets[name])
        for offset, block in _blocks(parts, layout.offsets["log_probs"]):
            writer.write(path, block.view(np.uint8).reshape(-1).data, offset)


def _blocks(parts: Sequence[Predictions], offset: int) -> Iterator[tuple[int, np.ndarray]]:
    for part in parts:
        if len(part):
            block = np.ascontiguousarray(part.block(0, len(part)))
            yield offset, block
            offset += block.nbytes


def check_disk(out: Path, *, members: int, rows: int, classes: int, top_k: int | None) -> None:
    """Find out before hours of work whether the answers fit on the disk.

    Raises:
        HfSoupsError: if they do not; says what is needed and what top-k would need.
    """
    if not members:
        return
    at = next(parent for parent in (out.absolute(), *out.absolute().parents) if parent.exists())
    free = shutil.disk_usage(at).free
    needed = (members + 1) * rows * row_bytes(classes, top_k)  # one member more: its shards, until they are one file
    if needed > free:
        fewer = (members + 1) * rows * row_bytes(classes, 20)
        advice = f" With --top-k 20 it would be {in_gb(fewer)}." if top_k is None and classes > 40 else ""
        raise HfSoupsError(
            f"{out}: the answers of {members} models on {rows:,} rows of {classes:,} classes need {in_gb(needed)}, but "
            f"{in_gb(free)} are free there. Free some space or choose another folder (--out).{advice}"
        )


def row_bytes(classes: int, top_k: int | None) -> int:
    """Bytes of one row's answers, with its id and label.

    >>> row_bytes(1000, None), row_bytes(1000, 20)
    (4016, 144)
    """
    if top_k is None:
        return 16 + 4 * classes
    return 24 + min(top_k, classes) * (4 + (2 if classes <= 2**16 else 4))


def in_gb(size: float) -> str:
    """Bytes in words."""
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
