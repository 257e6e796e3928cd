"""What an ensemble would score with one more member, for each that could join, computed on the rows that this decides.

Most rows of a pool are settled whoever joins; selection looks at the others alone, and at few of their classes.

`ContestedRows` is for metrics of answers alone, `LabelProbabilities` for the log-likelihood of means, `WholeRows` for
anything. All of them give the scores of the ensembles themselves; only geometric means of two classes that agree in the
first seven digits may fall to the other class.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from hf_soups.ensembles.combine import PROBABILITY_DIGITS, Members, scores_of
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.metrics import Metric
from hf_soups.predictions import SMALLEST, Predictions

CONTESTED_AT_ONCE = 8_000_000  # of all members on a block of rows; in float32 32 MB
NEAR = 1e-5  # sums so close, relatively, are compared as the ensemble's float32 log-probabilities would be
LOG_DIGITS = 9
LARGEST = 1_500_000_000  # bytes of contested values that are kept; beyond it every trial reads all rows again


@dataclass(frozen=True, eq=False)
class Contested:
    """Of the rows that not all members could settle together, every class that some choice of members can answer.

    On a row let d be the class with the highest mean log-probability. A class that no member prefers to d never has a
    larger sum than d, whatever members are added: it is left out, and a row with no other class than d is settled.
    Of classes that all but equal d in some member only those before d can win, by their lower index, and not where the
    member gives them its least probability: some other class then has more.
    """

    combine: str
    picks: int

    settled: Int64[np.ndarray, " rows"]  # the answer of each settled row
    rows: Int64[np.ndarray, " contested"]
    starts: Int64[np.ndarray, " contested"]  # of each contested row among the entries
    row_of: Int64[np.ndarray, " entries"]  # index into `rows`
    classes: Int64[np.ndarray, " entries"]  # in ascending order within a row
    values: Float64[np.ndarray, "members entries"]  # what each member adds
    least: Float64[np.ndarray, " entries"]  # of the members' values
    most: Float64[np.ndarray, " entries"]

    @classmethod
    def of(cls, members: Members, combine: str, picks: int) -> Contested | None:
        """None if the entries would take more memory than is sensible."""
        settled = np.empty(members.rows, dtype=np.int64)
        rows, classes, values, size = [], [], [], 0
        for start, stop in members.spans(CONTESTED_AT_ONCE // len(members)):
            logs = np.stack([members.block(i, start, stop) for i in range(len(members))])
            favourite, kept = _votable(logs) if combine == "vote" else _answerable(logs)
            settled[start:stop] = favourite
            row, column = np.nonzero(kept & (kept.sum(axis=1, keepdims=True) > 1))
            size += 8 * len(members) * len(row)
            if size > LARGEST:
                return None
            rows.append(row + start)
            classes.append(column)
            values.append(_added(logs, row, column, combine, picks))
        if not rows:
            return None
        row = np.concatenate(rows)
        contested, starts, row_of = np.unique(row, return_index=True, return_inverse=True)
        added = np.concatenate(values, axis=1)
        least, most = added.min(axis=0), added.max(axis=0)
        return cls(combine, picks, settled, contested, starts, row_of, np.concatenate(classes), added, least, most)

    def narrowed(
        self, sums: Float64[np.ndarray, " entries"], joined: int
    ) -> tuple[Contested, Float64[np.ndarray, " open"]]:
        """What is still open, and its sums, when one more member joins: less and less as members weigh less."""
        if not len(self.rows):
            return self, sums
        reached = np.maximum.reduceat(sums + self.least, self.starts)
        alive = sums + self.most >= (reached - self._slack(reached, joined))[self.row_of]
        alone = np.add.reduceat(alive.astype(np.int64), self.starts) == 1
        settled, of_alone = self.settled.copy(), np.flatnonzero(alive & alone[self.row_of])
        settled[self.rows[self.row_of[of_alone]]] = self.classes[of_alone]
        kept = np.flatnonzero(alive & ~alone[self.row_of])
        row_of = (np.cumsum(~alone) - 1)[self.row_of[kept]]
        narrow = replace(
            self,
            settled=settled,
            rows=self.rows[~alone],
            starts=np.flatnonzero(np.diff(row_of, prepend=-1)),
            row_of=row_of,
            classes=self.classes[kept],
            values=self.values.take(kept, axis=1),
            least=self.least[kept],
            most=self.most[kept],
        )
        return narrow, sums[kept]

    def answers(self, sums: Float64[np.ndarray, " entries"], joined: int) -> Int64[np.ndarray, " rows"]:
        """Each row's answer, given the sums over the members that joined; the lowest index of equal classes."""
        answers = self.settled.copy()
        if not len(self.rows):
            return answers
        tops = np.maximum.reduceat(sums, self.starts)
        near = np.flatnonzero(sums >= (tops - self._slack(tops, joined))[self.row_of])
        row = self.row_of[near]
        compared = self._told(sums[near], tops[row], joined)
        firsts = np.flatnonzero(np.diff(row, prepend=-1))
        leading = np.flatnonzero(compared == np.maximum.reduceat(compared, firsts)[row])[::-1]
        answers[self.rows[row[leading]]] = self.classes[near[leading]]  # of repeated rows the last one stays
        return answers

    def _slack(self, tops: Float64[np.ndarray, " contested"], joined: int) -> Float64[np.ndarray, " contested"]:
        """How far below the largest sum a class can be that may still answer."""
        if self.combine == "vote":
            return np.asarray(tops % 1)  # as many votes
        return NEAR * tops if self.combine == "mean" else np.full(len(tops), NEAR * joined)

    def _told(
        self, sums: Float64[np.ndarray, " near"], tops: Float64[np.ndarray, " near"], joined: int
    ) -> Float[np.ndarray, " near"]:
        """What the ensemble compares."""
        if self.combine == "mean":
            return np.log(sums / joined).astype(np.float32)
        if self.combine == "vote":
            return np.asarray((sums % 1) * (2 * self.picks / joined)).round(PROBABILITY_DIGITS)
        return np.asarray((sums - tops) / joined).round(LOG_DIGITS)


def _answerable(
    logs: Float32[np.ndarray, "members rows classes"],
) -> tuple[Int64[np.ndarray, " rows"], Bool[np.ndarray, "rows classes"]]:
    """Each row's class of the highest mean, and which classes some choice of members can answer."""
    favourite = logs.sum(axis=0, dtype=np.float64).argmax(axis=1)
    at = np.arange(len(favourite))
    kept = np.zeros(logs.shape[1:], dtype=bool)
    kept[at, favourite] = True
    for own in logs:
        of_favourite = own[at, favourite]
        row, column = np.nonzero(own >= (of_favourite - NEAR)[:, None])
        above = own[row, column] > of_favourite[row]
        kept[row[above], column[above]] = True
        equal = np.flatnonzero(~above & (column < favourite[row]))
        row, column = row[equal], column[equal]
        least, most = own[row].min(axis=1, initial=0), own[row].max(axis=1, initial=-np.inf)
        open_to = (own[row, column] > least) | (most - least <= NEAR)
        kept[row[open_to], column[open_to]] = True
    return favourite, kept


def _votable(
    logs: Float32[np.ndarray, "members rows classes"],
) -> tuple[Int64[np.ndarray, " rows"], Bool[np.ndarray, "rows classes"]]:
    """The first member's vote, and which classes any member votes for."""
    votes = logs.argmax(axis=2)
    kept = np.zeros(logs.shape[1:], dtype=bool)
    for own in votes:
        kept[np.arange(len(own)), own] = True
    return votes[0], kept


def _added(
    logs: Float32[np.ndarray, "members rows classes"], row: np.ndarray, column: np.ndarray, combine: str, picks: int
) -> Float64[np.ndarray, "members entries"]:
    """What each member adds to the sum of each class of each row."""
    # of this order in memory: indexing gives the entries first, and sums over one member would then stride
    own = np.ascontiguousarray(logs[:, row, column], dtype=np.float64)
    if combine == "geometric":
        return own
    np.exp(own, out=own)
    if combine == "vote":
        own /= 2 * picks  # all probabilities together are less than one vote: they decide between equal votes alone
        own += logs.argmax(axis=2)[:, row] == column
    return own


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
    if members.problem_type != CLASSIFICATION:
        return WholeRows(members, metric, combine)
    if metric.of_answers is not None and metric.row_statistics is not None:
        contested = Contested.of(members, combine, picks)
        if contested is not None:
            return ContestedRows(members, metric, contested)
    if metric.name == "nll" and combine == "mean" and members.classes > 1 and metric.row_statistics is not None:
        return LabelProbabilities(members, metric)
    return WholeRows(members, metric, combine)


def _from_rows(metric: Metric, ensembles: Iterable[Predictions]) -> Float64[np.ndarray, " ensembles"]:
    """A metric that is a sum over rows, of each ensemble."""
    assert metric.row_statistics is not None
    assert metric.value is not None
    return metric.value(np.stack([metric.row_statistics(p).sum(axis=0, dtype=np.float64) for p in ensembles]))


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
        return _from_rows(self._metric, map(self._with, self._of_label))

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
        open_now, sums_now = self._contested.narrowed(self._sum, self._added + 1)
        answers = (open_now.answers(sums_now + own, self._added + 1) for own in open_now.values)
        return _from_rows(self._metric, (_Answered.of(a, self._labels, self._classes) for a in answers))

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
