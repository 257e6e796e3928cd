"""Metrics of rankings, of many labels a row and of regressions: scikit-learn's and SciPy's values, and refusals."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from hf_soups.errors import PredictionsError, RecipeError
from hf_soups.metrics import METRICS, metric_for, metric_for_rows, paired_bootstrap, score
from hf_soups.metrics.bootstrap import percentile_interval, resampled_rows
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import Task

RNG = np.random.default_rng(0)
ROWS, LABELS = 80, 4
MARKS = (RNG.random((ROWS, LABELS)) < (0.5, 0.3, 0.2, 0.05)).astype(int)
MARKS[0, 3] = 1
Z = RNG.normal(size=(ROWS, LABELS)) + 1.5 * MARKS - 0.8
MULTI = Predictions.from_logits(Z, labels=MARKS, problem_type="multi-label")
P = 1 / (1 + np.exp(-Z))
NUMBERS = RNG.normal(3, 1, ROWS)
SAID = NUMBERS + RNG.normal(0, 0.7, ROWS)
REGRESSION = Predictions.from_logits(SAID[:, None], labels=NUMBERS, problem_type="regression")
SAID32 = SAID.astype(np.float32)

OF_LABELS = {
    "accuracy": lambda: sklearn.metrics.accuracy_score(MARKS, P > 0.5),
    "f1_micro": lambda: sklearn.metrics.f1_score(MARKS, P > 0.5, average="micro"),
    "f1_macro": lambda: sklearn.metrics.f1_score(MARKS, P > 0.5, average="macro", zero_division=0),
    "f1_weighted": lambda: sklearn.metrics.f1_score(MARKS, P > 0.5, average="weighted", zero_division=0),
    "roc_auc": lambda: sklearn.metrics.roc_auc_score(MARKS, P, average="macro"),
    "average_precision": lambda: sklearn.metrics.average_precision_score(MARKS, P, average="macro"),
    "mAP": lambda: sklearn.metrics.average_precision_score(MARKS, P, average="macro"),
    "nll": lambda: sklearn.metrics.log_loss(MARKS.ravel(), P.ravel()),
    "brier": lambda: 2 * sklearn.metrics.brier_score_loss(MARKS.ravel(), P.ravel()),
}
OF_NUMBERS = {
    "pearson": lambda: scipy.stats.pearsonr(NUMBERS, SAID32).statistic,
    "spearman": lambda: scipy.stats.spearmanr(NUMBERS, SAID32).statistic,
    "pearson_spearman": lambda: (
        scipy.stats.pearsonr(NUMBERS, SAID32).statistic + scipy.stats.spearmanr(NUMBERS, SAID32).statistic
    ) / 2,
    "rmse": lambda: sklearn.metrics.mean_squared_error(NUMBERS, SAID32) ** 0.5,
}  # fmt: skip


def test_every_metric_is_of_the_problem_types_that_it_says() -> None:
    assert {n for n, m in METRICS.items() if "multi-label" in m.problem_types} == set(OF_LABELS)
    assert {n for n, m in METRICS.items() if "regression" in m.problem_types} == set(OF_NUMBERS)
    for metric in METRICS.values():
        for p in (MULTI, REGRESSION):
            if p.problem_type not in metric.problem_types:
                with pytest.raises(PredictionsError, match=f"problem type '{p.problem_type}', which this metric does"):
                    metric.compute(p)


@pytest.mark.parametrize("name", OF_LABELS)
def test_metrics_of_many_labels_have_scikit_learns_value(name: str) -> None:
    assert METRICS[name].compute(MULTI) == pytest.approx(OF_LABELS[name](), abs=1e-6)


@pytest.mark.parametrize("name", OF_NUMBERS)
def test_metrics_of_a_regression_have_scipys_value(name: str) -> None:
    assert METRICS[name].compute(REGRESSION) == pytest.approx(OF_NUMBERS[name](), abs=1e-9)


def test_a_label_that_is_never_there_counts_as_scikit_learn_counts_it() -> None:
    p = Predictions.from_logits([[2.0, -2.0], [2.0, -2.0]], labels=[[1, 0], [1, 0]], problem_type="multi-label")
    expected = sklearn.metrics.f1_score(p.labels, p.answers, average="macro", zero_division=0)
    assert METRICS["f1_macro"].compute(p) == expected == 0.5
    assert score(p, "f1_macro", resamples=10).low == 0.5


@pytest.mark.parametrize(("p", "name"), [*((MULTI, n) for n in OF_LABELS), *((REGRESSION, n) for n in OF_NUMBERS)])
def test_values_and_intervals_are_those_of_rows_that_are_copied(p: Predictions, name: str) -> None:
    metric = METRICS[name]
    drawn = [
        metric.compute(Predictions(p.log_probs[at], np.arange(ROWS), p.needs_labels()[at], problem_type=p.problem_type))
        for at in resampled_rows(ROWS, 12, 3)
    ]
    found = score(p, name, resamples=12, seed=3, confidence=0.9)
    assert (found.low, found.high) == pytest.approx(percentile_interval(np.array(drawn), 0.9), abs=1e-9)
    if metric.row_statistics is not None and metric.value is not None:
        assert float(metric.value(metric.row_statistics(p).sum(axis=0))) == pytest.approx(found.value, abs=1e-9)
    assert paired_bootstrap(p, p, name, resamples=20).difference == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_rankings_of_classes_have_scikit_learns_value(classes: int) -> None:
    labels = np.arange(60) % classes
    p = Predictions.from_logits(RNG.normal(size=(60, classes)) + np.eye(classes)[labels], labels=labels)
    own = p.probs[:, 1] if classes == 2 else p.probs
    area = sklearn.metrics.roc_auc_score(labels, own, multi_class="ovr")
    marks = labels if classes == 2 else np.eye(classes)[labels]
    assert METRICS["roc_auc"].compute(p) == pytest.approx(area, abs=1e-12)
    precision = sklearn.metrics.average_precision_score(marks, own)
    assert METRICS["average_precision"].compute(p) == METRICS["mAP"].compute(p) == pytest.approx(precision, abs=1e-12)


def test_a_ranking_leaves_out_what_no_row_has_and_warns_of_nothing() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        three = Predictions.from_probs([[0.5, 0.3, 0.2], [0.2, 0.7, 0.1]], labels=[0, 1])
        assert METRICS["roc_auc"].compute(three) == METRICS["average_precision"].compute(three) == 1
        one = three.take([0])
        assert math.isnan(METRICS["roc_auc"].compute(one))
        found = score(three, "roc_auc", resamples=20)  # some resamples hold one class only
        assert (found.low, found.high) == (1, 1)


def test_a_constant_answer_correlates_with_nothing() -> None:
    p = Predictions.from_logits([[1.0], [1.0], [1.0]], labels=[1.0, 2.0, 3.0], problem_type="regression")
    for name in ("pearson", "spearman", "pearson_spearman"):
        assert METRICS[name].compute(p) == score(p, name, resamples=5).high == 0


def task(**changes: object) -> Task:
    return Task.model_validate({"kind": "text", "path": "x", "text": ["text"], **changes})


def test_a_metric_of_another_problem_type_is_refused_with_those_that_fit() -> None:
    with pytest.raises(RecipeError, match=r"'matthews', which is for classification, .* 'multi-label'. .* f1_micro"):
        metric_for(task(problem_type="multi-label", metric="matthews"))
    with pytest.raises(RecipeError, match=r"'f1_micro', which is for classification and multi-label, .* pearson, "):
        metric_for(task(problem_type="regression", metric="f1_micro"))
    assert metric_for(task(problem_type="regression")) is METRICS["pearson"]
    assert metric_for(task(problem_type="multi-label")) is METRICS["f1_micro"]


def test_a_metric_is_tried_on_as_many_classes_as_the_data_have() -> None:
    with pytest.raises(RecipeError, match=r"'f1' cannot score a task of 3 classes \(a, b, c\): f1 is of two classes"):
        metric_for_rows(task(metric="f1"), np.array([0, 1]), ("a", "b", "c"))
    assert metric_for_rows(task(metric="f1"), np.array([0, 1]), ("a", "b")) is METRICS["f1"]
    names = {"classification": ("a", "b", "c"), "multi-label": ("a",), "regression": ("label",)}
    labels = {"classification": np.array([0, 1]), "multi-label": np.array([[0], [1]]), "regression": np.array([0.5, 1])}
    for name, metric in METRICS.items():
        for problem_type in metric.problem_types:
            if name not in ("f1", "accuracy_f1"):
                of = task(problem_type=problem_type, metric=name)
                assert metric_for_rows(of, labels[problem_type], names[problem_type]) is metric
