"""Compiling inner loops with numba, once, the machine code kept where it can be written; and the loop of `pareto`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numba
import numpy as np

F = TypeVar("F", bound=Callable[..., object])


def compiled(function: F) -> F:
    """The function in machine code, which runs without Python's lock, so that threads share the work.

    The code is kept beside the module or in the user's cache; where neither can be written, it is compiled anew in
    each process.
    """
    try:
        return cast(F, numba.njit(nogil=True, cache=True)(function))
    except RuntimeError:  # numba finds no folder that it may write to
        return cast(F, numba.njit(nogil=True)(function))


@compiled
def keep_unbeaten(order: np.ndarray, merits: np.ndarray, costs: np.ndarray, kept: np.ndarray) -> None:
    """Keep each point that has a higher merit than all points before it in `order` that cost no more.

    By a tree of maxima over ranks of cost: the logarithm of the points for each point.

    Args:
        order: of the points; those before a point are no worse in what `merits` and `costs` leave out.
        merits, costs: ranks from 0, by point.
        kept: by point, false; written.
    """
    tree = np.full(len(order) + 1, -1, np.int64)
    for point in order:
        best, at = -1, costs[point] + 1
        while at > 0:
            best = max(best, tree[at])
            at -= at & -at
        if merits[point] > best:
            kept[point] = True
            at = costs[point] + 1
            while at <= len(order):
                tree[at] = max(tree[at], merits[point])
                at += at & -at
