"""The table of metrics: one number from Predictions, as scikit-learn computes it, with an interval.

Each metric also follows from sums of row statistics: a resample of the rows is then only other sums, and 1,000
resamples of 50,000 rows take about a second.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, Shaped

from hf_soups.errors import InputError, RecipeError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, PROBLEM_TYPES, REGRESSION, ProblemType
from hf_soups.metrics.bootstrap import DIGITS, percentile_interval, recomputed, resampled_sums
from hf_soups.metrics.closed_intervals import debiased_value
from hf_soups.metrics.foreign import load_foreign
from hf_soups.metrics.labelled import (
    Statistics,
    Sums,
    Values,
    any_labels,
    labels_of,
    mean_value,
)
from hf_soups.metrics.of_answers import (
    accuracy,
    accuracy_f1,
    accuracy_f1_value,
    accuracy_interval,
    accuracy_rows,
    balanced_accuracy,
    balanced_accuracy_rows,
    balanced_accuracy_value,
    f1,
    f1_macro,
    f1_macro_rows,
    f1_macro_value,
    f1_micro,
    f1_micro_rows,
    f1_rows,
    f1_value,
    f1_weighted,
    f1_weighted_rows,
    f1_weighted_value,
    matthews,
    matthews_rows,
    matthews_value,
    two_classes,
)
from hf_soups.metrics.of_numbers import (
    pearson,
    pearson_rows,
    pearson_spearman,
    pearson_value,
    rmse,
    rmse_rows,
    rmse_value,
    spearman,
)
from hf_soups.metrics.of_probabilities import (
    average_precision,
    brier,
    brier_rows,
    ece_interval,
    ece_rows,
    expected_calibration_error,
    negative_log_likelihood,
    nll_rows,
    roc_auc,
)
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import MetricByEvaluate, Task

RECOMPUTED_RESAMPLES = 200  # of metrics by `evaluate`, which are computed anew for each resample


@dataclass(frozen=True)
class Metric:
    """One way to score Predictions, and all that the package knows of it: a new metric is one entry of `METRICS`.

    `value(row_statistics(p).sum(0))` is `compute(p)`.
    """

    name: str
    sign: int  # 1: more is better; -1: less is
    compute: Callable[[Predictions], float]
    row_statistics: Callable[[Predictions], Statistics] | None = None  # None: only `compute` is known
    value: Callable[[Sums], Values] | None = None
    _: KW_ONLY
    of_answers: Callable[..., float] | None = None  # from labels and answers, where probabilities do not matter
    percent: bool = False  # shown x 100, differences in points
    counts_rows: bool = False  # score x rows is a number of rows
    bounded: bool = False  # a row answered perfectly makes it no worse: see `best_possible`
    hub_name: str = ""  # on the Hub, where it has another name there
    hub_parts: tuple[str, ...] = ()  # the Hub's metrics that it is made of, where the Hub has none like it
    problem_types: tuple[ProblemType, ...] = (CLASSIFICATION,)  # of the rows that it scores
    interval: Callable[[Predictions, float], tuple[float, float] | None] | None = None  # instead of the bootstrap's

    @property
    def scale(self) -> float:
        """What scores are multiplied by before they are shown."""
        return 100.0 if self.percent else 1.0

    @property
    def unit(self) -> str:
        """The metric as an axis or a heading names it."""
        return f"{self.name} x 100" if self.percent else self.name

    def rank(self, score: float) -> float:
        """The score as a number of which more is better, NaN the worst."""
        return -math.inf if math.isnan(score) else self.sign * score


@dataclass(frozen=True, slots=True)
class Score:
    """A metric's value and the ends of its interval: by a bootstrap over rows, or as the metric computes it."""

    value: float
    low: float
    high: float


def score(
    p: Predictions, metric: Metric | str, *, resamples: int = 1000, seed: int = 0, confidence: float = 0.95
) -> Score:
    """The metric of labelled predictions, with its percentile bootstrap interval by row.

    Where the bootstrap does not cover there is another: Wilson's for accuracy on fewer than 50 rows, or with fewer than
    10 of them right or wrong; and one of its own for the calibration error.

    Args:
        p: predictions with labels, at least one row.
        metric: a metric, or the name of one in `METRICS`.
        resamples: of the rows; metrics by `evaluate` take at most 200, since each is computed anew.
        seed: of the resamples; the same seed draws the same rows whatever the metric, so intervals compare.
        confidence: the share of resamples inside the interval, in (0, 1).
    Raises:
        PredictionsError: if there are no rows or no labels.

    >>> score(Predictions.from_probs([[0.9, 0.1], [0.2, 0.8]], labels=[0, 1]), "accuracy")
    Score(value=1.0, low=0.342380227507, high=1.0)
    """
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence}; expected a share between 0 and 1, such as 0.95.")
    if resamples < 1:
        raise InputError(f"{resamples} resamples; an interval needs at least 1, and about 1000 to be steady.")
    metric = _in_a_recipe(metric) if isinstance(metric, str) else metric
    point = metric.compute(p)
    ends = None if metric.interval is None else metric.interval(p, confidence)
    if ends is not None:
        return Score(point, round(ends[0], DIGITS), round(ends[1], DIGITS))
    return Score(point, *percentile_interval(resampled_values(p, metric, resamples, seed), confidence))


def resampled_values(p: Predictions, metric: Metric, resamples: int, seed: int) -> Values:
    """The metric on each bootstrap resample of the rows; a seed draws the same rows whatever answered them."""
    if metric.row_statistics is not None and metric.value is not None:
        return metric.value(resampled_sums(metric.row_statistics(p), resamples, seed))
    compute = metric.compute
    return recomputed(len(p), lambda at: compute(_resampled(p, at)), min(resamples, RECOMPUTED_RESAMPLES), seed)


def metric_for(task: Task) -> Metric:
    """The metric a task names: one of `METRICS`, or any metric of the `evaluate` library.

    Raises:
        RecipeError: if the name is unknown or not for the task's problem type, or the `evaluate` metric cannot be
            loaded.
    """
    named = task.metric
    if not isinstance(named, str):
        return _by_evaluate(named)
    metric = _in_a_recipe(named)
    if task.problem_type not in metric.problem_types:
        raise RecipeError(
            f"task.metric is {named!r}, which is for {' and '.join(metric.problem_types)}, but the task's rows are of "
            f"problem type {task.problem_type!r}. Metrics for it: {_names_for(task.problem_type)}."
        )
    return metric


def metric_for_rows(task: Task, labels: Shaped[np.ndarray, "rows ..."], label_names: Sequence[str]) -> Metric:
    """As `metric_for`, and tried on made answers to these rows, so that one that cannot score them fails now.

    Args:
        task: that names it.
        labels: of rows that it will score, as splits have them.
        label_names: of the classes.
    Raises:
        RecipeError: if the metric cannot score such rows.
    """
    metric = metric_for(task)
    made = _made(task.problem_type, labels[:TRIED], len(label_names))
    try:
        value_of(metric, made)
    except Exception as error:  # a metric by `evaluate` is a script, and may raise anything
        raise RecipeError(
            f"task.metric {metric.name!r} cannot score a task of {len(label_names)} classes "
            f"({', '.join(f'{name:.40}' for name in label_names[:10])}): {error}"
        ) from error
    return metric


def value_of(metric: Metric, answers: Predictions) -> float:
    """The metric's value; without scikit-learn, which takes long to import, where row statistics give it."""
    if metric.row_statistics is None or metric.value is None:
        return metric.compute(answers)
    return float(metric.value(metric.row_statistics(answers).sum(axis=0)))


TRIED = 1000  # rows


def _made(problem_type: ProblemType, labels: Shaped[np.ndarray, "rows ..."], classes: int) -> Predictions:
    """Answers to rows with these labels, most of them right."""
    noise = np.random.default_rng(0).normal(size=(len(labels), classes))
    right = np.eye(classes)[labels] if problem_type == CLASSIFICATION else labels.reshape(noise.shape)
    return Predictions.from_logits(noise + 3 * right, labels=labels, problem_type=problem_type)


def _names_for(problem_type: ProblemType) -> str:
    return ", ".join(name for name, metric in METRICS.items() if problem_type in metric.problem_types)


# the loss that decides between models of the same score
LOSSES: Mapping[ProblemType, str] = {CLASSIFICATION: "nll", MULTI_LABEL: "nll", REGRESSION: "rmse"}


def also_scored(problem_type: ProblemType) -> tuple[Metric, ...]:
    """What is shown beside a task's own metric."""
    beside = (LOSSES[problem_type], *(("ece",) if problem_type == CLASSIFICATION else ()))
    return tuple(METRICS[name] for name in beside)


def loss_metric(problem_type: ProblemType) -> Metric:
    """A fine-tune's loss as a metric: negative log-likelihood; of a regression the root of the squared error."""
    return METRICS[LOSSES[problem_type]]


def _in_a_recipe(name: str) -> Metric:
    if name not in METRICS:
        raise RecipeError(
            f"unknown metric {name!r}; known by name: {', '.join(METRICS)}. "
            "For another metric of `evaluate` give a mapping with `load`."
        )
    return METRICS[name]


def metric_named(metric: Metric | str) -> Metric:
    """The metric of that name; a metric is returned as it is.

    Raises:
        InputError: if the name is unknown.
    """
    if isinstance(metric, Metric):
        return metric
    if metric not in METRICS:
        raise InputError(f"unknown metric {metric!r}; known: {', '.join(METRICS)}.")
    return METRICS[metric]


def traits_of(name: str) -> Metric:
    """What is known of a metric by its name alone: one by `evaluate` counts as "more is better", shown as it is.

    >>> traits_of("ece").sign, traits_of("certainty").sign
    (-1, 1)
    """
    return METRICS.get(name) or Metric(name, 1, lambda p: math.nan)


# --- of labels and answers alone


# --- the same as sums over rows. The last column is 1 for each row, so that its sum is the number of rows.


def _resampled(p: Predictions, rows: Int64[np.ndarray, " examples"]) -> Predictions:
    """Rows drawn with replacement: the ids are numbered anew, since they must be unique."""
    drawn: dict[str, Any] = {"label_names": p.label_names, "problem_type": p.problem_type}
    return Predictions(p.log_probs[rows], np.arange(len(rows)), p.needs_labels()[rows], **drawn)


def _by_evaluate(named: MetricByEvaluate) -> Metric:
    compute = load_foreign(named)

    def checked(p: Predictions) -> float:
        any_labels(p)
        return compute(p)

    sign = 1 if named.greater_is_better else -1
    return Metric(named.key or Path(named.load).stem, sign, checked, problem_types=PROBLEM_TYPES)


def metric_of_answers(
    name: str,
    of_answers: Callable[..., float],
    rows: Callable[[Predictions], Statistics],
    value: Callable[[Sums], Values],
    *,
    labels: Callable[..., Shaped[np.ndarray, "examples ..."]] = labels_of,
    **about: Any,
) -> Metric:
    """A metric in percent, more being better, that looks at labels and answers alone."""
    others = about.get("problem_types", ())

    def compute(p: Predictions) -> float:
        return of_answers(labels(p, *others), p.answers)

    return Metric(name, 1, compute, rows, value, of_answers=of_answers, percent=True, **about)


LABELS: tuple[ProblemType, ...] = (CLASSIFICATION, MULTI_LABEL)
METRICS: dict[str, Metric] = {
    m.name: m
    for m in (
        metric_of_answers(
            "accuracy", accuracy, accuracy_rows, mean_value,
            counts_rows=True, bounded=True, interval=accuracy_interval, problem_types=LABELS,
        ),
        metric_of_answers("f1", f1, f1_rows, f1_value, labels=two_classes, bounded=True),
        metric_of_answers(
            "f1_macro", f1_macro, f1_macro_rows, f1_macro_value,
            hub_parts=("f1",), problem_types=LABELS, bounded=True,
        ),
        metric_of_answers(
            "f1_micro", f1_micro, f1_micro_rows, f1_value, hub_parts=("f1",), problem_types=LABELS, bounded=True
        ),
        metric_of_answers(
            "f1_weighted", f1_weighted, f1_weighted_rows, f1_weighted_value,
            hub_parts=("f1",), problem_types=LABELS, bounded=True,
        ),
        metric_of_answers(
            "balanced_accuracy", balanced_accuracy, balanced_accuracy_rows, balanced_accuracy_value, bounded=True
        ),
        metric_of_answers(
            "accuracy_f1", accuracy_f1, f1_rows, accuracy_f1_value,
            labels=two_classes, hub_parts=("accuracy", "f1"), bounded=True,
        ),
        metric_of_answers("matthews", matthews, matthews_rows, matthews_value, hub_name="matthews_correlation"),
        Metric("roc_auc", 1, roc_auc, percent=True, problem_types=LABELS),
        Metric("average_precision", 1, average_precision, percent=True, problem_types=LABELS),
        Metric("mAP", 1, average_precision, percent=True, problem_types=LABELS),
        Metric("nll", -1, negative_log_likelihood, nll_rows, mean_value, problem_types=LABELS, bounded=True),
        Metric("brier", -1, brier, brier_rows, mean_value, problem_types=LABELS, bounded=True),
        Metric(
            "ece", -1, expected_calibration_error, ece_rows, debiased_value, percent=True, interval=ece_interval
        ),
        Metric(
            "pearson", 1, pearson, pearson_rows, pearson_value,
            percent=True, hub_name="pearsonr", problem_types=(REGRESSION,),
        ),
        Metric("spearman", 1, spearman, percent=True, hub_name="spearmanr", problem_types=(REGRESSION,)),
        Metric(
            "pearson_spearman", 1, pearson_spearman, percent=True,
            hub_parts=("pearsonr", "spearmanr"), problem_types=(REGRESSION,),
        ),
        Metric("rmse", -1, rmse, rmse_rows, rmse_value, problem_types=(REGRESSION,), bounded=True),
    )
}  # fmt: skip
