"""Abstaining: a last threshold below which a row is for a human, what that does to errors, and what can be promised.

Rows that exit before the last member are always answered; of the others those whose confidence reaches `Plan.abstain`.
Coverage is the share of rows that are answered, risk the share of wrong answers among these.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Bool, Float64, Int64

from hf_soups.cascades.plan import Plan
from hf_soups.cascades.rule import NEVER, abstaining
from hf_soups.cascades.simulate import CascadePredictions
from hf_soups.display import Displayed
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION
from hf_soups.metrics import metric_named
from hf_soups.predictions import Predictions

if TYPE_CHECKING:
    import pandas as pd

STEPS = 64  # thresholds that are tested, at most
LEAST = 20  # answered rows on which a path of thresholds may begin


@dataclass(frozen=True, slots=True, repr=False)
class CoverageRisk(Displayed):
    """How often answers are wrong, by how many rows are answered: the others are for a human.

    Points run from every row answered to as few as the plan can; each threshold lies halfway between two confidences
    that occurred.
    """

    plan: Plan
    thresholds: Float64[np.ndarray, " points"]  # of `Plan.abstain`
    coverages: Float64[np.ndarray, " points"]  # share of the rows that are answered
    risks: Float64[np.ndarray, " points"]  # share of wrong answers among these; NaN where nothing is answered
    rows: int
    aurc: float  # area under the risk by coverage: the mean risk over all coverages

    def at_coverage(self, coverage: float) -> float:
        """The highest threshold with which at least this share of the rows is answered.

        Raises:
            InputError: for a share outside 0 to 1.
        """
        if not 0 <= coverage <= 1:
            raise InputError(f"coverage is {coverage}; expected a share from 0 to 1.")
        return float(self.thresholds[np.flatnonzero(self.coverages >= coverage - 1e-12)[-1]])

    def at_risk(self, risk: float) -> float | None:
        """The lowest threshold with which at most this share of the answers is wrong; None: there is none."""
        fitting = np.flatnonzero(self.risks <= risk)
        return float(self.thresholds[fitting[0]]) if len(fitting) else None

    def in_short(self) -> str:
        """The area, and what the ends of the curve are."""
        return (
            f"{self.plan.in_order}: AURC {self.aurc:.4f} on {self.rows} rows; risk {self.risks[0]:.4f} if every row is "
            f"answered, {self.risks[-1]:.4f} at the least coverage of {self.coverages[-1]:.1%}"
        )

    def to_pandas(self) -> pd.DataFrame:
        """A point of the curve a row."""
        import pandas as pd

        return pd.DataFrame({"abstain": self.thresholds, "coverage": self.coverages, "risk": self.risks})


def coverage_risk(plan: Plan, predictions: Mapping[str, Predictions]) -> CoverageRisk:
    """The risk of a plan's answers at every coverage that its last threshold can give.

    Args:
        plan: its own `abstain` is not looked at.
        predictions: labelled, of the members by name.
    Raises:
        PredictionsError: if predictions of a member or the labels are missing.
        InputError: if rows have several labels, or a number.
    Source: El-Yaniv and Wiener 2010 (selective classification); the area: Geifman, Uziel and El-Yaniv 2019,
        arXiv:1805.08206. Rows that exit early come first in it, as one group: they are never left to a human.

    >>> sure = Predictions.from_probs([[0.9, 0.1], [0.8, 0.2], [0.6, 0.4]], labels=[0, 0, 1])
    >>> found = coverage_risk(Plan(("a",), (), (1.0,)), {"a": sure})
    >>> [float(c).__round__(2) for c in found.coverages], [float(r).__round__(2) for r in found.risks[:3]]
    ([1.0, 0.67, 0.33, 0.0], [0.33, 0.0, 0.0])
    """
    return _curve(plan, *_answered(plan, predictions))


def abstaining_plan(plan: Plan, abstain: float | None, predictions: Mapping[str, Predictions]) -> Plan:
    """The plan with a last threshold, and what that does on some rows: coverage, and the score of what is answered.

    Args:
        plan: it.
        abstain: rows that are less sure after the last member are for a human; None: none is.
        predictions: labelled, of the members by name.
    """
    if abstain is None:
        return replace(plan, abstain=None, coverage=None, score_answered=None)
    plan = replace(plan, abstain=abstain)
    answers = plan.apply(predictions)
    assert answers.abstained is not None
    given, metric = np.flatnonzero(~answers.abstained), metric_named(plan.metric)
    score = metric.sign * metric.compute(answers.take(given)) if len(given) else None
    return replace(plan, coverage=len(given) / len(answers), score_answered=score)


@dataclass(frozen=True, slots=True)
class RiskCertificate:
    """What could be certified: `plan` answers the most rows at a risk that is safe, or is None."""

    max_risk: float
    delta: float
    plan: Plan | None  # with `abstain`, and its coverage of the test rows
    risk: float  # of its answers to the test rows; of the safest threshold where nothing holds
    p_value: float  # likewise
    answered: int  # of the test rows, likewise
    rows: int  # that were tested on
    rows_needed: int | None = None  # in all, if errors go on as seen; None: no number of rows would do

    @property
    def certified(self) -> bool:
        """Whether there is a plan."""
        return self.plan is not None

    def in_words(self) -> str:
        """The result as one sentence or two."""
        wanted = f"at most {100 * self.max_risk:g}% of the answers wrong"
        seen = f"{100 * self.risk:.2f}% of {self.answered} answers to {self.rows} test rows; p = {self.p_value:.2g}"
        if self.plan is not None:
            how = (
                f"if a human is asked where the confidence is below {self.plan.abstain:.6g}; "
                f"{self.answered / self.rows:.1%} of rows are answered"
                if self.plan.abstain
                else "also if every row is answered"
            )
            return f"Certified with probability {1 - self.delta:g}: {wanted}, {how} (seen: {seen})."
        more = (
            "No threshold is safe enough for any number of rows: allow a larger risk, or take another plan."
            if self.rows_needed is None
            else f"About {self.rows_needed} rows in all would do, if errors go on as seen."
        )
        return f"Nothing certified: {wanted} could not be shown (seen: {seen}). {more}"


def certify_risk(
    plan: Plan,
    predictions: Mapping[str, Predictions],
    *,
    max_risk: float = 0.01,
    delta: float = 0.05,
    seed: int = 0,
    ordering_share: float = 0.5,
) -> RiskCertificate:
    """A last threshold such that, with probability 1 - delta, at most `max_risk` of the answers are wrong.

    The probability is over the rows: had they been drawn anew, at most a share `delta` of the certificates would be
    wrong. It holds for rows of the same distribution that nothing about the plan was chosen on.

    Args:
        plan: its own `abstain` is not looked at.
        predictions: labelled, of the members by name.
        max_risk: of the answers that are given, in (0, 1).
        delta: chance of a wrong certificate, in (0, 1).
        seed: of the split into ordering and test rows.
        ordering_share: of the rows that the path of thresholds is ordered on.
    Raises:
        InputError: for values out of range, or rows that cannot be split.
        PredictionsError: as `coverage_risk`.
    Source: Angelopoulos et al. 2021, Learn then test, arXiv:2110.01052 (testing in a fixed sequence); the risk of
        answers that are given: Geifman and El-Yaniv 2017, arXiv:1705.08500. Given how many rows are answered, wrong
        ones among them are binomial, so the p-values are exact.
    """
    for name, value in (("max_risk", max_risk), ("delta", delta)):
        if not 0 < value < 1:
            raise InputError(f"{name} is {value}; expected a share between 0 and 1.")
    answers, wrong = _answered(plan, predictions)
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(wrong))
    cut = round(ordering_share * len(wrong))
    if not 0 < cut < len(wrong):
        raise InputError(
            f"{len(wrong)} rows cannot be split: a share of {ordering_share:g} to order on, and the rest to test on. "
            "Give a share between 0 and 1, or predict more rows."
        )
    first, second = order[:cut], order[cut:]
    path = _path(_curve(plan, answers.take(first), wrong[first]), max_risk)
    held = answers.take(second)
    tests = [_tested(held, wrong[second], plan, path[0], max_risk)]
    while tests[-1].p_value <= delta and len(tests) < len(path):
        tests.append(_tested(held, wrong[second], plan, path[len(tests)], max_risk))
    passed = [test for test in tests if test.p_value <= delta]
    shown, rows = (passed or tests)[-1], len(second)
    if passed:
        safe = replace(plan, abstain=path[len(passed) - 1], coverage=shown.answered / rows, score_answered=None)
        return RiskCertificate(max_risk, delta, safe, shown.risk, shown.p_value, shown.answered, rows)
    needed = _rows_needed(shown, rows, len(wrong), max_risk, delta)
    return RiskCertificate(max_risk, delta, None, shown.risk, shown.p_value, shown.answered, rows, needed)


@dataclass(frozen=True, slots=True)
class _Test:
    answered: int
    wrong: int
    p_value: float

    @property
    def risk(self) -> float:
        return self.wrong / self.answered if self.answered else math.nan


def _answered(
    plan: Plan, predictions: Mapping[str, Predictions]
) -> tuple[CascadePredictions, Bool[np.ndarray, " rows"]]:
    """Answers with their confidences, and which of them are wrong."""
    answers = replace(plan, abstain=0.0).apply(predictions)
    if answers.problem_type != CLASSIFICATION:
        raise InputError(
            f"rows of problem type {answers.problem_type!r} are not answered right or wrong as a whole, so there is no "
            "risk to bound. A last threshold can be set by hand: hf-soups cascade build ... --abstain 0.9."
        )
    if answers.labels is None:
        raise PredictionsError("the rows have no labels, so nobody knows which answers are wrong.")
    return answers, np.asarray(answers.answers != answers.labels)


def _curve(plan: Plan, answers: CascadePredictions, wrong: Bool[np.ndarray, " rows"]) -> CoverageRisk:
    assert answers.exits is not None
    assert answers.confidences is not None
    late = answers.exits == len(plan.members) - 1
    confidences, group = np.unique(-answers.confidences[late], return_inverse=True)  # the surest first
    counts = np.concatenate([[np.sum(~late)], np.bincount(group, minlength=len(confidences))])
    errors = np.concatenate([[np.sum(wrong[~late])], np.bincount(group, wrong[late], minlength=len(confidences))])
    thresholds = _between(-confidences.astype(np.float64))
    kept, lost = counts.cumsum(), errors.cumsum()
    with np.errstate(invalid="ignore"):
        risks = lost / kept
    return CoverageRisk(
        plan, thresholds[::-1], (kept / len(wrong))[::-1], risks[::-1], len(wrong), _area(counts, errors)
    )


def _between(confidences: Float64[np.ndarray, " distinct"]) -> Float64[np.ndarray, " points"]:
    """Thresholds that keep the first 0, 1, 2, ... of descending confidences, as far as they can from any of them."""
    if not len(confidences):
        return np.zeros(1)
    higher, lower = confidences[:-1], confidences[1:]
    middle = (higher + lower) / 2
    inner = np.where(middle.astype(np.float32) > lower, middle, higher)  # neighbours of float32 have no number between
    return np.concatenate([[NEVER], inner, [0.0]])


def _area(counts: Int64[np.ndarray, " groups"], errors: Float64[np.ndarray, " groups"]) -> float:
    """The mean risk after the first row, the first two, ... ; within a group each row is wrong by the group's share."""
    there = counts > 0
    each = np.repeat(errors[there] / counts[there], counts[there])
    return float((each.cumsum() / np.arange(1, len(each) + 1)).mean()) if len(each) else math.nan


def _path(curve: CoverageRisk, max_risk: float) -> Sequence[float]:
    """Thresholds from the one that looks safest on the ordering rows down to 0, at most `STEPS` of them."""
    answered = np.round(curve.coverages * curve.rows)
    enough = answered >= min(LEAST, answered.max())
    risks = np.where(enough, curve.risks, math.nan)
    spread = np.sqrt((risks * (1 - risks) + 1 / np.maximum(answered, 1)) / np.maximum(answered, 1))
    safest = int(np.nanargmax((max_risk - risks) / spread))
    at = np.unique(np.linspace(0, safest, min(STEPS, safest + 1)).round().astype(int))[::-1]
    return [float(curve.thresholds[i]) for i in at]


def _tested(
    answers: CascadePredictions, wrong: Bool[np.ndarray, " rows"], plan: Plan, abstain: float, max_risk: float
) -> _Test:
    from scipy.special import bdtr

    assert answers.exits is not None
    assert answers.confidences is not None
    given = ~abstaining(answers.exits, answers.confidences, len(plan.members) - 1, abstain)
    count, errors = int(given.sum()), int(wrong[given].sum())
    return _Test(count, errors, float(bdtr(errors, count, max_risk)) if count else 1.0)


def _rows_needed(test: _Test, tested: int, in_all: int, max_risk: float, delta: float) -> int | None:
    """Rows in all after which errors like these would on average be certified; None where they never would."""
    from scipy.special import bdtr

    if not test.answered or test.risk >= max_risk:
        return None
    count = test.answered
    while bdtr(math.floor(test.risk * count), count, max_risk) > delta:
        count = math.ceil(count * 1.05)
    return max(in_all + 1, math.ceil(count / test.answered * in_all))
