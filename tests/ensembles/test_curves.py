"""Curves of score against the number of copies, against every subset scored by itself."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from hf_soups.costs import Cost
from hf_soups.ensembles import ensemble, member_curve, member_curves
from hf_soups.errors import InputError
from hf_soups.metrics import METRICS
from tests.ensembles.pool import pool


@pytest.mark.parametrize("combine", ["mean", "geometric", "vote"])
@pytest.mark.parametrize("metric", ["accuracy", "nll", "ece"])
def test_each_point_is_of_all_subsets_of_its_size(combine: str, metric: str) -> None:
    predictions = pool(0, members=4, rows=40, classes=3)
    costs = {"m0": 1.0, "m1": 2.0, "m2": 3.0, "m3": 10.0}
    curve = member_curve(predictions, costs, combine=combine, metric=metric, name="net")
    for point in curve.points:
        chosen = list(combinations(predictions, point.members))
        scores = [METRICS[metric].compute(ensemble([predictions[n] for n in names], combine)) for names in chosen]
        # sums over subsets are matrix products, whose last bits differ; then they are rounded to float32
        assert (point.mean, point.low, point.high) == pytest.approx(
            (np.mean(scores), min(scores), max(scores)), abs=1e-6
        )
        assert point.subsets == len(chosen)
        assert point.cost == pytest.approx(point.members * 4.0)  # each member is in as many subsets of a size
    assert (curve.name, curve.rows, curve.metric) == ("net", 40, metric)


def test_where_subsets_are_too_many_different_ones_are_drawn_by_seed() -> None:
    predictions = pool(1, members=6, rows=30, classes=3)
    costs = dict.fromkeys(predictions, Cost(7.0, "macs"))
    curve = member_curve(predictions, costs, subsets=10)
    assert [p.subsets for p in curve.points] == [6, 10, 10, 10, 6, 1]
    assert curve == member_curve(predictions, costs, subsets=10)
    assert curve.points[1:4] != member_curve(predictions, costs, subsets=10, seed=1).points[1:4]
    assert [p.cost for p in curve.points] == [7.0, 14.0, 21.0, 28.0, 35.0, 42.0]
    assert curve.unit == "macs"


def test_architectures_are_told_apart_by_name_or_by_the_user() -> None:
    made = pool(2, members=5, rows=20, classes=3)
    predictions = dict(zip(("b1-s0", "b1-s1", "b0-s0", "b0-s1", "alone"), made.values(), strict=True))
    costs = {name: 2.0 if name.startswith("b1") else 1.0 for name in predictions}
    curves = member_curves(predictions, costs)
    assert [(c.name, len(c.points)) for c in curves] == [("alone", 1), ("b0", 2), ("b1", 2)]
    assert curves[2] == member_curve({n: predictions[n] for n in ("b1-s0", "b1-s1")}, costs, name="b1")
    (one,) = member_curves(predictions, costs, groups=lambda _: "all")
    assert len(one.points) == 5
    with pytest.raises(InputError, match="no group is given for b1-s1"):
        member_curves(predictions, costs, groups={"b1-s0": "x"})


def test_what_cannot_be_drawn_is_refused() -> None:
    predictions = pool(0, members=2, rows=5, classes=2)
    with pytest.raises(InputError, match="no cost of 'm1'"):
        member_curve(predictions, {"m0": 1.0})
    with pytest.raises(InputError, match="cannot be added"):
        member_curves(predictions, {"m0": Cost(1.0, "macs"), "m1": Cost(1.0, "seconds")}, groups=lambda name: name)
    with pytest.raises(InputError, match="0 subsets"):
        member_curve(predictions, {"m0": 1.0, "m1": 1.0}, subsets=0)
