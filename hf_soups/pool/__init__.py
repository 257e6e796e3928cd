"""Prediction pools: what many models answered on one split, kept once, with what each of them costs.

`entries` reads what the user names as models, `rows` the data; `label_order` joins the classes by name; `shards` is the
loop over rows that can be gone on with, `job` the work of one call; `store` is the pool's folder, `report_rows` says
which of its rows are chosen on.
"""

from hf_soups.pool.predict import PoolResult, predict_pool, print_result
from hf_soups.pool.store import Member, Pool, PoolData, read_pool

__all__ = ["Member", "Pool", "PoolData", "PoolResult", "predict_pool", "print_result", "read_pool"]
