"""Ensembles: several answerers' predictions joined by row id into one. Needs no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float64

from hf_soups.errors import PredictionsError
from hf_soups.predictions import Predictions


def ensemble(members: Sequence[Predictions], combine: str = "mean") -> Predictions:
    """The members' answers combined: "mean" of probabilities, or "geometric" mean (the mean of logits)."""
    if combine not in ("mean", "geometric"):
        raise PredictionsError(f"cannot combine by {combine!r}; expected 'mean' or 'geometric'.")
    return mean(members) if combine == "mean" else geometric_mean(members)


def mean(members: Sequence[Predictions]) -> Predictions:
    """The arithmetic mean of the members' probabilities, in the rows' order of the first.

    Raises:
        PredictionsError: if there is no member, or they are not of the same rows, labels and classes.

    >>> a, b = (Predictions.from_probs([p]) for p in ([0.5, 0.5], [0.75, 0.25]))
    >>> mean([a, b]).probs.round(6).tolist()
    [[0.625, 0.375]]
    """
    return _combined("mean", members, np.exp(_stacked(members)).mean(axis=0), Predictions.from_probs)


def geometric_mean(members: Sequence[Predictions]) -> Predictions:
    """The normalised geometric mean of the members' probabilities: the softmax of their mean logits.

    Raises:
        PredictionsError: if there is no member, or they are not of the same rows, labels and classes.
    Source: Kondratyuk et al. 2020, arXiv:2005.00570, section 3.
    """
    # log-probabilities differ from logits by a constant per row, which the softmax takes away
    return _combined("geometric mean", members, _stacked(members).mean(axis=0), Predictions.from_logits)


mean_logits = geometric_mean  # the same thing by the name the leaderboard uses


def _stacked(members: Sequence[Predictions]) -> Float64[np.ndarray, "members examples classes"]:
    if not members:
        raise PredictionsError("an ensemble needs at least one member's predictions, got none.")
    first = members[0]
    return np.stack([p.aligned_to(first).log_probs.astype(np.float64) for p in members])


def _combined(
    name: str, members: Sequence[Predictions], values: np.ndarray, make: Callable[..., Predictions]
) -> Predictions:
    first = members[0]
    return make(
        values,
        labels=next((p.aligned_to(first).labels for p in members if p.labels is not None), None),
        row_ids=first.row_ids,
        label_names=next((p.label_names for p in members if p.label_names), None),
        data=next((p.data for p in members if p.data), ""),
        model=f"{name} of {', '.join(p.model or '?' for p in members)}",
    )
