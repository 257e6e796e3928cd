"""Measuring a pool with one live model: what each run and soup answers, then lines, geometry, a plane and ensembles.

Every score is written down before the next is measured.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Int64

from hf_soups.checkpoint import Checkpoint
from hf_soups.data.split import strata, stratified_rows
from hf_soups.diagnosis.findings import (
    KNOBS,
    Absent,
    Findings,
    Greedy,
    Line,
    Mixed,
    Plane,
    RunPair,
    Single,
    along_line,
    choose_pairs,
    corners_of,
    grid_of,
    over_plane,
    shares,
)
from hf_soups.ensembles import mean_logits
from hf_soups.errors import InputError, PredictionsError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL
from hf_soups.finetune.run_record import PREDICTIONS
from hf_soups.metrics import Metric
from hf_soups.metrics import score as score_with_interval
from hf_soups.metrics.bootstrap import percentile_interval
from hf_soups.metrics.metric import resampled_values
from hf_soups.metrics.significance import paired_bootstrap
from hf_soups.models.inference import NonFiniteLogits
from hf_soups.predictions import Predictions, same_rows
from hf_soups.soups import Soup, uniform
from hf_soups.soups.journal import Journal, digest, identity
from hf_soups.soups.mixing import Geometry
from hf_soups.soups.soup import Step
from hf_soups.soups.soup_record import StepRecord, read_soup
from hf_soups.sweep.folder import SoupPointer, SweepFolder

if TYPE_CHECKING:
    from hf_soups.models.family import Augment, Batch, Encoded
    from hf_soups.soups.scoring import SoupScorer

STREAM = 7  # of the seed: other rows than those that other subsets of the same seed take
RESAMPLES = 1000


# What runs and soups answer


@dataclass(frozen=True, eq=False)
class SomeRows:
    """Some of the rows of an encoded split, in the order of `at`."""

    whole: Encoded
    at: Int64[np.ndarray, " rows"]

    @property
    def row_ids(self) -> np.ndarray:
        """Of the rows that are left."""
        return np.asarray(self.whole.row_ids[self.at])

    @property
    def lengths(self) -> Int64[np.ndarray, " rows"]:
        """Tokens of each row; 1 for images."""
        return np.asarray(self.whole.lengths[self.at])

    def __len__(self) -> int:
        return len(self.at)

    def batch(self, indices: Sequence[int] | np.ndarray, *, augment: Augment | None = None) -> Batch:
        """The rows at `indices` among those that are left."""
        return self.whole.batch(self.at[np.asarray(indices)], augment=augment)


def with_fewer_rows(scorer: SoupScorer, rows: int, seed: int) -> SoupScorer:
    """The same scorer on a seeded subset of select in which every class keeps its share."""
    select = scorer.split
    if rows >= len(select):
        return scorer
    at = stratified_rows(strata(select.labels), rows, seed, stream=STREAM)
    fewer = select.take(at)
    cached = {c: taken(p, fewer.row_ids, fewer.fingerprint) for c, p in scorer.cached.items()}
    return replace(scorer, split=fewer, encoded=SomeRows(scorer.encoded, at), cached=cached)


def taken(p: Predictions, row_ids: np.ndarray, data: str) -> Predictions:
    """The predictions of these rows alone."""
    return replace(p.take(np.isin(p.row_ids, row_ids)), data=data)


def answers_of(checkpoint: Checkpoint, scorer: SoupScorer, folder: Path) -> Predictions | None:
    """What a run answers on the rows; None if it answers NaN. A forward pass only where no answer is kept.

    Args:
        checkpoint: the run.
        scorer: of the rows.
        folder: where answers that no run's folder keeps are kept.
    """
    if checkpoint in scorer.cached:
        return scorer.cached[checkpoint]
    split = scorer.split
    key = digest([identity(checkpoint), checkpoint.label_order, split.fingerprint])
    path = folder / f"{key[:16]}.safetensors"
    if path.is_file():
        try:
            return Predictions.load(path)
        except PredictionsError:
            pass  # corrupt: answered again
    try:
        answered = scorer.predictions(Soup((checkpoint,), (1.0,), method=checkpoint.name))
    except NonFiniteLogits:
        return None
    answered.save(path)
    return answered


def settings_of(recipe: Mapping[str, Any] | None) -> dict[str, float]:
    """The values of KNOBS in a run's recorded recipe, where it has them."""
    train = (recipe or {}).get("train") or {}
    return {knob: float(train[knob]) for knob in KNOBS if isinstance(train.get(knob), int | float)}


@dataclass(frozen=True, slots=True)
class CookedSoup:
    """A soup found in a sweep, with what it answers on select."""

    method: str
    members: tuple[str, ...]  # ingredients with a share in it
    answers: Predictions
    steps: tuple[Step, ...]


def cooked_soups(
    sweep: SweepFolder, runs: Collection[str], data: str
) -> tuple[tuple[CookedSoup, ...], tuple[str, ...]]:
    """The soups that a sweep's pointers lead to, and a note for each that cannot be used.

    Args:
        sweep: the sweep's folder.
        runs: names of the runs that are diagnosed; soups with other ingredients are left out.
        data: fingerprint of the select rows.
    """
    found, notes = [], []
    for pointer in sweep.soups():
        try:
            soup = _read(pointer)
        except (OSError, ValueError, KeyError, TypeError, PredictionsError) as error:
            notes.append(f"The {pointer.method} soup is left out: {error}. Cook it again.")
            continue
        reason = _unusable(soup, runs, data)
        if reason:
            notes.append(f"The {pointer.method} soup is left out: {reason}.")
        else:
            found.append(soup)
    return tuple(found), tuple(notes)


def _read(pointer: SoupPointer) -> CookedSoup:
    folder = pointer.folder()
    record = read_soup(folder)
    # steps that were chosen on report are not looked at here
    steps = record.steps if record.selected_on == "select" else ()
    return CookedSoup(
        pointer.method,
        tuple(i.name for i in record.ingredients if i.coefficient != 0),
        Predictions.load(folder / PREDICTIONS / "select.safetensors"),
        tuple(_step(step) for step in steps),
    )


def _unusable(soup: CookedSoup, runs: Collection[str], data: str) -> str:
    strangers = [name for name in soup.members if name not in runs]
    if strangers:
        return f"{strangers[0]} is an ingredient of it, but no run that is diagnosed"
    return "it answered other select rows than those of this recipe" if not same_rows(soup.answers.data, data) else ""


def _step(kept: StepRecord) -> Step:
    """A step of soup.json, where NaN is null."""
    score, best = (math.nan if value is None else value for value in (kept.score, kept.best_so_far))
    return Step(kept.candidate, score, best, kept.accepted, kept.ingredients, kept.removes, at_best=kept.at_best)


def written_down(score: Callable[[Soup], Any], journal: Path, context: str) -> Callable[[Soup], float]:
    """The same score, each value of which is kept in a file before it is returned; `context` is what it depends on."""
    kept = Journal(score, journal, context)

    def scored(soup: Soup) -> float:
        value = kept(soup)
        assert isinstance(value, float)  # a tuple only where ties are broken by a second score
        return value

    return scored


# What happens by chance


def difference_by_chance(best: Predictions, others: Sequence[Predictions], metric: Metric) -> float:
    """Half the width of the 95% interval of the score difference between `best` and another: the others' median.

    By a paired bootstrap over rows. 0 if there is no other.
    """
    intervals = [paired_bootstrap(best, other, metric, resamples=RESAMPLES) for other in others]
    return float(np.median([(i.high - i.low) / 2 for i in intervals])) if intervals else 0.0


def ensemble_by_chance(ensemble: Predictions, members: Sequence[Predictions], metric: Metric) -> float:
    """The same for the score of an ensemble less the mean score of its members."""
    alone = [resampled_values(p.aligned_to(ensemble), metric, RESAMPLES, 0) for p in members]
    together = resampled_values(ensemble, metric, RESAMPLES, 0)  # one seed: the same rows for all
    low, high = percentile_interval(together - np.mean(alone, axis=0), 0.95)
    return (high - low) / 2


def score_of_shares(answered: Predictions, metric: Metric) -> float:
    """The score of giving every row the class shares of these rows' labels as probabilities, or their mean number."""
    labels = answered.needs_labels()
    if answered.problem_type != CLASSIFICATION:
        same = np.tile(labels.mean(axis=0).reshape(1, -1), (len(labels), 1))
        of_type: Any = {"labels": labels, "problem_type": answered.problem_type}
        made = Predictions.from_probs if answered.problem_type == MULTI_LABEL else Predictions.from_logits
        return metric.compute(made(same, **of_type))
    share = np.bincount(labels, minlength=answered.classes) / len(labels)
    return metric.compute(Predictions.from_probs(np.tile(share, (len(labels), 1)), labels=labels))


@dataclass(frozen=True, slots=True)
class Effort:
    """How much to measure."""

    pairs: int = 12
    points: int = 3  # between the ends of each line
    grid: int = 7  # places along each side of the plane; 0: no plane

    def mixtures(self, runs: int) -> int:
        """How many mixtures of so many runs that is, the uniform soup left out."""
        inner = len(shares(self.points)) - 2
        plane = self.grid**2 + 1 if self.grid and runs > 2 else 0
        return min(self.pairs, runs * (runs - 1) // 2) * inner + plane


@dataclass(frozen=True, eq=False)
class MeasuredRuns:
    """The runs by name, what each answers, and how a mixture of them is scored."""

    runs: Mapping[str, Checkpoint]
    answers: Mapping[str, Predictions | None]  # None: NaN
    mixture: Callable[[Soup], float]
    metric: Metric
    geometry: Geometry  # of the runs that have a score, in their order
    has_start: bool
    notes: list[str] = field(default_factory=list)  # what could not be measured, and why

    @property
    def order(self) -> list[str]:
        """Names of the runs that have a score, in the pool's order."""
        return [name for name in self.runs if self.answers[name] is not None]

    @cached_property
    def alone(self) -> Mapping[str, float]:
        """Score of each run, the metric's own; NaN where it answers NaN."""
        return {n: math.nan if p is None else self.metric.compute(p) for n, p in self.answers.items()}

    @property
    def ranked(self) -> list[str]:
        """Names of the runs that have a score, best first."""
        return sorted(self.order, key=lambda name: -self.metric.sign * self.alone[name])

    def score(self, soup: Soup) -> float:
        """Score of a mixture; that of a single run is known from its answers."""
        if len(soup.ingredients) == 1 and soup.coefficients == (1.0,):
            (name,) = (n for n, c in self.runs.items() if c == soup.ingredients[0])
            return self.alone[name]
        return self.mixture(soup)

    def ensemble(self, names: Sequence[str]) -> float:
        """Score of the mean of these runs' logits, the metric's own."""
        members = [p for p in (self.answers[name] for name in names) if p is not None]
        return self.metric.compute(mean_logits(members))

    def place(self, name: str) -> int:
        """Of a run in the geometry."""
        return self.order.index(name)


def measured(
    bench: MeasuredRuns,
    effort: Effort,
    cooked: Sequence[CookedSoup],
    absent: Sequence[Absent],
    scorer: SoupScorer,
    rows: int,
) -> Findings:
    """All facts about the runs of a bench.

    Args:
        bench: the runs and how they are scored.
        effort: how much to measure.
        cooked: soups of the same runs that were cooked before.
        absent: runs that could not be measured.
        scorer: of the rows.
        rows: of select before a subset was taken.
    """
    order = bench.order
    pairs: tuple[RunPair, ...] = ()
    answered = [p for p in (bench.answers[name] for name in bench.ranked) if p is not None]
    if len(order) >= 2:
        pairs = tuple(_pair(bench, a, b, effort.points) for a, b in choose_pairs(order, bench.ranked[0], effort.pairs))
    soups = tuple(_mixed(bench, soup, scorer) for soup in cooked)
    own = next((m for m in soups if is_uniform_of(m, order)), None)
    return Findings(
        metric=bench.metric.name,
        sign=bench.metric.sign,
        rows=scorer.rows,
        all_rows=rows,
        noise=difference_by_chance(answered[0], answered[1:], bench.metric),
        ensemble_noise=ensemble_by_chance(mean_logits(answered), answered, bench.metric),
        chance=score_of_shares(answered[0], bench.metric),
        singles=tuple(_single(bench, name) for name in bench.runs),
        pairs=pairs,
        possible_pairs=math.comb(len(order), 2),
        uniform=own or _uniform(bench),
        soups=tuple(m for m in soups if m is not own),
        plane=_plane(bench, effort.grid, _third(bench, pairs, cooked)),
        greedy=next((Greedy(s.members, s.steps) for s in cooked if s.method == "greedy" and s.steps), None),
        absent=tuple(absent),
        notes=tuple(bench.notes),
    )  # fmt: skip


def is_uniform_of(soup: CookedSoup | Mixed, runs: Sequence[str]) -> bool:
    """Whether a soup that was cooked is the uniform soup of exactly these runs."""
    name = soup.method if isinstance(soup, CookedSoup) else soup.name
    return name == "uniform" and set(soup.members) == set(runs)


def _single(bench: MeasuredRuns, name: str) -> Single:
    answered = bench.answers[name]
    settings = settings_of((bench.runs[name].run or {}).get("recipe"))
    if answered is None:
        return Single(name, math.nan, settings=settings)
    distance = float(bench.geometry.from_origin[bench.place(name)]) if bench.has_start else None
    scored = score_with_interval(answered, bench.metric)
    return Single(name, scored.value, scored.low, scored.high, settings, distance)


def _pair(bench: MeasuredRuns, a: str, b: str, points: int) -> RunPair:
    at, (i, j) = shares(points), (bench.place(a), bench.place(b))
    scores = along_line(bench.score, bench.runs[a], bench.runs[b], at)
    angle = float(bench.geometry.angles[i, j]) if bench.has_start else None
    return RunPair(
        Line(a, b, at, scores, bench.metric.sign), float(bench.geometry.apart[i, j]), angle, bench.ensemble((a, b))
    )


def _uniform(bench: MeasuredRuns) -> Mixed:
    order = bench.order
    value = bench.score(uniform([bench.runs[name] for name in order]))
    return Mixed("uniform", tuple(order), value, bench.ensemble(order))


def _mixed(bench: MeasuredRuns, soup: CookedSoup, scorer: SoupScorer) -> Mixed:
    select = scorer.split
    answered = taken(soup.answers, select.row_ids, select.fingerprint)
    return Mixed(soup.method, soup.members, bench.metric.compute(answered), bench.ensemble(soup.members))


def _third(bench: MeasuredRuns, pairs: Sequence[RunPair], cooked: Sequence[CookedSoup]) -> list[str]:
    """The three runs of the plane: the best, what greedy took next (else the second), the one behind most."""
    ranked = bench.ranked
    if len(ranked) < 3:
        return ranked
    best = ranked[0]
    joined = [s.candidate for soup in cooked if soup.method == "greedy" for s in soup.steps if s.accepted]
    second = next((name for name in joined if name in ranked and name != best), ranked[1])
    heights = {n: p.line.barrier for p in pairs if best in p.names for n in p.names if n not in (best, second)}
    # of equal barriers the worse run; where none was measured the worst of all
    far = max(ranked, key=lambda n: (heights.get(n, -1.0), ranked.index(n) if n not in (best, second) else -1))
    return [best, second, far]


def _plane(bench: MeasuredRuns, grid: int, names: Sequence[str]) -> Plane | None:
    if not grid:
        return None
    if len(names) < 3:
        bench.notes.append("No plane: it takes three runs that have a score.")
        return None
    at = [bench.place(name) for name in names]
    # four digits: sums made by threads differ in their last bits, and then no point of the grid would be known again
    corners = corners_of(np.vectorize(_four_digits)(bench.geometry.apart[at][:, at]))
    if corners is None:
        bench.notes.append(f"No plane: the weights of {', '.join(names)} lie on one line.")
        return None
    models = [bench.runs[name] for name in names]
    xs, ys = grid_of(corners, grid)
    scores = over_plane(bench.score, models, corners, xs, ys)
    first, second, third = names
    mean = bench.score(uniform(models))
    alone = (bench.alone[first], bench.alone[second], bench.alone[third])
    return Plane((first, second, third), corners, alone, xs, ys, scores, mean)


def _four_digits(value: float) -> float:
    return float(f"{value:.4g}")


def checked(effort: Effort) -> Effort:
    """The same, if it can be done.

    Raises:
        InputError: if a number is out of range.
    """
    if effort.pairs < 1 or effort.points < 1:
        raise InputError(f"{effort.pairs} pairs of {effort.points} points: give at least 1 of each.")
    if effort.grid and effort.grid < 3:
        raise InputError(f"a grid of {effort.grid} points a side; give at least 3, or 0 for no plane.")
    return effort
