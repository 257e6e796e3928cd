"""States: what every beginning of a cascade answers on every row, computed once whichever cascades share it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real, UInt8, UInt32

from hf_soups.cascades.rule import Committee
from hf_soups.cascades.searching.candidates import Candidates, find_candidates
from hf_soups.cascades.searching.entries import Entries
from hf_soups.cascades.searching.numbering import Members, Numbering, sets_of_size
from hf_soups.cascades.searching.stages import statistics_of
from hf_soups.errors import InputError
from hf_soups.metrics import METRICS

ELEMENTS_AT_ONCE = 2**19  # rows x classes of a block: 4 MB in float64, which stay in the cache
WORD_ROWS = 32  # rows whose hits are kept in one word
TASK_ROWS = 50 * WORD_ROWS  # of one thread's turn
MOST_SETS = 2 * 10**6  # 60 models up to 4 members are 522,000
Told = Callable[[float], object]


@dataclass(frozen=True, eq=False)
class States:
    """By number: how sure a beginning is of each row, and what a row adds to the metric that leaves there.

    Accuracy needs one bit a row and is kept as `hits`; other metrics keep their `statistics`.
    """

    numbering: Numbering
    confidence: Float32[np.ndarray, "asked rows"]
    hits: UInt32[np.ndarray, "states words"] | None
    statistics: Real[np.ndarray, "states rows statistics"] | None
    candidates: Candidates | None = None  # that they were computed from, where they were

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return int(self.confidence.shape[1])

    @cached_property
    def hit_counts(self) -> Int64[np.ndarray, " states"]:
        """How many rows each state hits."""
        assert self.hits is not None
        return np.array([np.unpackbits(packed.view(np.uint8)).sum() for packed in self.hits], dtype=np.int64)

    @cached_property
    def sums(self) -> Float64[np.ndarray, "states statistics"]:
        """The row statistics of each state, over all rows."""
        if self.statistics is not None:
            return np.asarray(self.statistics.sum(axis=1, dtype=np.float64))
        return np.stack([self.hit_counts, np.full(len(self.numbering), self.rows)], axis=1).astype(np.float64)

    def statistics_of(self, state: int) -> Real[np.ndarray, "rows statistics"]:
        """The row statistics of one state; for accuracy, hit and one."""
        if self.statistics is not None:
            return np.asarray(self.statistics[state])
        assert self.hits is not None
        hit = np.unpackbits(self.hits[state].view(np.uint8), bitorder="little", count=self.rows)
        return np.stack([hit, np.ones_like(hit)], axis=1)


def compute_states(entries: Entries, deepest: int, *, threads: int, told: Told = lambda _: None) -> States:
    """The states of all beginnings of up to `deepest` members.

    Args:
        entries: the models; their predictions are read once, block by block.
        deepest: the most members of a cascade, at most as many as there are entries.
        threads: blocks of rows computed at once.
        told: called with the share that is done.
    """
    _check_size(entries, deepest)
    numbering = Numbering.of(len(entries), deepest, entries.rule)
    by_few_classes = (
        entries.rule.confidence == "max"
        and entries.rule.combine in ("mean", "last")
        and entries.metric is METRICS["accuracy"]
    )
    if by_few_classes:
        return _by_candidates(entries, numbering, threads, told)
    return _by_committees(entries, numbering, threads, told)


def _check_size(entries: Entries, deepest: int) -> None:
    """Refuse what would not fit into memory, before hours are spent on it."""
    sizes = [sets_of_size(len(entries), size, entries.rule) for size in range(1, deepest + 1)]
    of_row = 1 / 8 if entries.metric is METRICS["accuracy"] else _sample(entries).nbytes
    asked = sum(sizes[: max(deepest - 1, 1)])
    needed = entries.rows * (sum(sizes) * of_row + asked * np.dtype(np.float32).itemsize)
    room = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else np.inf
    if sum(sizes) > MOST_SETS or needed > room / 2:
        raise InputError(
            f"{len(entries)} models in cascades of up to {deepest} members make {sum(sizes):,} sets of members, whose "
            f"answers on {entries.rows:,} rows take {needed / 1e9:.1f} GB: too much to try them one by one. Take fewer "
            "models, members or rows, or a search for large pools: `beam`, or `streeter` where members answer alone."
        )


def _by_candidates(entries: Entries, numbering: Numbering, threads: int, told: Told) -> States:
    from hf_soups.cascades.searching.kernels import answer_subsets

    largest = numbering.deepest if entries.rule.combine == "mean" else 1  # the last alone is a mean of one
    found = find_candidates(entries, largest, threads=threads, told=lambda share: told(share / 2))
    sizes = [sets_of_size(len(entries), size, entries.rule) for size in range(1, largest + 1)]
    numbers = np.cumsum([0, *sizes[:-1]], dtype=np.int64)
    confidence = np.empty((numbering.asked, entries.rows), dtype=np.float32)
    hits = np.zeros((len(numbering), -(-entries.rows // WORD_ROWS)), dtype=np.uint32)

    def work(first: int) -> None:
        stop = min(first + TASK_ROWS, entries.rows)
        answer_subsets(
            first, stop, found.start, found.label, found.probs, numbers, found.widest, confidence, hits
        )  # fmt: skip

    for share in _in_threads(work, entries.rows, TASK_ROWS, threads):
        told(0.5 + share / 2)
    return States(numbering, confidence, hits, None, found)


def _by_committees(entries: Entries, numbering: Numbering, threads: int, told: Told) -> States:
    """By the rule's own arithmetic over all classes."""
    step = max(WORD_ROWS, ELEMENTS_AT_ONCE // entries.classes // WORD_ROWS * WORD_ROWS)
    confidence = np.empty((numbering.asked, entries.rows), dtype=np.float32)
    accuracy = entries.metric is METRICS["accuracy"]
    kept = _room(entries, len(numbering))
    following = _following(numbering)

    def work(first: int) -> None:
        rows = slice(first, min(first + step, entries.rows))
        blocks = [entries.block(m, rows.start, rows.stop) for m in range(len(entries))]
        for key, committee in _grown((), Committee(entries.rule), blocks, following):
            number = numbering.numbers.get(key)
            if number is None:  # only on the way to longer ones
                continue
            if number < numbering.asked:
                confidence[number, rows] = committee.confidence()
            of_rows = statistics_of(committee, entries.labels[rows], entries.metric)
            if accuracy:
                packed = np.packbits(of_rows[:, 0], bitorder="little")
                kept[number, first // 8 : first // 8 + len(packed)] = packed
            else:
                kept[number, rows] = of_rows

    for share in _in_threads(work, entries.rows, step, threads):
        told(share)
    if accuracy:
        return States(numbering, confidence, kept.view(np.uint32), None)
    return States(numbering, confidence, None, kept)


def _room(entries: Entries, states: int) -> UInt8[np.ndarray, "states bytes"] | Real[np.ndarray, "states rows some"]:
    """Where hits are packed, or the statistics in the type that the metric gives."""
    if entries.metric is METRICS["accuracy"]:
        return np.zeros((states, -(-entries.rows // WORD_ROWS) * WORD_ROWS // 8), dtype=np.uint8)
    sample = _sample(entries)
    return np.empty((states, entries.rows, sample.shape[1]), dtype=sample.dtype)


def _sample(entries: Entries) -> Real[np.ndarray, "one statistics"]:
    """The statistics of one row."""
    one = Committee(entries.rule).joined(entries.block(0, 0, 1))
    return statistics_of(one, entries.labels[:1], entries.metric)


def _following(numbering: Numbering) -> dict[Members, list[Members]]:
    """The beginnings to walk through, each with those that have one member more; every key is reached."""
    following: dict[Members, list[Members]] = {}
    for key in numbering.keys:
        for k in range(len(key)):
            longer = following.setdefault(key[:k], [])
            if key[: k + 1] not in longer[-1:]:  # keys come in order, so an equal one would be the last
                longer.append(key[: k + 1])
    return {key: list(dict.fromkeys(longer)) for key, longer in following.items()}


def _grown(
    key: Members,
    committee: Committee,
    blocks: list[Float32[np.ndarray, "rows classes"]],
    following: dict[Members, list[Members]],
) -> Iterator[tuple[Members, Committee]]:
    for longer in following.get(key, ()):
        joined = committee.joined(blocks[longer[-1]])
        yield longer, joined
        yield from _grown(longer, joined, blocks, following)


def _in_threads(work: Callable[[int], None], rows: int, step: int, threads: int) -> Iterator[float]:
    """Call `work` with the first row of each block; the shares that are done."""
    starts = range(0, rows, step)
    with ThreadPoolExecutor(threads, thread_name_prefix="states") as pool:
        for done, _ in enumerate(pool.map(work, starts), 1):
            yield done / len(starts)
