"""Predictions of many labels a row and of a regression: what a file keeps, what temperatures and ensembles do."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from hf_soups.cascades import Plan, Rule
from hf_soups.cascades.certify import certify
from hf_soups.ensembles import ensemble, geometric_mean, mean, mean_logits, select_ensemble, vote
from hf_soups.errors import InputError, PredictionsError
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from hf_soups.predictions.calibration import fit_temperature
from hf_soups.predictions.topk import TopKPredictions, load_predictions

MULTI: dict = {"problem_type": "multi-label"}
NUMBERS: dict = {"problem_type": "regression"}
Z = np.array([[0.5, -2.0, 30.0], [-0.1, 4.0, -30.0]])
MARKS = [[1, 0, 1], [0, 1, 0]]


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def test_labels_have_the_sigmoid_of_their_logits_and_numbers_are_the_logits() -> None:
    p = Predictions.from_logits(Z, labels=MARKS, **MULTI)
    np.testing.assert_allclose(p.probs, sigmoid(Z), rtol=1e-6)
    assert p.answers.tolist() == [[1, 0, 1], [0, 1, 0]]
    again = Predictions.from_probs(sigmoid(Z), labels=MARKS, **MULTI)
    np.testing.assert_allclose(again.probs, p.probs, rtol=1e-6)
    r = Predictions.from_logits([[0.498], [-3.5]], labels=[0.5, -3.0], **NUMBERS)
    assert r.answers.tolist() == pytest.approx([0.498, -3.5])
    with pytest.raises(PredictionsError, match="numbers of a regression, not probabilities"):
        _ = r.probs


@pytest.mark.parametrize("mapped", [False, True])
def test_a_file_keeps_the_problem_type(tmp_path: Path, mapped: bool) -> None:
    for p in (
        Predictions.from_logits(Z, labels=MARKS, label_names=("a", "b", "c"), **MULTI),
        Predictions.from_logits([[2.5], [7.0]], labels=[2.0, 8.0], **NUMBERS),
        Predictions.from_logits([[2.5], [7.0]], row_ids=["x", "y"], **NUMBERS),
    ):
        p.save(tmp_path / "p.safetensors")
        back = Predictions.load(tmp_path / "p.safetensors", mapped=mapped)
        assert (back.problem_type, back.label_names) == (p.problem_type, p.label_names)
        np.testing.assert_array_equal(back.log_probs, p.log_probs)
        assert back.labels is p.labels is None or np.array_equal(back.needs_labels(), p.needs_labels())
        assert load_predictions(tmp_path / "p.safetensors").fingerprint == p.fingerprint


def test_a_file_without_a_problem_type_is_of_classes(tmp_path: Path) -> None:
    Predictions.from_probs([[0.5, 0.5]], labels=[1]).save(tmp_path / "old.safetensors")
    assert b"problem_type" not in (tmp_path / "old.safetensors").read_bytes()
    assert Predictions.load(tmp_path / "old.safetensors").problem_type == "classification"


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "p.safetensors"
    Predictions.from_logits(Z, labels=MARKS, **MULTI).save(path)
    about = {"format": "hf_soups.predictions.v1", "label_names": "null", "data": "", "model": ""}
    tensors = load_file(path)
    save_file({**tensors, "log_probs": tensors["log_probs"] + 1}, path, {**about, "problem_type": "multi-label"})
    with pytest.raises(PredictionsError, match=r"row 0 holds .*, which no answer of problem type 'multi-label' can be"):
        Predictions.load(path)
    save_file(tensors, path, {**about, "problem_type": "ranking"})
    with pytest.raises(PredictionsError, match="problem type 'ranking'; expected one of classification, multi-label"):
        Predictions.load(path)


@pytest.mark.parametrize(
    ("logits", "about", "message"),
    [
        (Z, {"labels": [0, 1], **MULTI}, r"labels of shape \(2,\) for 2 rows of 3 labels; expected 0 or 1 of each"),
        (Z, {"labels": [[0, 2, 0]] * 2, **MULTI}, "expected 0 or 1 of each"),
        (Z, NUMBERS, "3 numbers a row; expected one, as a regression has"),
        ([[1.0]], {"labels": [float("nan")], **NUMBERS}, "expected one finite number for each"),
        ([[1.0, 2.0]], {"problem_type": "ranking"}, "problem type 'ranking'; expected one of"),
    ],
)
def test_what_does_not_fit_the_problem_type_is_refused(logits: object, about: dict, message: str) -> None:
    with pytest.raises(PredictionsError, match=message):
        Predictions.from_logits(logits, **about)


def test_probabilities_of_labels_need_not_sum_to_1_but_lie_in_0_to_1() -> None:
    assert Predictions.from_probs([[0.9, 0.9]], **MULTI).probs[0].tolist() == pytest.approx([0.9, 0.9])
    with pytest.raises(PredictionsError, match=r"row 0 has the probability 1.2 for label 1"):
        Predictions.from_probs([[0.9, 1.2]], **MULTI)


def test_problem_types_do_not_mix() -> None:
    two = Predictions.from_probs([[0.4, 0.6]])
    with pytest.raises(PredictionsError, match="problem type 'multi-label', those of B of 'classification'"):
        mean([two, Predictions.from_probs([[0.4, 0.6]], **MULTI)])


def test_top_k_is_of_classes() -> None:
    with pytest.raises(InputError, match="the likeliest of many classes, but the rows are of 'multi-label'"):
        TopKPredictions.of(Predictions.from_logits(Z, **MULTI), 2)


def test_a_temperature_divides_each_labels_logit() -> None:
    p = Predictions.from_logits(Z, labels=MARKS, **MULTI)
    np.testing.assert_allclose(p.at_temperature(2.5).probs, sigmoid(Z / 2.5), rtol=1e-5)
    with pytest.raises(PredictionsError, match="numbers of a regression have none"):
        Predictions.from_logits([[1.0]], **NUMBERS).at_temperature(2.0)
    with pytest.raises(PredictionsError, match="numbers of a regression, which have no temperature"):
        fit_temperature(Predictions.from_logits([[1.0]], labels=[1.0], **NUMBERS))


def test_the_fitted_temperature_has_the_least_loss() -> None:
    random = np.random.default_rng(0)
    z = random.normal(size=(300, 3))
    marks = (random.random((300, 3)) < sigmoid(z)).astype(int)
    p = Predictions.from_logits(3 * z, labels=marks, **MULTI)
    found, nll = fit_temperature(p), METRICS["nll"].compute
    best = min(np.arange(1.5, 6, 0.01), key=lambda t: nll(p.at_temperature(float(t))))
    assert found == pytest.approx(best, abs=0.02)


def test_ensembles_combine_each_label_by_itself_and_numbers_by_their_mean() -> None:
    random = np.random.default_rng(1)
    z = random.normal(size=(3, 5, 2))
    members = [Predictions.from_logits(own, **MULTI) for own in z]
    np.testing.assert_allclose(mean(members).probs, sigmoid(z).mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(geometric_mean(members).probs, sigmoid(z.mean(axis=0)), rtol=1e-5)
    np.testing.assert_allclose(vote(members).probs, (z > 0).mean(axis=0), rtol=1e-5, atol=1e-30)
    weighted = ensemble(members, weights=[0.5, 0.5, 0.0], temperatures=[2.0, 1.0, 1.0])
    np.testing.assert_allclose(weighted.probs, (sigmoid(z[0] / 2) + sigmoid(z[1])) / 2, rtol=1e-5)
    numbers = [Predictions.from_logits(own[:, :1], **NUMBERS) for own in z]
    for made in (mean(numbers), mean_logits(numbers)):
        np.testing.assert_allclose(made.answers, z[:, :, 0].mean(axis=0), rtol=1e-5)
        assert made.problem_type == "regression"
    for refused in ("vote", "geometric"):
        with pytest.raises(PredictionsError, match=f"the numbers of a regression by '{refused}'; expected 'mean'"):
            ensemble(numbers, refused)
    with pytest.raises(PredictionsError, match="numbers of a regression have none"):
        ensemble(numbers, temperatures=[2.0, 1.0, 1.0])


@pytest.mark.parametrize(
    ("problem_type", "metric"),
    [("multi-label", n) for n in ("f1_micro", "f1_macro", "accuracy", "nll", "roc_auc")]
    + [("regression", n) for n in ("pearson", "spearman", "rmse")],
)
@pytest.mark.parametrize("combine", ["mean", "vote"])
def test_a_selected_ensemble_is_never_worse_than_its_best_member(problem_type: str, metric: str, combine: str) -> None:
    random = np.random.default_rng(2)
    if problem_type == "regression":
        combine, labels = "mean", random.normal(size=40)
        logits = [(labels + random.normal(0, 1 + i, 40))[:, None] for i in range(3)]
    else:
        labels = (random.random((40, 3)) < 0.4).astype(int)
        logits = [labels - 0.5 + random.normal(0, 1 + i, (40, 3)) for i in range(3)]
    members = {
        str(i): Predictions.from_logits(z, labels=labels, problem_type=problem_type) for i, z in enumerate(logits)
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = select_ensemble(members, metric, rounds=4, combine=combine)
    known = METRICS[metric]
    assert found.score == known.compute(found.apply(members))
    alone = [known.compute(ensemble([p], combine)) for p in members.values()]
    assert known.rank(found.score) >= max(map(known.rank, alone)) - 1e-12


def test_a_certificate_of_many_labels_is_of_rows_with_all_labels_right() -> None:
    random = np.random.default_rng(0)
    marks = (random.random((600, 3)) < 0.4).astype(int)
    logits = [3 * (marks - 0.5) + random.normal(size=marks.shape) * noise for noise in (2.0, 0.8)]
    small, big = (Predictions.from_logits(z, labels=marks, **MULTI) for z in logits)
    plan = Plan(("small", "big"), (0.9,), (1.0, 5.0), Rule("last", "labels"))
    found = certify(plan, {"small": small, "big": big}, max_loss=0.1, delta=0.1)
    done = found.plan.apply({"small": small, "big": big})
    assert 0 < found.plan.exit_shares[0] < 1
    assert big.hits.mean() - done.hits.mean() < 0.1
    assert found.plan.metric == "accuracy"
    with pytest.raises(PredictionsError, match="confidence 'max' is of 'classification'"):
        certify(Plan(("small", "big"), (0.9,), (1.0, 5.0)), {"small": small, "big": big}, max_loss=0.1, delta=0.1)
