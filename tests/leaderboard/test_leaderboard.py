"""The leaderboard from made-up run folders: what stands where, in which order, and what it says."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from hf_soups.ensembles import geometric_mean
from hf_soups.errors import InputError
from hf_soups.files import writing
from hf_soups.leaderboard import Leaderboard, build_leaderboard
from hf_soups.leaderboard.board import Row
from hf_soups.metrics import METRICS, expected_calibration_error, negative_log_likelihood, score
from hf_soups.predictions import Predictions
from hf_soups.wording import difference_in_words, loss_in_words, score_in_words
from tests.makers.synthetic_sweep import (
    REPORT,
    SELECT,
    answers,
    write_failed_run,
    write_finished_run,
    write_plan,
    write_predictions,
    write_soup_record,
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three finished runs (the second is the best on select, not on report), a failed one and one still to come."""
    folder = write_plan(tmp_path / "sweep", 5)
    write_finished_run(folder / "run_00", 170, 230, seed=1)
    write_finished_run(folder / "run_01", 180, 225, seed=2)
    write_finished_run(folder / "run_02", 160, 220, seed=3, device="NVIDIA H200", train_seconds=4.0)
    write_failed_run(folder / "run_03")
    return folder


def write_soup(sweep: Path, method: str, runs: list[str], select: int, report: int, **about: object) -> Path:
    folder = sweep.parent / "soups" / method
    write_predictions(folder, answers(select, 200, SELECT, 9), answers(report, 277, REPORT, 9))
    write_soup_record(folder, runs, **{"pool": ["run_00", "run_01", "run_02"], **about})
    (sweep / "soups").mkdir(exist_ok=True)
    pointer = {"path": f"../../soups/{method}", "method": method, "predictions": "predictions"}
    (sweep / "soups" / f"{method}.json").write_text(json.dumps(pointer))
    return folder


def row(board: Leaderboard, kind: str, name: str = "") -> Row:
    (found,) = [r for r in board.rows if r.kind == kind and name in r.name]
    return found


def shown(board: Leaderboard, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(board.to_rich())
    return console.export_text()


def test_the_best_is_chosen_on_select_and_never_on_report(sweep: Path) -> None:
    best = row(build_leaderboard(sweep), "best on select")
    assert best.name == "run_01"
    assert (best.select, best.report) == (180 / 200, 225 / 277)


def test_rows_stand_by_kind_and_within_it_by_select_score(sweep: Path) -> None:
    write_soup(sweep, "greedy", ["run_01", "run_00"], 184, 231)
    write_soup(sweep, "uniform", ["run_00", "run_01", "run_02"], 182, 235)
    assert [(r.kind, r.name) for r in build_leaderboard(sweep).rows] == [
        ("best on select", "run_01"),
        ("soup", "greedy soup"),
        ("soup", "uniform soup"),
        ("ensemble", "mean-prob ensemble"),
        ("ensemble", "mean-logit ensemble"),
        ("ensemble", "selected ensemble"),
        ("run", "run_01"),
        ("run", "run_00"),
        ("run", "run_02"),
        ("run", "run_03"),
        ("run", "run_04"),
    ]


def test_scores_and_intervals_are_those_of_the_cached_predictions(sweep: Path) -> None:
    found = row(build_leaderboard(sweep, resamples=100), "run", "run_00")
    report = Predictions.load(sweep / "run_00/predictions/report.safetensors")
    expected = score(report, "accuracy", resamples=100)
    assert (found.report, found.report_low, found.report_high) == (expected.value, expected.low, expected.high)
    assert found.report_nll == negative_log_likelihood(report)
    assert found.report_ece == expected_calibration_error(report)


def test_the_ensemble_is_of_the_finished_runs_and_costs_their_sum(sweep: Path) -> None:
    found = row(build_leaderboard(sweep), "ensemble", "mean-logit")
    finished = [Predictions.load(sweep / f"run_0{i}/predictions/report.safetensors") for i in range(3)]
    assert found.report == METRICS["accuracy"].compute(geometric_mean(finished))
    assert (found.ingredients, found.parameters, found.macs) == (3, 3_000_000, 15_000_000)
    assert found.train_seconds == 24.0
    assert found.device == "NVIDIA H200 + cpu"


def test_a_soup_costs_as_one_model_and_the_training_of_its_ingredients(sweep: Path) -> None:
    write_soup(sweep, "greedy", ["run_01", "run_00"], 184, 231)
    found = row(build_leaderboard(sweep), "soup")
    assert (found.ingredients, found.pool) == (2, 3)
    assert (found.parameters, found.macs, found.train_seconds) == (1_000_000, 5_000_000, 20.0)


def test_gains_are_over_the_best_on_select_and_said_in_rows(sweep: Path) -> None:
    write_soup(sweep, "greedy", ["run_01", "run_00"], 184, 227)
    board = build_leaderboard(sweep)
    assert row(board, "soup").gain == "+0.7 = 2 of 277 rows"
    assert row(board, "run", "run_02").gain == "-1.8 = 5 of 277 rows"
    assert row(board, "run", "run_01").gain == "0.0 = 0 of 277 rows"


def test_gains_of_other_metrics_are_in_points_alone(sweep: Path) -> None:
    write_plan(sweep, 5, metric="matthews")
    board = build_leaderboard(sweep)
    assert board.metric == "matthews"
    assert all("rows" not in r.gain for r in board.rows)
    assert row(board, "run", "run_01").gain == "0.0"


def test_where_lower_is_better_the_best_is_the_lowest(sweep: Path) -> None:
    write_plan(sweep, 5, metric="nll")
    scored = [r for r in build_leaderboard(sweep).rows if r.kind == "run" and r.select is not None]
    assert [r.select for r in scored] == sorted(r.select for r in scored if r.select is not None)
    assert row(build_leaderboard(sweep), "best on select").name == scored[0].name


def test_failed_and_pending_runs_are_listed_with_the_reason(sweep: Path) -> None:
    board = build_leaderboard(sweep)
    assert (row(board, "run", "run_03").status, row(board, "run", "run_03").reason) == (
        "nan-loss",
        "the loss was NaN at step 7",
    )
    assert row(board, "run", "run_04").status == "pending"
    said = " ".join(shown(board, 100).split())
    assert "run_03: nan-loss (the loss was NaN at step 7)" in said
    assert "run_04: pending (not finished yet)" in said


def test_corrupt_predictions_are_listed_and_the_rest_is_scored(sweep: Path) -> None:
    (sweep / "run_00/predictions/report.safetensors").write_bytes(b"\x08")
    board = build_leaderboard(sweep)
    assert row(board, "run", "run_00").status == "unusable predictions"
    assert "not a readable file of predictions" in row(board, "run", "run_00").reason
    assert row(board, "ensemble", "mean-logit").ingredients == 2


def test_an_unreadable_record_is_listed_and_the_rest_is_scored(sweep: Path) -> None:
    (sweep / "run_00/run.json").write_text("{")
    board = build_leaderboard(sweep)
    assert row(board, "run", "run_00").status == "unreadable"
    assert row(board, "best on select").name == "run_01"


def test_predictions_on_other_rows_are_never_compared(sweep: Path) -> None:
    write_predictions(sweep / "run_02", answers(190, 200, "other", 3), answers(270, 277, "other", 3))
    found = row(build_leaderboard(sweep), "run", "run_02")
    assert (found.status, found.report) == ("unusable predictions", None)
    assert "predictions on other data" in found.reason


def test_a_soup_that_is_gone_is_said_to_be(sweep: Path) -> None:
    folder = write_soup(sweep, "greedy", ["run_01"], 184, 231)
    (folder / "soup.json").unlink()
    found = row(build_leaderboard(sweep), "soup")
    assert (found.status, found.report) == ("gone", None)
    assert "Cook it again" in found.reason


def test_sweep_and_soups_can_be_moved_together(sweep: Path, tmp_path: Path) -> None:
    write_soup(sweep, "greedy", ["run_01"], 184, 231)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "sweep").rename(moved / "sweep")
    (tmp_path / "soups").rename(moved / "soups")
    assert row(build_leaderboard(moved / "sweep"), "soup").report == 231 / 277


def test_a_soup_chosen_on_report_is_marked_optimistic(sweep: Path) -> None:
    write_soup(sweep, "greedy", ["run_01"], 184, 231, optimistic=True)
    board = build_leaderboard(sweep)
    assert row(board, "soup").status == "optimistic"
    assert "greedy soup 1/3 *" in shown(board, 120)
    assert "its report score is too good" in " ".join(shown(board, 120).split())


def test_nothing_finished_is_a_board_without_scores(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "sweep", 2)
    write_failed_run(folder / "run_00")
    board = build_leaderboard(folder)
    assert [r.status for r in board.rows] == ["nan-loss", "pending"]
    assert "No run has finished yet" in shown(board, 80)
    assert [p.name for p in board.save(folder)] == ["leaderboard.csv", "leaderboard.parquet"]


def test_one_finished_run_has_no_ensemble(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "sweep", 1)
    write_finished_run(folder / "run_00", 170, 230)
    assert [r.kind for r in build_leaderboard(folder).rows] == ["best on select", "run"]


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no runs here"):
        build_leaderboard(tmp_path)
    with pytest.raises(InputError, match="no such folder"):
        build_leaderboard(tmp_path / "nowhere")


def test_run_folders_without_a_sweep_are_compared_by_their_own_recipe(tmp_path: Path) -> None:
    task = {"kind": "text", "path": "data", "text": ["sentence"], "metric": "accuracy"}
    for i in range(2):
        recipe = {"task": task, "model": "m", "train": {"seed": i}}
        write_finished_run(tmp_path / f"mine-{i}", 170 + i, 230, seed=i, recipe=recipe)
    assert row(build_leaderboard(tmp_path), "best on select").name == "mine-1"


def test_a_folder_above_a_sweep_is_not_taken_for_one(sweep: Path) -> None:
    write_finished_run(sweep.parent / "start", 170, 230)  # as a quickstart's pretraining, beside it
    with pytest.raises(InputError, match=rf"is no sweep, but holds 1: {sweep}\. Name the sweep's own folder"):
        build_leaderboard(sweep.parent)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_the_table_fits_the_terminal_without_broken_numbers(sweep: Path, width: int) -> None:
    write_soup(sweep, "greedy", ["run_01", "run_00"], 184, 227)
    text = shown(build_leaderboard(sweep), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert "…" not in text
    line, *_ = [line for line in text.splitlines() if "greedy soup 2/3" in line]
    assert "92.0" in line
    assert "81.9 [" in line
    assert "+0.7 = 2 of 277 rows" in line
    for title in ("model", "select", "report [95%]", "gain on best", "NLL", "ECE", "param.", "MACs", "train s"):
        assert title in text  # what the legend explains is there at any width


def test_the_files_hold_every_row_and_number(sweep: Path, tmp_path: Path) -> None:
    import pandas

    board = build_leaderboard(sweep)
    paths = board.save(tmp_path / "out")
    assert [p.name for p in paths] == [
        "leaderboard.csv", "leaderboard.parquet", "leaderboard.png", "score_vs_cost.png", "score_vs_cost.csv",
    ]  # fmt: skip
    table = pandas.read_parquet(paths[1])
    rows = list(csv.DictReader(paths[0].open()))
    assert len(rows) == len(table) == len(board.rows)
    for said, stored, known in zip(rows, table.to_dict("records"), board.rows, strict=True):
        assert said["name"] == stored["name"] == known.name
        if known.report is None:
            assert said["report"] == ""
            assert np.isnan(stored["report"])
        else:
            assert float(said["report"]) == stored["report"] == known.report
    assert paths[2].read_bytes().startswith(b"\x89PNG")
    assert {p.name for p in (tmp_path / "out").iterdir()} == {p.name for p in paths}


def test_a_disk_that_cannot_be_written_leaves_the_earlier_files(sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:

    board = build_leaderboard(sweep)
    board.save(sweep)
    before = (sweep / "leaderboard.csv").read_text()

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(writing.csv, "DictWriter", full)
    with pytest.raises(Exception, match=r"the disk is full\. Free some space"):
        board.save(sweep)
    assert (sweep / "leaderboard.csv").read_text() == before
    assert not list(sweep.glob(".*"))


def test_a_leaderboard_needs_neither_torch_nor_transformers(sweep: Path) -> None:
    code = (
        "import sys; from hf_soups.leaderboard.board import build_leaderboard\n"
        f"board = build_leaderboard({str(sweep)!r}); board.to_rich(); board.save({str(sweep)!r})\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'evaluate'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_words_of_scores_and_differences() -> None:
    assert score_in_words(0.875, "f1") == "87.5"
    assert score_in_words(float("nan"), "accuracy") == "-"
    assert difference_in_words(0.5, 0.75, "accuracy", 4) == "-25.0 = 1 of 4 rows"
    assert difference_in_words(0.5, 0.75, "nll", 4) == "-0.2500"
    assert difference_in_words(float("nan"), 0.5, "accuracy", 4) == "not a number"
    assert loss_in_words(0.0001, "accuracy", 10_000) == "0.01 points = 1 of 10000 rows"
    assert loss_in_words(0.25, "my metric", 10) == "0.2500"


def test_pictures_are_svg_too_where_the_command_asks_for_it(sweep: Path) -> None:
    from typer.testing import CliRunner

    from hf_soups.cli import app

    done = CliRunner().invoke(app, ["leaderboard", str(sweep), "--format", "svg", "--resamples", "10"])
    assert done.exit_code == 0, done.output
    assert {p.name for p in sweep.glob("leaderboard.*g")} == {"leaderboard.png", "leaderboard.svg"}
    assert (sweep / "leaderboard.svg").read_text().startswith("<?xml")
    assert "leaderboard.svg" in done.output
    assert CliRunner().invoke(app, ["leaderboard", str(sweep), "--format", "pdf"]).exit_code == 2
