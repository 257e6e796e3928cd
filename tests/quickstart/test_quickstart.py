"""The quickstart, with fewer fine-tunes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from hf_soups.cascades import Frontier
from hf_soups.errors import InputError


@pytest.mark.slow
def test_the_quickstart_ends_with_soups_a_leaderboard_and_a_cascade(tmp_path: Path) -> None:
    from hf_soups.quickstart import quickstart

    out = tmp_path / "job"
    quickstart(out, sweep_runs=3)
    runs = [json.loads((out / f"runs/run_{i:02d}/run.json").read_text()) for i in range(3)]
    assert [run["status"] for run in runs] == ["finished"] * 3
    assert all(run["scores"]["report"]["accuracy"] > 0.9 for run in runs)
    assert len({run["head_fingerprint"] for run in runs}) == 1
    for soup in ("uniform", "greedy"):
        assert (out / "soups" / soup / "model.safetensors").exists()
    for kind in ("csv", "parquet", "png"):
        assert (out / "runs" / f"leaderboard.{kind}").stat().st_size > 0
    plans = Frontier.load(out / "preds/select/frontier.json")
    assert {member for plan in plans.plans for member in plan.members} == {"small", "soup"}
    assert (out / "cascade" / "config.json").exists()
    assert (out / "pictures" / "score_vs_cost.png").stat().st_size > 0


def test_the_quickstart_deletes_nothing_that_it_did_not_make(tmp_path: Path) -> None:
    from hf_soups.quickstart import quickstart

    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="is not empty"):
        quickstart(tmp_path)
    with pytest.raises(InputError, match="was not made by the quickstart"):
        quickstart(tmp_path, overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
