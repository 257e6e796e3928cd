"""What a diagnosis finds: scores along lines and over a plane between checkpoints, and all its figures as plain data.

Scores are the metric's own, not x 100.
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float64

from hf_soups.checkpoint import Checkpoint
from hf_soups.soups.soup import Soup, Step

Scorer = Callable[[Soup], float]
XY = tuple[float, float]

MARGIN = 0.25  # of a plane's longer side, left around its three models
FLAT = 1e-3  # three models nearer to one line than this share of their largest distance span no plane
KNOBS = {"learning_rate": "learning rate", "epochs": "epochs", "batch_size": "batch size", "seed": "seed"}


@dataclass(frozen=True, slots=True)
class Line:
    """Scores along the straight line from the weights of `a` to those of `b`, both ends included.

    Scores are the metric's own; `sign` is -1 where lower is better. NaN: the mixture answers NaN.
    """

    a: str
    b: str
    at: tuple[float, ...]  # shares of b, ascending from 0 to 1
    scores: tuple[float, ...]
    sign: int = 1

    @property
    def straight(self) -> tuple[float, ...]:
        """What the score would be at each share if it went straight from one end's to the other's."""
        return tuple((1 - t) * self.scores[0] + t * self.scores[-1] for t in self.at)

    @property
    def below_straight(self) -> tuple[float, ...]:
        """How much worse than straight the score is at each share; infinite where the mixture answers NaN."""
        pairs = zip(self.straight, self.scores, strict=True)
        return tuple(_lost(self.sign * (level - score)) for level, score in pairs)

    @property
    def barrier(self) -> float:
        """The largest drop below the straight line between the ends' scores, at least 0, in the metric's unit.

        Source: Frankle et al. 2020, arXiv:1912.05671, section 2 (there of the error, in the same unit).

        >>> Line("a", "b", (0.0, 0.5, 1.0), (0.8, 0.5, 0.9)).barrier
        0.35
        """
        return max(0.0, round(max(self.below_straight), 12))  # rounded: 0.7 * x + 0.3 * x is not quite x

    @property
    def below_worse(self) -> float:
        """The largest drop below the worse end, at least 0."""
        worse = min(self.sign * self.scores[0], self.sign * self.scores[-1])
        return max(0.0, *(_lost(worse - self.sign * score) for score in self.scores))

    @property
    def middle(self) -> float:
        """Score of the plain average of the two."""
        return self.scores[self.at.index(0.5)]

    @property
    def gain_over_mean(self) -> float:
        """How much better the average of the weights scores than the two on average."""
        return self.sign * (self.middle - (self.scores[0] + self.scores[-1]) / 2)

    @property
    def gain_over_better(self) -> float:
        """How much better the average of the weights scores than the better of the two."""
        return self.sign * self.middle - max(self.sign * self.scores[0], self.sign * self.scores[-1])


@dataclass(frozen=True, slots=True)
class Plane:
    """Scores over the plane through three checkpoints; distances are Euclidean distances of weights."""

    names: tuple[str, str, str]
    corners: tuple[XY, XY, XY]  # where the three lie: the first at (0, 0), the second on the first axis
    corner_scores: tuple[float, float, float]
    xs: tuple[float, ...]
    ys: tuple[float, ...]
    scores: tuple[tuple[float, ...], ...]  # [y][x], the metric's own; NaN where the mixture answers NaN
    mean_score: float  # of the plain average of the three

    @property
    def centre(self) -> XY:
        """Where the average of the three lies."""
        x, y = np.mean(self.corners, axis=0)
        return float(x), float(y)


def _lost(drop: float) -> float:
    return math.inf if math.isnan(drop) else drop


@dataclass(frozen=True, slots=True)
class Single:
    """One run alone."""

    name: str
    score: float  # NaN: it answers NaN
    low: float = math.nan  # 95% bootstrap interval by row
    high: float = math.nan
    settings: Mapping[str, float] = field(default_factory=dict)  # of KNOBS, where run.json records them
    from_start: float | None = None  # Euclidean distance of its weights


@dataclass(frozen=True, slots=True)
class RunPair:
    """Two runs: the line between them, their geometry, and their ensemble."""

    line: Line
    distance: float
    angle: float | None  # at the start, in degrees; None without a start
    ensemble: float  # score of the mean of their logits

    @property
    def names(self) -> tuple[str, str]:
        """Of the two runs."""
        return self.line.a, self.line.b


@dataclass(frozen=True, slots=True)
class Mixed:
    """A soup of several runs, beside the ensemble of the same runs."""

    name: str
    members: tuple[str, ...]
    soup: float
    ensemble: float


@dataclass(frozen=True, slots=True)
class Absent:
    """A run that could not be measured."""

    name: str
    reason: str
    settings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Greedy:
    """What greedy did when it was cooked."""

    members: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True)
class Findings:
    """All numbers of one diagnosis."""

    metric: str
    sign: int  # -1 where a lower score is better
    rows: int  # that scores are of
    all_rows: int  # select has
    noise: float  # by how much two runs' scores differ by chance on so many rows (95%)
    ensemble_noise: float  # the same for the score of the ensemble of all less the mean score of the runs
    chance: float  # score of answering the class shares on every row
    singles: tuple[Single, ...]
    pairs: tuple[RunPair, ...]
    possible_pairs: int
    uniform: Mixed  # of all runs
    soups: tuple[Mixed, ...] = ()  # that lay in the sweep
    plane: Plane | None = None
    greedy: Greedy | None = None
    absent: tuple[Absent, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def answering(self) -> tuple[Single, ...]:
        """The runs that have a score, best first; of equals the earlier."""
        able = [s for s in self.singles if not math.isnan(s.score)]
        return tuple(sorted(able, key=lambda s: -self.sign * s.score))

    @property
    def best(self) -> Single:
        """The best run alone."""
        return self.answering[0]

    @property
    def blocked(self) -> tuple[RunPair, ...]:
        """Pairs with a barrier larger than chance."""
        return tuple(p for p in self.pairs if p.line.barrier > self.noise)

    @property
    def free(self) -> tuple[RunPair, ...]:
        """Pairs without."""
        return tuple(p for p in self.pairs if p.line.barrier <= self.noise)

    def with_best(self, name: str) -> RunPair | None:
        """The measured pair of a run and the best run."""
        return next((p for p in self.pairs if set(p.names) == {name, self.best.name}), None)

    def single(self, name: str) -> Single:
        """A run by name."""
        return next(s for s in self.singles if s.name == name)

    def gain(self, score: float, over: float) -> float:
        """How much better one score is than another, whatever the metric's direction."""
        return self.sign * (score - over)

    def record(self) -> dict[str, Any]:
        """As diagnosis.json holds it."""
        values = asdict(self)
        for pair, about in zip(self.pairs, values["pairs"], strict=True):
            for key in ("barrier", "below_worse", "gain_over_mean", "gain_over_better"):
                about[key] = getattr(pair.line, key)
        return values


# Lines and planes between checkpoints


def shares(points: int) -> tuple[float, ...]:
    """Places on a line: its ends, and `points` between them at equal steps; the middle is always one of them.

    >>> shares(3), shares(2)
    ((0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.3333333333333333, 0.5, 0.6666666666666666, 1.0))
    """
    inner = {i / (points + 1) for i in range(1, points + 1)} | {0.5}
    return (0.0, *sorted(inner), 1.0)


def along_line(score: Scorer, a: Checkpoint, b: Checkpoint, at: Sequence[float]) -> tuple[float, ...]:
    """The score of (1 - t) a + t b for every t; the ends are scored as single ingredients."""
    return tuple(score(_affine((a, b), (1 - t, t))) for t in at)


def over_plane(
    score: Scorer, models: Sequence[Checkpoint], corners: tuple[XY, XY, XY], xs: Sequence[float], ys: Sequence[float]
) -> tuple[tuple[float, ...], ...]:
    """The score at every point (x, y) of the plane in which the three models lie at `corners`; as [y][x]."""
    return tuple(tuple(score(_affine(models, coefficients_at(corners, x, y))) for x in xs) for y in ys)


def corners_of(apart: Float64[np.ndarray, "3 3"]) -> tuple[XY, XY, XY] | None:
    """Where three models lie in their plane, from their distances; None if they lie (nearly) on one line.

    This is Gram-Schmidt on the offsets from the first model, written in distances: no weights are needed.

    >>> corners_of(np.array([[0.0, 4.0, 5.0], [4.0, 0.0, 3.0], [5.0, 3.0, 0.0]]))
    ((0.0, 0.0), (4.0, 0.0), (4.0, 3.0))
    """
    base, side, opposite = float(apart[0, 1]), float(apart[0, 2]), float(apart[1, 2])
    longest = max(base, side, opposite)
    if base <= FLAT * longest or not math.isfinite(longest):
        return None
    x = (base**2 + side**2 - opposite**2) / (2 * base)
    height = math.sqrt(max(side**2 - x**2, 0.0))
    return None if height <= FLAT * longest else ((0.0, 0.0), (base, 0.0), (x, height))


def coefficients_at(corners: tuple[XY, XY, XY], x: float, y: float) -> tuple[float, float, float]:
    """The coefficients, with sum 1, that put a mixture of the three at (x, y); outside the triangle some are negative.

    >>> coefficients_at(((0.0, 0.0), (4.0, 0.0), (2.0, 3.0)), 4.0, 3.0)
    (-0.5, 0.5, 1.0)
    """
    (_, _), (base, _), (third_x, height) = corners
    third = y / height
    second = (x - third * third_x) / base
    return 1 - (second + third), second, third


def grid_of(corners: tuple[XY, XY, XY], size: int) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """`size` places along each axis, around the three models with a margin."""
    low, high = np.min(corners, axis=0), np.max(corners, axis=0)
    margin = MARGIN * float((high - low).max())
    xs, ys = (np.linspace(low[i] - margin, high[i] + margin, size) for i in (0, 1))
    return tuple(map(float, xs)), tuple(map(float, ys))


def choose_pairs(names: Sequence[str], best: str, count: int, seed: int = 0) -> tuple[tuple[str, str], ...]:
    """Which pairs to measure: the best with every other, then others by lot, at most `count` together.

    Pairs stand in the order of `names`. The same seed gives the same pairs; a larger count keeps those of a smaller.

    >>> choose_pairs("abc", "b", 2), len(choose_pairs("abcd", "a", 99))
    ((('a', 'b'), ('b', 'c')), 6)
    """
    order = random.Random(seed)
    pairs = list(itertools.combinations(names, 2))
    with_best = [pair for pair in pairs if best in pair]
    others = [pair for pair in pairs if best not in pair]
    order.shuffle(with_best)
    order.shuffle(others)
    chosen = {*[*with_best, *others][:count]}
    return tuple(pair for pair in pairs if pair in chosen)


def _affine(models: Sequence[Checkpoint], coefficients: Sequence[float]) -> Soup:
    """A mixture without the models that have no share in it: these need not be read."""
    kept = [(model, c) for model, c in zip(models, coefficients, strict=True) if c != 0]
    return Soup(tuple(model for model, _ in kept), tuple(c for _, c in kept), method="mixture")
