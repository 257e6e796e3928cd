"""How a soup is learned: the choices, checked before any work."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

from hf_soups.errors import InputError
from hf_soups.soups.learned.descent import Sign

Per = Literal["ingredient", "tensor"]
# Softmax: Wortsman et al. 2022, appendix. Free: the rate that the authors of MEHL-Soup run theirs with.
LEARNING_RATES = {"softmax": 0.05, "free": 0.01}


@dataclass(frozen=True, slots=True)
class Options:
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
