"""Metrics: one number from Predictions, computed by scikit-learn, with a bootstrap interval by row.

`metric` has the table of metrics, their scores and the resampling, `further` more of what they compute, `foreign` the
metrics of `evaluate`, `rows` what all of them read of predictions, `significance` whether two answerers differ.
"""

from hf_soups.metrics.metric import (
    CLIP,
    METRICS,
    Metric,
    Score,
    also_scored,
    brier,
    expected_calibration_error,
    loss_metric,
    metric_for,
    metric_for_rows,
    metric_named,
    negative_log_likelihood,
    score,
    traits_of,
)
from hf_soups.metrics.significance import McNemar, PairedDifference, mcnemar, paired_bootstrap

__all__ = [
    "CLIP",
    "METRICS",
    "McNemar",
    "Metric",
    "PairedDifference",
    "Score",
    "also_scored",
    "brier",
    "expected_calibration_error",
    "loss_metric",
    "mcnemar",
    "metric_for",
    "metric_for_rows",
    "metric_named",
    "negative_log_likelihood",
    "paired_bootstrap",
    "score",
    "traits_of",
]
