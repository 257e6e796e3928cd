"""Polish: the thresholds of found cascades, swept one at a time over all confidences that occurred.

Each sweep gives every threshold of a stage with the others fixed; whatever nothing known beats is kept, and polished
in its turn, until nothing is new or the allowance is spent.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jaxtyping import Int64

from hf_soups.cascades.searching.dominance import Known, Points, nondominated
from hf_soups.cascades.searching.entries import Entries
from hf_soups.cascades.searching.exits import Chain
from hf_soups.cascades.searching.numbering import Members
from hf_soups.cascades.searching.subsets import States
from hf_soups.cascades.searching.turns import Told, in_turns

SWEEP_ROWS = 10_000  # a sweep of few rows takes as long as these
Polished = set[bytes]


def polish(
    entries: Entries, states: States, found: Points, known: Known, pool: ThreadPoolExecutor, *, allowance: int,
    told: Told = lambda _: None,
) -> Points:  # fmt: skip
    """The cascades found, and those beside them that differ in thresholds and that no other beats.

    Args:
        entries, states: the models and what they answer.
        found, known: from the search on a grid.
        pool: whose threads sweep.
        allowance: rows that may be swept in all, which bounds the time; a round takes half of what is left. A sweep
            counts `SWEEP_ROWS` rows more than there are, for what it takes beside them.
        told: called with the share of the allowance that is spent.
    """
    done: Polished = set()
    left, of_sweep = allowance, states.rows + SWEEP_ROWS
    while left > of_sweep:
        chosen = _chosen(found, done, sweeps=max(1, left // 2 // of_sweep))
        if not len(chosen):
            break
        done |= set(_keys(found.take(chosen)))
        left -= int((found.members[chosen] >= 0).sum() - len(chosen)) * of_sweep
        tasks = by_chain(found, chosen)

        def work(task: tuple[Members, Points], known: Known) -> Points:
            return Chain.of(entries, states, task[0]).swept(entries, task[1], known)

        found, known = in_turns(tasks, work, found, known, pool)
        told(1 - max(left, 0) / allowance)
    return found


def _chosen(found: Points, done: Polished, sweeps: int) -> Int64[np.ndarray, " some"]:
    """Cascades not yet polished: first those that are best whatever the worst cost, each kind evenly thinned."""
    stages = (found.members >= 0).sum(axis=1) - 1
    fresh = np.array([key not in done for key in _keys(found)], dtype=bool) & (stages > 0)
    flat = np.zeros(len(found), dtype=bool)
    flat[nondominated(found.score, found.average, np.zeros(len(found)))] = True
    chosen: list[Int64[np.ndarray, " some"]] = []
    for kind in (fresh & flat, fresh & ~flat):
        at = np.flatnonzero(kind)
        share = min(1.0, sweeps / max(1, int(stages[at].sum())))
        chosen.append(at[np.unique(np.linspace(0, len(at) - 1, round(len(at) * share)).astype(int))] if len(at) else at)
        sweeps -= int(stages[chosen[-1]].sum())
        if sweeps <= 0:
            break
    return np.concatenate(chosen)


def by_chain(found: Points, chosen: Int64[np.ndarray, " some"]) -> list[tuple[Members, Points]]:
    """The chosen cascades, those of the same members in the same order together."""
    chains: dict[Members, list[int]] = {}
    for at in chosen:
        members = tuple(int(m) for m in found.members[at] if m >= 0)
        chains.setdefault(members, []).append(int(at))
    return [(members, found.take(np.array(at))) for members, at in chains.items()]


def _keys(points: Points) -> list[bytes]:
    """What tells one cascade from another."""
    return [m.tobytes() + t.tobytes() for m, t in zip(points.members, points.thresholds, strict=True)]
