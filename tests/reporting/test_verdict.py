"""The first sentence of the page: what to ship, chosen on select, and honest where nothing gains."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np

from hf_soups.cascades import Frontier, Plan
from hf_soups.reporting.page.board import chosen_section
from hf_soups.reporting.page.sources import read_content
from hf_soups.reporting.page.verdict import Choice, choice_of
from tests.makers.synthetic_sweep import (
    REPORT,
    SELECT,
    answers,
    write_failed_run,
    write_finished_run,
    write_plan,
    write_predictions,
)
from tests.reporting.made import write_cascade, write_soup


def choice(*folders: Path) -> Choice:
    return choice_of(read_content(folders, resamples=20))


def sweep_of(folder: Path, *scores: tuple[int, int], metric: str = "accuracy") -> Path:
    """Finished runs with so many of 200 select rows and of 277 report rows right."""
    sweep = write_plan(folder / "runs", len(scores), metric)
    for i, (select, report) in enumerate(scores):
        write_finished_run(sweep / f"run_0{i}", select, report, seed=i)
    return sweep


def test_a_soup_that_is_best_on_select_is_named_with_score_interval_rows_and_cost(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, (180, 225), (170, 220))
    write_soup(sweep, "greedy", ["run_00", "run_01"], 186, 250)
    found = choice(sweep)
    assert found.name == "greedy soup"
    assert found.best_name == "run_00"
    first, gain = found.words[:2]
    assert first.startswith("Ship greedy soup (2 of 3 models): of what costs no more a row than run_00")
    assert "it scored highest on the 200 select rows (93.0; run_00 90.0)" in first
    assert "On the 277 report rows, which were not looked at when choosing, its accuracy is 90.3 [" in first
    assert first.endswith("at 5 M MACs a row.")
    assert "+9.0 = 25 of 277 rows" in gain
    assert gain.endswith("more than chance explains.")


def test_a_gain_within_chance_is_called_that(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, (180, 225), (170, 220))
    write_soup(sweep, "greedy", ["run_00", "run_01"], 182, 226)
    assert choice(sweep).words[1].endswith("it can be chance.")


def test_a_soup_that_is_no_better_on_select_is_not_shipped(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, (180, 225), (170, 220))
    write_soup(sweep, "uniform", ["run_00", "run_01"], 180, 250)  # as good on select, and report does not choose
    found = choice(sweep)
    assert found.name == found.best_name == "run_00"
    assert found.words[0].startswith(
        "Ship run_00, the best single model: no soup or cascade at its cost beat it on the 200 select rows."
    )


def test_a_soup_that_report_rows_speak_against_is_not_shipped(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, (180, 250), (170, 220))
    write_soup(sweep, "greedy", ["run_00", "run_01"], 186, 150)
    found = choice(sweep)
    assert found.name == "run_00"
    assert "greedy soup (2 of 3 models) scored higher on select, but on report it is worse by more" in found.words[0]
    assert "not looked at" not in found.words[0]  # they decided


def test_a_soup_that_was_chosen_on_report_is_no_candidate(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, (180, 225), (170, 220))
    write_soup(sweep, "greedy", ["run_00", "run_01"], 190, 250, optimistic=True, selected_on="report")
    assert choice(sweep).name == "run_00"


def test_of_runs_alone_the_best_on_select_is_shipped_and_the_next_step_named(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, (180, 225), (170, 240))
    (words, *_) = choice(sweep).words
    assert words.startswith("Ship run_00, the best of 2 runs on the 200 select rows. ")
    assert f"try hf-soups cook {sweep}" in words


def test_a_loss_is_best_where_it_is_lowest(tmp_path: Path) -> None:
    sweep = sweep_of(tmp_path, (180, 225), (120, 140), metric="nll")
    assert choice(sweep).name == "run_00"


def test_an_ensemble_that_scores_more_is_named_at_its_cost(tmp_path: Path) -> None:
    sweep = write_plan(tmp_path / "runs", 2)
    for i, wrong in enumerate((range(10), range(10, 21))):  # the two err on other rows, so their mean has all of them
        write_finished_run(sweep / f"run_0{i}", 200, 277)
        unsure = answers(200, 200, SELECT)
        probs = np.array(unsure.probs)
        probs[list(wrong)] = probs[list(wrong)][:, ::-1] * 0.02 + 0.49
        write_predictions(sweep / f"run_0{i}", type(unsure).from_probs(
            probs / probs.sum(1, keepdims=True), labels=unsure.labels, row_ids=unsure.row_ids,
            label_names=unsure.label_names, data=SELECT,
        ), answers(277, 277, REPORT))  # fmt: skip
    last = choice(sweep).words[-1]
    assert last.startswith("At a greater cost ")
    assert "(2x of run_00)" in last


def test_without_a_finished_run_there_is_nothing_to_ship(tmp_path: Path) -> None:
    sweep = write_plan(tmp_path / "runs", 1)
    write_failed_run(sweep / "run_00")
    assert choice(sweep).words == ("Nothing to ship yet: no run has finished.",)


def test_a_cascade_with_its_pool_is_compared_with_the_best_single_model(everything: Path) -> None:
    found = choice(everything / "preds", everything / "my-cascade")
    assert "my-cascade" in found.words[0]
    assert "big, the best single model" in found.words[0]
    assert "MACs a row" in found.words[0]
    assert found.best_name == "big"
    assert found.role == "report"


def test_a_cascade_alone_says_that_its_score_is_too_good(everything: Path) -> None:
    found = choice(everything / "my-cascade")
    assert found.words[0].startswith(f"Only cascade {everything / 'my-cascade'} (small → big) is here")
    assert "the score is too good" in found.words[0]
    assert found.answers is None


def test_a_pool_without_a_search_names_its_best_model(everything: Path, tmp_path: Path) -> None:
    pool = tmp_path / "preds"
    shutil.copytree(everything / "preds", pool, ignore=shutil.ignore_patterns("frontier.json"))
    (words,) = choice(pool).words
    assert words.startswith("Ship big, the best of 2 models: its accuracy on the 120 select rows is ")
    assert "hf-soups cascade search looks for one" in words


def test_a_pool_whose_search_found_no_cascade_does_not_advise_to_search(everything: Path, tmp_path: Path) -> None:
    shutil.copytree(everything / "preds", tmp_path / "preds")
    found = Frontier.load(tmp_path / "preds" / "frontier.json")
    singles = tuple(plan for plan in found.plans if len(plan.members) == 1)
    replace(found, plans=singles, ensembles=()).save(tmp_path / "preds" / "frontier.json")
    (words,) = choice(tmp_path / "preds").words
    assert words.startswith("Ship big, the best of 2 models")
    assert words.endswith("The search found no cascade worth its cost.")


def test_a_cascade_as_good_and_as_dear_as_the_best_single_model_is_not_shipped(
    everything: Path, tmp_path: Path
) -> None:
    best = Frontier.load(everything / "preds" / "frontier.json").best_single
    write_cascade(tmp_path / "of-one", best)
    found = choice(everything / "preds", tmp_path / "of-one")
    assert found.words[0].startswith(
        f"Ship big, the best single model: cascade {tmp_path / 'of-one'} scores no more on"
    )


def test_a_cascade_made_by_hand_has_no_score_to_show(tmp_path: Path) -> None:
    write_cascade(tmp_path / "own", Plan(("small", "big"), (0.8,), (1.0, 9.0), unit="macs"))
    content = read_content([tmp_path / "own"], resamples=20)
    assert "is here, without its members' answers: it keeps no score of its own. " in choice_of(content).words[0]
    (block,) = chosen_section(content, choice_of(content)).blocks
    assert "nan" not in str(block)
    assert block.listed[1].endswith("own: small → big, threshold 0.800. It keeps no record of how they were chosen.")
