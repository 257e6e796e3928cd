"""Metrics: one number from Predictions, computed by scikit-learn, with a bootstrap interval by row.

`metric` has the table of metrics, their scores and the resampling, `foreign` the metrics of `evaluate`,
`significance` whether two answerers differ.
"""

from hf_soups.metrics.metric import (
    CLIP,
    METRICS,
    Metric,
    Score,
    brier,
    expected_calibration_error,
    metric_for,
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
    "brier",
    "expected_calibration_error",
    "mcnemar",
    "metric_for",
    "metric_named",
    "negative_log_likelihood",
    "paired_bootstrap",
    "score",
    "traits_of",
]
