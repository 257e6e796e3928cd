"""From inner products to the next coefficients: softmax or free in sign, and AdamW on a handful of numbers.

Everything is float64 and knows neither models nor files.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float64, Int64

Sign = Literal["softmax", "free"]
BETAS, EPSILON = (0.9, 0.999), 1e-8


def start(sign: Sign, rows: int, k: int) -> Float64[np.ndarray, "rows k"]:
    """Raw coefficients of the uniform soup, where learning begins."""
    return np.zeros((rows, k)) if sign == "softmax" else np.full((rows, k), 1 / k)


def coefficients(sign: Sign, raw: Float64[np.ndarray, "rows k"]) -> Float64[np.ndarray, "rows k"]:
    """What the ingredients are multiplied by; each row sums to 1.

    >>> coefficients("softmax", np.array([[0.0, np.log(3.0)]])).round(6).tolist()
    [[0.25, 0.75]]
    """
    if sign == "free":
        return raw
    shifted = np.exp(raw - raw.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def gradient(
    sign: Sign, raw: Float64[np.ndarray, "rows k"], products: Float64[np.ndarray, "tensors k"]
) -> Float64[np.ndarray, "rows k"]:
    """Of the loss, from <dL/dw, theta_i - w> of each tensor; with one row of coefficients tensors are summed.

    Softmax: by the raw coefficients. Free: by the share s_i of w + sum(s_i (theta_i - w)) at s = 0, a step along the
    offsets from the soup as it stands, so that the coefficients' sum stays 1.
    """
    by_row = products if len(raw) > 1 else products.sum(axis=0, keepdims=True)
    if sign == "free":
        return by_row
    c = coefficients(sign, raw)
    return np.asarray(c * (by_row - (c * by_row).sum(axis=1, keepdims=True)))


def moved(
    sign: Sign, raw: Float64[np.ndarray, "rows k"], change: Float64[np.ndarray, "rows k"]
) -> Float64[np.ndarray, "rows k"]:
    """Raw coefficients after a change along what `gradient` is the gradient by."""
    if sign == "softmax":
        return np.asarray(raw + change)
    return np.asarray(raw * (1 - change.sum(axis=1, keepdims=True)) + change)


@dataclass(frozen=True, slots=True, eq=False)
class AdamW:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101); each number has its own count of steps.

    So numbers that a step leaves out, as those of models that were not read, keep their moments unchanged.
    """

    learning_rate: float
    weight_decay: float = 0.0
    first: Float64[np.ndarray, " numbers"] = field(default_factory=lambda: np.zeros(0))
    second: Float64[np.ndarray, " numbers"] = field(default_factory=lambda: np.zeros(0))
    steps: Int64[np.ndarray, " numbers"] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))

    @classmethod
    def of(cls, numbers: int, learning_rate: float, weight_decay: float = 0.0) -> AdamW:
        """Before its first step."""
        moments = np.zeros(numbers), np.zeros(numbers), np.zeros(numbers, dtype=np.int64)
        return cls(learning_rate, weight_decay, *moments)

    def step(
        self,
        values: Float64[np.ndarray, " numbers"],
        gradient: Float64[np.ndarray, " numbers"],
        used: Bool[np.ndarray, " numbers"],
    ) -> tuple[AdamW, Float64[np.ndarray, " numbers"]]:
        """The optimizer after a step, and the change of each value; 0 where not `used`."""
        steps = self.steps + used
        first = np.where(used, BETAS[0] * self.first + (1 - BETAS[0]) * gradient, self.first)
        second = np.where(used, BETAS[1] * self.second + (1 - BETAS[1]) * gradient**2, self.second)
        count = np.maximum(steps, 1)
        direction = first / (1 - BETAS[0] ** count) / (np.sqrt(second / (1 - BETAS[1] ** count)) + EPSILON)
        change = -self.learning_rate * (direction + self.weight_decay * values)
        after = replace(self, first=first, second=second, steps=steps)
        return after, np.where(used, change, 0.0)
