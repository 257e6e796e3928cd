"""The package's metrics as `evaluate.Metric` classes: made here, so that they work offline, computed by scikit-learn.

    from hf_soups.evaluate_metrics import Accuracy, F1
    evaluate.combine([Accuracy(), F1()]).compute(predictions=[0, 1], references=[1, 1])

Those of labels take `predictions` and `references`; those of probabilities `prediction_scores` (examples, classes)
and `references`; those of regressions numbers as `predictions` and `references`. Nothing is written to the cache
unless several processes compute together.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import datasets
import evaluate

from hf_soups.errors import InputError
from hf_soups.files.problem_types import REGRESSION
from hf_soups.metrics import METRICS, Metric
from hf_soups.predictions import Predictions

LABELS = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
SCORES = datasets.Features(
    {
        "prediction_scores": datasets.Sequence(datasets.Value("float64")),
        "references": datasets.Value("int64"),
    }
)
NUMBERS = datasets.Features({"predictions": datasets.Value("float64"), "references": datasets.Value("float64")})


class InstalledMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate has no types
    """A metric of this package; it needs neither the Hub nor a cache that can be written."""

    key: ClassVar[str] = ""  # of the value in what compute() returns, and in METRICS; a subclass names its own

    def __init__(
        self, config_name: str | None = None, *, num_process: int = 1, metric: Metric | None = None, **about: Any
    ) -> None:
        self.metric = METRICS[self.key] if metric is None else metric
        about.setdefault("keep_in_memory", num_process == 1)
        super().__init__(config_name, num_process=num_process, **about)

    def _info(self) -> evaluate.MetricInfo:
        first_line = (self.__doc__ or "").strip().splitlines()[0]
        inputs = NUMBERS if self._of_numbers else SCORES if self.metric.of_answers is None else LABELS
        return evaluate.MetricInfo(
            description=first_line,
            citation="",
            inputs_description=f"{first_line} Takes {', '.join(inputs)}; returns {{{self.metric.name!r}: float}}.",
            features=inputs,
        )

    @property
    def _of_numbers(self) -> bool:
        return self.metric.problem_types == (REGRESSION,)

    def _build_data_dir(self) -> str:
        folder = Path(self._data_dir_root) / self.name / self.config_name
        if not self.keep_in_memory:
            folder.mkdir(parents=True, exist_ok=True)
        return str(folder)

    def _compute(
        self,
        references: Sequence[float],
        predictions: Sequence[float] = (),
        prediction_scores: Sequence[Sequence[float]] = (),
        **options: Any,
    ) -> dict[str, float]:
        if self.metric.of_answers is not None:
            return {self.metric.name: self.metric.of_answers(references, predictions, **options)}
        if self._of_numbers:
            numbers = [[value] for value in predictions]
            p = Predictions.from_logits(numbers, labels=references, problem_type=REGRESSION)
        else:
            p = Predictions.from_probs(prediction_scores, labels=references)
        return {self.metric.name: self.metric.compute(p, **options)}


class Accuracy(InstalledMetric):
    """Share of predictions that equal their reference."""

    key = "accuracy"


class F1(InstalledMetric):
    """F1 of the positive class of two; `average` and `pos_label` as in scikit-learn, 0 where it is not defined."""

    key = "f1"


class F1Macro(InstalledMetric):
    """Mean of the F1 of each class that occurs; 0 for a class where it is not defined."""

    key = "f1_macro"


class AccuracyAndF1(InstalledMetric):
    """Mean of accuracy and the F1 of the positive class, as papers report GLUE's MRPC."""

    key = "accuracy_f1"


class Matthews(InstalledMetric):
    """Matthews correlation coefficient, in [-1, 1]; 0 where labels or predictions do not vary."""

    key = "matthews"


class NegativeLogLikelihood(InstalledMetric):
    """Mean negative log-probability of the true label, in nats."""

    key = "nll"


class BrierScore(InstalledMetric):
    """Brier score in [0, 2]: mean over rows of the sum over all classes of the squared error."""

    key = "brier"


class ExpectedCalibrationError(InstalledMetric):
    """Expected calibration error of the top label, debiased, with 15 equal-width bins."""

    key = "ece"


class F1Micro(InstalledMetric):
    """F1 of all classes counted together, which for one class a row is the accuracy."""

    key = "f1_micro"


class F1Weighted(InstalledMetric):
    """Mean of the F1 of each class, weighted by the references that are of it."""

    key = "f1_weighted"


class BalancedAccuracy(InstalledMetric):
    """Mean over the classes of the share of their references that are predicted."""

    key = "balanced_accuracy"


class AreaUnderROC(InstalledMetric):
    """Area under the ROC curve: of the second of two classes, else the mean of each class against all others."""

    key = "roc_auc"


class AveragePrecision(InstalledMetric):
    """Average precision: of the second of two classes, else the mean of each class against all others."""

    key = "average_precision"


class MeanAveragePrecision(InstalledMetric):
    """Average precision: of the second of two classes, else the mean of each class against all others."""

    key = "mAP"


class Pearson(InstalledMetric):
    """Pearson's correlation of predictions and references; 0 where either never varies."""

    key = "pearson"


class Spearman(InstalledMetric):
    """Spearman's rank correlation of predictions and references; 0 where either never varies."""

    key = "spearman"


class PearsonAndSpearman(InstalledMetric):
    """Mean of Pearson's and Spearman's correlation, as papers report GLUE's STS-B."""

    key = "pearson_spearman"


class RootMeanSquaredError(InstalledMetric):
    """Root of the mean squared error."""

    key = "rmse"


CLASSES = {made.key: made for made in InstalledMetric.__subclasses__()}


def load_metric(name: str) -> InstalledMetric:
    """A metric of this package by the name it has in a recipe; the offline counterpart of `evaluate.load`.

    >>> load_metric("accuracy").compute(predictions=[0, 1, 1], references=[0, 1, 0])
    {'accuracy': 0.6666666666666666}
    """
    if name not in METRICS:
        raise InputError(f"unknown metric {name!r}; known by name: {', '.join(METRICS)}.")
    made: InstalledMetric = CLASSES.get(name, InstalledMetric)(metric=METRICS[name])
    return made
