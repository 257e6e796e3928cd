"""Candidates: the few classes of each row that a mean of members can answer, so that the others need not be looked at.

Of s members, one is at least as sure as the s-th least sure of all models; the mean of its best class is therefore at
least that divided by s. A class that every model gives less than the smallest of these bounds is never the answer,
whatever the members: no row has to be checked again.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Int64

from hf_soups.cascades.searching.entries import Entries

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
    entries: Entries, deepest: int, *, threads: int, told: Callable[[float], object] = lambda _: None
) -> Candidates:
    """The candidates of every row, for means of up to `deepest` members.

    Args:
        entries: whose predictions are read block by block, once.
        deepest: members of the largest mean; at most as many as there are entries.
        threads: blocks looked at at once.
        told: called with the share of the rows that is done.
    """
    step = max(1, CANDIDATES_AT_ONCE // (len(entries) * entries.classes))
    starts = range(0, entries.rows, step)
    parts = []
    with ThreadPoolExecutor(threads, thread_name_prefix="candidates") as pool:
        for part in pool.map(lambda at: _of_block(entries, deepest, at, min(at + step, entries.rows)), starts):
            parts.append(part)
            told(len(parts) / len(starts))
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
    before = np.cumsum(wanted, axis=1)[rows, labels] - 1
    return wanted.sum(axis=1), before, probs


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
