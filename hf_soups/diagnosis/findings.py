"""Facts: everything that a diagnosis measured, as plain data; scores are the metric's own, not x 100."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from hf_soups.diagnosis.landscape import Line, Plane
from hf_soups.soups.soup import Step

KNOBS = {"learning_rate": "learning rate", "epochs": "epochs", "batch_size": "batch size", "seed": "seed"}


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
        told = asdict(self)
        for pair, values in zip(self.pairs, told["pairs"], strict=True):
            line = pair.line
            for key in ("barrier", "below_worse", "gain_over_mean", "gain_over_better"):
                values[key] = getattr(line, key)
        return told
