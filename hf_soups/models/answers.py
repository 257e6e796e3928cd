"""Answers: what a loaded model gave some rows, as arrays; without torch, for what only joins them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64


@dataclass(frozen=True, slots=True)
class Answers:
    """What was answered on some rows, and what each of them took."""

    log_probs: Float32[np.ndarray, "rows classes"]  # of a regression numbers, as in `Predictions`
    exits: Int64[np.ndarray, " rows"]  # the stage that answered; 0 is the first member
    costs: Float64[np.ndarray, " rows"] | None  # in the answerer's unit; None: it knows none
    abstained: Bool[np.ndarray, " rows"] | None = None  # rows for a human; None: none is meant for one
    fell_back: Bool[np.ndarray, " rows"] | None = None  # rows whose next member did not answer; None: all must
