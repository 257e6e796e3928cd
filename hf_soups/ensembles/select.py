"""Greedy selection of an ensemble: the member that helps most joins, again and again, and may join more than once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from hf_soups.ensembles.combine import Members, checked, combined, ensemble
from hf_soups.ensembles.gains import Trial, trial_of
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import Metric, metric_named
from hf_soups.predictions import Predictions

ROUNDS = 50
ROUNDING = 1e-12  # of sums over rows
WORTH = 1e-7  # by which a longer ensemble must score more: answers are float32; a row of a million is ten times that


@dataclass(frozen=True, slots=True)
class Selection:
    """An ensemble that was chosen greedily, and every step on the way to it."""

    weights: Mapping[str, float]  # of those chosen, the heaviest first; they sum to 1
    path: tuple[str, ...]  # who joined, in order; only the first `kept` are in the ensemble
    scores: tuple[float, ...]  # after each joined, in the metric's own sign
    kept: int
    metric: str
    combine: str
    temperatures: Mapping[str, float] = field(default_factory=dict)  # of those chosen, where not 1

    @property
    def score(self) -> float:
        """What the ensemble scores on the rows it was chosen on."""
        return self.scores[self.kept - 1]

    def apply(self, predictions: Mapping[str, Predictions]) -> Predictions:
        """The ensemble's answers on other rows.

        Args:
            predictions: those of the members by name, of the same rows in any order; others are not looked at.
        Raises:
            PredictionsError: if a member is missing, or they are not of the same rows and labels.
        """
        missing = [name for name in self.weights if name not in predictions]
        if missing:
            raise PredictionsError(
                f"no predictions of {', '.join(missing)}; there are: {', '.join(predictions)}. The ensemble's members "
                f"are {', '.join(self.weights)}."
            )
        return ensemble(
            [predictions[name] for name in self.weights],
            self.combine,
            weights=list(self.weights.values()),
            temperatures=[self.temperatures.get(name, 1.0) for name in self.weights],
        )


def select_ensemble(
    predictions: Mapping[str, Predictions],
    metric: Metric | str = "accuracy",
    *,
    rounds: int = ROUNDS,
    combine: str = "mean",
    initial: int = 1,
    temperatures: Mapping[str, float] | None = None,
) -> Selection:
    """Choose members and weights: begin with the best, add whichever helps most, return the best that was met.

    A member may join many times; its weight is its share of the joins. In each round the one that gives the highest
    score joins, even if the score falls; the shortest prefix of the path with the highest score is returned, so the
    ensemble never scores below the best single member on these rows. Of members that give the same score, the one
    that is better alone joins.

    Args:
        predictions: by name, labelled, of the same rows: those to choose on, never the report's.
        metric: a metric, or the name of one in `METRICS`. Metrics of answers alone (accuracy, F1, Matthews) and the
            log-likelihood of means are fast at any size; others read all rows of all members in every round.
        rounds: how many join after the initial ones.
        combine: "mean", "geometric" or "vote", as for `ensemble`.
        initial: how many of the best single members to begin with. More than 1 overfits less when rows are few.
        temperatures: what members' logits are divided by, by name; 1 for those left out.
    Raises:
        PredictionsError: if there are no members, rows or labels, or members are not of the same rows.
        InputError: for an unknown metric, or numbers out of range.
    Source: Caruana, Niculescu-Mizil, Crew and Ksikes 2004, Ensemble selection from libraries of models, ICML: with
        replacement and sorted initialisation, sections 2.1 and 2.2.

    >>> labels = [0, 1, 0]
    >>> a = Predictions.from_probs([[0.9, 0.1], [0.6, 0.4], [0.8, 0.2]], labels=labels)
    >>> b = Predictions.from_probs([[0.8, 0.2], [0.1, 0.9], [0.4, 0.6]], labels=labels)
    >>> chosen = select_ensemble({"a": a, "b": b}, rounds=3)
    >>> dict(chosen.weights), chosen.score
    ({'a': 0.5, 'b': 0.5}, 1.0)
    """
    known = metric_named(metric)
    given = dict(temperatures or {})
    names, members = list(predictions), Members.of(list(predictions.values()), [given.get(n, 1.0) for n in predictions])
    _check(members, names, given, rounds, initial)
    checked(combine, members.problem_type)
    initial = min(initial, len(names))
    trial = trial_of(members, known, combine, picks=initial + rounds)
    path, scores = _grown(trial, names, initial, rounds, known)

    def rescored(kept: int) -> float:
        weights = _weights([names[i] for i in path[:kept]])
        return known.compute(combined(members, combine, [weights.get(name, 0.0) for name in names]))

    kept = _best_prefix(scores, rescored, known)
    chosen = _weights([names[i] for i in path[:kept]])
    return Selection(
        weights=chosen,
        path=tuple(names[i] for i in path),
        scores=tuple(scores),
        kept=kept,
        metric=known.name,
        combine=combine,
        temperatures={n: t for n, t in given.items() if n in chosen and t != 1},
    )


def _grown(
    trial: Trial, names: Sequence[str], initial: int, rounds: int, metric: Metric
) -> tuple[list[int], list[float]]:
    """Who joins and what each step scores; NaN counts as worst."""
    alone = trial.scores()
    order = sorted(range(len(names)), key=lambda i: (-metric.rank(float(alone[i])), names[i]))
    path: list[int] = []
    scores: list[float] = []
    for step in range(initial + rounds):
        found = trial.scores() if step else alone
        ranked = [metric.rank(float(score)) for score in found]
        best = order[step] if step < initial else max(order, key=lambda i: ranked[i])  # max takes the first of equals
        trial.add(best)
        path.append(best)
        scores.append(float(found[best]))
    return path, scores


def _best_prefix(scores: list[float], rescored: Callable[[int], float], metric: Metric) -> int:
    """The length of the shortest prefix as good as the best, whose score is put into `scores` as the ensemble has it.

    A trial adds its members in another order than the ensemble, and sums that differ in the last bit can part a tie.
    """
    while True:
        ranked = [metric.rank(score) for score in scores]
        best = max(ranked)
        kept = next(i for i, rank in enumerate(ranked) if rank >= best - WORTH) + 1
        scores[kept - 1] = rescored(kept)
        if not metric.sign * scores[kept - 1] < ranked[kept - 1] - ROUNDING:
            return kept


def _weights(joined: Sequence[str]) -> dict[str, float]:
    counts = {name: joined.count(name) for name in dict.fromkeys(joined)}
    heaviest_first = sorted(counts, key=lambda name: -counts[name])
    return {name: counts[name] / len(joined) for name in heaviest_first}


def _check(
    members: Members, names: Sequence[str], temperatures: Mapping[str, float], rounds: int, initial: int
) -> None:
    if rounds < 0 or initial < 1:
        raise InputError(f"{rounds} rounds, {initial} initial members; expected 0 or more rounds, 1 or more members.")
    unknown = [name for name in temperatures if name not in names]
    if unknown:
        raise InputError(f"temperatures of {', '.join(unknown)}, which are not among the members {', '.join(names)}.")
    if not members.rows or not len(members.needs_labels()):
        raise PredictionsError("the predictions hold no rows, so there is nothing to choose an ensemble on.")
