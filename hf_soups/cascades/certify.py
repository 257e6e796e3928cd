"""Risk control: thresholds that lose at most so much accuracy against a reference, with a stated probability.

Learn, then test: half of the rows order a path of thresholds from safe to cheap, the other half test along it, and the
first that cannot be shown to be safe ends it. Since the path is fixed before the test, testing step after step at the
full level keeps the chance of certifying anything unsafe at or below `delta`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float64, Int64

from hf_soups.cascades.grid import ROUNDING, chain_grid
from hf_soups.cascades.plan import Plan
from hf_soups.cascades.stages import Stages, aligned_members, read_stages
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import Metric
from hf_soups.predictions import Predictions

STEPS = 64  # of the path
LONGEST = 4  # members of a plan: a grid over more thresholds is too coarse to be worth certifying
CAUTION = 0.9  # of the largest bet that cannot lose everything on one row
Path = Sequence[tuple[float, ...]]


@dataclass(frozen=True, slots=True)
class Claim:
    """What is to be shown: a loss of accuracy of at most `max_loss`, with a chance of error of at most `delta`."""

    reference: str  # what the loss is against
    max_loss: float = 0.01
    delta: float = 0.05

    def __post_init__(self) -> None:
        for name, value in (("max_loss", self.max_loss), ("delta", self.delta)):
            if not 0 < value < 1:
                raise InputError(f"{name} is {value}; expected a share between 0 and 1.")


@dataclass(frozen=True, slots=True)
class Certificate:
    """What could be certified: `plan` has the cheapest safe thresholds, or is None."""

    claim: Claim
    plan: Plan | None  # scored on the test rows
    loss: float  # of accuracy on the test rows, against the reference; of the safest thresholds where nothing holds
    p_value: float  # of the plan; of the safest thresholds where nothing holds
    steps: int  # of the path that were tested
    rows: int  # that were tested on
    rows_needed: int | None = None  # in all, if losses go on as seen; None: no number of rows would do

    @property
    def certified(self) -> bool:
        """Whether there is a plan."""
        return self.plan is not None

    def in_words(self) -> str:
        """The result as one sentence or two."""
        wanted = f"at most {100 * self.claim.max_loss:g} points of accuracy lost against {self.claim.reference}"
        if self.plan is not None:
            return (
                f"Certified with probability {1 - self.claim.delta:g}: {wanted}, on rows like the {self.rows} tested "
                f"(seen there: {100 * self.loss:+.2f} points lost; p = {self.p_value:.2g})."
            )
        if not self.steps:
            return "Nothing certified: on the ordering rows no thresholds save anything without being worse."
        seen = f"the safest thresholds lost {100 * self.loss:+.2f} points on {self.rows} test rows"
        more = (
            "They lose too much for any number of rows: allow a larger loss, or take another plan."
            if self.rows_needed is None
            else f"About {self.rows_needed} rows in all would do, if losses go on as seen."
        )
        return f"Nothing certified: {wanted} could not be shown; {seen} (p = {self.p_value:.2g}). {more}"


def certify(
    plan: Plan,
    predictions: Mapping[str, Predictions],
    *,
    reference: str | None = None,
    max_loss: float = 0.01,
    delta: float = 0.05,
    seed: int = 0,
    ordering_share: float = 0.5,
    threads: int | None = None,
) -> Certificate:
    """Thresholds for the plan's members such that, with probability 1 - delta, at most `max_loss` accuracy is lost.

    The probability is over the rows: had they been drawn anew, at most a share `delta` of the certificates would be
    wrong. It holds for rows of the same distribution that the plan's members were not chosen on: certify on rows that
    the search did not see.

    Args:
        plan: its members and order; its thresholds are not looked at.
        predictions: labelled, of the members and the reference.
        reference: a model's name; by default the plan's own last stage, which all rows would reach without exits.
        max_loss: accuracy of the reference less that of the cascade, in (0, 1).
        delta: chance of a wrong certificate, in (0, 1).
        seed: of the split into ordering and test rows.
        ordering_share: of the rows that the path of thresholds is ordered on.
        threads: blocks of rows computed at once; by default as many as this process has processors.
    Raises:
        InputError: for values out of range, or a plan of one member or of more than four.
        PredictionsError: if predictions of a member or of the reference, or the labels, are missing.
    Source: Angelopoulos et al. 2021, Learn then test, arXiv:2110.01052 (testing in a fixed sequence); the p-value is by
        betting, Waudby-Smith and Ramdas 2020, arXiv:2010.09686.
    """
    everyone = "all members together" if plan.rule.combine != "last" else plan.members[-1]
    claim = Claim(reference or everyone, max_loss, delta)
    if not 2 <= len(plan.members) <= LONGEST:
        raise InputError(
            f"a plan of {len(plan.members)} members has no thresholds that could be certified; expected 2 to {LONGEST}."
        )
    stages, right = _read(plan, predictions, reference, threads)
    return certified(plan, stages, right, claim, seed=seed, ordering_share=ordering_share)


def certified(
    plan: Plan,
    stages: Stages,
    right: Bool[np.ndarray, " rows"],
    claim: Claim,
    *,
    seed: int = 0,
    ordering_share: float = 0.5,
) -> Certificate:
    """As `certify`, from what the plan's stages answer and the rows that the reference gets right."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(stages.rows)
    cut = round(ordering_share * stages.rows)
    if not 0 < cut < stages.rows:
        raise InputError(
            f"{stages.rows} rows cannot be split: a share of {ordering_share:g} to order on, and the rest to test on. "
            "Give a share between 0 and 1, or predict more rows."
        )
    first, second = order[:cut], order[cut:]
    ordering, test = stages.take(first), stages.take(second)
    path = safe_path(ordering, right[first], claim.max_loss)
    expected = [_losses(ordering, right[first], thresholds) for thresholds in path]
    tests = _tested(test, right[second], path, expected, claim)
    passed = sum(t.p_value <= claim.delta for t in tests)
    if passed:
        safe = test.rescored(replace(plan, thresholds=path[passed - 1]))
        last = tests[passed - 1]
        return Certificate(claim, safe, last.loss, last.p_value, len(tests), test.rows)
    if not tests:
        return Certificate(claim, None, 0.0, 1.0, 0, test.rows)
    needed = rows_to_certify(_losses(stages, right, path[0]), claim)
    in_all = None if needed is None else max(stages.rows + 1, math.ceil(needed * stages.rows / test.rows))
    return Certificate(claim, None, tests[0].loss, tests[0].p_value, 1, test.rows, in_all)


def safe_path(
    stages: Stages, right: Bool[np.ndarray, " rows"], max_loss: float, steps: int = STEPS
) -> list[tuple[float, ...]]:
    """At most `steps` thresholds, from the safest (the most expensive) to the cheapest; ordered on these rows.

    Safe is what lies many standard errors below `max_loss`: of two thresholds with the same loss, those that seldom
    answer otherwise than the reference. Those with which no row leaves early save nothing and are not among them.
    """
    grid = chain_grid(_as_losses(stages, right, max_loss))
    front = grid.front()[::-1]
    front = front[grid.costs[front] < stages.costs[-1].mean() * (1 - ROUNDING)]
    kept = front[np.unique(np.linspace(0, len(front) - 1, min(steps, len(front))).round().astype(int))]
    return [grid.at(int(cell)) for cell in kept]


def _as_losses(stages: Stages, right: Bool[np.ndarray, " rows"], max_loss: float) -> Stages:
    """The stages scored by how safe they are: rows' losses, their squares and one."""

    def safety(sums: Float64[np.ndarray, "*grid three"]) -> Float64[np.ndarray, "*grid"]:
        rows = sums[..., 2]
        loss = sums[..., 0] / rows
        variance = sums[..., 1] / rows - loss**2 + 1 / rows
        return np.asarray((max_loss - loss) * np.sqrt(rows / variance))

    losses = [right.astype(np.int8) - hits[:, 0].astype(np.int8) for hits in stages.statistics]
    moments = tuple(np.stack([loss, loss**2, np.ones_like(loss)], axis=1) for loss in losses)
    return replace(stages, statistics=moments, metric=Metric("safety", 1, stages.metric.compute, None, safety))


def loss_p_value(counts: Int64[np.ndarray, " three"], max_loss: float, bet: float) -> float:
    """A valid p-value of "the mean loss is more than `max_loss`", for losses of -1, 0 and 1.

    A fortune that is multiplied by 1 + bet (max_loss - loss) with each row does not grow on average while that is so;
    by Markov's inequality it ends at 1/p or more with a chance of at most p. The bet is chosen on other rows.

    Args:
        counts: rows with a loss of -1, 0 and 1.
        max_loss: in (0, 1).
        bet: in [0, 1 / (1 - max_loss)).

    >>> round(loss_p_value(np.array([0, 100, 0]), 0.05, 0.5), 3)
    0.085
    """
    growth = np.log1p(bet * (max_loss - np.array([-1, 0, 1])))
    return float(min(1.0, math.exp(-float(counts @ growth))))


def best_bet(losses: Float64[np.ndarray, " ordering_rows"], rows: int, claim: Claim) -> float:
    """The bet that shows a loss just below `max_loss` soonest, on `rows` rows as variable as these."""
    variance = float(losses.var()) + 1 / len(losses)
    return min(math.sqrt(2 * math.log(1 / claim.delta) / (rows * variance)), CAUTION / (1 - claim.max_loss))


def rows_to_certify(losses: Float64[np.ndarray, " rows"], claim: Claim) -> int | None:
    """Test rows after which losses like these would on average be certified; None where they never would."""
    gain = claim.max_loss - losses
    bets = np.linspace(0, CAUTION / (1 - claim.max_loss), 201)[1:]
    growth = max(float(np.log1p(bet * gain).mean()) for bet in bets)
    return math.ceil(math.log(1 / claim.delta) / growth) if growth > 0 else None


@dataclass(frozen=True, slots=True)
class _Test:
    loss: float
    p_value: float


def _tested(
    stages: Stages,
    right: Bool[np.ndarray, " rows"],
    path: Path,
    ordering: Sequence[Float64[np.ndarray, " ordering_rows"]],
    claim: Claim,
) -> list[_Test]:
    """The tests along the path, up to and with the first that fails."""
    done: list[_Test] = []
    for thresholds, before in zip(path, ordering, strict=True):
        losses = _losses(stages, right, thresholds)
        counts = np.array([(losses == value).sum() for value in (-1, 0, 1)])
        p = loss_p_value(counts, claim.max_loss, best_bet(before, stages.rows, claim))
        done.append(_Test(float(losses.mean()), p))
        if p > claim.delta:
            break
    return done


def _read(
    plan: Plan, predictions: Mapping[str, Predictions], reference: str | None, threads: int | None
) -> tuple[Stages, Bool[np.ndarray, " rows"]]:
    """The plan's stages, and the rows that the reference gets right."""
    if reference is not None and reference not in predictions:
        raise PredictionsError(
            f"no predictions of the reference {reference!r}; there are: {', '.join(predictions) or 'none'}."
        )
    (stages,) = read_stages([plan], predictions, "accuracy", threads=threads)
    if reference is None:
        return stages, stages.statistics[-1][:, 0].astype(bool)
    alone = Plan((reference,), (), (0.0,))
    # read after the plan's first member, so that the rows stand in its order
    aligned = aligned_members([plan.members[0], reference], predictions)
    (single,) = read_stages([alone], aligned, "accuracy", threads=threads)
    return stages, single.statistics[0][:, 0].astype(bool)


def _losses(
    stages: Stages, right: Bool[np.ndarray, " rows"], thresholds: Sequence[float]
) -> Float64[np.ndarray, " rows"]:
    """1 where the reference alone is right, -1 where the cascade alone is."""
    statistics, _ = stages.at_exits(stages.exits(thresholds))
    return np.asarray(right.astype(np.float64) - statistics[:, 0])
