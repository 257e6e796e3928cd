"""Subsets: which groups of models stand for "so many models of this pool": random orders, each read from its front.

Subsets of one order are nested, so a mixer that keeps the sum of its members reads one model more for the next size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from hf_soups.errors import InputError

ALL_SIZES = 8  # up to here every size is worth its place on the axis
FURTHER_SIZES = 8  # beyond, evenly by ratio

Subset = tuple[int, ...]  # positions in the pool, in the order in which they joined


def sizes_up_to(models: int) -> tuple[int, ...]:
    """Every number of models up to sixteen; of larger pools up to eight, then eight more, evenly by ratio.

    >>> sizes_up_to(5), sizes_up_to(72)
    ((1, 2, 3, 4, 5), (1, 2, 3, 4, 5, 6, 7, 8, 11, 14, 18, 24, 32, 42, 55, 72))
    """
    if models <= ALL_SIZES + FURTHER_SIZES:
        return tuple(range(1, models + 1))
    further = np.geomspace(ALL_SIZES, models, FURTHER_SIZES + 1).round().astype(int).tolist()
    return tuple(sorted({*range(1, ALL_SIZES + 1), *further}))


def checked_sizes(sizes: Sequence[int] | None, models: int) -> tuple[int, ...]:
    """The sizes in order, each once; the default ones if none are given.

    Raises:
        InputError: if one is below 1 or more than there are models.
    """
    if sizes is None:
        return sizes_up_to(models)
    wrong = [size for size in sizes if not 1 <= size <= models]
    if wrong or not sizes:
        raise InputError(f"sizes are {list(sizes)}, but there are {models} models: give numbers from 1 to {models}.")
    return tuple(sorted(set(sizes)))


def nested_subsets(models: int, sizes: Sequence[int], orders: int, seed: int) -> list[Subset]:
    """The fronts of `orders` random orders of the pool, order by order; of equal sets the first alone.

    The orders are turns of a random one, far apart at first, then of the next: after as many as there are models each
    has been in as many subsets of a size as every other, and no subset has come twice.

    Args:
        models: in the pool.
        sizes: in ascending order.
        orders: how many; so many subsets there are of each size, except where fewer are different.
        seed: of the orders.
    Raises:
        InputError: if `orders` is below 1.

    >>> [len(subset) for subset in nested_subsets(3, (1, 3), orders=3, seed=0)]
    [1, 3, 1, 1]
    """
    if orders < 1:
        raise InputError(f"{orders} subsets of each size; give at least 1.")
    random, stride = np.random.default_rng(seed), _stride(models)
    found: dict[frozenset[int], Subset] = {}
    order: list[int] = []
    for i in range(orders):
        if i % models == 0:
            order = random.permutation(models).tolist()
        turn = i * stride % models
        turned = order[turn:] + order[:turn]
        for size in sizes:
            found.setdefault(frozenset(turned[:size]), tuple(turned[:size]))
    return list(found.values())


def _stride(models: int) -> int:
    """A step that reaches every place of a circle once, and never close to those that it has just been to."""
    golden = 0.618 * models
    return min((n for n in range(1, models + 1) if math.gcd(n, models) == 1), key=lambda n: abs(n - golden))
