"""Temperature scaling, against scikit-learn's and against a search of the loss itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.errors import PredictionsError
from hf_soups.metrics import negative_log_likelihood
from hf_soups.predictions import Predictions
from hf_soups.predictions.calibration import HIGHEST, LOWEST, calibrated, fit_temperature, fit_temperatures


def overconfident(seed: int, factor: float, rows: int = 300, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose labels are drawn from them, and are then multiplied: the temperature is near `factor`."""
    random = np.random.default_rng(seed)
    logits = random.normal(0, 2, (rows, classes))
    probs = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return factor * logits, np.asarray([random.choice(classes, p=p) for p in probs])


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 4))
def test_the_temperature_is_scikit_learns(seed: int, factor: float) -> None:
    from sklearn.base import BaseEstimator, ClassifierMixin
    from sklearn.calibration import CalibratedClassifierCV
    from sklearn.frozen import FrozenEstimator

    class Answers(ClassifierMixin, BaseEstimator):
        """A fitted classifier whose decision function gives the logits that it is called with."""

        classes_ = np.arange(5)

        def fit(self, X: np.ndarray, y: np.ndarray) -> Answers:
            return self

        def __sklearn_is_fitted__(self) -> bool:
            return True

        def predict(self, X: np.ndarray) -> np.ndarray:
            return X.argmax(axis=1)

        def decision_function(self, X: np.ndarray) -> np.ndarray:
            return X

    logits, labels = overconfident(seed, factor)
    fitted = CalibratedClassifierCV(FrozenEstimator(Answers()), method="temperature", ensemble=False, cv=2)
    fitted.fit(logits, labels)
    theirs = 1 / float(fitted.calibrated_classifiers_[0].calibrators[0].beta_)
    assert fit_temperature(Predictions.from_logits(logits, labels=labels)) == pytest.approx(theirs, rel=1e-4)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000), st.floats(0.2, 4))
def test_the_loss_is_least_at_the_temperature(seed: int, factor: float) -> None:
    p = Predictions.from_logits(*overconfident(seed, factor)[:1], labels=overconfident(seed, factor)[1])
    assert fit_temperature(p) == pytest.approx(by_golden_section(p), rel=1e-3)


def by_golden_section(p: Predictions) -> float:
    """The minimum of the loss over log T, found without its slope."""
    golden = (np.sqrt(5) - 1) / 2
    low, high = np.log(0.02), np.log(50)
    while high - low > 1e-4:
        left, right = high - golden * (high - low), low + golden * (high - low)
        if loss(p, np.exp(left)) < loss(p, np.exp(right)):
            high = right
        else:
            low = left
    return float(np.exp((low + high) / 2))


def loss(p: Predictions, temperature: float) -> float:
    z = p.log_probs.astype(np.float64) / temperature
    return float((np.log(np.exp(z).sum(axis=1)) - z[np.arange(len(p)), p.needs_labels()]).mean())


def test_calibrated_predictions_keep_their_answers_and_lose_likelihood_nowhere() -> None:
    logits, labels = overconfident(0, 3.0)
    p = Predictions.from_logits(logits, labels=labels)
    scaled = calibrated(p)
    assert scaled.answers.tolist() == p.answers.tolist()
    assert negative_log_likelihood(scaled) < negative_log_likelihood(p)
    assert fit_temperature(scaled) == pytest.approx(1, abs=1e-4)


def test_the_temperature_can_come_from_other_rows() -> None:
    logits, labels = overconfident(1, 3.0)
    p = Predictions.from_logits(logits, labels=labels)
    select, report = p.take(np.arange(150)), p.take(np.arange(150, 300))
    expected = report.at_temperature(fit_temperature(select))
    np.testing.assert_array_equal(calibrated(report, on=select).log_probs, expected.log_probs)
    assert fit_temperatures({"a": p, "b": select}) == {"a": fit_temperature(p), "b": fit_temperature(select)}


def test_blocks_of_rows_change_nothing_but_the_last_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    logits, labels = overconfident(2, 2.0)
    p = Predictions.from_logits(logits, labels=labels)
    whole = fit_temperature(p)
    monkeypatch.setattr("hf_soups.predictions.calibration.ROWS_AT_ONCE", 7)
    assert fit_temperature(p) == pytest.approx(whole, rel=1e-8)


def test_without_a_finite_best_the_limit_is_returned() -> None:
    right = Predictions.from_probs([[0.9, 0.1], [0.2, 0.8]], labels=[0, 1])
    wrong = Predictions.from_probs([[0.9, 0.1], [0.2, 0.8]], labels=[1, 0])
    assert (fit_temperature(right), fit_temperature(wrong)) == (LOWEST, HIGHEST)


def test_what_cannot_be_fitted_is_refused() -> None:
    with pytest.raises(PredictionsError, match="hold no labels"):
        fit_temperature(Predictions.from_probs([[0.5, 0.5]]))
    with pytest.raises(PredictionsError, match="hold no rows"):
        fit_temperature(Predictions.from_probs(np.empty((0, 2)), labels=np.empty(0, dtype=int)))
    with pytest.raises(PredictionsError, match="one class: it has probability 1 at any temperature"):
        fit_temperature(Predictions.from_probs([[1.0]], labels=[0]))
