"""Members: several answerers' predictions with their rows in one order, read block of rows by block of rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float32

from hf_soups.errors import PredictionsError
from hf_soups.predictions import Predictions


@dataclass(frozen=True, eq=False)
class Members:
    """Predictions of the same rows, in the order of the first; members may be mapped from files larger than memory."""

    predictions: tuple[Predictions, ...]
    temperatures: tuple[float, ...]  # one per member; 1 leaves it as it is

    @classmethod
    def of(cls, predictions: Sequence[Predictions], temperatures: Sequence[float] | None = None) -> Members:
        """The members joined by row id.

        Raises:
            PredictionsError: if there is none, they are not of the same rows, labels and classes, or a temperature is
                missing or not above 0.
        """
        if not predictions:
            raise PredictionsError("an ensemble needs at least one member's predictions, got none.")
        told = tuple(float(t) for t in temperatures) if temperatures is not None else (1.0,) * len(predictions)
        if len(told) != len(predictions):
            raise PredictionsError(f"{len(told)} temperatures for {len(predictions)} members; expected one for each.")
        if not all(t > 0 and np.isfinite(t) for t in told):
            raise PredictionsError(f"temperatures are {told}; expected numbers above 0.")
        return cls(tuple(p.aligned_to(predictions[0]) for p in predictions), told)

    def __len__(self) -> int:
        return len(self.predictions)

    @property
    def rows(self) -> int:
        """Number of rows."""
        return len(self.predictions[0])

    @property
    def classes(self) -> int:
        """Number of classes."""
        return self.predictions[0].classes

    @property
    def labels(self) -> np.ndarray | None:
        """The rows' labels, if any member has them."""
        return next((p.labels for p in self.predictions if p.labels is not None), None)

    def needs_labels(self) -> np.ndarray:
        """The rows' labels, or an error if no member has them."""
        return self.predictions[0].needs_labels() if self.labels is None else self.labels

    def spans(self, values: int) -> Iterator[tuple[int, int]]:
        """Start and stop of blocks that hold about `values` numbers of one member each."""
        step = max(1, values // max(1, self.classes))
        for start in range(0, self.rows, step):
            yield start, min(start + step, self.rows)

    def block(self, member: int, start: int, stop: int) -> Float32[np.ndarray, "rows classes"]:
        """A member's log-probabilities of some rows, at its temperature."""
        p = self.predictions[member]
        own = p.block(start, stop)
        if self.temperatures[member] == 1:
            return own
        return Predictions(own, p.row_ids[start:stop]).at_temperature(self.temperatures[member]).log_probs

    def answering(self, log_probs: Float32[np.ndarray, "rows classes"], name: str) -> Predictions:
        """Predictions of all rows by what `name` combines of the members."""
        return Predictions(log_probs, self.predictions[0].row_ids, self.labels, **self._about(name))

    def _about(self, name: str) -> dict[str, Any]:
        return {
            "label_names": next((p.label_names for p in self.predictions if p.label_names), None),
            "data": next((p.data for p in self.predictions if p.data), ""),
            "model": f"{name} of {', '.join(p.model or '?' for p in self.predictions)}",
        }
