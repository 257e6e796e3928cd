"""Temperature scaling: one number that makes a model as sure as it is right, without changing its answers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from hf_soups.errors import PredictionsError
from hf_soups.files.problem_types import MULTI_LABEL, REGRESSION
from hf_soups.predictions.predictions import Predictions

LOWEST, HIGHEST = 0.01, 100.0  # of temperatures that are fitted
ROWS_AT_ONCE = 4096  # x 1,000 classes in float64: 33 MB


def fit_temperature(p: Predictions) -> float:
    """The temperature at which the predictions' mean negative log-likelihood is least, in [0.01, 100].

    The loss is convex in 1 / T; its slope is followed to where it is 0. Where every row's label is the most probable
    class, the loss falls for ever as T goes to 0, and where the answers are worse than none it falls as T grows: the
    limit 0.01 or 100 is returned then. Of a multi-label problem each label of each row counts as one of two classes.
    Log-probabilities differ from logits by one constant a row, so the temperature is that of the logits.

    Args:
        p: labelled predictions, of the rows to choose on: never those of the report.
    Raises:
        PredictionsError: if there are no rows or labels, or only one class, which no temperature changes.
    Source: Guo et al. 2017, arXiv:1706.04599, section 4.2.

    >>> p = Predictions.from_probs([[0.9, 0.1]] * 4, labels=[0, 0, 0, 1])
    >>> round(float(p.at_temperature(fit_temperature(p)).probs[0, 0]), 4)
    0.75
    """
    from scipy.optimize import brentq

    p = p.decisions if p.problem_type == MULTI_LABEL else p
    _check(p)
    low, high = math.log(1 / HIGHEST), math.log(1 / LOWEST)
    if _slope(p, math.exp(low)) >= 0:
        return HIGHEST
    if _slope(p, math.exp(high)) <= 0:
        return LOWEST
    return float(math.exp(-brentq(lambda log_beta: _slope(p, math.exp(log_beta)), low, high, xtol=1e-10)))


def fit_temperatures(predictions: Mapping[str, Predictions]) -> dict[str, float]:
    """The temperature of each member, by name."""
    return {name: fit_temperature(p) for name, p in predictions.items()}


def calibrated(p: Predictions, *, on: Predictions | None = None) -> Predictions:
    """The predictions at the temperature that fits `on`, or themselves.

    Args:
        p: predictions to be scaled; their answers stay.
        on: labelled predictions of the same model on the rows to choose on; without them `p` itself is fitted, and
            its calibration then looks better than it is on other rows.
    Raises:
        PredictionsError: as `fit_temperature`.
    """
    return p.at_temperature(fit_temperature(p if on is None else on))


def _check(p: Predictions) -> None:
    if not len(p.needs_labels()):
        raise PredictionsError(f"the predictions {p.model or ''} hold no rows, so no temperature can be fitted.")
    if p.problem_type == REGRESSION:
        raise PredictionsError(
            f"the predictions {p.model or ''} are numbers of a regression, which have no temperature."
        )
    if p.classes < 2:
        raise PredictionsError(
            f"the predictions {p.model or ''} have one class: it has probability 1 at any temperature. Leave the "
            "temperature at 1."
        )


def _slope(p: Predictions, beta: float) -> float:
    """How the mean loss changes with beta = 1 / T: mean logit under the model less the label's logit."""
    labels, total = p.needs_labels(), 0.0
    for start in range(0, len(p), ROWS_AT_ONCE):
        z = p.block(start, start + ROWS_AT_ONCE).astype(np.float64)
        weight = np.exp(beta * (z - z.max(axis=1, keepdims=True)))
        expected = (weight * z).sum(axis=1) / weight.sum(axis=1)
        total += float((expected - z[np.arange(len(z)), labels[start : start + ROWS_AT_ONCE]]).sum())
    return total / len(p)
