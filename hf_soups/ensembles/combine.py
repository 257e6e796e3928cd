"""Combining members' answers into one: the mean of probabilities, their geometric mean, or a vote; with weights.

Of a multi-label problem each label is combined by itself; of a regression there is the mean of numbers alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from jaxtyping import Float32, Float64

from hf_soups.errors import PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.metrics import Metric
from hf_soups.predictions import SMALLEST, Predictions
from hf_soups.predictions.predictions import HALF, logits_again, read_logits


@dataclass(frozen=True, eq=False)
class Members:
    """Predictions of the same rows, in the order of the first; members may be mapped from files larger than memory."""

    predictions: tuple[Predictions, ...]
    temperatures: tuple[float, ...]  # one per member; 1 leaves it as it is

    @classmethod
    def of(cls, predictions: Sequence[Predictions], temperatures: Sequence[float] | None = None) -> Members:
        """The members joined by row id.

        Raises:
            PredictionsError: if there is none, they are not of the same rows, labels and classes, or a temperature is
                missing or not above 0.
        """
        if not predictions:
            raise PredictionsError("an ensemble needs at least one member's predictions, got none.")
        given = tuple(float(t) for t in temperatures) if temperatures is not None else (1.0,) * len(predictions)
        if len(given) != len(predictions):
            raise PredictionsError(f"{len(given)} temperatures for {len(predictions)} members; expected one for each.")
        if not all(t > 0 and np.isfinite(t) for t in given):
            raise PredictionsError(f"temperatures are {given}; expected numbers above 0.")
        if predictions[0].problem_type == REGRESSION and set(given) != {1.0}:
            raise PredictionsError(f"temperatures are {given}, but the numbers of a regression have none.")
        return cls(tuple(p.aligned_to(predictions[0]) for p in predictions), given)

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.predictions[0])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.predictions[0].classes

    @property
    def labels(self) -> np.ndarray | None:
        """The rows' labels, if any member has them."""
        return next((p.labels for p in self.predictions if p.labels is not None), None)

    @property
    def problem_type(self) -> ProblemType:
        """What the rows' labels are."""
        return self.predictions[0].problem_type

    def needs_labels(self) -> np.ndarray:
        """The rows' labels, or an error if no member has them."""
        return self.predictions[0].needs_labels() if self.labels is None else self.labels

    def spans(self, values: int) -> Iterator[tuple[int, int]]:
        """Start and stop of blocks that hold about `values` numbers of one member each."""
        step = max(1, values // max(1, self.classes))
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def block(self, member: int, start: int, stop: int) -> Float32[np.ndarray, "rows classes"]:
        """A member's log-probabilities of some rows, at its temperature."""
        p = self.predictions[member]
        own = p.block(start, stop)
        if self.temperatures[member] == 1:
            return own
        some = Predictions(own, p.row_ids[start:stop], problem_type=p.problem_type)
        return some.at_temperature(self.temperatures[member]).log_probs

    def answering(self, log_probs: Float32[np.ndarray, "rows classes"], name: str) -> Predictions:
        """Predictions of all rows by what `name` combines of the members."""
        return Predictions(
            log_probs,
            self.predictions[0].row_ids,
            self.labels,
            label_names=next((p.label_names for p in self.predictions if p.label_names), None),
            data=next((p.data for p in self.predictions if p.data), ""),
            model=f"{name} of {', '.join(p.model or '?' for p in self.predictions)}",
            problem_type=self.problem_type,
        )


Combine = Literal["mean", "geometric", "vote"]
NAMES = {"mean": "mean", "geometric": "geometric mean", "vote": "vote"}
VALUES_AT_ONCE = 4_096_000  # of one member; in float64 33 MB
WEIGHT_TOLERANCE = 1e-6  # weights that sum to 1 within it are rescaled, others refused
PROBABILITY_DIGITS = 6  # of mean probabilities that part a tie; float32 log-probabilities have about 7
SHARE_DIGITS = 12  # shares of votes that agree so far are equal: 0.1 + 0.2 is 0.3


def ensemble(
    members: Sequence[Predictions],
    combine: str = "mean",
    *,
    weights: Sequence[float] | None = None,
    temperatures: Sequence[float] | None = None,
) -> Predictions:
    """The members' answers combined, in the order of the first one's rows.

    Args:
        members: predictions of the same rows, joined by row id; they are read in blocks, so they may be mapped from
            files. Only the result is held whole.
        combine: "mean" of probabilities; "geometric" mean, which is the softmax of the mean log-probabilities and, as
            these differ from logits by one constant a row, of the mean logits; or "vote": each member votes for its
            most probable class and the share of votes is the probability. Of equal shares the class with the higher
            mean probability (to six digits) is the answer, then that of the lower index; it is given one rounding step
            of float32 more than the others.
        weights: one per member, 0 or more, summing to 1; equal ones if left out. A weight of 0 leaves a member out.
        temperatures: one per member, what its logits are divided by beforehand.
    Raises:
        PredictionsError: if there is no member, they are not of the same rows, labels and classes, or `combine`,
            a weight or a temperature cannot be used.

    >>> a, b = (Predictions.from_probs([p]) for p in ([0.5, 0.5], [0.75, 0.25]))
    >>> [round(float(share), 4) for share in ensemble([a, b], weights=[0.25, 0.75]).probs[0]]
    [0.6875, 0.3125]
    """
    return combined(Members.of(members, temperatures), combine, weights)


def mean(members: Sequence[Predictions]) -> Predictions:
    """The arithmetic mean of the members' probabilities; errors as for `ensemble`.

    >>> a, b = (Predictions.from_probs([p]) for p in ([0.5, 0.5], [0.75, 0.25]))
    >>> mean([a, b]).probs.round(6).tolist()
    [[0.625, 0.375]]
    """
    return ensemble(members, "mean")


def geometric_mean(members: Sequence[Predictions]) -> Predictions:
    """The normalised geometric mean of the members' probabilities: the softmax of their mean logits.

    Of a multi-label problem the sigmoid of their mean logits; of a regression, whose logit is the answer, their mean.

    Source: Kondratyuk et al. 2020, arXiv:2005.00570, section 3.
    """
    return ensemble(members, "mean" if members and members[0].problem_type == REGRESSION else "geometric")


# Log-probabilities differ from logits by a constant per row, which the softmax takes away: with any weights that sum
# to 1 the mean of logits is the geometric mean, and logits need not be stored.
mean_logits = geometric_mean


def vote(members: Sequence[Predictions]) -> Predictions:
    """The members' votes: of each class, the share of members that it is the most probable of.

    >>> a, b, c = (Predictions.from_probs([p]) for p in ([0.9, 0.1], [0.4, 0.6], [0.45, 0.55]))
    >>> [round(float(share), 3) for share in vote([a, b, c]).probs[0]]
    [0.333, 0.667]
    """
    return ensemble(members, "vote")


def checked(combine: str, of_type: ProblemType = CLASSIFICATION) -> str:
    """The way to combine.

    Raises:
        PredictionsError: if it is unknown, or numbers of a regression would be combined other than by their mean.
    """
    if of_type == REGRESSION and combine != "mean":
        raise PredictionsError(f"cannot combine the numbers of a regression by {combine!r}; expected 'mean'.")
    if combine not in get_args(Combine):
        known = ", ".join(map(repr, get_args(Combine)))
        raise PredictionsError(f"cannot combine by {combine!r}; expected one of {known}.")
    return combine


def combined(members: Members, combine: str, weights: Sequence[float] | None = None) -> Predictions:
    """As `ensemble`, for members that are already joined."""
    checked(combine, members.problem_type)
    shares = checked_weights(weights, len(members))
    counted = [i for i, share in enumerate(shares) if share > 0]
    log_probs = np.empty((members.rows, members.classes), dtype=np.float32)
    for start, stop in members.spans(VALUES_AT_ONCE):
        if len(counted) == 1 and combine != "vote":
            log_probs[start:stop] = members.block(counted[0], start, stop)  # itself, to the last bit
            continue
        total = Total(combine, members.classes, stop - start, members.problem_type)
        for i in counted:
            total.add(members.block(i, start, stop), 1.0 if weights is None else shares[i])
        log_probs[start:stop] = total.log_probs()
    return members.answering(log_probs, NAMES[combine])


def checked_weights(weights: Sequence[float] | None, members: int) -> tuple[float, ...]:
    """Weights that sum to 1, equal ones if there are none.

    Raises:
        PredictionsError: if their number is not that of the members, one is negative or not a number, or their sum is
            not 1.
    """
    if weights is None:
        return (1 / members,) * members
    given = np.asarray(weights, dtype=np.float64)
    if given.shape != (members,):
        raise PredictionsError(f"{given.size} weights for {members} members; expected one for each.")
    if not (np.isfinite(given).all() and (given >= 0).all()):
        raise PredictionsError(f"weights are {given.tolist()}; expected numbers of 0 or more.")
    if abs(given.sum() - 1) > WEIGHT_TOLERANCE:
        raise PredictionsError(f"weights sum to {given.sum():.6g}; expected 1. Divide each of them by that sum.")
    return tuple((given / given.sum()).tolist())


class Total:
    """The running sum of members' answers on some rows.

    Members are added one after another in float64, as a cascade adds them: an ensemble of equal weights answers what
    the cascade of the same members does that no row leaves, bit for bit.
    """

    def __init__(self, combine: str, classes: int, rows: int, of_type: ProblemType = CLASSIFICATION) -> None:
        self.combine, self.of_type = combine, of_type
        self.sum = np.zeros((rows, classes))
        self.votes = np.zeros((rows, classes)) if combine == "vote" else None
        self.weight = 0.0

    def add(self, log_probs: Float32[np.ndarray, "rows classes"], weight: float = 1.0) -> None:
        """One more member."""
        own = summed(log_probs.astype(np.float64), self.combine, self.of_type)
        self.sum += own if weight == 1 else weight * own
        self.weight += weight
        if self.votes is not None:
            self.votes += weight * votes_of(log_probs, self.of_type)

    def log_probs(self) -> Float32[np.ndarray, "rows classes"]:
        """What all that were added answer together."""
        shares = None if self.votes is None else self.votes / self.weight
        return answers_of_means(self.sum / self.weight, shares, self.combine, self.of_type)


def summed(
    log_probs: Float64[np.ndarray, "*rows classes"], combine: str, of_type: ProblemType
) -> Float64[np.ndarray, "*rows classes"]:
    """What of members' answers is averaged: probabilities, logits or, of a regression, numbers."""
    if of_type == REGRESSION:
        return log_probs
    if combine == "geometric":
        return logits_again(log_probs, of_type)
    return np.asarray(np.exp(log_probs, out=log_probs))


def votes_of(
    log_probs: Float32[np.ndarray, "*rows classes"], of_type: ProblemType
) -> Float64[np.ndarray, "*rows classes"]:
    """1 for the most probable class of each row, or for each label that is more probable than not."""
    if of_type == MULTI_LABEL:
        return np.asarray(log_probs > HALF, dtype=np.float64)
    return np.asarray(log_probs.argmax(axis=-1)[..., None] == np.arange(log_probs.shape[-1]), dtype=np.float64)


def answers_of_means(
    means: Float64[np.ndarray, "rows classes"],
    shares: Float64[np.ndarray, "rows classes"] | None,
    combine: str,
    of_type: ProblemType,
) -> Float32[np.ndarray, "rows classes"]:
    """What an ensemble answers, by the means of `summed` and, of a vote, the shares of `votes_of`."""
    if of_type == REGRESSION:
        return np.asarray(means, dtype=np.float32)
    if of_type == MULTI_LABEL and combine == "geometric":
        return np.asarray(read_logits(means, of_type), dtype=np.float32)
    if of_type == MULTI_LABEL:
        return logs_of_mean(means if shares is None else shares)
    if shares is not None:
        return voted(shares, means)
    return logs_of_mean(means) if combine == "mean" else logs_of_mean_logs(means)


def logs_of_mean(probs: Float64[np.ndarray, "rows classes"]) -> Float32[np.ndarray, "rows classes"]:
    """Log-probabilities of mean probabilities."""
    return np.asarray(np.log(np.maximum(probs, SMALLEST)), dtype=np.float32)


def logs_of_mean_logs(logs: Float64[np.ndarray, "rows classes"]) -> Float32[np.ndarray, "rows classes"]:
    """Log-probabilities of mean log-probabilities or logits."""
    z = logs - logs.max(axis=1, keepdims=True)
    z -= np.log(np.exp(z).sum(axis=1, keepdims=True))
    return np.asarray(np.maximum(z, np.log(SMALLEST)), dtype=np.float32)


def voted(
    shares: Float64[np.ndarray, "rows classes"], probs: Float64[np.ndarray, "rows classes"]
) -> Float32[np.ndarray, "rows classes"]:
    """Log-probabilities of shares of votes; of equal shares the class with the higher mean probability leads."""
    shares = shares.round(SHARE_DIGITS)
    leading = shares == shares.max(axis=1, keepdims=True)
    winner = np.where(leading, probs.round(PROBABILITY_DIGITS), -1.0).argmax(axis=1)
    logs = logs_of_mean(shares)
    tied = np.flatnonzero(leading.sum(axis=1) > 1)
    logs[tied, winner[tied]] = np.nextafter(logs[tied, winner[tied]], np.float32(np.inf))
    return logs


SUMS_AT_ONCE = 8_000_000  # of all members and ensembles of a block of rows; in float64 64 MB


def scores_of(
    members: Members, weights: Float64[np.ndarray, "ensembles members"], metric: Metric, combine: str
) -> Float64[np.ndarray, " ensembles"]:
    """The metric of each weighting of the members, in the metric's own sign.

    Metrics that are given as sums over rows are summed block by block; the others need each ensemble whole.

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
            metric.row_statistics(Predictions(logs, ids, labels[start:stop], problem_type=members.problem_type)).sum(
                axis=0, dtype=np.float64
            )
            for logs in _ensembles(members, weights, combine, start, stop)
        ]
        sums = np.stack(block) if sums is None else sums + np.stack(block)
    return metric.value(sums) if sums is not None else np.full(len(weights), np.nan)


def _ensembles(
    members: Members, weights: Float64[np.ndarray, "ensembles members"], combine: str, start: int, stop: int
) -> Iterator[Float32[np.ndarray, "rows classes"]]:
    """Log-probabilities of each ensemble on some rows."""
    logs = np.stack([members.block(i, start, stop) for i in range(len(members))])
    of_type = members.problem_type
    means = _weighted(weights, summed(logs.astype(np.float64), combine, of_type))
    shares = _weighted(weights, votes_of(logs, of_type)) if combine == "vote" else [None] * len(means)
    yield from (answers_of_means(mean, share, combine, of_type) for mean, share in zip(means, shares, strict=True))


def _weighted(
    weights: Float64[np.ndarray, "ensembles members"], values: Float64[np.ndarray, "members rows classes"]
) -> Float64[np.ndarray, "ensembles rows classes"]:
    flat = weights @ values.reshape(len(values), -1)
    return np.asarray(flat.reshape(len(weights), *values.shape[1:]))
