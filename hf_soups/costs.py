"""A cost is a number with its unit and, where it was measured, the hardware: costs of two kinds never add up."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from hf_soups.errors import InputError

UNITS = {  # what `--cost` takes, and how it is printed
    "macs": "MACs per example",
    "parameters": "parameters",
    "seconds": "seconds per example",
    "seconds_batch_1": "seconds per example at batch 1",
    "bytes": "bytes of memory",
}


@dataclass(frozen=True, slots=True)
class Cost:
    """What one example costs one member: `value` in `unit`, as seen on `hardware` (empty for what was counted)."""

    value: float
    unit: str = ""  # one of UNITS, or a word of the user's own; "" for plain numbers
    hardware: str = ""

    def __post_init__(self) -> None:
        if not math.isfinite(self.value) or self.value < 0:
            raise InputError(f"a cost of {self.value} {self.unit}; expected a finite number, 0 or more.")


def one_unit(costs: Mapping[str, Cost | float]) -> tuple[dict[str, float], Cost]:
    """The plain values by name, and one `Cost` that carries the unit and hardware that all of them share.

    Raises:
        InputError: if units or hardware differ, since such costs cannot be added.

    >>> one_unit({"small": 1.0, "big": 5.0})
    ({'small': 1.0, 'big': 5.0}, Cost(value=0.0, unit='', hardware=''))
    """
    known = {name: cost if isinstance(cost, Cost) else Cost(float(cost)) for name, cost in costs.items()}
    kinds = {(cost.unit, cost.hardware): name for name, cost in known.items()}
    if len(kinds) > 1:
        (first, one), (second, other), *_ = kinds.items()
        raise InputError(
            f"the costs of {one!r} are in {_named(first)}, those of {other!r} in {_named(second)}: they cannot be "
            "added. Give all costs in one unit, measured on one machine."
        )
    unit, hardware = next(iter(kinds), ("", ""))
    return {name: cost.value for name, cost in known.items()}, Cost(0.0, unit, hardware)


def _named(kind: tuple[str, str]) -> str:
    unit, hardware = kind
    return (unit or "plain numbers") + (f" on {hardware}" if hardware else "")
