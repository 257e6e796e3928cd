"""Metrics against scikit-learn and loops; intervals against a brute-force bootstrap and against the truth."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.errors import InputError, PredictionsError, RecipeError
from hf_soups.metrics import (
    METRICS,
    Score,
    brier,
    expected_calibration_error,
    metric_for,
    negative_log_likelihood,
    score,
)
from hf_soups.metrics.bootstrap import percentile_interval, resampled_rows, resampled_sums
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import MetricByEvaluate, Task

# beartype draws random items to check while Predictions are made, which hypothesis takes for randomness of ours
pytestmark = pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")
CHECKED = settings(deadline=None, max_examples=60)
OF_TWO_CLASSES = ("f1", "accuracy_f1")
OF_CLASSES = [name for name, metric in METRICS.items() if "classification" in metric.problem_types]
SUMMED = [name for name in OF_CLASSES if METRICS[name].row_statistics is not None]

HALF = """
import datasets
import evaluate

class Half(evaluate.Metric):
    def _info(self):
        features = datasets.Features({"predictions": datasets.Value("int64"), "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references, factor=0.5):
        right = sum(p == r for p, r in zip(predictions, references))
        return {"half": factor * right / len(references), "count": len(references), "names": ["a"]}
"""
CERTAINTY = """
import datasets
import evaluate

class Certainty(evaluate.Metric):
    def _info(self):
        kind = datasets.Value("float64")
        scores = datasets.Sequence(kind) if self.config_name == "all" else kind
        features = datasets.Features({"prediction_scores": scores, "references": datasets.Value("int64")})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, prediction_scores, references):
        if self.config_name == "all":
            return {"certainty": sum(max(row) for row in prediction_scores) / len(references)}
        return {"certainty": sum(prediction_scores) / len(references)}
"""


@st.composite
def predictions(draw: st.DrawFn, classes: int | None = None) -> Predictions:
    """Random rows, with ties, certain rows and rows that are wrong with certainty among them."""
    count = draw(st.integers(2, 6)) if classes is None else classes
    rows = draw(st.integers(1, 40))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    kind = draw(st.sampled_from(["random", "ties", "certain", "one answer"]))
    logits = rng.normal(size=(rows, count)) * draw(st.sampled_from([0.1, 1.0, 10.0]))
    if kind == "ties":
        logits = np.round(logits)
    elif kind == "certain":
        logits = np.where(logits == logits.max(axis=1, keepdims=True), 200.0, 0.0)
    elif kind == "one answer":
        logits[:, 0] = 30
    labels = rng.integers(draw(st.integers(1, count)), size=rows)
    if draw(st.booleans()):
        labels = logits.argmax(axis=1)  # perfect
    elif draw(st.booleans()):
        labels = (logits.argmax(axis=1) + 1) % count  # all wrong
    return Predictions.from_logits(logits, labels=labels)


def float64_probs(p: Predictions) -> np.ndarray:
    probs = np.exp(p.log_probs.astype(np.float64))
    return probs / probs.sum(axis=1, keepdims=True)


def by_scikit_learn(p: Predictions, name: str) -> float:
    assert p.labels is not None
    y, answers, probs = p.labels, p.answers, float64_probs(p)
    accuracy = sklearn.metrics.accuracy_score(y, answers)
    return float(
        {
            "accuracy": lambda: accuracy,
            "f1": lambda: sklearn.metrics.f1_score(y, answers, zero_division=0),
            "f1_macro": lambda: sklearn.metrics.f1_score(y, answers, average="macro", zero_division=0),
            "accuracy_f1": lambda: (accuracy + sklearn.metrics.f1_score(y, answers, zero_division=0)) / 2,
            "f1_micro": lambda: sklearn.metrics.f1_score(y, answers, average="micro"),
            "f1_weighted": lambda: sklearn.metrics.f1_score(y, answers, average="weighted", zero_division=0),
            "balanced_accuracy": lambda: sklearn.metrics.balanced_accuracy_score(y, answers),
            "matthews": lambda: sklearn.metrics.matthews_corrcoef(y, answers),
            "nll": lambda: sklearn.metrics.log_loss(y, probs, labels=range(p.classes)),
            "brier": lambda: sklearn.metrics.brier_score_loss(y, probs, labels=range(p.classes), scale_by_half=False),
            "ece": lambda: calibration_error_by_a_loop(p, 15, debiased=True),
        }[name]()
    )


def scikit_learns(p: Predictions, name: str) -> Any:
    """Of counts to the last bit: there is one order in which to divide them."""
    value = by_scikit_learn(p, name)
    of_counts = METRICS[name].of_answers is not None
    return value if of_counts else pytest.approx(value, abs=1e-9 if name == "ece" else 1e-13)


def calibration_error_by_a_loop(p: Predictions, bins: int, *, debiased: bool = False) -> float:
    assert p.labels is not None
    error = 0.0
    for b in range(bins):
        inside = [
            i for i in range(len(p)) if (b == 0 or p.probs[i].max() > b / bins) and p.probs[i].max() <= (b + 1) / bins
        ]
        if b == bins - 1:  # rounding may lift a probability above 1
            inside = [i for i in range(len(p)) if p.probs[i].max() > b / bins]
        if inside:
            hits = np.mean([p.answers[i] == p.labels[i] for i in inside])
            confidence = np.mean([float(p.probs[i].max()) for i in inside])
            gap = len(inside) / len(p) * abs(hits - confidence)
            spread = np.sqrt(len(inside) * hits * (1 - hits)) / len(p)
            by_chance = scipy.stats.foldnorm(gap / spread, scale=spread).mean() - gap if debiased and spread else 0.0
            error += gap - by_chance
    return max(0.0, float(error))


def usable(p: Predictions) -> list[str]:
    return [name for name in SUMMED if p.classes == 2 or name not in OF_TWO_CLASSES]


@CHECKED
@given(predictions())
def test_every_metric_has_scikit_learns_value(p: Predictions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # scikit-learn warns about a class that is absent
        for name in usable(p):
            assert METRICS[name].compute(p) == scikit_learns(p, name), name


@CHECKED
@given(predictions(classes=2))
def test_two_class_metrics_have_scikit_learns_value(p: Predictions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in SUMMED:
            assert METRICS[name].compute(p) == scikit_learns(p, name), name


@CHECKED
@given(st.one_of(predictions(), predictions(classes=2)))
def test_the_value_follows_from_the_sums_of_row_statistics(p: Predictions) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in usable(p):
            metric = METRICS[name]
            assert metric.row_statistics is not None
            assert metric.value is not None
            from_sums = float(metric.value(metric.row_statistics(p).sum(axis=0)))
            assert from_sums == pytest.approx(metric.compute(p), abs=1e-9), name


@settings(deadline=None, max_examples=10)
@given(predictions(classes=2), st.integers(0, 100))
def test_intervals_equal_those_of_a_bootstrap_that_copies_the_rows(p: Predictions, seed: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        rows = resampled_rows(len(p), 12, seed)
        for name in SUMMED:
            resampled = [Predictions(p.log_probs[at], np.arange(len(p)), p.needs_labels()[at]) for at in rows]
            values = np.asarray([METRICS[name].compute(r) for r in resampled])
            low, high = percentile_interval(values, 0.9)
            got = score(p, replace(METRICS[name], interval=None), resamples=12, seed=seed, confidence=0.9)
            assert (got.low, got.high) == pytest.approx((low, high), abs=1e-9), name


def test_sums_do_not_depend_on_the_blocks_they_are_made_in(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for statistics in (rng.integers(0, 3, (300, 7)).astype(np.uint8), rng.normal(size=(300, 7))):
        whole = resampled_sums(statistics, 50, 0)
        monkeypatch.setattr("hf_soups.metrics.bootstrap.RESAMPLES_AT_ONCE", 7)
        monkeypatch.setattr("hf_soups.metrics.bootstrap.COLUMNS_AT_ONCE", 3)
        np.testing.assert_allclose(resampled_sums(statistics, 50, 0), whole, atol=1e-10)
        np.testing.assert_allclose(whole, [statistics[at].sum(axis=0) for at in resampled_rows(300, 50, 0)], atol=1e-10)


def test_sums_of_counts_stay_exact_where_float32_would_round() -> None:
    statistics = np.full((70_000, 1), 255, dtype=np.uint8)
    assert resampled_sums(statistics, 2, 0).tolist() == [[255 * 70_000.0]] * 2


@pytest.mark.parametrize(
    ("name", "truth"),
    [
        ("accuracy", 0.8),
        pytest.param("matthews", 0.6, marks=pytest.mark.slow),
        pytest.param("nll", None, marks=pytest.mark.slow),
    ],
)
def test_95_percent_intervals_hold_the_truth_about_95_times_in_100(name: str, truth: float | None) -> None:
    """400 samples of 200 rows: the share inside has a standard error of 1.1 points; the bounds are 4 of them."""
    rng = np.random.default_rng(1)
    loss = -(0.8 * np.log(0.9) + 0.2 * np.log(0.1))  # right in 80% of rows, always 90% sure
    inside, trials = 0, 400
    for trial in range(trials):
        labels = rng.integers(2, size=200)
        answers = np.where(rng.random(200) < 0.8, labels, 1 - labels)
        probs = np.where(answers[:, None] == np.arange(2), 0.9, 0.1)
        got = score(Predictions.from_probs(probs, labels=labels), name, resamples=300, seed=trial)
        inside += got.low <= (loss if truth is None else truth) <= got.high
    assert 0.90 <= inside / trials <= 0.99


def test_the_same_seed_gives_the_same_interval_and_another_seed_another_one() -> None:
    rng = np.random.default_rng(0)
    p = Predictions.from_logits(rng.normal(size=(100, 3)), labels=rng.integers(3, size=100))
    assert score(p, "nll", seed=1) == score(p, "nll", seed=1)
    assert score(p, "nll", seed=1) != score(p, "nll", seed=2)


def test_a_known_score_comes_out_digit_for_digit_on_every_machine() -> None:
    """Pinned: 60 of 100 right; the resamples are those of PCG64 with seed 0."""
    labels = np.zeros(100, dtype=int)
    probs = np.where((np.arange(100) < 60)[:, None], [0.9, 0.1], [0.2, 0.8])
    assert score(Predictions.from_probs(probs, labels=labels), "accuracy") == Score(0.6, 0.51, 0.69)


def test_a_thousand_resamples_cost_less_than_computing_the_metric_on_a_hundred() -> None:
    """On any CPU, with room: 1,000 took as long as 30 to 40."""
    rng = np.random.default_rng(0)
    p = Predictions.from_logits(rng.normal(size=(50_000, 10)), labels=rng.integers(10, size=50_000))

    def seconds(work: Callable[[], object]) -> float:  # the fastest of three, and not by the clock on the wall
        taken = []
        for _ in range(3):
            started = time.process_time()
            work()
            taken.append(time.process_time() - started)
        return min(taken)

    drawn = rng.integers(len(p), size=len(p))
    one = seconds(lambda: METRICS["ece"].compute(p.take(drawn)))
    assert seconds(lambda: score(p, "ece", resamples=1000)) < 100 * one


def test_perfect_and_hopeless_predictions_have_intervals_without_width_but_of_accuracy_wilsons() -> None:
    probs, labels = [[1.0, 0.0], [0.0, 1.0]], [0, 1]
    by_bootstrap = replace(METRICS["accuracy"], interval=None)
    assert score(Predictions.from_probs(probs, labels=labels), by_bootstrap) == Score(1.0, 1.0, 1.0)
    assert score(Predictions.from_probs(probs, labels=labels), "accuracy") == Score(1.0, 0.342380227507, 1.0)
    assert score(Predictions.from_probs(probs, labels=labels[::-1]), "accuracy") == Score(0.0, 0.0, 0.657619772493)
    assert score(Predictions.from_probs(probs[:1], labels=[0]), "matthews") == Score(0.0, 0.0, 0.0)


def test_f1_without_any_positive_is_0_and_not_a_warning() -> None:
    p = Predictions.from_probs([[0.9, 0.1], [0.8, 0.2]], labels=[0, 0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert score(p, "f1") == Score(0.0, 0.0, 0.0)


def test_ties_go_to_the_lowest_class() -> None:
    assert METRICS["accuracy"].compute(Predictions.from_probs([[0.5, 0.5]], labels=[0])) == 1
    assert METRICS["accuracy"].compute(Predictions.from_probs([[0.5, 0.5]], labels=[1])) == 0


def test_a_row_that_is_wrong_with_certainty_costs_36_nats_and_not_infinitely_many() -> None:
    p = Predictions.from_probs([[1.0, 0.0]], labels=[1])
    assert negative_log_likelihood(p) == pytest.approx(-np.log(np.finfo(np.float64).eps))


def test_the_brier_score_of_a_coin_is_half_and_of_certain_error_two() -> None:
    assert brier(Predictions.from_probs([[0.5, 0.5]], labels=[0])) == pytest.approx(0.5)
    assert brier(Predictions.from_probs([[0.0, 1.0]], labels=[0])) == pytest.approx(2.0)


@CHECKED
@given(predictions(), st.integers(1, 30))
def test_the_calibration_error_is_that_of_a_loop_over_bins(p: Predictions, bins: int) -> None:
    for debiased in (True, False):
        by_loop = calibration_error_by_a_loop(p, bins, debiased=debiased)
        assert expected_calibration_error(p, bins=bins, debiased=debiased) == pytest.approx(by_loop, abs=1e-9)


def test_confidence_on_a_bins_upper_edge_belongs_to_it() -> None:
    """0.75 with 4 bins lies in (0.5, 0.75] with 0.7: (2 rows, 1 hit) gives |1.45 - 1| / 2, two bins would give 0.5."""
    p = Predictions.from_probs([[0.75, 0.25], [0.7, 0.3]], labels=[0, 1])
    assert expected_calibration_error(p, bins=4, debiased=False) == pytest.approx(0.225, abs=1e-6)


def test_no_rows_no_labels_and_too_many_classes_for_f1_are_told() -> None:
    empty = Predictions.from_probs(np.empty((0, 2)), labels=[])
    for name in OF_CLASSES:
        with pytest.raises(PredictionsError, match="hold no rows"):
            score(empty, name)
        with pytest.raises(PredictionsError, match="hold no labels"):
            score(Predictions.from_probs([[0.5, 0.5]]), name)
    with pytest.raises(PredictionsError, match=r"f1 is of two classes.*these predictions have 3. Use f1_macro"):
        score(Predictions.from_probs([[0.2, 0.3, 0.5]], labels=[2]), "f1")


def test_wrong_arguments_are_told() -> None:
    p = Predictions.from_probs([[0.5, 0.5]], labels=[0])
    with pytest.raises(RecipeError, match="unknown metric 'acuracy'; known by name: accuracy, f1"):
        score(p, "acuracy")
    with pytest.raises(InputError, match=r"confidence is 95.0; expected a share between 0 and 1"):
        score(p, "accuracy", confidence=95.0)
    with pytest.raises(InputError, match="0 resamples; an interval needs at least 1"):
        score(p, "accuracy", resamples=0)
    with pytest.raises(InputError, match="0 bins; the calibration error needs at least 1"):
        expected_calibration_error(p, bins=0)


def test_one_class_alone_is_always_right_and_never_surprising() -> None:
    p = Predictions.from_probs([[1.0], [1.0]], labels=[0, 0])
    assert {name: score(p, name).value for name in ("accuracy", "nll", "brier", "ece", "matthews")} == {
        "accuracy": 1.0,
        "nll": 0.0,
        "brier": 0.0,
        "ece": 0.0,
        "matthews": 0.0,
    }


def task(metric: str | MetricByEvaluate) -> Task:
    return Task(kind="text", path="any", text=("text",), metric=metric)


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the custom metrics half and certainty, and a broken one."""
    tmp_path = tmp_path_factory.mktemp("metrics")
    for name, text in (("half", HALF), ("certainty", CERTAINTY), ("broken", "import datasets\n1 / 0\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"{name}.py").write_text(text)
    with pytest.MonkeyPatch.context() as patch:  # once: Python remembers where it imported the scripts' package from
        patch.setattr("evaluate.config.HF_MODULES_CACHE", str(tmp_path / "modules"))
        yield tmp_path


def test_a_task_finds_its_metric_by_name() -> None:
    assert metric_for(task("matthews")) is METRICS["matthews"]
    with pytest.raises(RecipeError, match="unknown metric 'bleu'"):
        metric_for(task("bleu"))


def test_a_metric_of_evaluate_runs_from_a_local_folder(script: Path) -> None:
    half = metric_for(task(MetricByEvaluate(load=str(script / "half"), key="half", arguments={"factor": 2})))
    rng = np.random.default_rng(0)
    p = Predictions.from_logits(rng.normal(size=(50, 3)), labels=rng.integers(3, size=50))
    mine, accuracy = score(p, half, resamples=500), score(p, "accuracy", resamples=200)
    assert half.name == "half"
    assert (mine.value, mine.low, mine.high) == pytest.approx(
        (2 * accuracy.value, 2 * accuracy.low, 2 * accuracy.high)
    )  # 200 resamples, and the same ones


def test_a_metric_of_evaluate_may_lower_be_better_and_take_probabilities(script: Path) -> None:
    named = MetricByEvaluate(load=str(script / "certainty" / "certainty.py"), greater_is_better=False)
    p = Predictions.from_probs([[0.2, 0.8], [0.6, 0.4]], labels=[0, 0])
    metric = metric_for(task(named))
    assert metric.sign == -1
    assert metric.compute(p) == pytest.approx(0.6)  # of the second class
    of_all = metric_for(task(MetricByEvaluate(load=str(script / "certainty"), config="all")))
    assert of_all.compute(p) == pytest.approx(0.7)


def test_what_a_metric_of_evaluate_cannot_give_is_told(script: Path) -> None:
    p = Predictions.from_probs([[0.2, 0.3, 0.5]], labels=[0])
    half = str(script / "half")
    with pytest.raises(RecipeError, match="returns half, count, names; say with `key` which is the score"):
        metric_for(task(MetricByEvaluate(load=half))).compute(p)
    with pytest.raises(RecipeError, match="returns no 'hlf', only half, count, names; correct `key`"):
        metric_for(task(MetricByEvaluate(load=half, key="hlf"))).compute(p)
    with pytest.raises(RecipeError, match=r"'names' is \['a'\], not one number"):
        metric_for(task(MetricByEvaluate(load=half, key="names"))).compute(p)
    with pytest.raises(RecipeError, match="takes one number a row, but there are 3 classes"):
        metric_for(task(MetricByEvaluate(load=str(script / "certainty")))).compute(p)
    with pytest.raises(RecipeError, match=r"broken.py cannot be loaded: ZeroDivisionError"):
        metric_for(task(MetricByEvaluate(load=str(script / "broken"))))
    with pytest.raises(RecipeError, match="no such folder or file"):
        metric_for(task(MetricByEvaluate(load=str(script / "none"))))
    with pytest.raises(RecipeError, match="the script is named as its folder"):
        metric_for(task(MetricByEvaluate(load=str(script))))


def test_a_metric_from_the_hub_is_not_run_unless_its_code_is_trusted() -> None:
    with pytest.raises(RecipeError, match=r"would be run here\. Set `trust_code: true`"):
        metric_for(task(MetricByEvaluate(load="f1")))


def test_a_metric_from_the_hub_says_what_to_do_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RecipeError, match=r"HF_HUB_OFFLINE is set. Go online once so that it is cached, copy its"):
        metric_for(task(MetricByEvaluate(load="no-such-metric-anywhere", trust_code=True)))
