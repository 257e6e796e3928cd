"""Ensembles and cascades as rows of the leaderboard: who is in them, what they score and what they cost."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from hf_soups.cascades import Frontier
from hf_soups.ensembles import mean, select_ensemble
from hf_soups.errors import InputError
from hf_soups.leaderboard import Leaderboard, build_leaderboard
from hf_soups.leaderboard.board import Row
from hf_soups.leaderboard.compare import compare
from hf_soups.leaderboard.rows import read_scored_models, search_among, with_ensembles
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from tests.makers.synthetic_sweep import (
    REPORT,
    SELECT,
    answers,
    write_finished_run,
    write_plan,
    write_predictions,
    write_soup_record,
)


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Three runs, the better ones more expensive, and a soup of two of them."""
    folder = write_plan(tmp_path / "sweep", 3)
    for i, (select, report, macs) in enumerate(((160, 220, 1_000_000), (176, 240, 4_000_000), (180, 245, 9_000_000))):
        write_finished_run(folder / f"run_0{i}", select, report, seed=i, macs=macs)
    soup = tmp_path / "soup"
    write_predictions(soup, answers(182, 200, SELECT, 9), answers(247, 277, REPORT, 9))
    write_soup_record(soup, ["run_01", "run_02"])
    (folder / "soups").mkdir()
    (folder / "soups/greedy.json").write_text(json.dumps({"path": "../../soup", "method": "greedy"}))
    return folder


def stored(sweep: Path, role: str) -> dict[str, Predictions]:
    runs = {f"run_0{i}": sweep / f"run_0{i}/predictions" for i in range(3)}
    folders = {**runs, "greedy soup": sweep.parent / "soup/predictions"}
    return {name: Predictions.load(folder / f"{role}.safetensors") for name, folder in folders.items()}


def rows(board: Leaderboard, kind: str) -> dict[str, Row]:
    return {row.name: row for row in board.rows if row.kind == kind}


def accuracy(p: Predictions) -> float:
    return METRICS["accuracy"].compute(p)


def test_the_mean_of_probabilities_is_a_row_beside_the_mean_of_logits(sweep: Path) -> None:
    found = rows(build_leaderboard(sweep), "ensemble")
    assert set(found) == {"mean-logit ensemble", "mean-prob ensemble", "selected ensemble"}
    report = stored(sweep, "report")
    assert found["mean-prob ensemble"].report == accuracy(mean([report[f"run_0{i}"] for i in range(3)]))
    assert found["mean-prob ensemble"].macs == 14_000_000


def test_the_selected_ensemble_is_chosen_on_select_and_costs_its_members(sweep: Path) -> None:
    board = build_leaderboard(sweep)
    found = rows(board, "ensemble")["selected ensemble"]
    select, report = ({n: p for n, p in stored(sweep, role).items() if "run" in n} for role in ("select", "report"))
    chosen = select_ensemble(select)
    assert (found.select, found.report) == (chosen.score, accuracy(chosen.apply(report)))
    assert (found.ingredients, found.pool) == (len(chosen.weights), 3)
    assert found.macs == sum({"run_00": 1, "run_01": 4, "run_02": 9}[name] for name in chosen.weights) * 1_000_000
    assert all(name in found.made_of for name in chosen.weights)
    best = rows(board, "best on select")["run_02"].select
    assert best is not None
    assert found.select >= best


def test_selection_is_left_out_with_a_note_where_the_metric_is_no_sum_over_rows(sweep: Path) -> None:
    found = read_scored_models(sweep)
    foreign = replace(found.metric, name="mine", row_statistics=None, value=None)
    again = with_ensembles(replace(found, metric=foreign, ensembles=()))
    assert [c.row.name for c in again.ensembles] == ["mean-logit ensemble", "mean-prob ensemble"]
    assert "No selected ensemble: mine is not a sum over rows" in again.notes[-1]
    with pytest.raises(InputError, match="cascades cannot be searched by mine"):
        search_among(replace(found, metric=foreign), sweep)


def test_cascades_are_searched_only_when_asked_and_then_stay(sweep: Path) -> None:
    assert not rows(build_leaderboard(sweep), "cascade")
    assert not (sweep / "cascades").exists()
    searched = rows(build_leaderboard(sweep, cascades=True), "cascade")
    assert searched
    assert rows(build_leaderboard(sweep), "cascade") == searched


def test_a_cascades_row_is_what_its_plan_does_on_other_rows(sweep: Path) -> None:
    found = rows(build_leaderboard(sweep, cascades=True), "cascade")
    frontier = Frontier.load(sweep / "cascades/frontier.json")
    assert {p.members[0] for p in frontier.singles} == {"run_00", "run_01", "run_02", "greedy soup"}
    plans = {"cheapest cascade": frontier.cheapest(), "best cascade": frontier.best()}
    assert set(found) == {name for name, plan in plans.items() if plan is not None and len(plan.members) > 1}
    for name, row in found.items():
        plan = plans[name]
        assert plan is not None
        select, report = (plan.apply(stored(sweep, role)) for role in ("select", "report"))
        assert (row.select, row.report) == (accuracy(select), accuracy(report))
        assert report.costs is not None
        assert row.macs == round(float(report.costs.mean()))
        assert (row.ingredients, row.pool) == (len(plan.members), 4)
        assert row.parameters == len(plan.members) * 1_000_000
        assert all(member in row.made_of for member in plan.members)


def test_the_training_of_a_run_that_is_also_in_a_soup_counts_once(sweep: Path) -> None:
    build_leaderboard(sweep, cascades=True)
    frontier = Frontier.load(sweep / "cascades/frontier.json")
    plan = replace(
        frontier.plans[0],
        members=("run_01", "greedy soup"),
        thresholds=(0.8,),
        costs=(4e6, 9e6),
        temperatures=(),
        exit_shares=(),
    )
    Frontier((replace(plan, score=1.0),), frontier.singles, data=frontier.data).save(sweep / "cascades/mine.json")
    (row,) = [r for r in rows(build_leaderboard(sweep), "cascade").values() if r.name.startswith("mine: ")]
    assert row.train_seconds == 20.0  # run_01 and run_02
    assert row.made_of == "run_01 (exits at 0.8) -> greedy soup"


def test_a_soup_chosen_on_report_is_not_searched(sweep: Path) -> None:
    write_soup_record(sweep.parent / "soup", ["run_01", "run_02"], optimistic=True)
    search_among(read_scored_models(sweep), sweep)
    assert all("soup" not in p.members[0] for p in Frontier.load(sweep / "cascades/frontier.json").singles)


def test_a_frontier_that_fits_no_more_is_listed_with_the_reason(sweep: Path) -> None:
    build_leaderboard(sweep, cascades=True)
    frontier = Frontier.load(sweep / "cascades/frontier.json")
    folder = sweep / "cascades"
    replace(frontier, data="other rows").save(folder / "a.json")
    alien = replace(
        frontier.plans[0], members=("run_77", "run_00"), thresholds=(0.5,), costs=(1.0, 1.0), score=1.0, exit_shares=()
    )
    replace(frontier, plans=(alien,)).save(folder / "b.json")
    (folder / "c.json").write_text("{")
    board = build_leaderboard(sweep)
    gone = {row.name: row for row in board.rows if row.status == "gone"}
    assert set(gone) == {f"cascade of {name}.json" for name in "abc"}
    assert "searched on other rows" in gone["cascade of a.json"].reason
    assert "run_77 did not answer here. Search again." in gone["cascade of b.json"].reason
    assert "no valid JSON" in gone["cascade of c.json"].reason
    assert rows(board, "cascade").keys() >= {"best cascade"}


def test_a_cascade_is_compared_by_name_and_drawn(sweep: Path, tmp_path: Path) -> None:
    board = build_leaderboard(sweep, cascades=True)
    name = next(iter(rows(board, "cascade")))
    (pair,) = compare(sweep, [name], resamples=50).pairs
    assert (pair.a, pair.b) == (name, "run_02")
    assert compare(sweep, ["best", "run_00"], resamples=50).pairs[0].a == "run_02"
    assert all(path.stat().st_size for path in board.save(tmp_path / "out"))


def test_without_two_members_there_is_nothing_to_search(tmp_path: Path) -> None:
    folder = write_plan(tmp_path / "sweep", 2)
    write_finished_run(folder / "run_00", 170, 230)
    write_finished_run(folder / "run_01", 175, 235, seed=1, macs=None)
    with pytest.raises(InputError, match="there are 1, and it takes two"):
        build_leaderboard(folder, cascades=True)
    assert rows(build_leaderboard(folder), "ensemble")["mean-logit ensemble"].macs is None
