"""What the report says: the same numbers as the files and commands it is made from, and what is missing in words."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_soups.cascades import CascadePredictions, Frontier, Plan
from hf_soups.cascades.provenance import Seen
from hf_soups.errors import InputError
from hf_soups.leaderboard import build_leaderboard
from hf_soups.metrics import METRICS
from hf_soups.pool import read_pool
from hf_soups.pool.report_rows import OtherPool
from hf_soups.pool_jobs import select_and_report
from hf_soups.predictions import Predictions
from hf_soups.reporting.page import page_for
from hf_soups.reporting.page.cascades import data_uri, shown_rows
from hf_soups.reporting.page.html import Chart, Page, PageTable, Section
from hf_soups.reporting.page.training import POINTS, loss_points, score_points
from tests.makers.synthetic_sweep import write_plan
from tests.reporting.made import frontier_of, history, write_pool_of_texts, write_sweep, write_texts


def section(page: Page, name: str) -> Section:
    (found,) = [s for s in page.sections if s.name == name]
    return found


def chart(page: Page, name: str) -> Chart:
    (found,) = [c for c in page.charts if c.name == name]
    return found


def column(table: PageTable, title: str) -> list[str]:
    at = [c.title for c in table.columns].index(title)
    return [row[at].text for row in table.rows]


def words(part: Section) -> str:
    return " ".join(text for block in part.blocks for text in (*block.words, *block.listed))


def test_the_leaderboard_is_the_commands(page: Page, everything: Path) -> None:
    board = build_leaderboard(everything / "runs", resamples=100)
    scored = [row for row in board.rows if row.report is not None]
    table = section(page, "leaderboard").blocks[0].table
    assert table is not None
    assert [row[0].text.split(" ")[0] for row in table.rows] == [row.name.split(" ")[0] for row in scored]
    at = [c.title for c in table.columns].index("report")
    assert [row[at].value for row in table.rows] == [row.report for row in scored]
    assert table.rows[0][at].text == f"{100 * (scored[0].report or 0):.1f} " + (
        f"[{100 * (scored[0].report_low or 0):.1f}, {100 * (scored[0].report_high or 0):.1f}]"
    )


def test_every_section_of_everything_is_there_in_its_order(page: Page) -> None:
    names = [
        "chosen", "leaderboard", "classes", "costs", "settings", "curves", "soups", "exits", "examples", "limits",
    ]  # fmt: skip
    assert [s.name for s in page.sections] == names


def test_steps_say_what_was_kept_and_the_score_after_each(page: Page) -> None:
    table = chart(page, "soup-1-steps").table
    assert column(table, "was") == ["kept", "kept", "rejected", "rejected"]
    assert column(table, "score") == ["90.0", "92.0", "89.0", "at most 91.5"]
    assert column(table, "best so far") == ["90.0", "92.0", "92.0", "92.0"]


def test_exits_add_up_to_the_whole_cascade(page: Page, everything: Path) -> None:
    pool = read_pool(everything / "preds")
    frontier = Frontier.load(everything / "preds/frontier.json")
    plan = next(p for p in frontier.plans if len(p.members) > 1 and p.thresholds[0] == 0.8)
    report = select_and_report(pool, "0.5").report
    assert report is not None
    done = plan.apply(report)
    assert done.exits is not None
    table = chart(page, "exits-1-shares").table
    rows = [int(text) for text in column(table, "rows")]
    assert rows == [int((done.exits == stage).sum()) for stage in (0, 1)]
    right = sum(n * float(a) / 100 for n, a in zip(rows, column(table, "accuracy x 100"), strict=True))
    assert round(right) == round(METRICS["accuracy"].compute(done) * len(done))


def test_the_picture_of_costs_has_the_whole_frontier_with_the_cascade_marked(page: Page) -> None:
    table = chart(page, "cost-1").table
    assert sorted(column(table, "kind")) == ["cascade"] * 3 + ["ensemble"] + ["single"] * 2
    assert [name for name in column(table, "model") if "(chosen)" in name] == ["small -> big (chosen)"]
    costs = [row[-1].value for row in table.rows]
    assert costs == sorted(costs)  # type: ignore[type-var]


def test_examples_are_the_rows_of_the_data(page: Page, everything: Path) -> None:
    groups = section(page, "examples").blocks[1].examples
    assert [g.title for g in groups] == ["Exit 1: small", "Exit 2: big"]
    for group in groups:
        assert 1 <= len(group.rows) <= 6
        for row in group.rows:
            number = int(row.title.removeprefix("row "))
            assert row.texts[0].startswith(f"text {number}: ")
            assert row.label == ("bad", "good")[number % 2]
            assert row.right == row.answer.startswith(row.label)


def test_without_the_data_no_row_is_shown_and_the_report_says_so(everything: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(everything / "preds", tmp_path / "preds")
    told = json.loads((moved / "pool.json").read_text())
    told["data"]["path"] = str(tmp_path / "gone.parquet")
    (moved / "pool.json").write_text(json.dumps(told))
    found = section(page_for([moved], resamples=10), "examples")
    assert "not at hand" in words(found)
    assert not any(block.examples for block in found.blocks)


def test_no_example_is_read_when_none_is_wanted(everything: Path) -> None:
    page = page_for([everything / "preds"], examples=0)
    assert "examples" not in [s.name for s in page.sections]


def test_a_cascade_without_its_pool_shows_the_shares_of_the_search(everything: Path) -> None:
    page = page_for([everything / "my-cascade"])
    assert [s.name for s in page.sections] == ["chosen", "exits", "limits"]
    assert "only the shares of the search are known" in words(section(page, "exits"))
    plan = next(p for p in Frontier.load(everything / "preds/frontier.json").plans if 0.8 in p.thresholds)
    assert column(chart(page, "exits-1-shares").table, "share") == [f"{100 * s:.1f}%" for s in plan.exit_shares]
    assert "exits-1-accuracy" not in [c.name for c in page.charts]


def test_a_cascade_at_another_cost_is_not_taken_for_the_pools(everything: Path, tmp_path: Path) -> None:
    other = shutil.copytree(everything / "my-cascade", tmp_path / "other")
    told = json.loads((other / "config.json").read_text())
    told["plan"]["costs"][0] += 1
    (other / "config.json").write_text(json.dumps(told))
    assert "only the shares of the search are known" in words(section(page_for([everything / "preds", other]), "exits"))


def test_a_pool_alone_shows_the_cascade_that_its_frontier_stands_for(everything: Path) -> None:
    page = page_for([everything / "preds"])
    frontier = Frontier.load(everything / "preds/frontier.json")
    several = [p for p in frontier.plans if len(p.members) > 1 and p.thresholds[0] <= 1]
    enough = [p for p in several if p.score >= frontier.best_single.score] or [max(several, key=lambda p: p.score)]
    index = frontier.plans.index(min(enough, key=lambda p: p.average_cost))
    assert section(page, "exits").blocks[0].title == f"{everything}/preds/frontier.json#{index}"


def test_a_pool_without_a_frontier_shows_its_single_models(everything: Path, tmp_path: Path) -> None:
    pool = shutil.copytree(everything / "preds", tmp_path / "preds")
    (pool / "frontier.json").unlink()
    page = page_for([pool])
    assert column(chart(page, "cost-1").table, "model") == ["small", "big"]
    assert "Nothing was searched here" in words(section(page, "costs"))
    assert "There is no cascade here" in words(section(page, "limits"))


def test_a_report_pool_is_found_after_both_moved_and_has_no_part_of_its_own(tmp_path: Path) -> None:
    data = [write_texts(tmp_path / f"{name}.parquet") for name in ("one", "two")]
    for name, path in zip(("select", "report"), data, strict=True):
        write_pool_of_texts(tmp_path / "old" / name, path)
    pools = tmp_path / "old"
    (pools / "report/frontier.json").unlink()
    relabelled = json.loads((pools / "report/pool.json").read_text())
    relabelled["data"]["fingerprint"] = "other"
    (pools / "report/pool.json").write_text(json.dumps(relabelled))
    for name in ("small", "big"):
        file = pools / f"report/{name}.safetensors"
        replace(Predictions.load(file), data="other").save(file)
    frontier_of(read_pool(pools / "select"), report=str(pools / "report")).save(pools / "select/frontier.json")
    (tmp_path / "elsewhere").mkdir()
    pools.rename(tmp_path / "elsewhere/old")
    page = page_for([tmp_path / "elsewhere/old"], examples=0)
    assert [c.name for c in page.charts if c.name.startswith("cost")] == ["cost-1"]
    assert "120 rows that nothing was chosen on" in chart(page, "cost-1").title


def test_where_the_report_rows_are_gone_the_scores_are_called_too_good(everything: Path, tmp_path: Path) -> None:
    pool = shutil.copytree(everything / "preds", tmp_path / "preds")
    gone = tmp_path / "gone"
    whole = frontier_of(read_pool(pool), report="")
    replace(whole, report=OtherPool(str(gone)), reported_on=Seen("other")).save(pool / "frontier.json")
    page = page_for([pool], examples=0)
    assert f"({gone}) are not there" in words(section(page, "costs"))
    assert "so they are too good" in words(section(page, "limits"))


def test_a_frontier_of_other_rows_is_refused(everything: Path, tmp_path: Path) -> None:
    pool = shutil.copytree(everything / "preds", tmp_path / "preds")
    frontier = Frontier.load(pool / "frontier.json")
    assert frontier.chosen_on is not None
    other = replace(frontier, data="other", chosen_on=replace(frontier.chosen_on, data="other"))
    other.save(pool / "frontier.json")
    with pytest.raises(InputError, match=r"not any more what .*frontier\.json was searched on: its rows are others"):
        page_for([pool], examples=0)


def test_a_sweep_without_a_finished_run_or_a_soup_says_so(tmp_path: Path) -> None:
    page = page_for([write_plan(tmp_path / "sweep", 2)])
    assert "No run has finished yet" in words(section(page, "leaderboard"))
    assert "No soup was cooked" in words(section(page, "soups"))
    assert "run_00, run_01" in words(section(page, "curves"))
    assert page.charts == ()


def test_unfinished_runs_and_cooked_soups_are_told_of(page: Page) -> None:
    assert "run_03: nan-loss" in words(section(page, "limits"))
    assert "run_03, run_04" in words(section(page, "curves"))
    assert "4 mixtures were tried on the 200 select rows; 2 kept" in words(section(page, "soups"))


def test_a_soup_chosen_on_report_is_called_too_good(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    record = tmp_path / "soups/greedy/soup.json"
    record.write_text(json.dumps({**json.loads(record.read_text()), "optimistic": True}))
    page = page_for([sweep], resamples=10)
    for name in ("chosen", "soups", "limits"):
        assert "too good" in words(section(page, name))


def test_a_sweeps_own_cascades_have_exits_too(tmp_path: Path) -> None:
    sweep = write_sweep(tmp_path / "sweep")
    costs = {"run_00": 5e6, "run_01": 5e6}
    singles = [Plan((n,), (), (c,), score=0.9, average_cost=c, unit="macs", rows=200) for n, c in costs.items()]
    both = Plan(("run_01", "run_00"), (0.7,), (5e6, 5e6), score=0.92, average_cost=8e6, unit="macs", rows=200)
    Frontier((*singles, both), tuple(singles)).save(sweep / "cascades/frontier.json")
    page = page_for([sweep], resamples=10, examples=0)
    assert section(page, "exits").blocks[0].title == str(sweep / "cascades/frontier.json#2")
    assert "277 report rows" in chart(page, "exits-1-shares").title
    assert "cascade" in column(chart(page, "cost-board").table, "kind")


def test_the_title_is_the_users(everything: Path) -> None:
    assert page_for([everything / "my-cascade"], title="Mine").title == "Mine"


def test_few_losses_are_shown_as_they_are_and_many_as_means() -> None:
    few = history(1, epochs=1)
    assert loss_points(few) == [(round(p["epoch"], 2), p["loss"]) for p in few]
    many = history(1, epochs=4)
    means = loss_points(many)
    assert len(means) == POINTS
    assert means[-1][0] == 4.0
    assert min(p["loss"] for p in many) <= min(loss for _, loss in means)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=300))
def test_the_loss_of_all_parts_together_is_that_of_all_records(losses: list[float]) -> None:
    points = loss_points([{"epoch": float(i + 1), "loss": loss} for i, loss in enumerate(losses)])
    ends = [0, *(int(epoch) for epoch, _ in points)]
    total = sum(mean * (end - start) for (_, mean), start, end in zip(points, ends, ends[1:], strict=False))
    # each mean and the sum round at most once a record
    assert total == pytest.approx(sum(losses), abs=1e-12 * 10 * len(losses))


def test_scores_on_select_keep_their_epochs_and_gaps_are_left_out() -> None:
    told = [{"epoch": 1.0, "select": 0.5}, {"epoch": 1.5, "loss": 1.0}, {"step": 9, "select": 0.6}, {"select": None}]
    assert score_points(told) == [(1.0, 0.5), (1.5, 0.6)]
    assert loss_points([{"epoch": 1.0, "loss": None}, {}]) == []


def cascade_answers(rng: np.random.Generator, rows: int, *, labelled: bool = True) -> CascadePredictions:
    probs = rng.dirichlet(np.ones(3), rows)
    return CascadePredictions(
        np.log(probs).astype(np.float32), np.arange(rows), rng.integers(0, 3, rows) if labelled else None,
        exits=rng.integers(0, 2, rows), costs=np.ones(rows),
    )  # fmt: skip


@given(st.integers(0, 40), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_examples_are_of_their_exit_and_at_most_half_wrong_while_there_are_right_ones(
    rows: int, count: int, seed: int
) -> None:
    answers = cascade_answers(np.random.default_rng(seed), rows)
    assert answers.exits is not None
    assert answers.labels is not None
    inside = set(np.flatnonzero(answers.exits == 1).tolist())
    hit = answers.answers == answers.labels
    shown = shown_rows(answers, 1, count)
    assert len(shown) == len(set(shown)) <= count
    assert set(shown) <= inside
    wrong = [row for row in shown if not hit[row]]
    right = sum(bool(hit[row]) for row in inside)
    assert len(wrong) <= max(count // 2, count - right)
    if len(inside) >= count:
        assert len(shown) >= min(count, right + count // 2) - (count // 2 - len(wrong))
    assert shown[: len(wrong)] == wrong
    sure = answers.log_probs.max(axis=1)
    for some in (wrong, shown[len(wrong) :]):
        assert [sure[row] for row in some] == sorted((sure[row] for row in some), reverse=True)


def test_rows_without_labels_are_the_surest() -> None:
    answers = cascade_answers(np.random.default_rng(0), 30, labelled=False)
    assert answers.exits is not None
    inside = np.flatnonzero(answers.exits == 0)
    best = inside[np.argsort(-answers.log_probs[inside].max(axis=1), kind="stable")][:4]
    assert shown_rows(answers, 0, 4) == best.tolist()
    assert shown_rows(answers, 7, 4) == []


@pytest.mark.parametrize(("size", "kind", "shown"), [((8, 8), "png", (8, 8)), ((640, 320), "jpeg", (128, 64))])
def test_images_become_small_data_uris(size: tuple[int, int], kind: str, shown: tuple[int, int]) -> None:
    uri, at = data_uri(Image.new("RGB", size, "red"))
    assert uri.startswith(f"data:image/{kind};base64,")
    assert at == shown


def test_a_damaged_pool_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "pool.json").write_text("{")
    with pytest.raises(InputError, match=r"pool\.json: cannot be read"):
        page_for([tmp_path])
