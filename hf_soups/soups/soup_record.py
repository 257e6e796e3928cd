"""What a soup's folder says of itself: soup.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import InputError
from hf_soups.files.reading import read_record

SOUP_FILE = "soup.json"  # only a folder that holds one is ever replaced
STEPS_PICTURE = "score_by_ingredients.png"  # beside it, as cooking draws it for greedy
FORMAT = "hf_soups.soup.v1"
AGAIN = "Cook it again."
MAYBE_TRAINED_ON = "its ingredients may have been trained on the select rows, so its select score may be too good"


@dataclass(frozen=True, slots=True)
class IngredientRecord:
    """One ingredient."""

    name: str
    coefficient: float
    sha256: str = ""
    source: str = ""
    revision: str | None = None
    subfolder: str | None = None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One mixture that was tried; scores are None where they were NaN, which JSON does not have, or not worked out."""

    candidate: str
    ingredients: int
    accepted: bool
    score: float | None = None
    best_so_far: float | None = None
    removes: bool = False
    tie_break: float | None = None
    at_best: float | None = None  # instead of a score: what it is surely no better than


@dataclass(frozen=True, slots=True)
class SingleRecord:
    """The best ingredient alone."""

    name: str
    score: float | None = None


@dataclass(frozen=True, slots=True)
class MeasuredRecord:
    """Rows that the soup answered, and the 95% interval of its score on them."""

    rows: int
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class LeftOutRecord:
    """A source that was no ingredient."""

    name: str
    reason: str


@dataclass(frozen=True, slots=True)
class SoupRecord:
    """What soup.json says; keys that nobody reads are not kept."""

    ingredients: tuple[IngredientRecord, ...]
    method: str = ""
    coefficients_by_tensor: Mapping[str, tuple[float, ...]] | None = None
    steps: tuple[StepRecord, ...] = ()
    scores: Mapping[str, Any] = field(default_factory=dict)  # role -> metric -> value, and what the method measured
    measured: Mapping[str, MeasuredRecord] = field(default_factory=dict)  # by role
    head_fingerprint: str | None = None
    label_names: tuple[str, ...] | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    pool: tuple[str, ...] = ()  # names of all that could have been ingredients
    left_out: tuple[LeftOutRecord, ...] = ()
    dtype: str | None = None
    made_from: str = ""  # a digest of everything that decided what came out
    weights: str = ""  # SHA-256 of the soup's own weight files, which its scores are of; empty: by 0.1.0
    selected_on: str | None = None  # the rows it was scored on; None: nothing was scored
    optimistic: bool = False  # chosen on the report rows
    select_optimistic: bool = False  # the ingredients may have been trained on the select rows
    metric: str | None = None
    select_rows: int = 0
    best_single: SingleRecord | None = None
    learned: Mapping[str, Any] | None = None
    batchnorm: Mapping[str, str | float | None] | None = None
    forced: tuple[str, ...] = ()  # differences between the ingredients that the user said to go on in spite of
    vocabulary: Mapping[str, Any] | None = None  # where some have further rows for tokens: which, and whose they are
    why: str = ""
    batchnorm_why: str = ""

    @property
    def models(self) -> tuple[str, ...]:
        """Names of the ingredients without the start, which Model Stock and its like mix in: it is none of the pool."""
        return tuple(i.name for i in self.ingredients if not self.pool or i.name in self.pool)

    @property
    def score(self) -> float | None:
        """The metric on the rows that it was scored on when it was made; None where nothing was scored."""
        if self.selected_on is None or self.metric is None:
            return None
        value: float | None = (self.scores.get(self.selected_on) or {}).get(self.metric)
        return value

    @property
    def whys(self) -> tuple[str, ...]:
        """Why it came out as it did, a sentence each."""
        return tuple(str(why) for why in (self.why, (self.learned or {}).get("why"), self.batchnorm_why) if why)

    def check_weights(self, folder: Path) -> None:
        """The weights in the soup's folder must be those of the record.

        Raises:
            InputError: if they are not. Soups of 0.1.0 do not say what they were.
        """
        if self.weights and Checkpoint(str(folder)).sha256() != self.weights:
            raise InputError(
                f"{folder}: its weights are not those that {SOUP_FILE} tells of, so the scores there are not theirs. "
                "Cook the soup again, or remove the record."
            )


def read_soup(folder: Path) -> SoupRecord:
    """What a soup's soup.json holds.

    Raises:
        FileNotFoundError: if there is none.
        InputError: if it cannot be read, or is no soup's record.
    """
    return read_record(folder / SOUP_FILE, SoupRecord, what="the record of a soup", format=FORMAT, again=AGAIN)
