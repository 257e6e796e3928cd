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
from hf_soups.soups.soup import Score, Soup

OWN_SCORES = "the metric's own scores"  # in what names a record of scores: 0.1.0 wrote losses down negated


@dataclass(frozen=True)
class Journal:
    """A score function that looks into a file first; `context` names what the score depends on beside the soup."""

    score: Callable[[Soup], Score]
    path: Path
    context: str

    def __call__(self, soup: Soup) -> Score:
        """The soup's score: as written down, or measured now and written down."""
        key = digest([self.context, OWN_SCORES, [identity(c) for c in soup.ingredients], soup.weights])
        known = self._read()
        if key not in known:
            value = self.score(soup)
            known[key] = tuple(map(float, value)) if isinstance(value, tuple) else float(value)
            with writable(self.path), self.path.open("a", encoding="utf-8") as file:
                # one short line at a time; float.hex keeps every bit, NaN and infinities
                file.write(json.dumps([key, _written(known[key])]) + "\n")
        return known[key]

    def _read(self) -> dict[str, Score]:
        try:
            data = read_bytes(self.path, again="Remove it: the scores are measured again.")
        except FileNotFoundError:
            return {}
        found: dict[str, Score] = {}
        for line in data.decode("utf-8", errors="replace").splitlines():
            try:
                key, value = json.loads(line)
                found[key] = _as_read(value)
            except (ValueError, TypeError, OverflowError, RecursionError):
                continue  # a line cut short by a kill is measured again
        return found


def _written(score: Score) -> Any:
    return [v.hex() for v in score] if isinstance(score, tuple) else score.hex()


def _as_read(text: Any) -> Score:
    return tuple(map(float.fromhex, text)) if isinstance(text, list) else float.fromhex(text)


def identity(checkpoint: Checkpoint) -> list[list[Any]]:
    """Identifies one state of a checkpoint's weights without reading them: path, size and time."""
    files = sorted({tensor.file for tensor in checkpoint.tensors.values()})
    return [[str(f.resolve()), f.stat().st_size, f.stat().st_mtime_ns] for f in files]


def digest(parts: Any) -> str:
    """SHA-256 of anything that JSON holds."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()
