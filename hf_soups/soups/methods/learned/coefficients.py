"""Coefficients of a learned soup: the options, a step of descent, and all that goes on after a kill as one JSON file.

Everything is float64 and knows neither models nor files.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Bool, Float64, Int64

from hf_soups.errors import InputError
from hf_soups.files.reading import is_there, read_record
from hf_soups.files.writing import write_text

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
    offsets from the present soup, so that the coefficients' sum stays 1.
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


Per = Literal["ingredient", "tensor"]
# Softmax: Wortsman et al. 2022, appendix. Free: the rate that the authors of MEHL-Soup run theirs with.
LEARNING_RATES = {"softmax": 0.05, "free": 0.01}


@dataclass(frozen=True, slots=True)
class LearnedOptions:
    """See `learned`."""

    per: Per
    sign: Sign
    epochs: int
    learning_rate: float
    weight_decay: float
    batch_size: int
    rows_at_once: int
    models_at_once: int | None
    holdout: float
    patience: int
    seed: int

    def __post_init__(self) -> None:
        _one_of("per", self.per, get_args(Per))
        _one_of("sign", self.sign, get_args(Sign))
        for name in ("epochs", "batch_size", "rows_at_once", "patience"):
            _at_least(name, getattr(self, name), 1)
        _at_least("seed", self.seed, 0)
        if not 0 <= self.holdout < 1:
            raise InputError(f"holdout is {self.holdout}; expected a share of the rows from 0 (none) to below 1.")
        if not (0 < self.learning_rate < math.inf and 0 <= self.weight_decay < math.inf):
            raise InputError(
                f"learning_rate is {self.learning_rate} and weight_decay {self.weight_decay}; expected finite numbers, "
                "the first above 0, the second 0 or more."
            )
        if self.sign == "free" and self.weight_decay:
            raise InputError(
                f"weight_decay is {self.weight_decay}, but free coefficients sum to 1 and have no zero to decay to. "
                "Leave it at 0, or use sign='softmax'."
            )
        self._check_models_at_once()

    def _check_models_at_once(self) -> None:
        if self.models_at_once is None:
            return
        if self.sign != "free":
            raise InputError(
                f"models_at_once is {self.models_at_once}, but a softmax ties every coefficient to all the others, so "
                "each step needs all ingredients. Use sign='free', or leave models_at_once out."
            )
        _at_least("models_at_once", self.models_at_once, 1)

    @property
    def method(self) -> str:
        """The soup's name."""
        return "learned" + ("-free" if self.sign == "free" else "") + ("-by-tensor" if self.per == "tensor" else "")


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise InputError(f"{name} is {value!r}; expected {' or '.join(map(repr, known))}.")


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise InputError(f"{name} is {value}; expected {least} or more.")


@dataclass(frozen=True, slots=True)
class LearnedStep:
    """One step, for progress."""

    step: int  # from 1
    steps: int  # if nothing stops it early
    epoch: int  # from 1
    loss: float  # of the batch before the step: cross-entropy in nats
    held_out: float | None  # cross-entropy of the held-out rows, after an epoch's last step
    logit_scale: float  # after the step
    coefficients: tuple[float, ...]  # after the step; where each tensor has its own, their plain mean


FORMAT = "hf_soups.learned.v1"
AGAIN = "Remove it to start anew, or name another file."


@dataclass(slots=True)
class State:
    """Between two steps. `values` are the factor of the logits, then the raw coefficients row by row."""

    values: Float64[np.ndarray, " numbers"]
    optimizer: AdamW
    uniform: tuple[float, ...]  # score of the uniform soup, higher is better; later values break ties
    step: int = 0  # done
    losses: list[float] = field(default_factory=list)  # of the steps of the epoch under way
    epochs: list[dict[str, Any]] = field(default_factory=list)  # the start, then each epoch that ended
    best: Float64[np.ndarray, " numbers"] | None = None  # values with the lowest held-out loss so far
    best_epoch: int = 0  # 0: the start
    stopped: str = ""  # why learning ended; empty while it goes on

    def save(self, path: Path, key: str) -> None:
        """Replace the file in one go; an error or a kill leaves the earlier one."""
        record = {
            "format": FORMAT,
            "key": key,
            "values": self.values.tolist(),
            "first": self.optimizer.first.tolist(),
            "second": self.optimizer.second.tolist(),
            "steps": self.optimizer.steps.tolist(),
            "best": None if self.best is None else self.best.tolist(),
            "uniform": self.uniform,
            **{name: getattr(self, name) for name in PLAIN},
        }
        text = json.dumps(record, allow_nan=False)
        write_text(path, text + "\n")


@dataclass(frozen=True, slots=True)
class _KeptState:
    """The types of what the file holds."""

    key: str
    values: tuple[float, ...]
    first: tuple[float, ...]
    second: tuple[float, ...]
    steps: tuple[int, ...]
    best: tuple[float, ...] | None
    uniform: tuple[float, ...]
    step: int
    losses: list[float]
    epochs: list[dict[str, int | float | None]]
    best_epoch: int
    stopped: str


PLAIN = ("step", "losses", "epochs", "best_epoch", "stopped")


def load(path: Path, key: str, optimizer: AdamW) -> State | None:
    """The state in a file; None where there is no file.

    Args:
        path: of the file.
        key: a digest of the ingredients, rows and options that it must belong to.
        optimizer: a new one of the same size.
    Raises:
        InputError: if the file cannot be read, or belongs to another pool, other rows or other options.
    """
    if not is_there(path):
        return None
    record = read_record(path, _KeptState, what="the state of a learned soup", format=FORMAT, again=AGAIN)
    if record.key != key:
        raise InputError(f"{path}: the state of another learned soup: of other ingredients, rows or options. {AGAIN}")
    try:
        return _state(record, optimizer)
    except ValueError as error:
        raise InputError(f"{path}: not the state of a learned soup ({error}). {AGAIN}") from error


def _state(record: _KeptState, optimizer: AdamW) -> State:
    values, first, second = (np.array(numbers) for numbers in (record.values, record.first, record.second))
    steps = np.array(record.steps, dtype=np.int64)
    best = None if record.best is None else np.array(record.best)
    sizes = {len(values), len(first), len(second), len(steps), len(values if best is None else best)}
    if len(sizes) != 1:
        raise ValueError(f"{len(values)} values, {len(first)} and {len(second)} moments, {len(steps)} counts")
    if record.step < 0 or not 0 <= record.best_epoch < max(len(record.epochs), 1):
        raise ValueError(f"step {record.step}, and epoch {record.best_epoch} of {len(record.epochs)} as the best")
    for numbers in (values, first, second, record.uniform, record.losses, () if best is None else best):
        if not np.isfinite(numbers).all():
            raise ValueError("it holds NaN or infinity")
    moved = replace(optimizer, first=first, second=second, steps=steps)
    return State(values, moved, record.uniform, best=best, **{name: getattr(record, name) for name in PLAIN})
