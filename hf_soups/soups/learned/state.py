"""State: everything that learning needs to go on after a kill, as one JSON file; Python's JSON keeps every bit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from hf_soups.errors import InputError
from hf_soups.files.reading import is_there, read_record
from hf_soups.files.writing import write_text
from hf_soups.soups.learned.descent import AdamW

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
        told = {
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
        text = json.dumps(told, allow_nan=False)
        write_text(path, text + "\n")


@dataclass(frozen=True, slots=True)
class _Kept:
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
        key: stands for the ingredients, rows and options that it must belong to.
        optimizer: a new one of the same size.
    Raises:
        InputError: if the file cannot be read, or belongs to another pool, other rows or other options.
    """
    if not is_there(path):
        return None
    told = read_record(path, _Kept, what="the state of a learned soup", format=FORMAT, again=AGAIN)
    if told.key != key:
        raise InputError(f"{path}: the state of another learned soup: of other ingredients, rows or options. {AGAIN}")
    try:
        return _state(told, optimizer)
    except ValueError as error:
        raise InputError(f"{path}: not the state of a learned soup ({error}). {AGAIN}") from error


def _state(told: _Kept, optimizer: AdamW) -> State:
    values, first, second = (np.array(numbers) for numbers in (told.values, told.first, told.second))
    steps = np.array(told.steps, dtype=np.int64)
    best = None if told.best is None else np.array(told.best)
    sizes = {len(values), len(first), len(second), len(steps), len(values if best is None else best)}
    if len(sizes) != 1:
        raise ValueError(f"{len(values)} values, {len(first)} and {len(second)} moments, {len(steps)} counts")
    if told.step < 0 or not 0 <= told.best_epoch < max(len(told.epochs), 1):
        raise ValueError(f"step {told.step}, and epoch {told.best_epoch} of {len(told.epochs)} as the best")
    for numbers in (values, first, second, told.uniform, told.losses, () if best is None else best):
        if not np.isfinite(numbers).all():
            raise ValueError("it holds NaN or infinity")
    moved = replace(optimizer, first=first, second=second, steps=steps)
    return State(values, moved, told.uniform, best=best, **{name: getattr(told, name) for name in PLAIN})
