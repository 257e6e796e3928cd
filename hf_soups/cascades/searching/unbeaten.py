"""Which points no other beats: the compiled loop."""

from __future__ import annotations

import numpy as np

from hf_soups.cascades.searching.compiled import compiled


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
