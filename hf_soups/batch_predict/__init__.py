"""Batch predict: one model or cascade answers any number of rows into parquet files, and can be gone on with.

`inputs` finds the rows, `models` what answers, `answering` loads it, `outputs` writes the shards, `run` puts them
together.
"""

from hf_soups.batch_predict.run import RowsResult, predict_rows, print_result

__all__ = ["RowsResult", "predict_rows", "print_result"]
