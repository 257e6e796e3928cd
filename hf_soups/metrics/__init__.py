"""Metrics: one number from Predictions, as scikit-learn computes it, with a bootstrap interval by row.

`metric` has the table of metrics and their scores. What they compute is in `of_answers`, `of_probabilities` and
`of_numbers`, after what they look at; `labelled` is what all of them read of predictions, `foreign` the metrics of
`evaluate`. `bootstrap` and `closed_intervals` give intervals, `significance` whether two answerers differ.
"""

from hf_soups.metrics.metric import (
    METRICS,
    Metric,
    Score,
    also_scored,
    loss_metric,
    metric_for,
    metric_for_rows,
    metric_named,
    score,
    traits_of,
)
from hf_soups.metrics.of_probabilities import CLIP, brier, expected_calibration_error, negative_log_likelihood
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
