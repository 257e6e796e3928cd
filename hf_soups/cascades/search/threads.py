"""Turns: tasks side by side whose results do not depend on how many threads there are.

All tasks of a turn begin from what was known before it, and are merged in their order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

import numpy as np

from hf_soups.cascades.pareto import Known, Points

T = TypeVar("T")
TURNS, LEAST = 40, 8  # turns of one pass, and tasks of a turn at least
OnProgress = Callable[[float], object]


def in_turns(
    tasks: Sequence[T], work: Callable[[T, Known], Points], found: Points, known: Known, pool: ThreadPoolExecutor,
    on_progress: OnProgress = lambda _: None,
) -> tuple[Points, Known]:  # fmt: skip
    """What tasks found beside what was found before, the beaten left out, and the table of it.

    Args:
        tasks: in an order of their own.
        work: a task's points, given what is known; it may leave out what that surely beats.
        found, known: from before.
        pool: whose threads do the tasks.
        on_progress: called with the share that is done.
    """
    edges = np.linspace(0, len(tasks), max(1, min(TURNS, len(tasks) // LEAST)) + 1).astype(int)
    for first, stop in pairwise(edges):
        before = known  # bound here, so that a task of this turn never sees the next table
        parts = list(pool.map(lambda task, before=before: work(task, before), tasks[first:stop]))
        if any(len(part) for part in parts):
            found = Points.joined([found, *parts]).nondominated()
            known = known.with_points(found)
        on_progress(stop / len(tasks))
    return found, known
