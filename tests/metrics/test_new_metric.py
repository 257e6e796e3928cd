"""Adding a metric is one entry of `METRICS`: everything else knows it from there."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hf_soups.cascades.search.exhaustive import search_cascades
from hf_soups.ensembles import select_ensemble
from hf_soups.evaluate_metrics import load_metric
from hf_soups.leaderboard import build_leaderboard
from hf_soups.leaderboard.compare import compare
from hf_soups.metrics import METRICS, Metric, metric_for, score
from hf_soups.plots.canvas import scale_of, unit_of
from hf_soups.predictions import Predictions
from hf_soups.recipe.task import named_task
from hf_soups.reporting.cards.card_facts import hub_metrics
from hf_soups.wording import difference_in_words, loss_in_words, score_in_words
from tests.makers.synthetic_sweep import REPORT, SELECT, answers, write_finished_run, write_plan


def _wrong_rows(p: Predictions) -> np.ndarray:
    return np.stack([p.answers != p.needs_labels(), np.ones(len(p))], axis=1).astype(np.uint8)


ERRORS = Metric(
    "error_rate", -1,
    lambda p: float(np.mean(p.answers != p.needs_labels())), _wrong_rows, lambda sums: sums[..., 0] / sums[..., 1],
    of_answers=lambda labels, said: float(np.mean(np.asarray(labels) != np.asarray(said))),
    percent=True, counts_rows=True, hub_name="error",
)  # fmt: skip


@pytest.fixture(autouse=True)
def added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(METRICS, "error_rate", ERRORS)


def test_a_recipe_names_it_and_it_is_scored_with_an_interval() -> None:
    assert metric_for(named_task("glue/rte", metric="error_rate")) is ERRORS
    p = answers(150, 200, SELECT)
    found, right = score(p, "error_rate"), score(p, "accuracy")
    assert (found.value, found.low, found.high) == pytest.approx((1 - right.value, 1 - right.high, 1 - right.low))


def test_words_plots_and_cards_know_it() -> None:
    assert score_in_words(0.25, "error_rate") == "25.0"
    assert difference_in_words(0.25, 0.27, "error_rate", 200) == "-2.0 = 4 of 200 rows"
    assert loss_in_words(0.02, "error_rate", 200) == "2.0 points = 4 of 200 rows"
    assert (scale_of("error_rate"), unit_of("error_rate")) == (100.0, "error_rate x 100")
    assert hub_metrics("error_rate") == ["error"]


def test_evaluate_has_it() -> None:
    assert load_metric("error_rate").compute(predictions=[0, 1, 1, 1], references=[0, 1, 0, 1]) == {"error_rate": 0.25}


def test_the_leaderboard_ranks_by_it_and_comparisons_read_it(tmp_path: Path) -> None:
    sweep = write_plan(tmp_path / "sweep", 3, metric="error_rate")
    for i, right in enumerate((150, 180, 170)):
        write_finished_run(sweep / f"run_{i:02d}", right, right + 60, seed=i)
    board = build_leaderboard(sweep)
    assert [row.name for row in board.rows if row.kind == "run"] == ["run_01", "run_02", "run_00"]
    assert board.rows[-1].select == pytest.approx(0.25)
    found = compare(sweep, ["run_00", "run_01"])
    words = "\n".join(found.words(found.pairs[0]))
    assert found.test == "McNemar's exact test"
    assert "run_01 is ahead of run_00" in words


def test_ensembles_and_cascades_choose_by_it() -> None:
    members = {name: answers(right, 200, REPORT, seed) for seed, (name, right) in enumerate((("a", 180), ("b", 150)))}
    by_errors, by_accuracy = (select_ensemble(members, metric, rounds=4) for metric in ("error_rate", "accuracy"))
    assert by_errors.weights == by_accuracy.weights
    assert by_errors.score == pytest.approx(1 - by_accuracy.score)
    errors, right = (
        search_cascades(members, {"a": 2.0, "b": 1.0}, metric=metric, grid=9) for metric in ("error_rate", "accuracy")
    )
    assert errors.best_single.members == ("a",)
    assert [plan.members for plan in errors.pareto()] == [plan.members for plan in right.pareto()]
