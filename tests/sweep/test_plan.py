"""The plan of a sweep is fixed by recipe and seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.errors import RecipeError
from hf_soups.recipe import Distribution, Recipe, recipe_from
from hf_soups.sweep.plan import draw, make_plan

SPACE = {
    "learning_rate": {"log_uniform": [1e-6, 1e-4]},
    "weight_decay": {"uniform": [0.0, 0.1]},
    "batch_size": {"choice": [8, 16]},
    "max_steps": {"integer": [3, 9]},
}


def recipe(space: Any = SPACE, **sweep: Any) -> Recipe:
    return recipe_from({"task": "glue/rte", "model": "m", "sweep": {"space": space, **sweep}})


def test_the_same_recipe_gives_the_same_plan() -> None:
    assert make_plan(recipe(runs=7, seed=3)) == make_plan(recipe(runs=7, seed=3))


def test_another_seed_gives_another_plan() -> None:
    assert make_plan(recipe(seed=0))[0].train != make_plan(recipe(seed=1))[0].train


@settings(deadline=None)  # a claim about plans, not about a busy machine
@given(st.integers(1, 12), st.integers(0, 12), st.integers(0, 99))
def test_a_larger_sweep_keeps_its_first_runs(runs: int, more: int, seed: int) -> None:
    small, large = make_plan(recipe(runs=runs, seed=seed)), make_plan(recipe(runs=runs + more, seed=seed))
    assert large[:runs] == small


def test_the_order_of_keys_in_the_recipe_does_not_matter() -> None:
    assert make_plan(recipe(dict(reversed(SPACE.items())))) == make_plan(recipe())


@given(st.integers(0, 2**31), st.floats(-12, 2), st.floats(0, 5))
def test_values_stay_inside_their_bounds(seed: int, low: float, width: float) -> None:
    generator = np.random.default_rng(seed)
    bounds = (10.0**low, 10.0 ** (low + width))
    value = draw(Distribution(log_uniform=bounds), generator)
    assert bounds[0] <= value <= bounds[1]
    assert 3 <= draw(Distribution(integer=(3, 9)), generator) <= 9


def test_log_uniform_gives_each_decade_its_share() -> None:
    """Of 4,000 draws over two decades half lie in the lower one: 2,000, standard deviation 32."""
    generator = np.random.default_rng(0)
    drawn = [draw(Distribution(log_uniform=(1e-6, 1e-4)), generator) for _ in range(4000)]
    assert abs(sum(value < 1e-5 for value in drawn) - 2000) < 4 * 32


def test_every_run_has_a_seed_of_its_own_unless_the_space_has_one() -> None:
    assert len({run.train["seed"] for run in make_plan(recipe(runs=20))}) == 20
    fixed = make_plan(recipe({"seed": {"choice": [7]}}, runs=3))
    assert [run.train["seed"] for run in fixed] == [7, 7, 7]


def test_a_grid_is_every_combination_once() -> None:
    space = {"batch_size": {"choice": [8, 16, 32]}, "epochs": {"choice": [1, 2]}}
    plan = make_plan(recipe(space, method="grid", runs=1))
    assert len({(r.train["batch_size"], r.train["epochs"]) for r in plan}) == len(plan) == 6


def test_a_sweep_that_grows_beyond_a_hundred_runs_keeps_their_names() -> None:
    small, large = make_plan(recipe(runs=99)), make_plan(recipe(runs=102))
    assert large[:99] == small
    assert (large[7].name, large[-1].name) == ("run_07", "run_101")
    assert len({run.name for run in large}) == 102


@given(st.integers(0, 2**70))
def test_whatever_the_sweeps_seed_the_runs_seeds_are_ones_that_numpy_takes(seed: int) -> None:
    for run in make_plan(recipe(seed=seed, runs=2)):
        np.random.RandomState(run.train["seed"])


def test_a_value_that_train_does_not_take_is_refused_before_anything_runs() -> None:
    with pytest.raises(RecipeError, match=r"train.schedule.*sweep's space holds a value"):
        make_plan(recipe({"schedule": {"choice": ["zigzag"]}}))


def test_a_choice_that_is_never_drawn_is_checked_too() -> None:
    for wrong in ([8, 0], [0, 8]):
        with pytest.raises(RecipeError, match=r"batch_size.*greater than or equal to 1"):
            make_plan(recipe({"batch_size": {"choice": wrong}}, runs=1))


def test_the_recipe_of_a_run_holds_its_values() -> None:
    run = make_plan(recipe())[1]
    assert run.recipe(recipe()).train.model_dump(mode="json") == run.train
