"""Entries: the models that a search may use, checked and joined: one order of rows, one unit of cost, one rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, Float64, Integer, Real, Shaped

from hf_soups.cascades.rule import Rule
from hf_soups.cascades.stages import aligned_members, scaled_block, summed_metric
from hf_soups.costs import Cost, one_unit
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import Metric
from hf_soups.predictions import Predictions

FEW_MODELS, FEW_ROWS = 4, 10_000  # of a pool for which nothing is compiled


@dataclass(frozen=True, eq=False)
class Entries:
    """Labelled predictions of several models on the same rows, what each costs, and how they are combined and scored.

    Members are meant by their place in `names` everywhere in the search.
    """

    names: tuple[str, ...]
    predictions: tuple[Predictions, ...]  # rows in the order of the first's
    labels: Shaped[np.ndarray, "rows ..."]
    costs: Float64[np.ndarray, " members"]
    unit: Cost  # of the costs, and where they were measured
    temperatures: tuple[float, ...]
    rule: Rule
    metric: Metric

    def __len__(self) -> int:
        return len(self.names)

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.labels)

    @property
    def classes(self) -> int:
        """How many classes there are."""
        return self.predictions[0].classes

    @property
    def few(self) -> bool:
        """Whether they are searched without machine code: compiling it would take longer than the search."""
        return len(self) <= FEW_MODELS and self.rows <= FEW_ROWS

    def scores(self, sums: Real[np.ndarray, "*grid statistics"]) -> Float64[np.ndarray, "*grid"]:
        """Scores from sums of the metric's row statistics, higher is better: losses are negated."""
        assert self.metric.value is not None
        return np.asarray(self.metric.sign * self.metric.value(sums))

    def worst(self, members: Integer[np.ndarray, "cascades longest"]) -> Float64[np.ndarray, " cascades"]:
        """What cascades cost a row that meets all members, given by place (-1: none); added up in the pool's order."""
        ordered = np.sort(members, axis=1)
        return np.where(ordered >= 0, self.costs[ordered], 0.0).cumsum(axis=1)[:, -1]

    def block(self, member: int, start: int, stop: int) -> Float32[np.ndarray, "rows classes"]:
        """A member's natural-log probabilities of some rows, at its temperature."""
        p = self.predictions[member]
        temperature = self.temperatures[member] if type(p) is Predictions else 1.0  # the others are scaled
        return scaled_block(p, temperature, slice(start, stop))


def checked_entries(
    predictions: Mapping[str, Predictions],
    costs: Mapping[str, float | Cost],
    rule: Rule,
    metric: Metric | str,
    temperatures: Mapping[str, float] | None = None,
) -> Entries:
    """The models of a search, or what is wrong with them.

    Args:
        predictions: by name, of the same rows in any order; the labels of one are enough.
        costs: of every model, all in one unit; those of other models are not looked at.
        rule: how members combine and what their confidence is.
        metric: one whose value follows from sums over rows.
        temperatures: by name, for members whose logits are to be divided; 1 for the others.
    Raises:
        PredictionsError: if there are fewer than two models, no rows, no labels, or the rows, labels or data differ.
        InputError: if costs are missing, negative or in several units, or the metric or a temperature is not known.
    """
    names = tuple(predictions)
    if len(names) < 2:
        raise PredictionsError(
            f"a pool of {len(names)} {'model' if len(names) == 1 else 'models'}: there is nothing to search. A cascade "
            "needs predictions of two models or more; add some, or the same model at another input size."
        )
    first = next((name for name in names if predictions[name].labels is not None), names[0])
    aligned = aligned_members([first, *names], predictions)
    rule.check(aligned[first])
    at = _checked_temperatures(names, temperatures or {})
    return Entries(
        names,
        tuple(_scaled(aligned[name], temperature) for name, temperature in zip(names, at, strict=True)),
        aligned[first].needs_labels(),
        *_checked_costs(names, costs),
        at,
        rule,
        summed_metric(metric),
    )


def _scaled(p: Predictions, temperature: float) -> Predictions:
    """Dense predictions as they are: mapped from a file, they are scaled block by block; others as scaled."""
    return p if type(p) is Predictions else p.at_temperature(temperature)


def _checked_costs(
    names: tuple[str, ...], costs: Mapping[str, float | Cost]
) -> tuple[Float64[np.ndarray, " members"], Cost]:
    missing = [name for name in names if name not in costs]
    if missing:
        raise InputError(
            f"no cost of {', '.join(missing)}; there are costs of {', '.join(costs) or 'no model'}. Give one for each "
            "model of the pool."
        )
    values, unit = one_unit({name: costs[name] for name in names})
    return np.array([values[name] for name in names], dtype=np.float64), unit


def _checked_temperatures(names: tuple[str, ...], temperatures: Mapping[str, float]) -> tuple[float, ...]:
    unknown = sorted(set(temperatures) - set(names))
    if unknown:
        raise InputError(f"temperatures of {', '.join(unknown)}, which the pool lacks; it holds {', '.join(names)}.")
    for name, temperature in temperatures.items():
        if not (temperature > 0 and np.isfinite(temperature)):
            raise InputError(f"the temperature of {name} is {temperature}; expected a number above 0.")
    return tuple(float(temperatures.get(name, 1.0)) for name in names)
