"""The rule of a cascade: how the answers of members 1..k become one, and how sure that one is.

One arithmetic serves the search, the simulation and the running model: float64 sums member by member, in the order of
the cascade, and confidences rounded once to float32. So a model leaves where the search said that it would.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64
from numpy.typing import ArrayLike

from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, REGRESSION, ProblemType
from hf_soups.predictions import SMALLEST, Predictions
from hf_soups.predictions.predictions import HALF, logits_again, read_logits

Combine = Literal["mean", "geometric", "last"]
Confidence = Literal["max", "gap", "entropy", "agreement", "labels", "learned"]
COMBINATIONS: dict[Combine, str] = {
    "mean": "mean of the probabilities of all members so far",
    "geometric": "geometric mean of the probabilities of all members so far",
    "last": "the last member alone",
}
CONFIDENCES: dict[Confidence, str] = {
    "max": "the largest probability",
    "gap": "the gap between the two largest probabilities",
    "entropy": "1 - entropy / log(classes)",
    "agreement": "the share of members whose own answer is the combined one",
    "learned": "a learned chance that the answer is as good as the last member's",
    "labels": "of many labels a row, the mean of how sure each is: the larger of p and 1 - p",
}
MOST_CLASSES = 32  # whose probabilities are features of learned deferral; of more only three summaries are
NEVER = 2.0  # a threshold that no confidence reaches; confidences lie in [0, 1]


@dataclass(frozen=True, slots=True)
class Rule:
    """What members 1..k answer together, and what counts as their confidence, in [0, 1]; `in_words` explains both."""

    combine: Combine = "mean"
    confidence: Confidence = "max"
    scores: tuple[tuple[float, ...], ...] = ()  # of "learned": intercept and coefficients of each stage but the last

    def __post_init__(self) -> None:
        if (self.confidence == "learned") != bool(self.scores):
            raise InputError("the confidence 'learned' needs scores (learn_deferral makes them), and no other has any.")
        for name, value, known in (
            ("combine", self.combine, COMBINATIONS),
            ("confidence", self.confidence, CONFIDENCES),
        ):
            if value not in known:
                raise InputError(f"{name} is {value!r}; expected one of {', '.join(known)}.")

    def in_words(self) -> tuple[str, str]:
        """What the answer of members 1..k is, and what its confidence.

        >>> Rule().in_words()
        ('mean of the probabilities of all members so far', 'the largest probability')
        """
        return COMBINATIONS[self.combine], CONFIDENCES[self.confidence]

    @property
    def problem_type(self) -> ProblemType:
        """Of the rows that it is for."""
        return MULTI_LABEL if self.confidence == "labels" else CLASSIFICATION

    def check(self, p: Predictions) -> None:
        """Whether it is for these predictions.

        Raises:
            PredictionsError: if they are of another problem type.
        """
        if p.problem_type != self.problem_type:
            raise PredictionsError(
                f"the predictions {p.model or ''} are of problem type {p.problem_type!r}, but a cascade with the "
                f"confidence {self.confidence!r} is of {self.problem_type!r}."
            )


def rule_for(p: Predictions, combine: Combine, confidence: Confidence) -> Rule:
    """The rule for cascades on rows such as these: of many labels a row, the confidence "max" means "labels".

    Raises:
        InputError: if no cascade answers such rows, or the confidence is for others.
    """
    if p.problem_type == REGRESSION:
        raise InputError(
            "a cascade answers a row early where a member is sure of it, but the numbers of a regression do not say "
            "how sure the model is. Use one model, a soup or an ensemble of them."
        )
    if p.problem_type == MULTI_LABEL and confidence in ("max", "labels"):
        return Rule(combine, "labels")
    rule = Rule(combine, confidence)
    if rule.problem_type != p.problem_type:
        fitting = "labels" if p.problem_type == MULTI_LABEL else "max, gap, entropy or agreement"
        raise InputError(f"confidence {confidence!r} is not for rows of {p.problem_type!r}; expected {fitting}.")
    return rule


def checked_thresholds(thresholds: Sequence[float], members: int) -> tuple[float, ...]:
    """One threshold for each member but the last, in [0, 1]; anything in (1, 2] is never reached.

    Raises:
        InputError: if there are more or fewer, or one is negative, above 2 or not a number.

    >>> checked_thresholds([0.9, 2], members=3)
    (0.9, 2.0)
    """
    if members < 1:
        raise InputError("a cascade needs at least one member.")
    if len(thresholds) != members - 1:
        raise InputError(
            f"{len(thresholds)} thresholds for {members} members; expected {members - 1}: one for each but the last, "
            "which always answers."
        )
    for stage, threshold in enumerate(thresholds):
        if not 0 <= threshold <= NEVER:  # also refuses NaN
            raise InputError(
                f"the threshold of stage {stage} is {threshold}; expected 0 (always leave) to 1, or {NEVER:g} (never)."
            )
    return tuple(float(t) for t in thresholds)


@dataclass(frozen=True, eq=False)
class Committee:
    """What members 1..k answered on some rows; immutable, grown by `joined` and cut by `take`."""

    rule: Rule
    members: int = 0
    total: Float64[np.ndarray, "rows classes"] | None = None  # sum of probabilities, or of log-probabilities
    votes: tuple[Int64[np.ndarray, " rows"], ...] = ()  # each member's answers, kept for agreement alone

    def joined(self, log_probs: Float32[np.ndarray, "rows classes"]) -> Committee:
        """The committee with one more member, given its natural-log probabilities of the same rows."""
        own = log_probs.astype(np.float64)
        if self.rule.combine == "mean":
            np.exp(own, out=own)
        elif self.rule.combine == "geometric":
            own = logits_again(own, self.rule.problem_type)
        if self.total is not None and self.rule.combine != "last":
            own += self.total
        vote = (log_probs.argmax(axis=1),) if self.rule.confidence == "agreement" else ()
        return replace(self, members=self.members + 1, total=own, votes=(*self.votes, *vote))

    def take(self, rows: ArrayLike) -> Committee:
        """The committee on some of its rows (indices or a mask)."""
        assert self.total is not None
        at = np.asarray(rows)
        return replace(self, total=self.total[at], votes=tuple(vote[at] for vote in self.votes))

    def probs(self) -> Float64[np.ndarray, "rows classes"]:
        """The combined probabilities."""
        return self._probs

    @cached_property
    def _probs(self) -> Float64[np.ndarray, "rows classes"]:
        assert self.total is not None, "no member has answered yet"
        if self.rule.combine == "mean":
            return np.asarray(self.total / self.members)
        return np.asarray(np.exp(self._logs()))

    def log_probs(self) -> Float32[np.ndarray, "rows classes"]:
        """The combined natural-log probabilities."""
        logs = np.log(np.maximum(self._probs, SMALLEST)) if self.rule.combine == "mean" else self._logs()
        return logs.astype(np.float32)

    def answers(self) -> Int64[np.ndarray, "rows ..."]:
        """The combined answers; the lowest index wins a tie. Of many labels a row 0 or 1 for each."""
        assert self.total is not None
        if self.rule.problem_type == MULTI_LABEL:
            return np.asarray(self.log_probs() > HALF, dtype=np.int64)
        return np.asarray(self.total.argmax(axis=1), dtype=np.int64)

    def confidence(self) -> Float32[np.ndarray, " rows"]:
        """How sure the committee is of each row, in [0, 1]."""
        if self.rule.confidence == "agreement":
            answers = self.answers()
            agreeing = np.stack([vote == answers for vote in self.votes])
            return np.asarray(agreeing.mean(axis=0), dtype=np.float32)
        if self.rule.confidence == "learned" and self.members <= len(self.rule.scores):
            return deferral_score(deferral_features(self._probs), self.rule.scores[self.members - 1])
        return np.asarray(np.clip(_CONFIDENCE[self.rule.confidence](self._probs), 0, 1), dtype=np.float32)

    def _logs(self) -> Float64[np.ndarray, "rows classes"]:
        assert self.total is not None
        if self.rule.combine == "last":
            return self.total
        mean = self.total / self.members
        if self.rule.problem_type == MULTI_LABEL:
            return read_logits(mean, MULTI_LABEL)
        mean -= mean.max(axis=1, keepdims=True)
        return np.asarray(mean - np.log(np.exp(mean).sum(axis=1, keepdims=True)))


def _max(probs: Float64[np.ndarray, "rows classes"]) -> Float64[np.ndarray, " rows"]:
    return np.asarray(probs.max(axis=1))


def _gap(probs: Float64[np.ndarray, "rows classes"]) -> Float64[np.ndarray, " rows"]:
    if probs.shape[1] == 1:
        return _max(probs)
    top = np.partition(probs, -2, axis=1)
    return np.asarray(top[:, -1] - top[:, -2])


def _entropy(probs: Float64[np.ndarray, "rows classes"]) -> Float64[np.ndarray, " rows"]:
    if probs.shape[1] == 1:
        return _max(probs)
    return np.asarray(1 + (probs * np.log(np.maximum(probs, SMALLEST))).sum(axis=1) / math.log(probs.shape[1]))


def _labels(probs: Float64[np.ndarray, "rows labels"]) -> Float64[np.ndarray, " rows"]:
    return np.asarray(np.maximum(probs, 1 - probs).mean(axis=1))


# after the last member nothing is deferred: there the largest probability says whether a human is asked
_CONFIDENCE = {"max": _max, "gap": _gap, "entropy": _entropy, "labels": _labels, "learned": _max}


def deferral_features(probs: Float64[np.ndarray, "rows classes"]) -> Float64[np.ndarray, "rows features"]:
    """What learned deferral knows of a row: largest probability, gap, entropy; of few classes all probabilities too."""
    summaries = np.stack([_max(probs), _gap(probs), _entropy(probs)], axis=1)
    return np.concatenate([summaries, probs], axis=1) if probs.shape[1] <= MOST_CLASSES else summaries


def deferral_score(
    features: Float64[np.ndarray, "rows features"], coefficients: Sequence[float]
) -> Float32[np.ndarray, " rows"]:
    """The learned chance, in [0, 1]; summed feature by feature, so that a row's is the same in any batch.

    Raises:
        InputError: if there are more or fewer coefficients than features and an intercept.
    """
    if len(coefficients) != features.shape[1] + 1:
        raise InputError(
            f"{len(coefficients)} coefficients of learned deferral for {features.shape[1]} features and an intercept: "
            "they are of other classes. Build the cascade again."
        )
    z = np.full(len(features), coefficients[0])
    for column, weight in zip(features.T, coefficients[1:], strict=True):
        z += weight * column
    return np.asarray(1 / (1 + np.exp(-np.clip(z, -700, 700))), dtype=np.float32)


def abstaining(
    exits: Int64[np.ndarray, " rows"], confidences: Float32[np.ndarray, " rows"], last: int, abstain: float
) -> Bool[np.ndarray, " rows"]:
    """Which rows are for a human: those that met the last member and are less sure than `abstain` even then."""
    return np.asarray((exits == last) & ~leaving(confidences, abstain))


def leaving(confidence: Float32[np.ndarray, " rows"], threshold: float) -> Bool[np.ndarray, " rows"]:
    """Which rows exit at a stage: those with a confidence of the threshold or more, compared in float32."""
    return np.asarray(confidence >= np.float32(threshold))
