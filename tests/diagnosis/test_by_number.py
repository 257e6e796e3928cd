"""Scores by number of runs: subsets, mixtures against dense sums, cached answers, resume, and what is refused."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.cooking import cook
from hf_soups.diagnosis.by_number import by_number, checked_sizes, nested_subsets, sizes_up_to
from hf_soups.diagnosis.number_curves import (
    BEST,
    ENSEMBLE,
    GREEDY,
    SHIFTS,
    UNIFORM,
    ByNumber,
    SubsetScore,
    points_of,
    write_results,
    write_together,
)
from hf_soups.errors import InputError
from hf_soups.finetune.run_record import RunRecord, write_run
from hf_soups.leaderboard.shifts import answer
from hf_soups.metrics import METRICS
from hf_soups.plots import canvas
from hf_soups.predictions import Predictions
from hf_soups.recipe import load_recipe
from hf_soups.soups.scoring import SoupScorer
from tests.makers.pile import make_sweep, oracle_predictions, write_texts
from tests.makers.ties import turned
from tests.makers.tiny import tiny_bert

RUNS = 3


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three runs that answered two shifts."""
    folder = tmp_path_factory.mktemp("made")
    sweep = make_sweep(folder, models=RUNS)
    for i, name in enumerate(("books", "shop")):
        write_texts(folder / name, tiny_bert(folder / f"other_{i}", seed=i), train=23 + i, report=9)
    shifts = {
        f"task.shifts.{name}": {"path": str(folder / name / "train.csv"), "split": "train"}
        for name in ("books", "shop")
    }
    answer([sweep], overrides=shifts, progress=False)
    return sweep


@pytest.fixture(scope="module")
def found(made: Path) -> ByNumber:
    return by_number(made, subsets=RUNS, with_greedy=True, progress=False)


def score_of(found: ByNumber, what: str, role: str, *runs: str) -> float:
    (value,) = (s.score for s in found.scores if (s.what, s.role, set(s.runs)) == (what, role, set(runs)))
    return value


def subsets_of(found: ByNumber, size: int) -> set[tuple[str, ...]]:
    return {s.runs for s in found.scores if len(s.runs) == size}


# --- which subsets


@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 5))
def test_subsets_of_a_size_are_different_and_fair(models: int, orders: int, seed: int) -> None:
    drawn = nested_subsets(models, range(1, models + 1), orders, seed)
    assert len({frozenset(subset) for subset in drawn}) == len(drawn)
    assert all(len(set(subset)) == len(subset) for subset in drawn)
    if orders == models:  # one whole round
        for size in range(1, models):
            times = Counter(i for subset in drawn if len(subset) == size for i in subset)
            assert set(times.values()) == {size}
    assert sum(len(subset) == models for subset in drawn) == 1


def test_more_subsets_begin_with_the_fewer() -> None:
    """So that scores already written down are used again."""
    few, many = (nested_subsets(6, (1, 2, 3), orders, seed=0) for orders in (2, 9))
    assert many[: len(few)] == few


def test_sizes_end_at_all_models_and_are_checked() -> None:
    assert all(sizes_up_to(n)[-1] == n and len(sizes_up_to(n)) <= 17 for n in range(1, 200))
    assert checked_sizes([3, 1, 3], 4) == (1, 3)
    for wrong in ([], [0], [5]):
        with pytest.raises(InputError, match="give numbers from 1 to 4"):
            checked_sizes(wrong, 4)


# --- what they score


def test_a_uniform_soup_scores_what_the_saved_mean_answers(made: Path, found: ByNumber, tmp_path: Path) -> None:
    for size in (2, 3):
        runs = min(subsets_of(found, size))
        folder = Path(shutil.copytree(made / runs[0], tmp_path / str(size)))
        weights = [load_file(made / name / "model.safetensors") for name in runs]
        mean = {k: np.mean([w[k].astype(np.float64) for w in weights], axis=0).astype(np.float32) for k in weights[0]}
        save_file(mean, folder / "model.safetensors", metadata={"format": "pt"})
        answers = oracle_predictions(folder, load_recipe(made / "recipe.yaml"), "report")
        score = pytest.approx(METRICS["accuracy"].compute(answers), abs=1e-12 + turned(answers))
        assert score_of(found, UNIFORM, "report", *runs) == score


def test_ensembles_and_the_best_run_are_those_of_the_cached_answers(made: Path, found: ByNumber) -> None:
    for runs in sorted(subsets_of(found, 2) | subsets_of(found, 3)):
        of = {
            (r, role): Predictions.load(made / r / f"predictions/{role}.safetensors")
            for r in runs
            for role in ("select", "report", "shift-books")
        }
        best = max(sorted(runs), key=lambda r: METRICS["accuracy"].compute(of[r, "select"]))
        for role in ("report", "shift-books"):
            mean = np.mean([of[r, role].log_probs for r in runs], axis=0)
            right = np.mean(mean.argmax(axis=1) == of[runs[0], role].needs_labels())
            assert score_of(found, ENSEMBLE, role, *runs) == pytest.approx(right)
            assert score_of(found, BEST, role, *runs) == METRICS["accuracy"].compute(of[best, role])


def test_soups_of_all_runs_are_those_that_are_cooked(made: Path, found: ByNumber, tmp_path: Path) -> None:
    cook([made], ("uniform", "greedy"), tmp_path / "soups", tell=None)
    names = [f"run_{i:02d}" for i in range(RUNS)]
    for what, method in ((UNIFORM, "uniform"), (GREEDY, "greedy")):
        for role in ("report", "shift-books"):
            answers = Predictions.load(tmp_path / "soups" / method / f"predictions/{role}.safetensors")
            assert score_of(found, what, role, *names) == METRICS["accuracy"].compute(answers)
    kept = json.loads((tmp_path / "soups/greedy/soup.json").read_text())["ingredients"]
    assert {s.ingredients for s in found.scores if s.what == GREEDY and len(s.runs) == RUNS} == {len(kept)}
    shutil.rmtree(made / "soups")


def test_one_run_is_its_own_soup_and_ensemble(found: ByNumber) -> None:
    for runs in subsets_of(found, 1):
        for role in ("report", "shift-books", "shift-shop"):
            assert len({score_of(found, what, role, *runs) for what in (BEST, UNIFORM, GREEDY, ENSEMBLE)}) == 1


def test_for_a_metric_where_lower_is_better_the_best_run_is_the_lowest(tmp_path: Path) -> None:
    sweep = make_sweep(tmp_path, models=2, metric="nll")
    found = by_number(sweep, progress=False)
    nll = {r: METRICS["nll"].compute(Predictions.load(sweep / r / "predictions/select.safetensors")) for r in
           ("run_00", "run_01")}  # fmt: skip
    best = min(nll, key=lambda r: nll[r])
    report = Predictions.load(sweep / best / "predictions/report.safetensors")
    assert score_of(found, BEST, "report", "run_00", "run_01") == METRICS["nll"].compute(report)
    assert all(s.score > 0 for s in found.scores)


# --- what is written


def test_points_are_means_over_subsets_and_of_shifts_subset_by_subset(found: ByNumber) -> None:
    with (found.folder / "by_number.csv").open() as file:
        rows = {(r["role"], r["what"], int(r["models"])): r for r in csv.DictReader(file)}
    assert len(rows) == 4 * 4 * RUNS  # roles with the mean of shifts, curves, sizes
    for what in (UNIFORM, BEST):
        each = [s for s in found.scores if s.what == what and len(s.runs) == 2]
        by_role = {role: [s.score for s in each if s.role == role] for role in found.rows}
        report = rows["report", what, 2]
        assert int(report["subsets"]) == len(by_role["report"]) == RUNS
        assert float(report["mean"]) == pytest.approx(np.mean(by_role["report"]))
        assert (float(report["low"]), float(report["high"])) == (min(by_role["report"]), max(by_role["report"]))
        shifts = np.mean([by_role["shift-books"], by_role["shift-shop"]], axis=0)
        assert float(rows[SHIFTS, what, 2]["mean"]) == pytest.approx(shifts.mean())
        assert float(rows[SHIFTS, what, 2]["high"]) == pytest.approx(shifts.max())
    assert rows["report", UNIFORM, 2]["rows"] == "61"
    assert rows[SHIFTS, UNIFORM, 2]["rows"] == str(23 + 24)


def test_the_picture_shows_report_and_what_is_out_of_distribution(
    found: ByNumber, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list = []
    monkeypatch.setattr(canvas, "save_figure", lambda figure, path: figures.append(figure))
    write_results(replace(found, folder=tmp_path))
    report, shifts = figures[0].axes
    assert (report.get_title(loc="left"), shifts.get_title(loc="left")) == ("report", "mean over the shifts")
    (soup,) = (line for line in report.lines if line.get_label() == UNIFORM)
    means = [100 * p.mean for p in points_of(found.scores) if (p.role, p.what) == ("report", UNIFORM)]
    assert list(soup.get_ydata()) == means
    assert (found.folder / "by_number.png").read_bytes().startswith(b"\x89PNG")


def test_subsets_that_answer_nan_are_left_out_of_the_points() -> None:
    scores = [SubsetScore(UNIFORM, "report", (name,), value, 1) for name, value in (("a", 0.5), ("b", math.nan))]
    (point,) = points_of(scores)
    assert (point.subsets, point.mean) == (1, 0.5)


def test_nothing_is_measured_twice(made: Path, found: ByNumber, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (found.folder / "by_number.csv").read_bytes()
    asked: list = []
    plain = SoupScorer.predictions
    monkeypatch.setattr(SoupScorer, "predictions", lambda self, soup: (asked.append(soup), plain(self, soup))[1])
    again = by_number(made, subsets=RUNS, with_greedy=True, progress=False)
    assert asked == []
    assert again.scores == found.scores
    assert (again.folder / "by_number.csv").read_bytes() == table
    by_number(made, made.parent / "other", sizes=[2], subsets=1, progress=False)
    assert len(asked) == 3  # one soup on report and both shifts


def test_the_command_prints_the_means(made: Path, found: ByNumber) -> None:
    shown = CliRunner().invoke(app, ["by-number", str(made), "--subsets", str(RUNS), "--greedy"])
    assert shown.exit_code == 0, shown.output
    assert "uniform soup" in shown.stdout
    all_runs = score_of(found, UNIFORM, "report", *(f"run_{i:02d}" for i in range(RUNS)))
    last = next(line for line in shown.stdout.splitlines() if line.split()[:2] == [str(RUNS), "1"])  # of report
    assert f"{100 * all_runs:.1f}" in last


def copied(made: Path, to: Path) -> Path:
    return Path(shutil.copytree(made, to / "sweep", ignore=shutil.ignore_patterns("by_number")))


def test_failed_runs_are_left_out_and_named(made: Path, tmp_path: Path) -> None:
    sweep = copied(made, tmp_path)
    shutil.rmtree(sweep / "run_01")
    (sweep / "run_01").mkdir()
    write_run(sweep / "run_01", RunRecord("nan-loss", "NaN at step 7"))
    found = by_number(sweep, sizes=[1, 2], progress=False)
    assert found.notes == ("run_01 is left out: nan-loss (NaN at step 7).",)
    assert {run for s in found.scores for run in s.runs} == {"run_00", "run_02"}


def test_several_sweeps_share_a_picture(made: Path, found: ByNumber, tmp_path: Path) -> None:
    copies = [str(copied(made, tmp_path / name)) for name in ("a", "b")]
    command = ["by-number", *copies, "--size", "1", "--size", "2", "--subsets", "1"]
    assert "say with --out where the picture" in str(CliRunner().invoke(app, command).exception)
    shown = CliRunner().invoke(app, [*command, "--out", str(tmp_path / "both")])
    assert shown.exit_code == 0, shown.output
    assert (tmp_path / "both/by_number.png").read_bytes().startswith(b"\x89PNG")
    points = list(csv.DictReader((tmp_path / "both/by_number.csv").open()))
    one, two = ([{**p, "sweep": ""} for p in points if p["sweep"] == name] for name in ("a", "b"))
    assert one == two  # the same runs
    assert {p["models"] for p in one} == {"1", "2"}
    with pytest.raises(InputError, match="no metric in common"):
        write_together({"a": found, "b": replace(found, metric=METRICS["nll"])}, tmp_path / "none")


# --- what is refused


def test_a_single_usable_run_is_refused(made: Path, tmp_path: Path) -> None:
    sweep = copied(made, tmp_path)
    for name in ("run_01", "run_02"):
        shutil.rmtree(sweep / name / "predictions")
    with pytest.raises(InputError, match="1 of its runs can be used"):
        by_number(sweep, progress=False)
    assert not (sweep / "by_number").exists()


def test_answers_to_other_rows_are_refused(made: Path, tmp_path: Path) -> None:
    sweep = copied(made, tmp_path)
    text = (sweep / "recipe.yaml").read_text()
    (sweep / "recipe.yaml").write_text(text.replace("select_minimum: 50", "select_minimum: 40"))
    with pytest.raises(InputError, match="answered other select rows than those of the recipe now"):
        by_number(sweep, progress=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subsets": 0}, "0 subsets of each size; give at least 1"),
        ({"sizes": [RUNS + 1]}, "give numbers from 1 to 3"),
        ({"batchnorm": "recomputed"}, "for these models it can be averaged"),
    ],
)
def test_options_that_cannot_be_used_are_refused(made: Path, tmp_path: Path, options: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        by_number(made, tmp_path / "out", progress=False, **options)
    assert not (tmp_path / "out").exists()


def test_a_folder_of_other_things_is_not_written_into(made: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="holds other files and no scores by number"):
        by_number(made, tmp_path, progress=False)
    with pytest.raises(InputError, match="is a file"):
        by_number(made, tmp_path / "thesis.txt", progress=False)
