"""Trials: what an ensemble would score with one more member, for each member that could join; three ways, one answer.

`ContestedRows` is for metrics of answers alone, `LabelProbabilities` for the log-likelihood of means, `WholeRows` for
anything. All of them give the scores of the ensembles themselves; only geometric means of two classes that agree in the
first seven digits may fall to the other class.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float64, Int64

from hf_soups.ensembles.contested import Contested
from hf_soups.ensembles.members import Members
from hf_soups.ensembles.scoring import scores_of
from hf_soups.metrics import Metric
from hf_soups.predictions import SMALLEST, Predictions

OF_ANSWERS = frozenset({"accuracy", "f1", "f1_macro", "accuracy_f1", "matthews"})  # these look at nothing else
VALUES_AT_ONCE = 8_000_000  # of all members on a block of rows; in float32 32 MB


@runtime_checkable
class Trial(Protocol):
    """An ensemble that grows by one member at a time."""

    def scores(self) -> Float64[np.ndarray, " members"]:
        """The metric, in its own sign, that each member would give by joining."""
        ...

    def add(self, member: int) -> None:
        """Let a member join, once more if it is there already."""
        ...


def trial_of(members: Members, metric: Metric, combine: str, picks: int) -> Trial:
    """The fastest trial that is exact for this metric; `picks` is how many members will join at most."""
    if metric.name in OF_ANSWERS and metric.row_statistics is not None:
        contested = Contested.of(members, combine, picks)
        if contested is not None:
            return ContestedRows(members, metric, contested)
    if metric.name == "nll" and combine == "mean" and members.classes > 1 and metric.row_statistics is not None:
        return LabelProbabilities(members, metric)
    return WholeRows(members, metric, combine)


class WholeRows:
    """Reads every member's rows for every trial: for any metric."""

    def __init__(self, members: Members, metric: Metric, combine: str) -> None:
        self._members, self._metric, self._combine = members, metric, combine
        self._counts = np.zeros(len(members))

    def scores(self) -> Float64[np.ndarray, " members"]:
        """The metric that each member would give by joining."""
        weights = (self._counts + np.eye(len(self._members))) / (self._counts.sum() + 1)
        return scores_of(self._members, weights, self._metric, self._combine)

    def add(self, member: int) -> None:
        """Let a member join."""
        self._counts[member] += 1


class LabelProbabilities:
    """Keeps the probability of each row's label: all that the log-likelihood of a mean of probabilities needs."""

    def __init__(self, members: Members, metric: Metric) -> None:
        self._members, self._metric, self._added = members, metric, 0
        labels = members.needs_labels()
        self._of_label = np.empty((len(members), members.rows))
        for start, stop in members.spans(VALUES_AT_ONCE):
            at = np.arange(stop - start), labels[start:stop]
            for i in range(len(members)):
                self._of_label[i, start:stop] = np.exp(members.block(i, start, stop)[at].astype(np.float64))
        self._sum = np.zeros(members.rows)

    def scores(self) -> Float64[np.ndarray, " members"]:
        """The metric that each member would give by joining."""
        assert self._metric.row_statistics is not None
        assert self._metric.value is not None
        told = [self._metric.row_statistics(self._with(own)).sum(axis=0) for own in self._of_label]
        return self._metric.value(np.stack(told))

    def add(self, member: int) -> None:
        """Let a member join."""
        self._sum += self._of_label[member]
        self._added += 1

    def _with(self, own: Float64[np.ndarray, " rows"]) -> Predictions:
        right = np.minimum((self._sum + own) / (self._added + 1), 1.0)
        both = np.maximum(np.stack([right, 1 - right], axis=1), SMALLEST)
        first = np.zeros(len(right), dtype=np.int64)
        return Predictions(np.log(both).astype(np.float32), np.arange(len(right)), first)


class ContestedRows:
    """Looks only at the rows and classes of which the members' choice decides the answer."""

    def __init__(self, members: Members, metric: Metric, contested: Contested) -> None:
        self._metric, self._contested = metric, contested
        self._labels, self._classes = members.needs_labels(), members.classes
        self._sum, self._added = np.zeros(contested.values.shape[1]), 0

    def scores(self) -> Float64[np.ndarray, " members"]:
        """The metric that each member would give by joining."""
        assert self._metric.row_statistics is not None
        assert self._metric.value is not None
        open_now, sums_now = self._contested.narrowed(self._sum, self._added + 1)
        sums = []
        for own in open_now.values:
            answers = open_now.answers(sums_now + own, self._added + 1)
            said = _Answered.of(answers, self._labels, self._classes)
            sums.append(self._metric.row_statistics(said).sum(axis=0, dtype=np.float64))
        return self._metric.value(np.stack(sums))

    def add(self, member: int) -> None:
        """Let a member join."""
        self._sum += self._contested.values[member]
        self._added += 1


@dataclass(frozen=True, eq=False)
class _Answered(Predictions):
    """Answers without probabilities, for metrics that look at nothing else."""

    said: Int64[np.ndarray, " examples"] = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @classmethod
    def of(cls, answers: np.ndarray, labels: np.ndarray, classes: int) -> _Answered:
        nothing = np.broadcast_to(np.float32(0), (len(answers), classes))  # takes no memory
        return cls(nothing, np.arange(len(answers)), labels, said=answers)

    @property
    def answers(self) -> Int64[np.ndarray, " examples"]:
        return self.said
