"""A sketch of a large pool: some of the rows, and of each of these the few classes that any model finds likely.

It is what a beam screens thousands of chains on; those that it keeps are scored on everything.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Int64

from hf_soups.cascades.searching.entries import Entries
from hf_soups.cascades.searching.stages import scaled_block
from hf_soups.metrics import METRICS

SURER_FIRST = np.float32(1e-3)
NUMBERS = 2**28  # log-probabilities kept at most: 1 GB


@dataclass(frozen=True, eq=False)
class Sketch:
    """Each model's log-probabilities of the same rows and classes; they sum to 1 only if `exact`."""

    log_probs: Float32[np.ndarray, "models rows classes"]
    labels: Int64[np.ndarray, " rows"]  # among the classes kept
    exact: bool  # all rows and classes


def sketched(entries: Entries, *, rows: int, classes: int, seed: int = 0) -> Sketch:
    """At most `rows` rows drawn by `seed`, of each the label and the classes that come first with some model.

    Classes are left out where only hits count: other metrics ask which class it was that was answered.
    """
    few = min(classes, entries.classes) if entries.metric is METRICS["accuracy"] else entries.classes
    count = max(1, min(rows, entries.rows, NUMBERS // (len(entries) * few)))
    at = np.sort(np.random.Generator(np.random.PCG64(seed)).permutation(entries.rows)[:count])
    labels = entries.labels[at]
    if few == entries.classes:
        kept = np.stack([_rows_of(entries, m, at) for m in range(len(entries))])
        return Sketch(kept, labels, count == entries.rows)
    most = np.full((count, entries.classes), -np.inf, dtype=np.float32)
    for member in range(len(entries)):
        own = _rows_of(entries, member, at)
        best = own.max(axis=1, keepdims=True)
        # every model's answer before any model's second choice, and the surer models' answers first
        np.maximum(most, own - best + SURER_FIRST * best, out=most)
    most[np.arange(count), labels] = np.inf
    # in ascending order, so that of equal classes the lowest still wins
    chosen = np.sort(np.argpartition(most, -few, axis=1)[:, -few:], axis=1)
    kept = np.stack([np.take_along_axis(_rows_of(entries, m, at), chosen, axis=1) for m in range(len(entries))])
    return Sketch(kept, np.argmax(chosen == labels[:, None], axis=1), False)


def _rows_of(entries: Entries, member: int, at: Int64[np.ndarray, " rows"]) -> Float32[np.ndarray, "rows all_classes"]:
    """A member's log-probabilities of some rows, at its temperature."""
    whole = len(at) == entries.rows
    stored = entries.predictions[member] if whole else entries.predictions[member].take(at)
    return scaled_block(stored, entries.temperatures[member], slice(0, len(at)))
