"""Metrics: one number from Predictions, computed by scikit-learn, with a bootstrap interval by row.

Each metric also follows from sums of row statistics: a resample of the rows is then only other sums, and 1,000
resamples of 50,000 rows take about a second.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64, Real, Shaped
from numpy.typing import ArrayLike

from hf_soups.errors import InputError, PredictionsError, RecipeError
from hf_soups.files.problem_types import CLASSIFICATION, MULTI_LABEL, PROBLEM_TYPES, REGRESSION, ProblemType
from hf_soups.metrics.closed_intervals import (
    calibration_interval,
    calibration_rows,
    debiased_value,
    share_interval,
)
from hf_soups.metrics.foreign import load_foreign
from hf_soups.metrics.further import (
    average_precision,
    balanced_accuracy,
    balanced_accuracy_rows,
    balanced_accuracy_value,
    f1_micro,
    f1_micro_rows,
    f1_weighted,
    f1_weighted_rows,
    f1_weighted_value,
    pearson,
    pearson_rows,
    pearson_spearman,
    pearson_value,
    rmse,
    rmse_rows,
    rmse_value,
    roc_auc,
    spearman,
)  # fmt: skip
from hf_soups.metrics.rows import (
    Statistics,
    Sums,
    Values,
    any_labels,
    by_decision,
    by_row,
    divided,
    labels_of,
    marks_of,
    one_hot,
    probabilities_of,
)
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import MetricByEvaluate, Task

RESAMPLES_AT_ONCE = 64  # 64 x 50,000 rows of weights are 26 MB in float64
COLUMNS_AT_ONCE = 256  # of the statistics, so that 1,000 classes need no copy of the whole
EXACT_FLOAT32_ROWS = 2**16  # counts up to 255 a row then sum below 2**24, where float32 is still exact


def resampled_rows(rows: int, resamples: int, seed: int) -> list[Int64[np.ndarray, " rows"]]:
    """Row indices of each resample, drawn with replacement; the same for the same seed."""
    rng = np.random.Generator(np.random.PCG64(seed))
    return [rng.integers(rows, size=rows) for _ in range(resamples)]


def resampled_sums(
    statistics: Real[np.ndarray, "rows statistics"], resamples: int, seed: int
) -> Float64[np.ndarray, "resamples statistics"]:
    """Sums of the row statistics over the rows of each resample, without copying any row.

    A resample is how often each row was drawn, so that all sums are one matrix product, done in blocks.
    """
    rows, columns = statistics.shape
    rng = np.random.Generator(np.random.PCG64(seed))
    counts = statistics.dtype == np.uint8 and rows <= EXACT_FLOAT32_ROWS
    kind = np.float32 if counts else np.float64  # counts are exact in both, and twice as fast in the narrower
    sums = np.empty((resamples, columns))
    for start in range(0, resamples, RESAMPLES_AT_ONCE):
        stop = min(start + RESAMPLES_AT_ONCE, resamples)
        drawn = np.empty((stop - start, rows), dtype=kind)
        for i in range(stop - start):
            drawn[i] = np.bincount(rng.integers(rows, size=rows), minlength=rows)
        for left in range(0, columns, COLUMNS_AT_ONCE):
            block = slice(left, left + COLUMNS_AT_ONCE)
            sums[start:stop, block] = drawn @ statistics[:, block].astype(kind)
    return sums


def percentile_interval(values: Float[np.ndarray, " resamples"], confidence: float) -> tuple[float, float]:
    """The middle `confidence` of the values, as (low, high).

    Rounded to 12 digits: the last bits of the sums depend on how many threads the BLAS library uses.

    >>> percentile_interval(np.arange(101) / 100, 0.9)
    (0.05, 0.95)
    """
    tail = (1 - confidence) / 2
    known = values[~np.isnan(values)]  # a resample may lack a class that a ranking needs
    low, high = np.quantile(known if len(known) else values, [tail, 1 - tail])
    return round(float(low), DIGITS), round(float(high), DIGITS)


def recomputed(
    rows: int, value: Callable[[np.ndarray], float], resamples: int, seed: int
) -> Float64[np.ndarray, " resamples"]:
    """`value(indices)` for each resample: slower, for scores that no sums of row statistics give."""
    return np.asarray([value(at) for at in resampled_rows(rows, resamples, seed)], dtype=np.float64)


RECOMPUTED_RESAMPLES = 200  # of metrics by `evaluate`, which are computed anew for each resample
CLIP = float(np.finfo(np.float64).eps)  # scikit-learn's log_loss: no probability below it, at most 36.04 nats a row
ECE_BINS = 15
DIGITS = 12  # that ends of intervals are rounded to


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
        metric.compute(made)
    except Exception as error:  # a metric by `evaluate` is a script, and may raise anything
        raise RecipeError(
            f"task.metric {metric.name!r} cannot score a task of {len(label_names)} classes "
            f"({', '.join(f'{name:.40}' for name in label_names[:10])}): {error}"
        ) from error
    return metric


TRIED = 1000  # rows


def _made(problem_type: ProblemType, labels: Shaped[np.ndarray, "rows ..."], classes: int) -> Predictions:
    """Answers to rows with these labels, most of them right."""
    noise = np.random.default_rng(0).normal(size=(len(labels), classes))
    right = np.eye(classes)[labels] if problem_type == CLASSIFICATION else labels.reshape(noise.shape)
    return Predictions.from_logits(noise + 3 * right, labels=labels, problem_type=problem_type)


def _names_for(problem_type: ProblemType) -> str:
    return ", ".join(name for name, metric in METRICS.items() if problem_type in metric.problem_types)


# what the loss is called by which models that score the same are told apart
LOSSES: Mapping[ProblemType, str] = {CLASSIFICATION: "nll", MULTI_LABEL: "nll", REGRESSION: "rmse"}


def also_scored(problem_type: ProblemType) -> tuple[Metric, ...]:
    """What is shown beside a task's own metric."""
    beside = (LOSSES[problem_type], *(("ece",) if problem_type == CLASSIFICATION else ()))
    return tuple(METRICS[name] for name in beside)


def loss_metric(problem_type: ProblemType) -> Metric:
    """The metric that a fine-tune's loss stands for: negative log-likelihood, or of a regression the error's root."""
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


def negative_log_likelihood(p: Predictions) -> float:
    """Mean negative log-probability of the true label, in nats, by scikit-learn's `log_loss`.

    Probabilities below 2.2e-16 count as 2.2e-16, so one row adds at most 36.04 nats. Of a multi-label problem the mean
    is over every label of every row.

    >>> round(negative_log_likelihood(Predictions.from_probs([[0.5, 0.5], [0.25, 0.75]], labels=[0, 1])), 4)
    0.4904
    """
    from sklearn.metrics import log_loss

    p = by_decision(p)
    labels = labels_of(p)
    if p.classes == 1:
        return 0.0  # log_loss asks for two classes; the only class has probability 1
    return float(log_loss(labels, probabilities_of(p), labels=np.arange(p.classes)))


def brier(p: Predictions) -> float:
    """Brier score in [0, 2]: the mean over rows of the sum over all classes of the squared error.

    This is Brier's own definition; for two classes it is twice what is computed from the second class alone. Of a
    multi-label problem each label of each row counts as a row of two classes.

    Source: Brier 1950, Verification of forecasts expressed in terms of probability.

    >>> round(brier(Predictions.from_probs([[0.75, 0.25]], labels=[0])), 6)
    0.125
    """
    from sklearn.metrics import mean_squared_error

    p = by_decision(p)
    truth = np.eye(p.classes)[labels_of(p)]
    return float(mean_squared_error(truth, probabilities_of(p), multioutput="raw_values").sum())


def expected_calibration_error(p: Predictions, *, bins: int = ECE_BINS, debiased: bool = True) -> float:
    """Expected calibration error of the top label, in [0, 1].

    Args:
        p: labelled predictions; the confidence is the probability of the most probable class.
        bins: equal-width confidence bins over (0, 1], each open below and closed above.
        debiased: take off what chance adds on few rows: a calibrated model's error seems to be 3 points on 300 rows.
            Without it, it is the sum of the gaps as they are seen, as most papers have it.
    Raises:
        ValueError: if `bins` < 1, or `p` holds no labels or no rows.
    Source: Guo et al. 2017, arXiv:1706.04599, eq. 3; debiased: Kumar et al. 2019, arXiv:1909.10155.

    >>> expected_calibration_error(Predictions.from_probs([[0.75, 0.25]], labels=[0]))
    0.25
    """
    if bins < 1:
        raise InputError(f"{bins} bins; the calibration error needs at least 1.")
    labels_of(p)
    sums = calibration_rows(p, bins).sum(axis=0)
    return float(debiased_value(sums) if debiased else np.abs(sums[:bins]).sum() / len(p))


# --- of labels and answers alone


def _accuracy(labels: ArrayLike, answers: ArrayLike) -> float:
    from sklearn.metrics import accuracy_score

    return float(accuracy_score(labels, answers))


def _f1(labels: ArrayLike, answers: ArrayLike, average: str = "binary", pos_label: int = 1) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(labels, answers, average=average, pos_label=pos_label, zero_division=0))


def _f1_macro(labels: ArrayLike, answers: ArrayLike) -> float:
    return _f1(labels, answers, average="macro")


def _accuracy_f1(labels: ArrayLike, answers: ArrayLike) -> float:
    return (_accuracy(labels, answers) + _f1(labels, answers)) / 2


def _matthews(labels: ArrayLike, answers: ArrayLike) -> float:
    from sklearn.metrics import matthews_corrcoef

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found")  # the value is 0 then, as documented
        return float(matthews_corrcoef(labels, answers))


# --- the same as sums over rows. The last column is 1 for each row, so that its sum is the number of rows.


def _accuracy_rows(p: Predictions) -> Statistics:
    hit = labels_of(p, MULTI_LABEL) == p.answers
    hit = (hit.all(axis=1) if hit.ndim == 2 else hit).astype(np.uint8)
    return np.stack([hit, np.ones_like(hit)], axis=1)


def _accuracy_interval(p: Predictions, confidence: float) -> tuple[float, float] | None:
    sums = _accuracy_rows(p).sum(axis=0, dtype=np.float64)
    return share_interval(float(sums[0]), int(sums[-1]), confidence)


def _mean_value(sums: Sums) -> Values:
    return divided(sums[..., 0], sums[..., -1])


def _f1_rows(p: Predictions) -> Statistics:
    """True positives, true + predicted positives, hits, one."""
    true, said = _two_classes(p) == 1, p.answers == 1
    columns = (true & said, true.astype(np.uint8) + said, true == said, np.ones_like(true))
    return np.stack(columns, axis=1).astype(np.uint8)


def _f1_value(sums: Sums) -> Values:
    return divided(2.0 * sums[..., 0], sums[..., 1])


def _accuracy_f1_value(sums: Sums) -> Values:
    return np.asarray((_f1_value(sums) + divided(sums[..., 2], sums[..., 3])) / 2)


def _f1_macro_rows(p: Predictions) -> Statistics:
    """Of each class, true positives; then of each class, true + predicted. Of a multi-label problem a 1 behind them."""
    true, said = marks_of(p)
    one = () if p.problem_type == CLASSIFICATION else (np.ones((len(p), 1), dtype=np.uint8),)
    return np.concatenate([true & said, true + said, *one], axis=1)


def _f1_macro_value(sums: Sums) -> Values:
    """Over the classes that occur among labels or answers, as scikit-learn does by default; over every label."""
    classes, every = divmod(sums.shape[-1], 2)
    both, either = sums[..., :classes], sums[..., classes : 2 * classes]
    return divided(
        divided(2.0 * both, either).sum(axis=-1), np.float64(classes) if every else (either > 0).sum(axis=-1)
    )


def _matthews_rows(p: Predictions) -> Statistics:
    """Rows with each true class, rows with each answer, hits, one."""
    labels = labels_of(p)
    hit = (labels == p.answers).astype(np.uint8)[:, None]
    return np.concatenate([one_hot(labels, p.classes), one_hot(p.answers, p.classes), hit, np.ones_like(hit)], axis=1)


def _matthews_value(sums: Sums) -> Values:
    """Gorodkin's R_K: the covariance of labels and answers over the root of their variances; 0 without variance."""
    totals = np.asarray(sums, dtype=np.float64)
    true, said = np.split(totals[..., :-2], 2, axis=-1)
    hits, rows = totals[..., -2], totals[..., -1]
    covariance = hits * rows - (true * said).sum(axis=-1)
    variances = (rows**2 - (true**2).sum(axis=-1)) * (rows**2 - (said**2).sum(axis=-1))
    return divided(covariance, np.sqrt(variances))


def _nll_rows(p: Predictions) -> Statistics:
    rows, p = len(p), by_decision(p)
    of_label = probabilities_of(p)[np.arange(len(p)), labels_of(p)]
    lost = -np.log(np.clip(of_label, CLIP, 1 - CLIP if p.classes > 1 else 1))
    return by_row(np.stack([lost, np.ones(len(p))], axis=1), rows)


def _brier_rows(p: Predictions) -> Statistics:
    rows, p = len(p), by_decision(p)
    errors = probabilities_of(p)
    errors[np.arange(len(p)), labels_of(p)] -= 1
    return by_row(np.stack([np.square(errors).sum(axis=1), np.ones(len(p))], axis=1), rows)


def _ece_rows(p: Predictions) -> Statistics:
    labels_of(p)
    return calibration_rows(p, ECE_BINS)


def _ece_interval(p: Predictions, confidence: float) -> tuple[float, float]:
    return calibration_interval(p, ECE_BINS, confidence)


def _two_classes(p: Predictions, *_: ProblemType) -> Int64[np.ndarray, " examples"]:
    if p.problem_type == CLASSIFICATION and p.classes != 2:
        raise PredictionsError(
            f"f1 is of two classes, the second being positive; these predictions have {p.classes}. Use f1_macro."
        )
    return labels_of(p)


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
            "accuracy", _accuracy, _accuracy_rows, _mean_value,
            counts_rows=True, interval=_accuracy_interval, problem_types=LABELS,
        ),
        metric_of_answers("f1", _f1, _f1_rows, _f1_value, labels=_two_classes),
        metric_of_answers(
            "f1_macro", _f1_macro, _f1_macro_rows, _f1_macro_value, hub_parts=("f1",), problem_types=LABELS
        ),
        metric_of_answers("f1_micro", f1_micro, f1_micro_rows, _f1_value, hub_parts=("f1",), problem_types=LABELS),
        metric_of_answers(
            "f1_weighted", f1_weighted, f1_weighted_rows, f1_weighted_value,
            hub_parts=("f1",), problem_types=LABELS,
        ),
        metric_of_answers("balanced_accuracy", balanced_accuracy, balanced_accuracy_rows, balanced_accuracy_value),
        metric_of_answers(
            "accuracy_f1", _accuracy_f1, _f1_rows, _accuracy_f1_value,
            labels=_two_classes, hub_parts=("accuracy", "f1"),
        ),
        metric_of_answers("matthews", _matthews, _matthews_rows, _matthews_value, hub_name="matthews_correlation"),
        Metric("roc_auc", 1, roc_auc, percent=True, problem_types=LABELS),
        Metric("average_precision", 1, average_precision, percent=True, problem_types=LABELS),
        Metric("mAP", 1, average_precision, percent=True, hub_parts=("average_precision",), problem_types=LABELS),
        Metric("nll", -1, negative_log_likelihood, _nll_rows, _mean_value, problem_types=LABELS),
        Metric("brier", -1, brier, _brier_rows, _mean_value, problem_types=LABELS),
        Metric(
            "ece", -1, expected_calibration_error, _ece_rows, debiased_value, percent=True, interval=_ece_interval
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
        Metric("rmse", -1, rmse, rmse_rows, rmse_value, problem_types=(REGRESSION,)),
    )
}  # fmt: skip
