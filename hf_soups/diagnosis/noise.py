"""Noise: how far scores on so many rows differ by chance, and what answering without looking would score."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hf_soups.metrics import Metric
from hf_soups.metrics.bootstrap import percentile_interval
from hf_soups.metrics.metric import resampled_values
from hf_soups.metrics.significance import paired_bootstrap
from hf_soups.predictions import Predictions

RESAMPLES = 1000


def difference_by_chance(best: Predictions, others: Sequence[Predictions], metric: Metric) -> float:
    """Half the width of the 95% interval of the score difference between `best` and another: the others' median.

    By a paired bootstrap over rows. 0 if there is no other.
    """
    intervals = [paired_bootstrap(best, other, metric, resamples=RESAMPLES) for other in others]
    return float(np.median([(i.high - i.low) / 2 for i in intervals])) if intervals else 0.0


def ensemble_by_chance(ensemble: Predictions, members: Sequence[Predictions], metric: Metric) -> float:
    """The same for the score of an ensemble less the mean score of its members."""
    alone = [resampled_values(p.aligned_to(ensemble), metric, RESAMPLES, 0) for p in members]
    together = resampled_values(ensemble, metric, RESAMPLES, 0)  # one seed: the same rows for all
    low, high = percentile_interval(together - np.mean(alone, axis=0), 0.95)
    return (high - low) / 2


def score_of_shares(answered: Predictions, metric: Metric) -> float:
    """The score of giving every row the class shares of these rows' labels as probabilities."""
    labels = answered.needs_labels()
    share = np.bincount(labels, minlength=answered.classes) / len(labels)
    return metric.compute(Predictions.from_probs(np.tile(share, (len(labels), 1)), labels=labels))
