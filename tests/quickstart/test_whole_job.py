"""What the README promises, from a recipe to the leaderboard, through the command line on tiny models."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import yaml

from tests.cli.test_cli import hf_soups
from tests.makers.small_task import text_recipe, write_texts
from tests.makers.tiny import tiny_bert


@pytest.mark.slow
def test_sweep_cook_leaderboard(tmp_path: Path) -> None:
    write_texts(tmp_path / "data", train=200)
    values = text_recipe(tmp_path / "data", tiny_bert(tmp_path / "bert")).model_dump(mode="json")
    space = {"learning_rate": {"log_uniform": [1e-4, 1e-2]}}
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({**values, "sweep": {"runs": 3, "space": space}}))
    runs, soups = tmp_path / "runs", tmp_path / "soups"

    swept = hf_soups("sweep", str(recipe), "--out", str(runs), "--slots", "2", "--processes", "2")
    assert swept.returncode in (0, 1), swept.stderr
    records = [json.loads(path.read_text()) for path in sorted(runs.glob("run_*/run.json"))]
    assert len(records) == 3
    assert {record["processes"] for record in records} == {2}
    finished = [record for record in records if record["status"] == "finished"]
    assert len(finished) >= 2, [record["reason"] for record in records]

    cooked = hf_soups("cook", str(runs), "--method", "uniform", "--method", "greedy", "--out", str(soups))
    assert cooked.returncode == 0, cooked.stderr
    again = hf_soups("cook", str(runs), "--method", "greedy", "--out", str(soups))
    assert again.returncode in (0, 2)

    told = hf_soups("leaderboard", str(runs))
    assert told.returncode == 0, told.stderr
    rows = list(csv.DictReader((runs / "leaderboard.csv").open()))
    assert [row["kind"] for row in rows].count("run") == 3
    for name in ("greedy", "uniform", "ensemble"):
        assert name in told.stdout
