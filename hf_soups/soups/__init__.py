"""Soups: averages of checkpoints, and how their ingredients are chosen.

`mixing` has all arithmetic on weights, `methods` the ways to choose, `registry` their names, `soup` what all of them
give, `compatibility` what is checked before. The names below are loaded when they are first used: the command line asks
for the defaults of `options` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hf_soups.soups.methods.greedy import greedy
    from hf_soups.soups.methods.lines import task_vectors, wise_ft
    from hf_soups.soups.methods.model_stock import model_stock
    from hf_soups.soups.methods.uniform import uniform
    from hf_soups.soups.soup import AtBest, Soup, Step

_HOME = {
    "AtBest": "soup",
    "Soup": "soup",
    "Step": "soup",
    "greedy": "methods.greedy",
    "model_stock": "methods.model_stock",
    "task_vectors": "methods.lines",
    "uniform": "methods.uniform",
    "wise_ft": "methods.lines",
}
__all__ = ["AtBest", "Soup", "Step", "greedy", "model_stock", "task_vectors", "uniform", "wise_ft"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
