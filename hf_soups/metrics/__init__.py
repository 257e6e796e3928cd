"""Metrics: one number from Predictions, computed by scikit-learn, with a bootstrap interval by row.

`metric` has the table of metrics and their scores, `bootstrap` the resampling, `foreign` the metrics of `evaluate`.
"""

from hf_soups.metrics.metric import (
    CLIP,
    METRICS,
    Metric,
    Score,
    brier,
    expected_calibration_error,
    metric_for,
    negative_log_likelihood,
    score,
)

__all__ = [
    "CLIP",
    "METRICS",
    "Metric",
    "Score",
    "brier",
    "expected_calibration_error",
    "metric_for",
    "negative_log_likelihood",
    "score",
]
