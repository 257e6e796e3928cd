"""Results at a prompt and in a notebook: one short line, all of it as a table, and a picture."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hf_soups import (
    Predictions,
    build_from,
    build_leaderboard,
    compare,
    read_pool,
    search_cascades,
    search_pool,
    uniform,
)
from hf_soups.cooking import CookResult
from hf_soups.cooking.run import Cooked
from hf_soups.display import SHOWN
from hf_soups.errors import InputError
from hf_soups.pool.predict import PoolResult
from hf_soups.predictions.topk import TopKPredictions
from hf_soups.soups.soup_record import read_soup
from hf_soups.sweep import SweepResult
from hf_soups.sweep.ledger import Entry
from tests.cascades.pools import random_pool
from tests.makers.synthetic_sweep import write_finished_run, write_plan, write_soup_record
from tests.pool_jobs.made_pool import made_pool

SHORT = 200


def picture(shown: str) -> bytes:
    found = re.search(r'<img src="data:image/png;base64,([^"]+)"', shown)
    assert found is not None
    return base64.b64decode(found[1])


@pytest.fixture(scope="module")
def frontier() -> Any:
    pool, costs = random_pool(models=3, rows=200, classes=4, seed=1)
    return search_cascades(pool, costs)


def test_a_frontier_is_a_line_a_table_and_a_picture(frontier: Any, tmp_path: Path) -> None:
    assert re.fullmatch(rf"Frontier\({len(frontier)} plans of 3 models, accuracy on 200 rows.*\)", repr(frontier))
    assert len(repr(frontier)) < SHORT
    table = frontier.to_pandas()
    assert list(table.index) == list(range(len(frontier)))
    for number, plan in enumerate(frontier.plans):
        row = table.loc[number]
        assert (row["members"], row["accuracy"]) == (" -> ".join(plan.members), plan.score)
        assert (row["average_cost"], row["worst_cost"]) == (plan.average_cost, plan.worst_cost)
    shown = frontier._repr_html_()
    assert picture(shown).startswith(b"\x89PNG")
    assert f"{len(frontier) - SHOWN:,} more rows" in shown
    png, csv = frontier.plot(frontier.plan(0)).save(tmp_path / "costs.png")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert pd.read_csv(csv)["chosen"].sum() == 1


def test_a_plan_says_how_rows_go(frontier: Any) -> None:
    plan = next(p for p in frontier.plans if len(p.members) == 2 and p.thresholds[0] < 1)
    first, second = plan.members
    assert repr(plan).startswith(f"Plan({first} at {plan.thresholds[0]:.4g} or more, else {second}; accuracy ")
    table = plan.to_pandas()
    assert table["member"].tolist() == [first, second]
    assert table["exit_share"].sum() == pytest.approx(1)
    assert f"{first} + {second}" in repr(next(p for p in frontier.ensembles if p.members == plan.members))
    assert len(repr(plan)) < SHORT


def test_losses_of_plans_are_shown_as_the_metric_gives_them() -> None:
    pool, costs = random_pool(models=2, rows=100, classes=3, seed=2)
    best = search_cascades(pool, costs, metric="nll").best_single
    assert best.score < 0
    assert f"nll {-best.score:.4f}"[:-1] in repr(best)


@pytest.mark.parametrize(
    ("p", "line", "columns"),
    [
        (
            Predictions.from_probs([[0.75, 0.25], [0.5, 0.5]], labels=[1, 0], label_names=("a", "b"), model="m"),
            "Predictions(2 rows, 2 classes, labelled, of m)",
            ["row_id", "label", "answer", "a", "b"],
        ),
        (
            Predictions.from_probs([[0.75, 0.25]]),
            "Predictions(1 rows, 2 classes, no labels)",
            ["row_id", "answer", "0", "1"],
        ),
        (
            Predictions.from_probs([[0.75, 0.5]], labels=[[1, 0]], problem_type="multi-label", label_names=("a", "b")),
            "Predictions(1 rows, 2 labels, labelled)",
            ["row_id", "label a", "label b", "a", "b"],
        ),
        (
            Predictions.from_logits([[2.5]], labels=[2.0], problem_type="regression", label_names=("stars",)),
            "Predictions(1 rows, numbers, labelled)",
            ["row_id", "label stars", "stars"],
        ),
    ],
)
def test_predictions_are_a_line_and_a_table(p: Predictions, line: str, columns: list[str]) -> None:
    assert repr(p) == line
    table = p.to_pandas()
    assert list(table.columns) == columns
    expected = p.answers[:, None] if p.problem_type == "regression" else p.probs
    np.testing.assert_array_equal(table[columns[-p.classes :]].to_numpy(), expected)
    assert line in p._repr_html_()


def test_top_k_predictions_too() -> None:
    rows = np.arange(3)
    p = TopKPredictions(
        5,
        np.array([[1, 2]] * 3, np.uint16),
        np.log(np.full((3, 2), 0.4, np.float32)),
        np.full(3, 0.2, np.float32),
        rows,
    )
    assert repr(p) == "TopKPredictions(3 rows, 5 classes, no labels)"
    assert p.to_pandas().shape == (3, 7)


def test_a_leaderboard_is_a_line_a_table_and_a_picture(tmp_path: Path) -> None:
    write_plan(tmp_path, 2)
    for i, right in enumerate((60, 70)):
        write_finished_run(tmp_path / f"run_{i:02d}", right, right, seed=i)
    board = build_leaderboard(tmp_path)
    assert re.match(
        r"Leaderboard\(\d+ rows, \d+ select and \d+ report rows; best on select: .*, report accuracy ", repr(board)
    )
    assert len(repr(board)) < SHORT
    assert board.to_pandas()["name"].tolist() == [row.name for row in board.rows]
    assert picture(board._repr_html_()).startswith(b"\x89PNG")


def test_comparisons_are_a_line_and_a_table(tmp_path: Path) -> None:
    write_plan(tmp_path, 3)
    for i, right in enumerate((50, 60, 95)):
        write_finished_run(tmp_path / f"run_{i:02d}", right, right, seed=i)
    one = compare(tmp_path, ["run_00", "run_02"])
    assert repr(one).startswith("Comparisons(run_02 is ahead of run_00 by more than ")
    assert one.to_pandas().loc[0, ["a", "b"]].tolist() == ["run_00", "run_02"]
    every = compare(tmp_path)
    assert re.match(
        r"Comparisons\(\d of \d differ from run_02 on report, \d+ rows: McNemar's exact test\)", repr(every)
    )
    assert "<table" in every._repr_html_()


def test_a_search_shows_its_choice_and_what_it_does_on_report_rows(tmp_path: Path) -> None:
    pool = made_pool(tmp_path / "pool")
    found = search_pool(pool, report="0.5")
    assert re.match(r"SearchResult\(\d+ plans in .*frontier.json; chosen: .*, average cost ", repr(found))
    assert found.to_pandas()["plan"].tolist() == [reported.name for reported in found.reported]
    assert picture(found._repr_html_()).startswith(b"\x89PNG")
    assert found.frontier.plans[int(found.reference.rpartition("#")[2])] == found.choice.plan
    assert len(repr(found.frontier.plot())) < SHORT
    none = search_pool(pool, report="0.5", min_score="0.9999", out=tmp_path / "other.json")
    assert "none chosen" in repr(none)
    with pytest.raises(InputError, match="No plan was chosen, so there is none to build"):
        build_from(none.reference, tmp_path / "cascade")


def test_a_pool_is_a_line_and_a_table(tmp_path: Path) -> None:
    pool = read_pool(made_pool(tmp_path / "pool", models=2, rows=50))
    assert repr(pool) == f"Pool(2 models on 50 test rows of made-up; in {tmp_path / 'pool'})"
    assert pool.to_pandas()["parameters"].tolist() == [10, 20]
    assert repr(PoolResult(pool, ("m0",), ("m1",), {})).startswith(
        "PoolResult(1 answered, 1 kept, 0 failed; 2 models on "
    )


def test_a_sweep_and_a_cook_are_a_line_and_a_table(tmp_path: Path) -> None:
    entries = (Entry("run_00", "finished", "finished", seconds=1.5), Entry("run_01", "failed", "nan-loss", "NaN"))
    swept = SweepResult(Path("runs"), (*entries, Entry("run_02", "open")), ())
    assert repr(swept) == "SweepResult(1 of 3 runs finished, 1 failed, 1 killed; in runs)"
    assert swept.to_pandas()["reason"].tolist() == ["", "NaN", ""]
    (tmp_path / "soup").mkdir()
    write_soup_record(tmp_path / "soup", ["run_00", "run_01"])
    cooked = Cooked("uniform", Path("soup"), read_soup(tmp_path / "soup"))
    made = CookResult((cooked,), {"run_02": "one class"})
    assert re.fullmatch(r"CookResult\(uniform of 2 of \d in soup; 1 checkpoints left out\)", repr(made))
    assert made.to_pandas().loc[0, "ingredients"] == "run_00 + run_01"


def test_a_soup_is_a_line_and_a_table() -> None:
    soup = uniform(["org/a", "org/b@v1"])
    assert repr(soup) == "Soup(uniform of 2 checkpoints)"
    assert soup.to_pandas().to_dict("list") == {
        "ingredient": ["org/a", "org/b"],
        "coefficient": [0.5, 0.5],
        "source": ["org/a", "org/b@v1"],
    }
    assert "<img" not in soup._repr_html_()


def test_names_cannot_become_markup() -> None:
    p = Predictions.from_probs([[0.75, 0.25]], label_names=("<script>", "b"), model="<b>")
    assert "<script>" not in p._repr_html_()
    assert "<b>" not in p._repr_html_()
