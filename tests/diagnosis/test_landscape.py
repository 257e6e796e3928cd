"""Lines and planes against arithmetic done by hand and by linear algebra; no model anywhere."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_soups.checkpoint import Checkpoint
from hf_soups.diagnosis.findings import (
    Line,
    along_line,
    choose_pairs,
    coefficients_at,
    corners_of,
    grid_of,
    over_plane,
    shares,
)
from hf_soups.soups import Soup

A, B, C = (Checkpoint(name) for name in "abc")


def line(*scores: float, sign: int = 1) -> Line:
    return Line("a", "b", tuple(i / (len(scores) - 1) for i in range(len(scores))), scores, sign)


def test_a_barrier_is_the_largest_drop_below_the_straight_line() -> None:
    dipped = line(0.8, 0.7, 0.6, 0.85, 0.9)  # straight: 0.8, 0.825, 0.85, 0.875, 0.9
    assert dipped.below_straight == pytest.approx((0, 0.125, 0.25, 0.025, 0))
    assert dipped.barrier == pytest.approx(0.25)
    assert dipped.below_worse == pytest.approx(0.2)
    assert dipped.gain_over_mean == pytest.approx(-0.25)
    assert dipped.gain_over_better == pytest.approx(-0.3)


def test_a_line_above_the_straight_one_has_no_barrier_and_a_gain() -> None:
    raised = line(0.8, 0.9, 0.8)
    assert (raised.barrier, raised.below_worse) == (0, 0)
    assert raised.gain_over_mean == raised.gain_over_better == pytest.approx(0.1)


@given(st.lists(st.floats(0, 1), min_size=3, max_size=9).filter(lambda s: len(s) % 2 == 1))
def test_the_sign_turns_the_metric_and_nothing_else(scores: list[float]) -> None:
    higher, lower = line(*scores), line(*(-s for s in scores), sign=-1)
    for name in ("barrier", "below_worse", "gain_over_mean", "gain_over_better"):
        assert getattr(higher, name) == pytest.approx(getattr(lower, name), abs=1e-12)
    assert higher.barrier >= 0


def test_a_loss_that_rises_between_the_ends_is_a_barrier() -> None:
    assert line(0.4, 1.5, 0.6, sign=-1).barrier == pytest.approx(1.0)
    assert line(0.4, 0.3, 0.6, sign=-1).gain_over_better == pytest.approx(0.1)


def test_a_mixture_that_answers_nan_is_an_infinite_barrier() -> None:
    assert line(0.8, math.nan, 0.8).barrier == math.inf


@pytest.mark.parametrize("points", [1, 2, 3, 4, 7])
def test_the_middle_is_always_measured(points: int) -> None:
    at = shares(points)
    assert 0.5 in at
    assert (at[0], at[-1]) == (0.0, 1.0)
    assert list(at) == sorted(set(at))
    assert len(at) - 2 == points + (points % 2 == 0)


def test_along_a_line_each_mixture_is_asked_once_with_its_coefficients() -> None:
    asked: list[tuple] = []

    def score(soup: Soup) -> float:
        asked.append((soup.ingredients, soup.coefficients))
        return len(asked)

    assert along_line(score, A, B, (0.0, 0.25, 0.5, 1.0)) == (1, 2, 3, 4)
    assert asked == [((A,), (1.0,)), ((A, B), (0.75, 0.25)), ((A, B), (0.5, 0.5)), ((B,), (1.0,))]


def distances(points: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - points[None], axis=2)


@pytest.mark.parametrize("seed", range(5))
def test_in_the_plane_the_models_are_as_far_apart_as_their_weights(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(3, 50))
    corners = corners_of(distances(weights))
    assert corners is not None
    assert distances(np.array(corners)) == pytest.approx(distances(weights))
    assert corners[0] == (0, 0)
    assert corners[1][1] == 0


@pytest.mark.parametrize("seed", range(5))
def test_points_of_the_plane_are_mixtures_that_lie_there(seed: int) -> None:
    """Oracle: mix dense weights by the coefficients; their distances to the models are those in the plane."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(3, 50))
    corners = corners_of(distances(weights))
    assert corners is not None
    for x, y in random.normal(scale=10, size=(5, 2)):
        row = coefficients_at(corners, x, y)
        assert sum(row) == pytest.approx(1)
        in_weights = np.linalg.norm(np.array(row) @ weights - weights, axis=1)
        assert in_weights == pytest.approx(np.linalg.norm(np.array(corners) - (x, y), axis=1))


def test_models_on_one_line_and_equal_models_span_no_plane() -> None:
    on_a_line = np.array([[0.0, 0.0], [1.0, 2.0], [3.0, 6.0]])
    assert corners_of(distances(on_a_line)) is None
    assert corners_of(distances(np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 0.0]]))) is None
    assert corners_of(np.full((3, 3), math.nan)) is None


def test_the_grid_surrounds_the_three_models() -> None:
    corners = ((0.0, 0.0), (4.0, 0.0), (1.0, 2.0))
    xs, ys = grid_of(corners, 5)
    assert (len(xs), len(ys)) == (5, 5)
    assert (xs[0], xs[-1]) == (-1, 5)
    assert (ys[0], ys[-1]) == (-1, 3)


def test_over_the_plane_the_score_is_read_row_by_row() -> None:
    """The score is where the mixture lies, so that the oracle is the grid itself."""
    corners, places = ((0.0, 0.0), (2.0, 0.0), (1.0, 3.0)), {A: (0, 0), B: (2, 0), C: (1, 3)}

    def score(soup: Soup) -> float:
        x, y = np.array(soup.coefficients) @ np.array([places[c] for c in soup.ingredients])
        return 100 * y + x

    got = over_plane(score, (A, B, C), corners, (-1.0, 0.0, 2.0), (0.0, 4.0))
    assert np.array(got) == pytest.approx(np.array([[-1, 0, 2], [399, 400, 402]]))


def test_a_model_without_a_share_is_not_read() -> None:
    asked: list[Soup] = []
    over_plane(lambda soup: asked.append(soup) or 0.0, (A, B, C), ((0, 0), (2, 0), (1, 3)), (0.0, 2.0), (0.0,))  # type: ignore[func-returns-value]
    assert [(s.ingredients, s.coefficients) for s in asked] == [((A,), (1.0,)), ((B,), (1.0,))]


def test_pairs_with_the_best_come_first_and_a_larger_count_keeps_the_smaller_ones() -> None:
    names = [f"run_{i}" for i in range(6)]
    grown = [set(choose_pairs(names, "run_3", n)) for n in range(1, 20)]
    assert all(small < large for small, large in itertools.pairwise(grown[:15]))
    assert all("run_3" in pair for pair in grown[4])
    assert len(grown[4]) == 5
    assert grown[14] == grown[18] == set(itertools.combinations(names, 2))
    assert choose_pairs(names, "run_3", 8) == choose_pairs(names, "run_3", 8)
