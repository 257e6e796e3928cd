"""Batch predict: one model or cascade answers any number of rows into parquet files, and can be gone on with.

`outputs` are the files, `run` what fills them; the rows are `pool.rows`, the loop over them `pool.shards`.
"""

from hf_soups.batch_predict.run import RowsResult, predict_rows, print_result

__all__ = ["RowsResult", "predict_rows", "print_result"]
