"""Nothing is chosen on a pool of report rows unless the user says so."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from hf_soups.cascades import Frontier
from hf_soups.cli import app
from hf_soups.errors import SelectionOnReport
from hf_soups.pool import read_pool
from hf_soups.pool.predict import PoolResult, print_result
from hf_soups.pool.store import write_pool
from hf_soups.pool_jobs import pool_ensembles, search_pool
from hf_soups.reporting.frontier_table import FrontierTable
from tests.pool_jobs.made_pool import made_pool


def pool_of_split(at: Path, split: str, **how: Any) -> Path:
    pool = read_pool(made_pool(at, **how))
    write_pool(replace(pool, data=replace(pool.data, split=split)))
    return at


def printed(what: object) -> str:
    console = Console(width=200)
    with console.capture() as seen:
        console.print(what)
    return seen.get()


@pytest.mark.parametrize("split", ["report", "shift-books"])
@pytest.mark.parametrize("report", [None, "0.5"])
@pytest.mark.parametrize("choose", [search_pool, pool_ensembles])
def test_nothing_is_chosen_on_report_rows(tmp_path: Path, choose: Any, split: str, report: str | None) -> None:
    preds = pool_of_split(tmp_path / "preds", split)
    with pytest.raises(
        SelectionOnReport, match=rf"split '{split}'.*SELECT-POOL --report .*`allow_selection_on_report=True`"
    ):
        choose(preds, report=report)
    assert not (preds / "frontier.json").exists()


def test_the_command_refuses_with_exit_status_2_and_the_option_allows_it(tmp_path: Path) -> None:
    preds = pool_of_split(tmp_path / "preds", "report", rows=60)
    words = ["cascade", "search", str(preds), "--folds", "0"]
    refused = CliRunner().invoke(app, words)
    assert isinstance(refused.exception, SelectionOnReport)
    assert refused.exception.exit_status == 2
    allowed = CliRunner().invoke(app, [*words, "--allow-selection-on-report"], env={"COLUMNS": "200"})
    assert "Optimistic: members and thresholds were chosen on report rows" in allowed.output
    kept = Frontier.load(preds / "frontier.json")
    assert kept.optimistic
    assert "Optimistic: members" in printed(FrontierTable(kept))
    ensembles = CliRunner().invoke(app, ["ensemble", str(preds), "--allow-selection-on-report"])
    assert "Optimistic: members were chosen on report rows" in " ".join(ensembles.output.split())


def test_a_share_that_was_kept_back_is_not_optimistic(tmp_path: Path) -> None:
    preds = pool_of_split(tmp_path / "preds", "report", rows=60)
    found = search_pool(preds, report="0.5", folds=0, allow_selection_on_report=True)
    assert not found.frontier.optimistic
    assert not pool_ensembles(preds, report="0.5", allow_selection_on_report=True).optimistic


def test_report_rows_of_another_pool_are_what_a_search_reports_on(tmp_path: Path) -> None:
    select = pool_of_split(tmp_path / "select", "select", rows=60)
    report = pool_of_split(tmp_path / "report", "report", rows=60, seed=1, data="other rows")
    found = search_pool(select, report=str(report), folds=0)
    assert not found.frontier.optimistic
    assert "optimistic" not in (select / "frontier.json").read_text()


def test_predict_does_not_advise_to_search_report_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for split, advice in (
        ("report", "Next: hf-soups cascade search SELECT-POOL --report {pool} (choose on select rows)\n"),
        ("select", "Next: hf-soups cascade search {pool}\n"),
    ):
        pool = read_pool(pool_of_split(tmp_path / split, split, rows=30))
        print_result(PoolResult(pool, tuple(pool.members), (), {}))
        assert advice.format(pool=pool.folder) in capsys.readouterr().out
