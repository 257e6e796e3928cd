"""Shifts on the leaderboard: columns from cached answers, what lacks them, files and pictures."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from rich.console import Console

from hf_soups.ensembles import geometric_mean
from hf_soups.leaderboard import Leaderboard, build_leaderboard
from hf_soups.leaderboard.board import Row
from hf_soups.leaderboard.rows import read_scored_models
from hf_soups.metrics import METRICS, score
from hf_soups.plots import canvas as plots
from hf_soups.predictions import Predictions
from tests.makers.synthetic_sweep import answers, write_finished_run, write_plan, write_soup_record

BOOKS = 120


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two runs that answered the shifts books and kitchen; the first is the best on select, the second on books."""
    folder = write_plan(tmp_path / "sweep", 2)
    for i, (select, report, books, kitchen) in enumerate(((180, 225, 70, 60), (170, 230, 90, 50))):
        run = folder / f"run_0{i}"
        write_finished_run(run, select, report, seed=i)
        answer(run, "books", books, BOOKS, seed=i)
        answer(run, "kitchen", kitchen, 80, seed=i)
    return folder


def answer(folder: Path, shift: str, right: int, rows: int, data: str = "", seed: int = 0) -> None:
    answers(right, rows, data or shift, seed).save(folder / "predictions" / f"shift-{shift}.safetensors")


def row(board: Leaderboard, kind: str, name: str = "") -> Row:
    (found,) = [r for r in board.rows if r.kind == kind and name in r.name]
    return found


def shown(board: Leaderboard, width: int) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(board.to_rich())
    return console.export_text()


def test_each_shift_is_scored_with_its_interval_and_their_mean_is_plain(sweep: Path) -> None:
    board = build_leaderboard(sweep, resamples=100)
    found = row(board, "run", "run_01")
    books = Predictions.load(sweep / "run_01/predictions/shift-books.safetensors")
    assert found.shifts["books"] == score(books, "accuracy", resamples=100)
    assert found.shifts["books"].value == 90 / BOOKS
    assert board.shift_mean(found) == pytest.approx((90 / BOOKS + 50 / 80) / 2)
    assert {name: about.rows for name, about in board.shifts.items()} == {"books": BOOKS, "kitchen": 80}


def test_a_shift_never_decides_what_is_best(sweep: Path) -> None:
    board = build_leaderboard(sweep)
    assert row(board, "best on select").name == "run_00"
    assert row(board, "run", "run_01").shifts["books"].value > row(board, "run", "run_00").shifts["books"].value


def test_the_ensemble_answers_shifts_too(sweep: Path) -> None:
    members = [Predictions.load(sweep / f"run_0{i}/predictions/shift-books.safetensors") for i in range(2)]
    expected = METRICS["accuracy"].compute(geometric_mean(members))
    assert row(build_leaderboard(sweep), "ensemble", "mean-logit").shifts["books"].value == expected


def test_what_lacks_a_shift_shows_a_dash_and_so_does_the_ensemble(sweep: Path) -> None:
    (sweep / "run_01/predictions/shift-books.safetensors").unlink()
    board = build_leaderboard(sweep)
    assert list(board.shifts) == ["books", "kitchen"]
    for kind, name in (("run", "run_01"), ("ensemble", "mean-logit")):
        found = row(board, kind, name)
        assert "books" not in found.shifts
        assert board.shift_mean(found) is None
        assert "kitchen" in found.shifts
    line = next(line for line in shown(board, 120).splitlines() if line.lstrip().startswith("run_01"))
    assert re.search(r"\] +- +62\.5", line)  # report's interval, books, kitchen


def test_answers_on_other_rows_of_a_shift_are_left_out_and_said(sweep: Path) -> None:
    answer(sweep / "run_01", "books", 100, BOOKS, data="other books")
    (sweep / "run_01/predictions/shift-kitchen.safetensors").write_bytes(b"\x08")
    board = build_leaderboard(sweep)
    assert row(board, "run", "run_01").shifts == {}
    assert row(board, "run", "run_01").report == 230 / 277
    said = " ".join(shown(board, 120).split())
    assert "run_01 on books: " in said
    assert "run_01 on kitchen: " in said
    assert "`hf-soups answer` makes these answers again." in said


def test_a_soups_answers_are_aligned_by_row_id(sweep: Path) -> None:
    soup = sweep.parent / "soup"
    order = np.random.default_rng(0).permutation(BOOKS)
    for role, right, rows, data in (("select", 182, 200, "select-rows"), ("report", 231, 277, "report-rows")):
        answers(right, rows, data, 9).save(soup / "predictions" / f"{role}.safetensors")
    answers(95, BOOKS, "books", 9).take(order).save(soup / "predictions/shift-books.safetensors")
    write_soup_record(soup, ["run_00"])
    (sweep / "soups").mkdir()
    (sweep / "soups/greedy.json").write_text(json.dumps({"path": "../../soup", "method": "greedy"}))
    found = read_scored_models(sweep)
    assert found.soups[0].answers["shift-books"].row_ids.tolist() == list(range(1000, 1000 + BOOKS))
    assert row(build_leaderboard(sweep), "soup").shifts["books"].value == 95 / BOOKS


def test_files_hold_three_columns_for_each_shift(sweep: Path, tmp_path: Path) -> None:
    import pandas

    (sweep / "run_01/predictions/shift-books.safetensors").unlink()
    board = build_leaderboard(sweep)
    paths = board.save(tmp_path / "out")
    assert [p.name for p in paths] == [
        "leaderboard.csv", "leaderboard.parquet", "leaderboard.png", "leaderboard_books.png", "leaderboard_kitchen.png",
        "score_vs_cost.png", "score_vs_cost.csv",
    ]  # fmt: skip
    said, stored = list(csv.DictReader(paths[0].open())), pandas.read_parquet(paths[1])
    assert list(said[0]) == list(stored.columns)
    columns = [name for name in said[0] if "shift" in name]
    ends = ("", "_low", "_high")
    assert columns == [*(f"shift_{s}{end}" for s in ("books", "kitchen") for end in ends), "shifts_mean"]
    for told, kept, known in zip(said, stored.to_dict("records"), board.rows, strict=True):
        assert float(told["shift_kitchen_low"]) == kept["shift_kitchen_low"] == known.shifts["kitchen"].low
        if "books" not in known.shifts:
            assert told["shift_books"] == told["shifts_mean"] == ""
            assert np.isnan(kept["shift_books"])


def test_one_shift_has_no_mean(sweep: Path, tmp_path: Path) -> None:
    for path in sweep.glob("*/predictions/shift-kitchen.safetensors"):
        path.unlink()
    board = build_leaderboard(sweep)
    board.save(tmp_path)
    assert "shifts_mean" not in (tmp_path / "leaderboard.csv").read_text()
    assert re.search(r"books +\[95%\] +gain on best", shown(board, 200))
    assert "plain mean" not in shown(board, 200)


@pytest.mark.parametrize("width", [80, 100, 140, 200])
def test_the_table_still_fits_and_tells_the_rows(sweep: Path, width: int) -> None:
    text = shown(build_leaderboard(sweep), width)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= width
    assert re.search(r"report \[95%\] +books +.*kitchen", text)
    said = " ".join(text.split())
    assert "Shifts, other distributions that nothing was chosen on: books: 120 rows, kitchen: 80 rows; shifts: " in said


def test_a_shift_of_some_classes_says_so(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "sweep", 1)
    write_finished_run(folder / "run_00", 180, 230)
    good = answers(30, 40, "good", 1)
    good.take(good.needs_labels() == 1).save(folder / "run_00/predictions/shift-good.safetensors")
    assert "good: 20 rows of 1 of the 2 classes" in " ".join(shown(build_leaderboard(folder), 120).split())


def test_the_picture_has_report_across_and_the_shift_upwards(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    board = build_leaderboard(sweep)
    board.save(tmp_path)
    (axes,) = [f.axes[0] for f in figures if "books" in f.axes[0].get_ylabel()]
    assert axes.get_xlabel() == "report: accuracy x 100, 277 rows"
    assert axes.get_ylabel() == "books: accuracy x 100, 120 rows"
    seen = {tuple(np.round(xy, 6)) for c in axes.collections for xy in getattr(c, "get_offsets", list)()}
    wanted = {(100 * r.report, 100 * r.shifts["books"].value) for r in board.rows if r.report is not None}
    assert {tuple(np.round(xy, 6)) for xy in wanted} <= seen
