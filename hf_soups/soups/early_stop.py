"""Stopping early: a mixture that can no longer reach the soup so far is known from the rows that are hardest.

Rows that the ingredients alone get wrong are mostly wrong in their mixtures too. Scored first, they settle within a few
batches that a candidate makes too many mistakes. Batches stay those of like length but for the first few of them.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from jaxtyping import Int64

from hf_soups.errors import InputError
from hf_soups.files.reading import read_json
from hf_soups.files.writing import write_json
from hf_soups.models.inference import length_buckets
from hf_soups.soups.scoring import SoupScorer, losses_of
from hf_soups.soups.soup import AtBest, Score, Soup

FIRST = 2  # batches that are cut from the hardest rows; the next part of the rows is twice as long, and so on


def hard_first(
    order: Int64[np.ndarray, " rows"], lengths: Int64[np.ndarray, " rows"], batch_size: int
) -> tuple[Int64[np.ndarray, " batch"], ...]:
    """The rows in batches, the hardest first, each batch of like length.

    Rows are taken in growing parts, and each part is cut into batches by length; batches of a part with harder rows
    come first.

    >>> [batch.tolist() for batch in hard_first(np.array([2, 0, 1, 3]), np.array([5, 1, 5, 1]), 2)]
    [[2, 0], [1, 3]]
    """
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))
    batches: list[np.ndarray] = []
    start, size = 0, FIRST * batch_size
    while start < len(order):
        part = order[start : start + size]
        cut = [part[at] for at in length_buckets(np.asarray(lengths)[part], batch_size)]
        batches += sorted(cut, key=lambda batch: place[batch].mean())
        start, size = start + size, 2 * size
    return tuple(batches)


@dataclass(frozen=True, eq=False)
class EarlyStop:
    """Scores mixtures on the hardest rows first, and no further than is needed."""

    scorer: SoupScorer
    state: Path  # keeps the order of the rows, so that a search that goes on after a kill has the same batches

    def __call__(self, soup: Soup, floor: Score | None) -> Score | AtBest:
        """See `SoupScorer.or_bound`."""
        return self._scorer.or_bound(soup, floor)

    @functools.cached_property
    def _scorer(self) -> SoupScorer:
        return replace(self.scorer, batches=self.batches)

    @functools.cached_property
    def batches(self) -> tuple[Int64[np.ndarray, " batch"], ...]:
        """The rows; made at the first mixture, when the ingredients alone were scored."""
        order = self._kept()
        if order is None:
            order = self._hardest()
            write_json(self.state, {"order": order.tolist()})
        return hard_first(order, np.asarray(self.scorer.encoded.lengths), self.scorer.batch_size)

    def _hardest(self) -> Int64[np.ndarray, " rows"]:
        """Rows, those first that the ingredients alone answer worst on average; as they are where nothing is known."""
        known = {c: losses_of(answers) for c, answers in self.scorer.cached.items()} | self.scorer.losses
        # of a loss without bound one ingredient that diverged would decide alone
        each = [1 / (1 + known[checkpoint]) for checkpoint in sorted(known, key=str)]
        right = np.mean(each, axis=0) if each else np.zeros(self.scorer.rows)
        return np.argsort(right, kind="stable")

    def _kept(self) -> Int64[np.ndarray, " rows"] | None:
        try:
            order = np.asarray(read_json(self.state)["order"], dtype=np.int64)
        except (FileNotFoundError, InputError, KeyError, TypeError, ValueError, OverflowError):
            return None
        return order if np.array_equal(np.sort(order), np.arange(self.scorer.rows)) else None
