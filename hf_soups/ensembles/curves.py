"""Curves: what each further copy of a model adds, against the number of copies and against their cost.

The study of Kondratyuk et al. 2020 (arXiv:2005.00570): is it better to make one model larger, or to average more small
ones?
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from hf_soups.costs import Cost, one_unit
from hf_soups.ensembles.combine import Members, checked, scores_of
from hf_soups.errors import InputError
from hf_soups.metrics import Metric, metric_named
from hf_soups.predictions import Predictions

SUBSETS = 50  # of each size, at most


@dataclass(frozen=True, slots=True)
class CurvePoint:
    """Ensembles of `members` copies: over the subsets that were scored, the mean score and the two extremes."""

    members: int
    subsets: int
    mean: float
    low: float
    high: float
    cost: float  # of one example, mean over the subsets


@dataclass(frozen=True, slots=True)
class Curve:
    """Score and cost for 1 to all copies of one model; scores in the metric's own sign."""

    name: str
    points: tuple[CurvePoint, ...]
    metric: str
    combine: str
    rows: int
    unit: str = ""


def member_curve(
    predictions: Mapping[str, Predictions],
    costs: Mapping[str, Cost | float],
    *,
    combine: str = "geometric",
    metric: Metric | str = "accuracy",
    subsets: int = SUBSETS,
    seed: int = 0,
    name: str = "",
) -> Curve:
    """For n = 1 to all members: the score of ensembles of n of them, over all subsets of that size or a sample.

    Args:
        predictions: by name, labelled, of the same rows; copies of one architecture that differ by seed, say.
        costs: of one example, by name, in one unit.
        combine: "mean", "geometric" or "vote"; the study used the geometric mean.
        metric: a metric, or the name of one in `METRICS`.
        subsets: of each size, at most. Where there are more, so many different ones are drawn.
        seed: of the draw.
        name: of the curve.
    Raises:
        PredictionsError: if there are no members or labels, or members are not of the same rows.
        InputError: if a cost is missing or in another unit, or `metric` or `subsets` cannot be used.

    >>> a = Predictions.from_probs([[0.9, 0.1], [0.6, 0.4]], labels=[0, 1])
    >>> b = Predictions.from_probs([[0.4, 0.6], [0.1, 0.9]], labels=[0, 1])
    >>> [(p.members, p.mean, p.cost) for p in member_curve({"a": a, "b": b}, {"a": 3.0, "b": 3.0}).points]
    [(1, 0.5, 3.0), (2, 1.0, 6.0)]
    """
    if subsets < 1:
        raise InputError(f"{subsets} subsets of each size; expected 1 or more.")
    known, members = metric_named(metric), Members.of(list(predictions.values()))
    checked(combine, members.problem_type)
    value, unit = one_unit({n: _cost_of(n, costs) for n in predictions})
    each = np.asarray([value[n] for n in predictions])
    drawn = [_subsets(len(members), size, subsets, seed) for size in range(1, len(members) + 1)]
    weights = np.concatenate(drawn)
    scores = scores_of(members, weights / weights.sum(axis=1, keepdims=True), known, combine)
    points, at = [], 0
    for size, chosen in enumerate(drawn, start=1):
        found, at = scores[at : at + len(chosen)], at + len(chosen)
        spread = (float(v) for v in (found.mean(), found.min(), found.max(), (chosen @ each).mean()))
        points.append(CurvePoint(size, len(chosen), *spread))
    return Curve(name, tuple(points), known.name, combine, members.rows, unit.unit)


def member_curves(
    predictions: Mapping[str, Predictions],
    costs: Mapping[str, Cost | float],
    *,
    groups: Mapping[str, str] | Callable[[str], str] | None = None,
    combine: str = "geometric",
    metric: Metric | str = "accuracy",
    subsets: int = SUBSETS,
    seed: int = 0,
) -> tuple[Curve, ...]:
    """One curve for each architecture of a pool, the cheapest first.

    Args:
        predictions: as for `member_curve`, of all architectures.
        costs: by name.
        groups: the architecture of each name, as a mapping or a function; by default what stands before the last "-",
            "_", "/" or "@" of the name: "b0-seed1" and "b0-seed2" are copies of "b0".
        combine, metric, subsets, seed: as for `member_curve`.
    """
    of = groups.__getitem__ if isinstance(groups, Mapping) else groups or architecture_of
    lacking = [n for n in predictions if isinstance(groups, Mapping) and n not in groups]
    if lacking:
        raise InputError(f"no group is given for {', '.join(lacking)}; name one for each of the predictions.")
    one_unit({n: _cost_of(n, costs) for n in predictions})  # curves of one picture share an axis
    by_group: dict[str, dict[str, Predictions]] = {}
    for name, p in predictions.items():
        by_group.setdefault(of(name), {})[name] = p
    made = [
        member_curve(copies, costs, combine=combine, metric=metric, subsets=subsets, seed=seed, name=group)
        for group, copies in by_group.items()
    ]
    return tuple(sorted(made, key=lambda curve: (curve.points[0].cost, curve.name)))


def architecture_of(name: str) -> str:
    """What a name says before its last separator.

    >>> architecture_of("b0-seed1"), architecture_of("runs/resnet20_2"), architecture_of("alone")
    ('b0', 'runs/resnet20', 'alone')
    """
    found = re.fullmatch(r"(.+)[-_/@][^-_/@]*", name)
    return found.group(1) if found else name


def _cost_of(name: str, costs: Mapping[str, Cost | float]) -> Cost | float:
    if name not in costs:
        raise InputError(f"no cost of {name!r}; costs are given of {', '.join(costs) or 'none'}.")
    return costs[name]


def _subsets(members: int, size: int, most: int, seed: int) -> np.ndarray:
    """Different subsets of one size as rows of 0 and 1: all of them, or `most` that are drawn."""
    if math.comb(members, size) <= most:
        chosen: Sequence[Sequence[int]] = list(combinations(range(members), size))
    else:
        random = np.random.default_rng([seed, size])
        seen: dict[tuple[int, ...], None] = {}
        while len(seen) < most:  # most is below the number of subsets, so this ends
            seen[tuple(sorted(random.choice(members, size, replace=False).tolist()))] = None
        chosen = list(seen)
    rows = np.zeros((len(chosen), members))
    for row, subset in zip(rows, chosen, strict=True):
        row[list(subset)] = 1
    return rows
