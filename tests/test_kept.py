"""Folders that 0.1.0 wrote are still read: a sweep, soups, a pool with its frontier, and a cascade, in tests/kept.

They are of three runs of a tiny BERT (width 8, in `runs`) and one of width 32 (`wide_run`) on made-up reviews. Caches,
logs and pictures are left out. What is compared was printed or recorded by 0.1.0 itself.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from hf_soups import Checkpoint, Frontier, build_leaderboard, read_pool, uniform
from hf_soups.cooking import cook
from hf_soups.finetune.run_record import read_run
from hf_soups.pool_jobs.plans import open_plan
from hf_soups.reporting.cards.card import check_card, write_card
from hf_soups.soups.soup_record import read_soup
from hf_soups.sweep.folder import SweepFolder

KEPT = Path(__file__).parent / "kept" / "v0_1_0"
PLAN = 36  # the cascade was built of it: uniform -> wide_run
TEXTS = ["the good dog great cat happy", "the bad dog awful cat sad"]


@pytest.fixture
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy elsewhere, as the working directory: 0.1.0 named paths from there."""
    shutil.copytree(KEPT, tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "elsewhere"


def told(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_sweep_has_its_runs_and_its_soups(kept: Path) -> None:
    sweep = SweepFolder(kept / "runs")
    runs = sweep.runs()
    assert [(run.name, run.status) for run in runs] == [(f"run_0{i}", "finished") for i in range(3)]
    assert [read_run(run.folder).seed for run in runs] == [told(run.folder / "run.json")["seed"] for run in runs]
    assert sorted(pointer.method for pointer in sweep.soups()) == ["greedy", "uniform"]
    board = build_leaderboard(kept / "runs")
    scores = {row.name: row.select for row in board.rows}
    assert scores["run_00"] == told(kept / "runs/run_00/run.json")["scores"]["select"]["accuracy"]
    assert scores["greedy soup"] == told(kept / "soups/greedy/soup.json")["scores"]["select"]["accuracy"]


def test_a_soup_has_its_record_its_card_and_its_weights(kept: Path) -> None:
    record = read_soup(kept / "soups/greedy")
    assert record.models == ("run_00", "run_01")
    write_card(kept / "soups/greedy")
    check_card(kept / "soups/greedy")
    again = uniform([Checkpoint(str(kept / "runs" / name)) for name in record.models]).save_pretrained(kept / "again")
    assert Checkpoint(str(again)).sha256() == Checkpoint(str(kept / "soups/greedy")).sha256()


def test_cooking_its_sweep_again_keeps_the_soups(kept: Path) -> None:
    before = {path: path.read_bytes() for path in (kept / "soups").rglob("*.safetensors")}
    result = cook([kept / "runs"], methods=["uniform", "greedy"], out=kept / "soups")
    assert [cooked.record.method for cooked in result.soups] == ["uniform", "greedy"]
    assert {path: path.read_bytes() for path in before} == before


def test_a_pool_and_its_frontier_belong_together(kept: Path) -> None:
    pool, frontier = read_pool(kept / "preds"), Frontier.load(kept / "preds/frontier.json")
    plan = frontier.plan(PLAN)
    assert plan.members == ("uniform", "wide_run")
    assert plan.apply(pool.predictions).costs is not None
    open_plan(f"preds/frontier.json#{PLAN}")  # compares fingerprints, and computes the plan's score again


def test_a_cascade_answers_and_its_handler_loads_it(kept: Path) -> None:
    import runpy

    from transformers import pipeline

    pipe = pipeline("cascade-text-classification", model=str(kept / "cascade"))  # type: ignore[call-overload]
    assert [answer["label"] for answer in pipe(TEXTS)] == ["pos", "neg"]
    handler = runpy.run_path(str(kept / "cascade/handler.py"))["EndpointHandler"](str(kept / "cascade"))
    assert [answer["label"] for answer in handler({"inputs": TEXTS})] == ["pos", "neg"]
