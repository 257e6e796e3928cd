"""Scoring many ensembles of the same members at once: each member is read once, whatever the number of ensembles."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Float32, Float64

from hf_soups.ensembles.combining import combined, logs_of_mean, logs_of_mean_logs, voted
from hf_soups.ensembles.members import Members
from hf_soups.metrics import Metric
from hf_soups.predictions import Predictions

SUMS_AT_ONCE = 8_000_000  # of all members and ensembles of a block of rows; in float64 64 MB


def scores_of(
    members: Members, weights: Float64[np.ndarray, "ensembles members"], metric: Metric, combine: str
) -> Float64[np.ndarray, " ensembles"]:
    """The metric of each weighting of the members, in the metric's own sign.

    Metrics that are told as sums over rows are summed block by block; the others need each ensemble whole.

    Args:
        members: labelled.
        weights: 0 or more, each row summing to 1.
        metric: any.
        combine: as for `ensemble`.
    """
    if metric.row_statistics is None or metric.value is None:
        return np.asarray([metric.compute(combined(members, combine, row.tolist())) for row in weights])
    labels = members.needs_labels()
    sums: np.ndarray | None = None
    for start, stop in members.spans(SUMS_AT_ONCE // (len(members) + len(weights))):
        ids = np.arange(stop - start)
        block = [
            metric.row_statistics(Predictions(logs, ids, labels[start:stop])).sum(axis=0, dtype=np.float64)
            for logs in _ensembles(members, weights, combine, start, stop)
        ]
        sums = np.stack(block) if sums is None else sums + np.stack(block)
    return metric.value(sums) if sums is not None else np.full(len(weights), np.nan)


def _ensembles(
    members: Members, weights: Float64[np.ndarray, "ensembles members"], combine: str, start: int, stop: int
) -> Iterator[Float32[np.ndarray, "rows classes"]]:
    """Log-probabilities of each ensemble on some rows."""
    logs = np.stack([members.block(i, start, stop) for i in range(len(members))])
    values = logs.astype(np.float64)
    if combine != "geometric":
        np.exp(values, out=values)
    means = _weighted(weights, values)
    if combine == "vote":
        votes = logs.argmax(axis=2)[..., None] == np.arange(members.classes)
        shares = _weighted(weights, votes.astype(np.float64))
        yield from (voted(share, mean) for share, mean in zip(shares, means, strict=True))
    else:
        yield from map(logs_of_mean if combine == "mean" else logs_of_mean_logs, means)


def _weighted(
    weights: Float64[np.ndarray, "ensembles members"], values: Float64[np.ndarray, "members rows classes"]
) -> Float64[np.ndarray, "ensembles rows classes"]:
    flat = weights @ values.reshape(len(values), -1)
    return np.asarray(flat.reshape(len(weights), *values.shape[1:]))
