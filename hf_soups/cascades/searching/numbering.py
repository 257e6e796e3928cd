"""Numbering: which beginnings of cascades answer alike, so that each is computed once.

A mean does not depend on the order of its members, so what members 1..k answer is a matter of their *set*; where the
last answers alone, of that one; where it answers alone and the others agree or not, of it and the set before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import combinations
from math import comb

from hf_soups.cascades.rule import Rule

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
