"""Plan: every run of a sweep, fixed by the recipe and its seed before the first one starts.

Run i is drawn from a generator of its own, seeded by (sweep.seed, i): a sweep that is extended keeps its first runs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hf_soups.errors import RecipeError
from hf_soups.recipe import Distribution, Recipe, Train, recipe_from

SEEDS_PER_SWEEP = 100_000  # so that the runs of sweeps with other seeds train with other seeds
SEEDS = 2**31  # numpy and torch take no seed below 0 or above 2**32 - 1


@dataclass(frozen=True, slots=True)
class PlannedRun:
    """One run: its name, and the values of `train` that it is trained with."""

    name: str
    train: Mapping[str, Any] = field(default_factory=dict)  # every field of recipe.Train
    varied: tuple[str, ...] = ()  # the fields that the sweep chose

    def recipe(self, of: Recipe) -> Recipe:
        """The recipe of this run alone."""
        return of.model_copy(update={"name": f"{of.name}/{self.name}", "train": Train(**self.train)})


def make_plan(recipe: Recipe) -> tuple[PlannedRun, ...]:
    """All runs of the recipe's sweep, in order.

    Raises:
        RecipeError: if a drawn value is not a valid one for `train`.

    >>> from hf_soups.recipe.recipe import recipe_from
    >>> grid = {"method": "grid", "space": {"epochs": {"choice": [1, 2]}, "batch_size": {"choice": [8, 16]}}}
    >>> plan = make_plan(recipe_from({"task": "glue/rte", "model": "m", "sweep": grid}))
    >>> [(run.name, run.train["batch_size"], run.train["epochs"]) for run in plan]
    [('run_00', 8, 1.0), ('run_01', 8, 2.0), ('run_02', 16, 1.0), ('run_03', 16, 2.0)]
    """
    _check_choices(recipe)
    drawn = _grid(recipe) if recipe.sweep.method == "grid" else _random(recipe)
    return tuple(_planned(recipe, i, values) for i, values in enumerate(drawn))


def _planned(recipe: Recipe, i: int, values: dict[str, Any]) -> PlannedRun:
    seeded = {"seed": (recipe.sweep.seed * SEEDS_PER_SWEEP + i) % SEEDS, **values}
    # two digits whatever the number of runs: a sweep that grows beyond 100 must not rename those it has
    return PlannedRun(f"run_{i:02d}", _valid(recipe, seeded, f"run {i}"), tuple(sorted(values)))


def _check_choices(recipe: Recipe) -> None:
    """Every value that could ever be drawn, not only those that this number of runs draws."""
    for key, distribution in recipe.sweep.space.items():
        for value in distribution.choice or ():
            _valid(recipe, {key: value}, f"sweep.space.{key}")


def _valid(recipe: Recipe, values: dict[str, Any], where: str) -> dict[str, Any]:
    """All values of `train` with these changes, checked."""
    raw = {**recipe.model_dump(mode="json"), "train": {**recipe.train.model_dump(mode="json"), **values}}
    try:
        return recipe_from(raw, where=f"{recipe.name}, {where}").train.model_dump(mode="json")
    except RecipeError as error:
        raise RecipeError(f"{error} The sweep's space holds a value that `train` does not take.") from error


def _random(recipe: Recipe) -> Iterator[dict[str, Any]]:
    for i in range(recipe.sweep.runs):
        generator = np.random.default_rng([recipe.sweep.seed, i])
        # by name: the order in which the recipe lists the keys does not matter
        yield {key: draw(recipe.sweep.space[key], generator) for key in sorted(recipe.sweep.space)}


def _grid(recipe: Recipe) -> Iterator[dict[str, Any]]:
    keys = sorted(recipe.sweep.space)
    for values in itertools.product(*(recipe.sweep.space[key].choice or () for key in keys)):
        yield dict(zip(keys, values, strict=True))


def draw(distribution: Distribution, generator: np.random.Generator) -> Any:
    """One value; floats are rounded to 6 significant digits, so that what is printed is what is trained with."""
    if distribution.log_uniform is not None:
        low, high = distribution.log_uniform
        return _rounded(math.exp(generator.uniform(math.log(low), math.log(high))), low, high)
    if distribution.uniform is not None:
        return _rounded(generator.uniform(*distribution.uniform), *distribution.uniform)
    if distribution.integer is not None:
        low, high = distribution.integer
        return int(generator.integers(low, high, endpoint=True))
    assert distribution.choice is not None
    return distribution.choice[int(generator.integers(len(distribution.choice)))]


def _rounded(value: float, low: float, high: float) -> float:
    return min(max(float(f"{value:.6g}"), low), high)
