"""Prediction pools: what many models answered on one split, kept once, with what each of them costs.

`entries` reads what the user names as models, `rows` the data; `label_order` joins the classes by name; `shards` is the
loop over rows that can be gone on with, `job` the work of one call; `store` is the pool's folder, `report_rows` says
which of its rows are chosen on. What answers rows is loaded when it is first used: tables need `store` alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from hf_soups.pool.store import Member, Pool, PoolData, read_pool

if TYPE_CHECKING:
    from hf_soups.pool.predict import PoolResult, predict_pool, print_result

__all__ = ["Member", "Pool", "PoolData", "PoolResult", "predict_pool", "print_result", "read_pool"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.predict"), name)
