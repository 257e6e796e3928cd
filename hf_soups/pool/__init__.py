"""Prediction pools: what many models answered on one split, kept once, with what each of them costs.

`sources` reads what the user names as models, `rows` the data; `labels` joins the classes by name; `opened` is a loaded
model, `shards` its answers on their way to a file, `job` the work of one call; `store` is the pool's folder.
"""

from hf_soups.pool.predict import PoolResult, predict_pool, print_result
from hf_soups.pool.store import Member, Pool, PoolData, read_pool

__all__ = ["Member", "Pool", "PoolData", "PoolResult", "predict_pool", "print_result", "read_pool"]
