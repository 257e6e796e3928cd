"""From a pool on disk to frontier, certificate, pictures and ensembles, as the commands call it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from hf_soups.cascades import Frontier
from hf_soups.cli import app
from hf_soups.errors import InputError
from hf_soups.pool import read_pool
from hf_soups.pool.store import write_pool
from hf_soups.pool_jobs import certify_plan, draw_plan, pool_ensembles, search_pool, select_and_report
from tests.pool_jobs.made_pool import made_pool


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return made_pool(tmp_path_factory.mktemp("pool"))


def test_a_share_of_the_rows_is_kept_back_and_the_halves_share_none(pool: Path) -> None:
    parts = select_and_report(read_pool(pool), "0.4", seed=1)
    assert parts.report is not None
    select, report = parts.select["m0"], parts.report["m0"]
    assert len(report) == 80
    assert sorted([*select.row_ids, *report.row_ids]) == list(range(200))
    again = select_and_report(read_pool(pool), "0.4", seed=1).report
    assert again is not None
    assert np.array_equal(again["m1"].row_ids, report.row_ids)


def test_each_class_keeps_its_share_back(pool: Path) -> None:
    parts = select_and_report(read_pool(pool), "0.5")
    assert parts.report is not None
    counts = [np.bincount(half["m0"].needs_labels(), minlength=3) for half in (parts.select, parts.report)]
    assert np.abs(counts[0] - counts[1]).max() <= 1


def test_the_rows_of_another_pool_are_the_report(pool: Path, tmp_path: Path) -> None:
    other = made_pool(tmp_path / "other", seed=5, data="other rows")
    result = search_pool(pool, report=str(other), out=tmp_path / "f.json", folds=0)
    assert [row.name for row in result.reported] == ["best single", "best ensemble", "chosen"]
    assert result.reported[0].plan.rows == 200


@pytest.mark.parametrize(
    ("report", "told"),
    [
        ("1.5", "a share of the rows lies between 0 and 1"),
        ("0.001", "leaves none on one side"),
        ("no-such-folder", "a share of the rows such as 0.5, or the folder of a pool"),
    ],
)
def test_reports_that_are_none_are_refused(pool: Path, report: str, told: str) -> None:
    with pytest.raises(InputError, match=told):
        select_and_report(read_pool(pool), report)


def test_reporting_on_the_rows_that_are_chosen_on_is_refused(pool: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="the same rows as"):
        select_and_report(read_pool(pool), str(made_pool(tmp_path / "same")))


def test_a_report_pool_without_a_member_is_refused_by_its_name(pool: Path, tmp_path: Path) -> None:
    other = made_pool(tmp_path / "few", models=2, data="other rows")
    with pytest.raises(InputError, match="no answers of m2"):
        select_and_report(read_pool(pool), str(other))


def test_a_search_writes_the_frontier_that_it_prints(pool: Path, tmp_path: Path) -> None:
    result = search_pool(pool, report="0.5", out=tmp_path / "f.json", folds=3)
    kept = Frontier.load(tmp_path / "f.json")
    assert kept == result.frontier
    assert (kept.pool, str(kept.report), kept.seed) == (str(pool), "0.5", 0)
    plan = result.choice.plan
    assert plan is not None
    assert plan.score >= kept.best_single.score
    assert plan.unit == "macs"


def test_reported_scores_are_those_of_rows_that_were_not_chosen_on(pool: Path, tmp_path: Path) -> None:
    result = search_pool(pool, report="0.5", out=tmp_path / "f.json", folds=0)
    report = select_and_report(read_pool(pool), "0.5").report
    assert report is not None
    for row in result.reported:
        answers = row.plan.apply(report)
        assert row.score.value == pytest.approx((answers.answers == answers.needs_labels()).mean())
        assert sum(row.exit_shares) == pytest.approx(1)


def test_relative_bounds_are_of_the_best_single_model(pool: Path, tmp_path: Path) -> None:
    result = search_pool(pool, max_average_cost="0.5x", max_worst_cost="1x", out=tmp_path / "f.json", folds=0)
    best = result.frontier.best_single
    assert result.choice.plan is not None
    assert result.choice.plan.average_cost <= best.average_cost / 2
    assert all(plan.worst_cost <= best.average_cost for plan in result.frontier.plans)


@pytest.mark.parametrize("method", ["beam", "streeter"])
def test_searches_for_large_pools_take_the_same_call(pool: Path, tmp_path: Path, method: str) -> None:
    result = search_pool(pool, method=method, out=tmp_path / "f.json", folds=0)  # type: ignore[arg-type]
    combine = "last" if method == "streeter" else "mean"
    every = 402  # more thresholds than there are confidences
    exact = search_pool(pool, out=tmp_path / "g.json", folds=0, combine=combine, grid=every)
    for plan in result.frontier.plans:
        best = exact.frontier.best(max_average_cost=plan.average_cost)
        assert best is not None
        assert best.score >= plan.score


def test_temperatures_are_fitted_on_select_and_kept_in_the_plans(pool: Path, tmp_path: Path) -> None:
    result = search_pool(pool, temperatures=True, out=tmp_path / "f.json", folds=0)
    assert all(len(plan.temperatures) == len(plan.members) for plan in result.frontier.plans if plan.temperatures)
    assert any(t != 1 for plan in result.frontier.plans for t in plan.temperatures)


def test_a_member_that_is_not_there_is_named(pool: Path) -> None:
    with pytest.raises(InputError, match="no member nobody in the pool; there are: m0, m1, m2"):
        search_pool(pool, members=["nobody"])
    with pytest.raises(InputError, match="no member nobody in the pool"):  # one name, not its letters
        search_pool(pool, members="nobody")


def test_a_cost_that_was_not_measured_says_what_to_do(pool: Path) -> None:
    with pytest.raises(InputError, match="`measure_seconds=True`"):
        search_pool(pool, cost="seconds")


def test_methods_take_their_own_options_and_refuse_those_of_others(pool: Path, tmp_path: Path) -> None:
    result = search_pool(pool, method="streeter", reference="m1", shares=[0.9], out=tmp_path / "f.json", folds=0)
    assert all("m2" not in plan.members for plan in result.frontier.plans if len(plan.members) > 1)
    with pytest.raises(InputError, match="width: no option of the method 'exhaustive', whose own are grid"):
        search_pool(pool, width=3)
    with pytest.raises(InputError, match="grid: no option of the method 'streeter'"):
        search_pool(pool, method="streeter", grid=9)


def test_streeter_searches_by_accuracy_alone(pool: Path) -> None:
    with pytest.raises(InputError, match="cannot search by nll"):
        search_pool(pool, method="streeter", metric="nll")


def test_certificates_need_rows_that_the_search_did_not_see(pool: Path, tmp_path: Path) -> None:
    search_pool(pool, out=tmp_path / "f.json", folds=0)
    with pytest.raises(InputError, match=r"Search again with `report=0\.5`"):
        certify_plan(f"{tmp_path}/f.json#1")


def test_a_plan_is_certified_on_report_rows(tmp_path: Path) -> None:
    pool = made_pool(tmp_path / "large", rows=4000)
    result = search_pool(pool, report="0.5", out=tmp_path / "f.json", folds=0)
    index = next(i for i, p in enumerate(result.frontier.plans) if len(p.members) == 2)
    found = certify_plan(f"{tmp_path}/f.json#{index}", max_loss=0.1)
    assert found.certified
    assert found.rows == 1000


def test_pictures_are_drawn_with_their_data(pool: Path, tmp_path: Path) -> None:
    result = search_pool(pool, report="0.5", out=tmp_path / "f.json", folds=0)
    index = next(i for i, p in enumerate(result.frontier.plans) if len(p.members) > 1)
    drawn = draw_plan(f"{tmp_path}/f.json#{index}", tmp_path / "pictures")
    names = {path.name for path in drawn}
    assert {"score_vs_cost.png", "score_vs_cost.csv", "exits.png", "exits.csv", "reliability.png"} <= names
    assert all(path.stat().st_size for path in drawn)


def test_ensembles_stand_in_one_table_with_the_best_single(pool: Path, tmp_path: Path) -> None:
    found = pool_ensembles(pool, report="0.5", curves=tmp_path, temperatures=True, rounds=5)
    assert [row.name.split(":")[0] for row in found.rows] == ["best single", "mean", "geometric", "vote", "selected"]
    assert found.rows[1].cost == sum(member.macs or 0 for member in read_pool(pool).members.values())
    assert found.rows[-1].select.value >= found.rows[0].select.value
    assert found.counts == (100, 100)
    assert found.pictures


def test_an_empty_pool_is_refused(pool: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    write_pool(replace(read_pool(pool), folder=tmp_path / "empty", members={}))
    with pytest.raises(InputError, match="a pool without members"):
        search_pool(tmp_path / "empty")


# As a user types it


def run(*arguments: object) -> tuple[int, str]:
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.output


def test_the_commands_work_one_after_another(pool: Path, tmp_path: Path) -> None:
    frontier = tmp_path / "frontier.json"
    status, told = run("cascade", "search", pool, "--report", "0.5", "--out", frontier)
    assert status == 0
    assert "on report rows, which nothing was chosen on" in told
    assert "alone is the choice: there is no cascade to build." in told
    status, told = run("cascade", "show", frontier, "--count", "5")
    assert status == 0
    assert "m0" in told
    status, told = run("ensemble", pool, "--report", "0.5", "--rounds", "3")
    assert status == 0
    assert "selected: " in told
    index = told_index(frontier)
    assert run("cascade", "draw", f"{frontier}#{index}", "--out", tmp_path / "drawn")[0] == 0
    status, told = run("cascade", "certify", f"{frontier}#{index}", "--max-loss", "0.0001")
    assert status == 1
    assert "Nothing certified" in told


def told_index(frontier: Path) -> int:
    plans = json.loads(frontier.read_text())["plans"]
    return next(i for i, plan in enumerate(plans) if len(plan["members"]) > 1)


def test_where_no_plan_fits_the_exit_status_says_so_and_the_nearest_is_named(pool: Path, tmp_path: Path) -> None:
    status, told = run("cascade", "search", pool, "--min-accuracy", "0.9999", "--out", tmp_path / "f.json")
    assert status == 1
    assert "The nearest is plan" in told.replace("\n", " ")
