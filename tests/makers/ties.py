"""Rows whose answer rounding may turn: scores of the same model, asked in other batches, differ by as many at most."""

from __future__ import annotations

import numpy as np

from hf_soups.predictions import Predictions

ROUNDING = 2e-5  # of a log-probability: a few hundred float32 roundings of 6e-8, in two layers padded differently


def turned(p: Predictions, rounding: float = ROUNDING) -> float:
    """The share of rows whose two likeliest classes are so close that each may be the answer."""
    ordered = np.sort(p.log_probs, axis=1)
    return float((ordered[:, -1] - ordered[:, -2] <= 2 * rounding).mean())
