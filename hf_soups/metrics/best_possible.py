"""How good a metric can still become while rows are answered batch by batch: an exact bound, known long before the end.

It exists where a row that is answered perfectly makes the metric no worse (`Metric.bounded`): then no answers to the
rows that are left give a better value than perfect ones. That holds for accuracy, balanced accuracy, all F1 scores and
their mean with accuracy, and for the losses (nll, brier, rmse). It does not for correlations (Matthews' of several
classes among them), nor for the calibration error, which perfect answers can make worse; ROC AUC and average precision
compare all rows with each other, and nothing is known of a metric by `evaluate`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Shaped

from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, ProblemType
from hf_soups.metrics.labelled import Sums
from hf_soups.metrics.metric import Metric
from hf_soups.predictions import Predictions

SURE = 1e4  # a logit beyond which float32 has no further probability
ROWS_AT_ONCE = 4096
ROUNDING = 1e-9  # values that differ by less count as equal: sums of the same rows in another order do


@dataclass(eq=False)
class BestPossible:
    """The value of a metric if all rows that are not answered yet are answered perfectly.

    >>> from hf_soups.metrics import METRICS
    >>> best = BestPossible.of(METRICS["accuracy"], np.array([0, 1, 1, 0]), classes=2)
    >>> best.after(Predictions.from_probs([[0.1, 0.9]], labels=[0]))
    0.75
    """

    metric: Metric
    sums: Sums  # of the metric's row statistics

    @classmethod
    def of(
        cls,
        metric: Metric,
        labels: Shaped[np.ndarray, "rows ..."],
        *,
        classes: int,
        problem_type: ProblemType = CLASSIFICATION,
    ) -> BestPossible:
        """Before any row is answered."""
        pieces = [labels[at : at + ROWS_AT_ONCE] for at in range(0, len(labels), ROWS_AT_ONCE)]
        return cls(metric, np.sum([_sums(metric, _perfect(piece, classes, problem_type)) for piece in pieces], axis=0))

    def copy(self) -> BestPossible:
        """To be gone on with apart."""
        return BestPossible(self.metric, self.sums)

    def after(self, answers: Predictions) -> float:
        """The value once these rows are answered too."""
        own = _sums(self.metric, _perfect(answers.needs_labels(), answers.classes, answers.problem_type))
        self.sums = self.sums + _sums(self.metric, answers) - own
        assert self.metric.value is not None
        return float(self.metric.value(self.sums))

    def is_below(self, value: float, floor: float) -> bool:
        """Whether a value is surely worse than another, whatever was rounded on the way."""
        return self.metric.rank(value) < self.metric.rank(floor) - ROUNDING * max(1.0, abs(floor))


def _sums(metric: Metric, p: Predictions) -> Sums:
    assert metric.row_statistics is not None
    return np.asarray(metric.row_statistics(p).sum(axis=0, dtype=np.float64))


def _perfect(labels: Shaped[np.ndarray, "rows ..."], classes: int, of_type: ProblemType) -> Predictions:
    about: dict[str, Any] = {"labels": labels, "problem_type": of_type}
    if of_type == CLASSIFICATION:
        return Predictions.from_logits(SURE * np.eye(classes)[labels], **about)
    logits = SURE * (2.0 * labels - 1.0) if of_type == MULTI_LABEL else labels.reshape(-1, 1)
    return Predictions.from_logits(logits, **about)
