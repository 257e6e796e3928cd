"""Leaderboards, comparisons and curves of loose checkpoints, cooked folders and pools, without a sweep."""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.cooking import cook
from hf_soups.diagnosis.by_number import by_number
from hf_soups.errors import CheckpointError, DataWarning, InputError, SelectionOnReport
from hf_soups.leaderboard import answer_checkpoints, build_leaderboard
from hf_soups.leaderboard.compare import compare
from hf_soups.leaderboard.rows import read_scored_models
from hf_soups.metrics import METRICS
from hf_soups.pool import read_pool
from hf_soups.recipe import load_recipe
from hf_soups.reporting.page import report
from tests.makers.pile import NAMES, centre, finished, label, make_pile, oracle_predictions, write_run
from tests.makers.tiny import tiny_bert

pytestmark = pytest.mark.filterwarnings("ignore::hf_soups.errors.DataWarning")


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three plain checkpoints, a greedy soup of them, and their answers in board/."""
    folder = make_pile(tmp_path_factory.mktemp("pile"), models=3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cook([folder / f"m{i}" for i in range(3)], ("greedy",), folder / "gs", recipe=folder / "recipe.yaml", tell=None)
        sources = [folder / name for name in ("m0", "m1", "m2", "gs")]
        done = answer_checkpoints(sources, folder / "board", recipe=folder / "recipe.yaml", progress=False)
    assert done.names == ("m0", "m1", "m2", "gs")
    assert not done.failed
    return folder


def test_loose_checkpoints_and_soups_stand_in_one_table_on_the_recipes_rows(pile: Path) -> None:
    board = build_leaderboard(pile / "board", resamples=50)
    recipe = load_recipe(pile / "recipe.yaml")
    rows = {row.name: row for row in board.rows if row.kind in ("run", "soup")}
    assert sorted(rows) == ["gs", "m0", "m1", "m2"]
    for name in ("m0", "m1", "m2"):
        for role in ("select", "report"):
            oracle = METRICS["accuracy"].compute(oracle_predictions(pile / name, recipe, role))
            assert getattr(rows[name], role) == pytest.approx(oracle)
    assert rows["gs"].kind == "soup"
    assert rows["gs"].pool == 3
    assert rows["m0"].parameters
    assert board.best_name == max(("m0", "m1", "m2"), key=lambda name: (rows[name].select, name == "m0"))
    assert {row.name for row in board.rows if row.kind == "ensemble"} >= {"mean-logit ensemble", "selected ensemble"}
    notes = " ".join(board.notes)
    assert "m0, m1, m2, gs: no run.json says that the select rows were kept out" in notes
    assert "gs: its ingredients may have been trained on the select rows" in notes


def test_the_same_call_keeps_the_answers_and_further_checkpoints_join(pile: Path, tmp_path: Path) -> None:
    board = shutil.copytree(pile / "board", tmp_path / "board")
    before = {path: path.stat().st_mtime_ns for path in board.rglob("*.safetensors")}
    shutil.copytree(pile / "m0", tmp_path / "again")
    done = answer_checkpoints([pile / "m0", tmp_path / "again"], board, recipe=pile / "recipe.yaml", progress=False)
    assert done.names == ("m0", "again")
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert len(read_pool(board / "report").members) == 5


def test_a_checkpoint_that_cannot_answer_is_named_and_the_others_are_compared(pile: Path, tmp_path: Path) -> None:
    broken = shutil.copytree(pile / "m0", tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"half")
    sources = [broken, pile / "m0", pile / "m1"]
    done = answer_checkpoints(sources, tmp_path / "board", recipe=pile / "recipe.yaml", progress=False)
    assert done.names == ("m0", "m1")
    assert "broken" in done.failed
    assert len(build_leaderboard(tmp_path / "board", resamples=20).scored) > 2


def test_checkpoints_of_a_trainer_stand_for_themselves(pile: Path, tmp_path: Path) -> None:
    for i, step in enumerate((10, 20)):
        shutil.copytree(pile / f"m{i}", tmp_path / "run" / f"checkpoint-{step}")
    done = answer_checkpoints([tmp_path / "run"], tmp_path / "board", recipe=pile / "recipe.yaml", progress=False)
    assert done.names == ("checkpoint-10", "checkpoint-20")


def test_runs_of_one_recipe_need_none(pile: Path, tmp_path: Path) -> None:
    for i in range(2):
        run = shutil.copytree(pile / f"m{i}", tmp_path / f"run{i}")
        write_run(run, finished(load_recipe(pile / "recipe.yaml"), i))
    done = answer_checkpoints([tmp_path / "run0", tmp_path / "run1"], tmp_path / "board", progress=False)
    found = read_scored_models(done.folder)
    assert {c.row.train_seconds for c in found.runs} == {3.0}
    assert not [note for note in found.notes if "kept out of their training" in note]


def test_what_to_answer_must_be_known(pile: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no runs of one recipe.*Give a recipe with task and data"):
        answer_checkpoints([pile / "m0"], tmp_path / "board")
    with pytest.raises(CheckpointError, match="nowhere: no such folder"):
        answer_checkpoints(["./nowhere"], tmp_path / "board")
    assert not (tmp_path / "board").exists()


def test_two_loose_checkpoints_are_compared_by_their_answers(pile: Path) -> None:
    result = compare(pile / "board", ("m0", "m1"), resamples=200)
    found = {c.row.name: c.report for c in read_scored_models(pile / "board").runs}
    a, b = (found[name].answers == found[name].labels for name in ("m0", "m1"))
    assert result.rows == 61
    assert (result.pairs[0].only_a, result.pairs[0].only_b) == (int((a & ~b).sum()), int((b & ~a).sum()))
    assert len(compare(pile / "board", resamples=50).pairs) == 6  # all against the best


def test_subsets_of_loose_checkpoints_are_mixed_and_scored(pile: Path, tmp_path: Path) -> None:
    made = by_number(pile / "board", tmp_path / "curves", subsets=2, progress=False)
    assert made.folder == tmp_path / "curves"
    assert {len(s.runs) for s in made.scores} == {1, 2, 3}
    assert {name for s in made.scores for name in s.runs} == {"m0", "m1", "m2"}  # a soup is no run
    assert any("kept out of their training" in note for note in made.notes)


def test_of_a_pool_there_are_ensembles_and_the_best_alone(pile: Path, tmp_path: Path) -> None:
    made = by_number(pile / "board" / "select", tmp_path / "curves", subsets=2, progress=False)
    assert {s.what for s in made.scores} == {"best on select", "mean-logit ensemble"}
    assert (tmp_path / "curves" / "by_number.png").is_file()


def test_checkpoints_that_cannot_be_mixed_still_have_ensembles(pile: Path, tmp_path: Path) -> None:
    other = centre(label(tiny_bert(tmp_path / "other", hidden_size=16), NAMES), scale=30.0)
    sources = [pile / "m0", other]
    answer_checkpoints(sources, tmp_path / "board", recipe=pile / "recipe.yaml", progress=False)
    made = by_number(tmp_path / "board", subsets=1, progress=False)
    assert {s.what for s in made.scores} == {"best on select", "mean-logit ensemble"}
    assert any("Soups are left out: these checkpoints cannot be mixed" in note for note in made.notes)


def test_a_report_shows_them_and_does_not_say_that_select_rows_were_kept_out(pile: Path, tmp_path: Path) -> None:
    page = report([pile / "board"], tmp_path / "page.html", resamples=20).read_text()
    assert "gs" in page
    assert "Leaderboard" in page
    assert "which no run was trained on" not in page


def test_the_commands_take_checkpoints_where_they_took_sweeps(pile: Path, tmp_path: Path) -> None:
    runner, models = CliRunner(), [str(pile / f"m{i}") for i in range(2)]
    recipe = ["--recipe", str(pile / "recipe.yaml"), "--out", str(tmp_path / "board")]
    told = runner.invoke(app, ["leaderboard", *models, *recipe, "--resamples", "20"])
    assert told.exit_code == 0, told.output
    assert "best on select" in told.output
    told = runner.invoke(app, ["compare", *models, *recipe, "--resamples", "50"])
    assert "m0 and m1 are not distinguishable" in told.output or "differ" in told.output
    told = runner.invoke(app, ["by-number", *models, *recipe, "--subsets", "1"])
    assert "by_number.csv" in "".join(told.output.split())
    told = runner.invoke(app, ["leaderboard", str(pile / "board" / "select"), "--report", "0.3", "--resamples", "20"])
    assert told.exit_code == 0, told.output


def test_a_pool_is_halved_by_class_or_reported_on_another(pile: Path) -> None:
    halves = read_scored_models(pile / "board" / "select")
    of_select, of_report = (getattr(halves.runs[0], role) for role in ("select", "report"))
    assert abs(len(of_select) - len(of_report)) <= 2
    assert not set(of_select.row_ids) & set(of_report.row_ids)
    assert any("Half of the rows" in note for note in halves.notes)
    whole = read_scored_models(pile / "board" / "select", report=str(pile / "board" / "report"))
    assert (len(whole.runs[0].select), len(whole.runs[0].report)) == (50, 61)
    third = read_scored_models(pile / "board" / "select", report="0.2")
    assert len(third.runs[0].report) == 10


def test_a_pool_of_report_rows_alone_chooses_nothing(pile: Path) -> None:
    with pytest.raises(SelectionOnReport, match=r"one look at the end.*leaderboard SELECT-POOL --report"):
        build_leaderboard(pile / "board" / "report")


def test_pools_side_by_side_are_select_and_report(pile: Path, tmp_path: Path) -> None:
    for role in ("select", "report"):
        shutil.copytree(pile / "board" / role, tmp_path / "preds" / role)
    found = read_scored_models(tmp_path / "preds")
    assert (len(found.runs[0].select), len(found.runs[0].report)) == (50, 61)
    assert found.metric.name == "accuracy"


def test_soups_alone_are_compared_too(pile: Path, tmp_path: Path) -> None:
    with pytest.warns(DataWarning):
        done = answer_checkpoints([pile / "gs"], tmp_path / "board", recipe=pile / "recipe.yaml", progress=False)
    found = read_scored_models(done.folder)
    assert [c.row.name for c in found.runs] == ["gs"]
    np.testing.assert_array_equal(found.runs[0].report.row_ids, np.arange(61))
