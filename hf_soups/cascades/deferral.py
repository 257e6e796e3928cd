"""Learned deferral: when asking the next member pays, by a logistic regression on what the members so far answered.

The largest probability says how sure a member is, not whether the next one knows better. A score that is learned on
select rows can tell the two apart: of each stage the probability that a row is answered there as well as at the end,
from the largest probability, the gap, the entropy and, of few classes, all probabilities. Whether it pays is told by
cross-fitting: scores and thresholds chosen without a fold answer it, beside thresholds on the plan's own confidence
that were chosen without it too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64, Real

from hf_soups.cascades.crossfit import fold_of
from hf_soups.cascades.grid import WINDOW, best_within, refit
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import Committee, Rule, deferral_features, deferral_score
from hf_soups.cascades.stages import Stages, aligned_members, read_stages, scaled_block
from hf_soups.errors import InputError
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.metrics import traits_of
from hf_soups.metrics.bootstrap import resampled_sums
from hf_soups.metrics.closed_intervals import two_sided
from hf_soups.predictions import Predictions
from hf_soups.wording import cost_in_words, score_in_words

RESAMPLES = 1000
Scores = tuple[tuple[float, ...], ...]  # coefficients of each stage but the last
Features = Sequence[Float64[np.ndarray, "rows features"]]


@dataclass(frozen=True, slots=True)
class CrossFitted:
    """What rows held out of a choice scored, the higher the better, and cost."""

    score: float
    average_cost: float


@dataclass(frozen=True, slots=True)
class Deferral:
    """A plan with learned deferral beside the one it was made of, each with thresholds for the same average cost."""

    plan: Plan  # with learned scores, on all rows
    simple: Plan  # with its own confidence, on all rows
    learned_held_out: CrossFitted
    simple_held_out: CrossFitted
    low: float  # of the difference between these scores, 95% by bootstrap
    high: float
    more_cost: float  # what held-out rows cost more at least, with 95%; 0 and below: no more than chance
    rows: int
    folds: int

    @property
    def pays(self) -> bool:
        """Whether it scores more on held-out rows by more than chance, and costs no more than chance allows."""
        return self.low > 0 and self.more_cost <= 0

    def in_words(self) -> str:
        """The result as two sentences."""
        metric, (a, b) = self.plan.metric, (self.learned_held_out, self.simple_held_out)
        sign = traits_of(metric).sign
        told = [f"{score_in_words(sign * one.score, metric)} at {cost_in_words(one.average_cost)}" for one in (a, b)]
        ends = ", ".join(f"{100 * end:+.2f}" for end in (self.low, self.high))
        seen = (
            f"On rows held out ({self.rows} rows, {self.folds} folds) learned deferral has {metric} {told[0]}, "
            f"{self.simple.rule.in_words()[1]} {told[1]}; difference x 100 in [{ends}] (95%)."
        )
        if self.pays:
            return f"{seen} It pays: build the cascade with --learned-deferral."
        return f"{seen} It does not beat the simple rule by more than chance at no more cost: leave it out."


def learn_deferral(
    plan: Plan, predictions: Mapping[str, Predictions], *, folds: int = 5, seed: int = 0, threads: int | None = None
) -> Deferral:
    """Learn when to defer, choose thresholds at the plan's average cost, and say whether that pays.

    Args:
        plan: of two members or more, scored on these rows.
        predictions: labelled, of the rows that the plan was chosen on, by member's name.
        folds: of the cross-fitting.
        seed: of the folds and of the bootstrap.
        threads: blocks of rows computed at once; by default as many as this process has processors.
    Raises:
        InputError: if the plan has nothing to defer, or rows have several labels.
        PredictionsError: if predictions or labels are missing.
    Source: Jitkrittum et al. 2023, When does confidence-based cascade deferral suffice?, arXiv:2307.02764 (post-hoc
        deferral learned from the first model's probabilities, against the rule by largest probability).
    """
    if len(plan.members) < 2:
        raise InputError("a plan of one member defers nothing. Choose a plan of two or more.")
    if plan.rule.problem_type != CLASSIFICATION:
        raise InputError("deferral is learned for rows of one class; of many labels a row use the mean confidence.")
    simple = plan if plan.rule.confidence != "learned" else replace(plan, rule=Rule(plan.rule.combine))
    (stages,) = read_stages([simple], predictions, plan.metric, threads=threads)
    features, answers_right = _features(simple, predictions)
    own = stages.rescored(simple)
    everything = np.ones(stages.rows, dtype=bool)
    scores = _learned(features, answers_right, everything)
    learned = _with_scores(stages, features, scores)
    best = _thresholds(learned, own)
    rule = Rule(plan.rule.combine, "learned", scores)
    chosen = learned.rescored(replace(own, rule=rule, thresholds=best))
    refitted = stages.rescored(replace(own, thresholds=_thresholds(stages, own)))

    at = fold_of(stages.rows, folds, seed)
    exits = _held_out(stages, features, answers_right, at, own)
    held = [stages.at_exits(one) for one in exits]
    results = [CrossFitted(_value(stages, s), float(c.mean())) for s, c in held]
    low, high = _interval(stages, [s for s, _ in held], seed)
    return Deferral(chosen, refitted, results[0], results[1], low, high, _more_cost(held), stages.rows, folds)


def _held_out(
    stages: Stages,
    features: Features,
    right: Sequence[Bool[np.ndarray, " rows"]],
    at: Int64[np.ndarray, " rows"],
    own: Plan,
) -> tuple[Int64[np.ndarray, " rows"], Int64[np.ndarray, " rows"]]:
    """Exits of each row by scores and thresholds chosen without its fold: learned ones, and the plan's confidence."""
    learned, simple = np.empty(stages.rows, dtype=np.int64), np.empty(stages.rows, dtype=np.int64)
    for fold in range(int(at.max()) + 1):
        held = at == fold
        scored = _with_scores(stages, features, _learned(features, right, ~held))
        for exits, chain in ((learned, scored), (simple, stages)):
            exits[held] = chain.take(held).exits(_thresholds(chain.take(~held), own))
    return learned, simple


def _thresholds(stages: Stages, own: Plan) -> tuple[float, ...]:
    """The best within the plan's average cost."""
    start = own.thresholds if len(stages.confidence) > WINDOW else ()
    return refit(stages, best_within(own.average_cost), start)


def _with_scores(stages: Stages, features: Features, scores: Scores) -> Stages:
    learned = [deferral_score(x, coefficients) for x, coefficients in zip(features, scores, strict=True)]
    return replace(stages, confidence=np.stack(learned))


def _learned(features: Features, right: Sequence[Bool[np.ndarray, " rows"]], rows: Bool[np.ndarray, " rows"]) -> Scores:
    """Coefficients of each stage: of the chance that a row is answered there as well as at the end."""
    return tuple(_fitted(x[rows], (own | ~right[-1])[rows]) for x, own in zip(features, right, strict=False))


def _fitted(x: Float64[np.ndarray, "rows features"], as_well: Bool[np.ndarray, " rows"]) -> tuple[float, ...]:
    """Intercept and coefficients of the features as they are; they are scaled while they are fitted."""
    from sklearn.linear_model import LogisticRegression

    share = (as_well.sum() + 1) / (len(as_well) + 2)
    if as_well.all() or not as_well.any():
        return (float(np.log(share / (1 - share))), *(0.0,) * x.shape[1])
    middle, spread = x.mean(axis=0), np.maximum(x.std(axis=0), 1e-6)
    fitted = LogisticRegression(max_iter=1000).fit((x - middle) / spread, as_well)
    weights = fitted.coef_[0] / spread
    # rounded, so that another machine's last bits do not matter where it is written
    return tuple(float(f"{v:.8g}") for v in (fitted.intercept_[0] - weights @ middle, *weights))


def _features(
    plan: Plan, predictions: Mapping[str, Predictions]
) -> tuple[list[Float64[np.ndarray, "rows features"]], list[Bool[np.ndarray, " rows"]]]:
    """Of each stage but the last what is known of a row there, and of each stage whether its answer is right."""
    aligned = aligned_members(plan.members, predictions)
    first = next(iter(aligned.values()))
    labels = next((p.labels for p in aligned.values() if p.labels is not None), None)
    assert labels is not None  # the stages were read
    committee, features, right = Committee(Rule(plan.rule.combine)), [], []
    temperatures = plan.temperatures or (1.0,) * len(plan.members)
    for name, temperature in zip(plan.members, temperatures, strict=True):
        committee = committee.joined(scaled_block(aligned[name], temperature, slice(0, len(first))))
        features.append(deferral_features(committee.probs()))
        right.append(committee.answers() == labels)
    return features[:-1], right


def _value(stages: Stages, statistics: Real[np.ndarray, "rows statistics"]) -> float:
    return float(stages.value(statistics.sum(axis=0, dtype=np.float64)))


def _more_cost(held: Sequence[tuple[np.ndarray, Float64[np.ndarray, " rows"]]]) -> float:
    """The lower end of the 95% interval of what the first costs more, by the normal approximation."""
    apart = held[0][1] - held[1][1]
    return float(apart.mean() - two_sided(0.95) * apart.std() / np.sqrt(len(apart)))


def _interval(stages: Stages, both: Sequence[Real[np.ndarray, "rows statistics"]], seed: int) -> tuple[float, float]:
    """The 95% percentile interval of how much more the first scores."""
    sums = np.split(resampled_sums(np.concatenate(both, axis=1), RESAMPLES, seed), 2, axis=1)
    low, high = np.quantile(stages.value(sums[0]) - stages.value(sums[1]), [0.025, 0.975])
    return round(float(low), 12), round(float(high), 12)
