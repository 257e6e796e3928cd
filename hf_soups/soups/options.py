"""What the user may choose about soup methods, with the defaults of `cook()` and of the command alike."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from hf_soups.errors import InputError

METHODS = ("uniform",)  # cooked when none is named: it needs weights alone
OUT = "soup"
Tie = Literal[">=", ">"]


@dataclass(frozen=True, slots=True)
class Options:
    """Each method takes some of these: the keyword arguments of its function in `hf_soups/soups/methods/`."""

    tie: Tie = ">="
    tie_break: bool = False  # equal scores: the lower negative log-likelihood decides
    restarts: int = 0
    prune: bool = False
    every_row: bool = False  # greedy: score on all rows also what can no longer join; changes no decision
    seed: int = 0
    start: str | None = None  # what the ingredients were fine-tuned from; default: the sweep's start
    decay: float = 0.9
    scale: float | None = None  # task vectors: this one instead of the best by score
    learning_rate: float | None = None  # of learned coefficients; default: the method's own
    epochs: int = 5
    models_at_once: int | None = None  # learned-free: ingredients read in a step

    def __post_init__(self) -> None:
        if self.tie not in (">=", ">"):
            raise InputError(f"tie is {self.tie!r}; expected '>=' (an equal score joins, as in the paper) or '>'.")
        if self.restarts < 0 or self.epochs < 1 or self.seed < 0:
            raise InputError(
                f"restarts is {self.restarts}, epochs is {self.epochs}, seed is {self.seed}; expected restarts and "
                "seed of 0 or more, and epochs of 1 or more."
            )
        if not 0 <= self.decay < 1:
            raise InputError(f"decay is {self.decay}; expected 0 (the last checkpoint alone) or more, and below 1.")


DEFAULTS = Options()
