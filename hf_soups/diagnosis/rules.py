"""Rules: a setting that tells the pairs with a barrier from those without, if there is one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hf_soups.diagnosis.facts import Facts, Pair, Single


@dataclass(frozen=True, slots=True)
class Rule:
    """All pairs without a barrier lie on one side of a setting, all pairs with one on the other."""

    setting: str
    free: float  # the last value without a barrier
    blocked: float  # the first with one
    upward: bool  # barriers come with larger values


def separating_rule(facts: Facts) -> Rule | None:
    """The first setting that separates the pairs without any exception; None if none does, or there is one kind only.

    A pair counts by the run with the bolder setting: the larger learning rate, the more epochs, the smaller batch,
    the larger distance from the start.
    """
    for name, value, upward in SETTINGS:
        bolder = max if upward else min
        values = {p.names: [value(facts.single(n)) for n in p.names] for p in facts.pairs}
        if any(v is None for both in values.values() for v in both):
            continue
        known = {names: bolder(v for v in both if v is not None) for names, both in values.items()}
        rule = _between(name, [known[p.names] for p in facts.free], [known[p.names] for p in facts.blocked], upward)
        if rule is not None:
            return rule
    return None


def _between(name: str, free: list[float], blocked: list[float], upward: bool) -> Rule | None:
    if not free or not blocked:
        return None
    if upward and max(free) < min(blocked):
        return Rule(name, max(free), min(blocked), upward)
    if not upward and min(free) > max(blocked):
        return Rule(name, min(free), max(blocked), upward)
    return None


def _setting(key: str) -> Callable[[Single], float | None]:
    return lambda single: single.settings.get(key)


def _distance(single: Single) -> float | None:
    return single.from_start


# What a user can turn comes first; the distance is what comes of it.
SETTINGS: tuple[tuple[str, Callable[[Single], float | None], bool], ...] = (
    ("learning rate", _setting("learning_rate"), True),
    ("epochs", _setting("epochs"), True),
    ("batch size", _setting("batch_size"), False),
    ("distance from the start", _distance, True),
)


def lowest_learning_rate(pairs: tuple[Pair, ...], facts: Facts) -> float | None:
    """The lowest learning rate among the runs of these pairs, where it is recorded."""
    rates = [facts.single(n).settings.get("learning_rate") for p in pairs for n in p.names]
    return min((r for r in rates if r is not None), default=None)
