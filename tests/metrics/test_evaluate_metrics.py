"""The `evaluate.Metric` classes: offline, without a cache to write to, with the values of `metrics`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import evaluate
import numpy as np
import pytest
import sklearn.metrics

from hf_soups.errors import InputError, PredictionsError
from hf_soups.evaluate_metrics import (
    CLASSES,
    F1,
    Accuracy,
    BrierScore,
    ExpectedCalibrationError,
    Matthews,
    NegativeLogLikelihood,
    load_metric,
)
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from tests.makers.patience import PATIENCE

RNG = np.random.default_rng(0)
P = Predictions.from_logits(RNG.normal(size=(60, 2)), labels=RNG.integers(2, size=60))
NUMBERS = Predictions.from_logits(RNG.normal(size=(60, 1)), labels=RNG.normal(size=60), problem_type="regression")
OF_PROBABILITIES = ("nll", "brier", "ece", "roc_auc", "average_precision", "mAP")


def test_there_is_one_for_every_metric_by_name() -> None:
    assert set(CLASSES) == set(METRICS)


@pytest.mark.parametrize("name", CLASSES)
def test_each_has_the_value_of_the_metric_of_that_name(name: str) -> None:
    p = NUMBERS if METRICS[name].problem_types == ("regression",) else P
    inputs = {"prediction_scores": p.probs} if name in OF_PROBABILITIES else {"predictions": p.answers}
    assert load_metric(name).compute(references=p.labels, **inputs) == {name: pytest.approx(METRICS[name].compute(p))}


def test_label_metrics_combine() -> None:
    together = evaluate.combine([Accuracy(), F1(), Matthews()])
    told = together.compute(predictions=P.answers, references=P.labels)
    assert told == {name: pytest.approx(METRICS[name].compute(P)) for name in ("accuracy", "f1", "matthews")}


def test_rows_can_be_added_batch_by_batch_and_one_by_one() -> None:
    metric = Accuracy()
    metric.add(prediction=1, reference=1)
    metric.add_batch(predictions=[0, 1], references=[1, 1])
    assert metric.compute() == {"accuracy": pytest.approx(2 / 3)}
    assert metric.compute(predictions=[0], references=[1]) == {"accuracy": 0.0}  # and starts anew


def test_f1_takes_scikit_learns_average_and_positive_label() -> None:
    said, true = [0, 1, 2, 2], [0, 2, 2, 1]
    macro = F1().compute(predictions=said, references=true, average="macro")
    assert macro == {"f1": pytest.approx(sklearn.metrics.f1_score(true, said, average="macro"))}
    assert F1().compute(predictions=[0, 0, 1], references=[0, 1, 1], pos_label=0) == {"f1": pytest.approx(2 / 3)}


def test_probabilities_of_many_classes_are_scored() -> None:
    scores, labels = [[0.7, 0.2, 0.1], [0.1, 0.2, 0.7]], [0, 1]
    p = Predictions.from_probs(scores, labels=labels)
    for metric in (NegativeLogLikelihood(), BrierScore(), ExpectedCalibrationError()):
        told = metric.compute(prediction_scores=scores, references=labels)
        assert told == {metric.key: pytest.approx(METRICS[metric.key].compute(p))}


def test_logits_given_for_probabilities_are_refused() -> None:
    with pytest.raises(PredictionsError, match="If these are logits, use from_logits"):
        NegativeLogLikelihood().compute(prediction_scores=[[2.0, 3.0]], references=[0])


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="unknown metric 'bleu'; known by name: accuracy, f1"):
        load_metric("bleu")


def test_they_say_what_they_take_and_return() -> None:
    assert "Takes predictions, references; returns {'accuracy': float}" in Accuracy().inputs_description
    assert BrierScore().description.startswith("Brier score in [0, 2]")


@pytest.mark.slow
def test_they_work_offline_where_the_cache_cannot_be_written(tmp_path: Path) -> None:
    """A cache below a file can be written by nobody, not even by root."""
    (tmp_path / "file").touch()
    code = (
        "from hf_soups.evaluate_metrics import *; import evaluate;"
        "print(evaluate.combine([Accuracy(), F1()]).compute(predictions=[0, 1], references=[1, 1]))"
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "file" / "cache")}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "{'accuracy': 0.5, 'f1': 0.6666666666666666}", done.stderr


@pytest.mark.slow
def test_several_processes_may_compute_together_through_the_cache(tmp_path: Path) -> None:
    """As `evaluate` describes it: each process adds its share, process 0 computes over all of them."""
    code = (
        "import sys; from hf_soups.evaluate_metrics import Accuracy; i = int(sys.argv[1]);"
        "m = Accuracy(num_process=2, process_id=i, cache_dir=sys.argv[2], experiment_id='x');"
        "print(m.compute(predictions=[i], references=[1]))"
    )
    started = [
        subprocess.Popen([sys.executable, "-c", code, str(i), str(tmp_path)], stdout=subprocess.PIPE, text=True)
        for i in range(2)
    ]
    assert [p.communicate(timeout=PATIENCE)[0].strip() for p in started] == ["{'accuracy': 0.5}", "None"]
