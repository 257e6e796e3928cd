"""Scores already measured, kept on disk, so that a greedy search that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_soups.checkpoint import Checkpoint
from hf_soups.files.reading import read_bytes
from hf_soups.files.writing import writable
from hf_soups.soups.soup import AtBest, Score, Soup, values_of

OWN_SCORES = "the metric's own scores"  # in what names a record of scores: 0.1.0 wrote losses down negated


@dataclass(frozen=True)
class Journal:
    """A score function that looks into a file first; `context` names what the score depends on beside the soup."""

    score: Callable[[Soup], Score]
    path: Path
    context: str

    def __call__(self, soup: Soup) -> Score:
        """The soup's score: as written down, or measured now and written down."""
        found = self._found(soup, lambda known: isinstance(known, AtBest), lambda: self.score(soup))
        assert not isinstance(found, AtBest)
        return found

    def or_bound(
        self, soup: Soup, floor: Score | None, measure: Callable[[Soup, Score | None], Score | AtBest], sign: int
    ) -> Score | AtBest:
        """The same, or what the score is at best where that is written down, or measured, as worse than `floor`.

        Args:
            soup: a mixture.
            floor: what it must reach; None: its score is wanted.
            measure: of the soup and the floor.
            sign: of the score: -1 where lower is better.
        """
        return self._found(soup, lambda known: _too_little(known, floor, sign), lambda: measure(soup, floor))

    def knows(self, soup: Soup, floor: Score | None, sign: int) -> bool:
        """Whether what `or_bound` would answer, or for one ingredient a call, is written down."""
        known = self._read().get(self._key(soup))
        return known is not None and not _too_little(known, floor, sign)

    def _key(self, soup: Soup) -> str:
        return digest([self.context, OWN_SCORES, [identity(c) for c in soup.ingredients], soup.weights])

    def _found(
        self, soup: Soup, too_little: Callable[[Score | AtBest], bool], measure: Callable[[], Score | AtBest]
    ) -> Score | AtBest:
        key = self._key(soup)
        known = self._read()
        if key not in known or too_little(known[key]):
            value = measure()
            if not isinstance(value, AtBest):
                value = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
            known[key] = value
            with writable(self.path), self.path.open("a", encoding="utf-8") as file:
                # one short line at a time; float.hex keeps every bit, NaN and infinities
                file.write(json.dumps([key, _written(value)]) + "\n")
        return known[key]

    def _read(self) -> dict[str, Score | AtBest]:
        try:
            data = read_bytes(self.path, again="Remove it: the scores are measured again.")
        except FileNotFoundError:
            return {}
        found: dict[str, Score | AtBest] = {}
        for line in data.decode("utf-8", errors="replace").splitlines():
            try:
                key, value = json.loads(line)
                found[key] = _as_read(value)
            except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
                continue  # a line cut short by a kill is measured again
        return found


def _too_little(known: Score | AtBest, floor: Score | None, sign: int) -> bool:
    """Whether what is known does not say that the mixture misses its floor, nor its score."""
    if not isinstance(known, AtBest):
        return False
    return floor is None or not sign * known.value < sign * values_of(floor)[0]


def _written(score: Score | AtBest) -> Any:
    if isinstance(score, AtBest):  # an earlier version takes it for no score at all, and measures it
        return {"at_best": score.value.hex()}
    return [v.hex() for v in score] if isinstance(score, tuple) else score.hex()


def _as_read(text: Any) -> Score | AtBest:
    if isinstance(text, dict):
        return AtBest(float.fromhex(text["at_best"]))
    return tuple(map(float.fromhex, text)) if isinstance(text, list) else float.fromhex(text)


def identity(checkpoint: Checkpoint) -> list[list[Any]]:
    """Identifies one state of a checkpoint's weights without reading them: path, size and time."""
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def digest(parts: Any) -> str:
    """SHA-256 of anything that JSON holds."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
