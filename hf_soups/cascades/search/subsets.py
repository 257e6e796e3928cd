"""What every beginning of a cascade answers on every row, computed once whichever cascades share it.

A mean does not depend on the order of its members, so what members 1..k answer is a matter of their *set*; where the
last answers alone, of that one; where it answers alone and the others agree or not, of it and the set before it.

Of s members, one is at least as sure as the s-th least sure of all models; the mean of its best class is therefore at
least that divided by s. A class that every model gives less than the smallest of these bounds is never the answer,
whatever the members: no row has to be checked again.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations
from math import comb

import numpy as np
from jaxtyping import Float32, Float64, Int64, Real, UInt8, UInt32

from hf_soups.cascades.rule import Committee, Rule
from hf_soups.cascades.search.candidates import Entries
from hf_soups.cascades.stages import statistics_of
from hf_soups.errors import InputError
from hf_soups.metrics import METRICS

Members = tuple[int, ...]  # places in the pool


def sets_of_size(models: int, size: int, rule: Rule) -> int:
    """How many beginnings of `size` members answer differently."""
    if rule.combine != "last":
        return comb(models, size)
    return models if rule.confidence != "agreement" else models * comb(models - 1, size - 1)


def key_of(members: Members, rule: Rule) -> Members:
    """The beginning that stands for all that answer as these members in this order do.

    >>> key_of((2, 0, 1), Rule("mean")), key_of((2, 0, 1), Rule("last")), key_of((2, 0, 1), Rule("last", "agreement"))
    ((0, 1, 2), (1,), (0, 2, 1))
    """
    if rule.combine != "last":
        return tuple(sorted(members))
    return members[-1:] if rule.confidence != "agreement" else (*sorted(members[:-1]), members[-1])


@dataclass(frozen=True, eq=False)
class Numbering:
    """A number for each beginning of up to `deepest` of `models` members; those that can be asked first.

    A beginning is *asked* for its confidence if a member can follow it.
    """

    models: int
    deepest: int
    rule: Rule
    keys: tuple[Members, ...] = ()
    asked: int = 0  # keys[:asked] are asked
    numbers: dict[Members, int] = field(default_factory=dict)

    @classmethod
    def of(cls, models: int, deepest: int, rule: Rule) -> Numbering:
        """The numbering for a pool; `deepest` is at most the number of models."""
        sizes = [list(_keys_of_size(models, size, rule)) for size in range(1, deepest + 1)]
        ordered = list(dict.fromkeys(key for keys in sizes for key in keys))
        asked = len(dict.fromkeys(key for keys in sizes[: max(deepest - 1, 1)] for key in keys))
        return cls(models, deepest, rule, tuple(ordered), asked, {key: i for i, key in enumerate(ordered)})

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, members: Members) -> int:
        return self.numbers[key_of(members, self.rule)]

    def chain(self, members: Members) -> tuple[int, ...]:
        """The numbers of a cascade's beginnings, the shortest first."""
        return tuple(self[members[:k]] for k in range(1, len(members) + 1))


def _keys_of_size(models: int, size: int, rule: Rule) -> Iterator[Members]:
    pool = range(models)
    if rule.combine != "last":
        return combinations(pool, size)
    if rule.confidence != "agreement":
        return ((m,) for m in pool)
    return ((*rest, m) for m in pool for rest in combinations([o for o in pool if o != m], size - 1))


CANDIDATES_AT_ONCE = 2**23  # members x rows x classes of a block: 33 MB in float32
MARGIN = 1e-4  # of log-probabilities: more than rounding to float32 moves any of them


@dataclass(frozen=True, eq=False)
class Candidates:
    """Row r has the candidates from[r] to from[r + 1], their classes ascending; the row's label is one of them."""

    start: Int64[np.ndarray, " rows_and_one"]
    label: Int64[np.ndarray, " rows"]  # which candidate is the row's label
    probs: Float64[np.ndarray, "candidates members"]

    @property
    def widest(self) -> int:
        """The most candidates of one row."""
        return int(np.diff(self.start).max(initial=1))


def find_candidates(
    entries: Entries, deepest: int, *, threads: int, on_progress: Callable[[float], object] = lambda _: None
) -> Candidates:
    """The candidates of every row, for means of up to `deepest` members.

    Args:
        entries: whose predictions are read block by block, once.
        deepest: members of the largest mean; at most as many as there are entries.
        threads: blocks looked at at once.
        on_progress: called with the share of the rows that is done.
    """
    step = max(1, CANDIDATES_AT_ONCE // (len(entries) * entries.classes))
    starts = range(0, entries.rows, step)
    parts = []
    with ThreadPoolExecutor(threads, thread_name_prefix="candidates") as pool:
        for part in pool.map(lambda at: _of_block(entries, deepest, at, min(at + step, entries.rows)), starts):
            parts.append(part)
            on_progress(len(parts) / len(starts))
    counts, labels, probs = (np.concatenate(column) for column in zip(*parts, strict=True))
    start = np.concatenate([[0], np.cumsum(counts)])
    return Candidates(start, start[:-1] + labels, probs)


def _of_block(
    entries: Entries, deepest: int, start: int, stop: int
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"], Float64[np.ndarray, "candidates members"]]:
    """Of some rows: how many candidates, which of them is the label, and all members' probabilities of them."""
    blocks = [entries.block(m, start, stop) for m in range(len(entries))]
    rows, labels = np.arange(stop - start), entries.labels[start:stop]
    wanted = _most(blocks) >= _least(blocks, deepest)[:, None]
    wanted[rows, labels] = True
    at, classes = np.nonzero(wanted)
    probs = np.empty((len(at), len(blocks)))
    for m, block in enumerate(blocks):
        probs[:, m] = np.exp(block[at, classes].astype(np.float64))  # contiguous: the same exp as in `Committee`
    counts = np.bincount(at, minlength=len(rows))
    before = np.flatnonzero(classes == labels[at]) - (np.cumsum(counts) - counts)
    return counts, before, probs


def _most(blocks: list[Float32[np.ndarray, "rows classes"]]) -> Float32[np.ndarray, "rows classes"]:
    """Each class's largest log-probability among the members."""
    most = blocks[0].copy()
    for block in blocks[1:]:
        np.maximum(most, block, out=most)
    return most


def _least(blocks: list[Float32[np.ndarray, "rows classes"]], deepest: int) -> Float64[np.ndarray, " rows"]:
    """The log-probability below which no class is the answer of up to `deepest` members."""
    surest = np.sort(np.stack([block.max(axis=1) for block in blocks]).astype(np.float64), axis=0)[:deepest]
    return np.asarray((surest - np.log(np.arange(1, deepest + 1))[:, None]).min(axis=0) - MARGIN)


ELEMENTS_AT_ONCE = 2**19  # rows x classes of a block: 4 MB in float64, which stay in the cache
WORD_ROWS = 32  # rows whose hits are kept in one word
TASK_ROWS = 50 * WORD_ROWS  # of one thread's turn
MOST_SETS = 2 * 10**6  # 60 models up to 4 members are 522,000
OnProgress = Callable[[float], object]


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


def compute_states(entries: Entries, deepest: int, *, threads: int, on_progress: OnProgress = lambda _: None) -> States:
    """The states of all beginnings of up to `deepest` members.

    Args:
        entries: the models; their predictions are read once, block by block.
        deepest: the most members of a cascade, at most as many as there are entries.
        threads: blocks of rows computed at once.
        on_progress: called with the share that is done.
    """
    _check_size(entries, deepest)
    numbering = Numbering.of(len(entries), deepest, entries.rule)
    by_few_classes = (
        entries.rule.confidence == "max"
        and entries.rule.combine in ("mean", "last")
        and entries.metric is METRICS["accuracy"]
        and not entries.few
    )
    if by_few_classes:
        return _by_candidates(entries, numbering, threads, on_progress)
    return _by_committees(entries, numbering, threads, on_progress)


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


def _by_candidates(entries: Entries, numbering: Numbering, threads: int, on_progress: OnProgress) -> States:
    from hf_soups.cascades.search.kernels import answer_subsets

    largest = numbering.deepest if entries.rule.combine == "mean" else 1  # the last alone is a mean of one
    found = find_candidates(entries, largest, threads=threads, on_progress=lambda share: on_progress(share / 2))
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
        on_progress(0.5 + share / 2)
    return States(numbering, confidence, hits, None, found)


def _by_committees(entries: Entries, numbering: Numbering, threads: int, on_progress: OnProgress) -> States:
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
        on_progress(share)
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
