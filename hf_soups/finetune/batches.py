"""Which rows each step of a fine-tune sees, on any number of processes: fixed by the seed before the first step."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

from hf_soups.errors import InputError
from hf_soups.recipe import Train

MEGA_BATCH = 50  # batches that are sorted by length together; more would make the order less random

Rows = Int64[np.ndarray, "_"]  # indices of rows, of any number


@dataclass(frozen=True, eq=False, slots=True)
class TrainStep:
    """One update of the weights, from one batch or (gradient accumulation) several."""

    number: int  # from 1
    epoch: int  # from 0
    batches: tuple[Rows, ...]  # row indices, of all processes together
    first_batch: int  # its number in the epoch, from 0
    ends_epoch: bool

    @property
    def rows(self) -> int:
        """Rows of all its batches: the gradient is the mean over them."""
        return sum(len(batch) for batch in self.batches)


@dataclass(frozen=True, slots=True)
class Schedule:
    """How many steps a fine-tune takes."""

    steps: int
    steps_per_epoch: int

    @classmethod
    def of(cls, train: Train, rows: int) -> Schedule:
        """The schedule on a train split of `rows` rows; `max_steps` goes before `epochs`, as in transformers."""
        if rows < 1:
            raise InputError("the train split is empty: there is nothing to learn from.")
        per_epoch = math.ceil(math.ceil(rows / train.batch_size) / train.gradient_accumulation)
        # 1e-9: 0.1 epochs of 10 steps are 1 step, whatever the rounding of the product
        steps = max(1, math.ceil(train.epochs * per_epoch - 1e-9))
        return cls(train.max_steps or steps, per_epoch)


def epoch_order(lengths: Int64[np.ndarray, " rows"], train: Train, epoch: int) -> Int64[np.ndarray, " rows"]:
    """All rows in the order of one epoch: shuffled, or shuffled and sorted by length inside large blocks."""
    random = np.random.default_rng([train.seed, epoch])
    order = random.permutation(len(lengths)).astype(np.int64)
    if not train.group_by_length:
        return order
    size = MEGA_BATCH * train.batch_size
    blocks = [order[at : at + size] for at in range(0, len(order), size)]
    return np.concatenate([block[np.argsort(-lengths[block], kind="stable")] for block in blocks])


def steps(lengths: Int64[np.ndarray, " rows"], train: Train) -> Iterator[TrainStep]:
    """All steps of a fine-tune on rows of these lengths."""
    schedule = Schedule.of(train, len(lengths))
    together = train.gradient_accumulation
    for number in range(1, schedule.steps + 1):
        epoch, in_epoch = divmod(number - 1, schedule.steps_per_epoch)
        if in_epoch == 0:
            order = epoch_order(lengths, train, epoch)
            cut = [order[at : at + train.batch_size] for at in range(0, len(order), train.batch_size)]
        first = in_epoch * together
        ends = in_epoch + 1 == schedule.steps_per_epoch
        yield TrainStep(number, epoch, tuple(cut[first : first + together]), first, ends)


@dataclass(frozen=True, eq=False, slots=True)
class Share:
    """The part of a batch that one process computes: positions in the batch, and how much each row counts."""

    positions: Rows
    weight: float


def share_of(rows: int, rank: int, processes: int) -> Share:
    """The share of process `rank` in a batch of `rows` rows; sizes differ by one at most.

    A batch with fewer rows than processes is computed whole by each of them and counts accordingly less: then no
    process is without rows while the others wait for its gradient.

    >>> [share_of(5, rank, 2).positions.tolist() for rank in (0, 1)]
    [[0, 1, 2], [3, 4]]
    """
    positions = np.arange(rows, dtype=np.int64)
    if rows < processes:
        return Share(positions, 1 / processes)
    return Share(np.array_split(positions, processes)[rank], 1.0)
