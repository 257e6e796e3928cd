"""Cooking from sweeps and plain checkpoints: what is written, what is said, and what is refused."""

from __future__ import annotations

import csv
import errno
import json
import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save_file
from transformers import pipeline

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import CookResult, cook, one_soup, print_result
from hf_soups.cooking import run as cook_run
from hf_soups.cooking.one_soup import why_one
from hf_soups.data import load_splits
from hf_soups.errors import CheckpointError, HfSoupsError, IncompatibleCheckpoints, InputError, SelectionOnReport
from hf_soups.finetune.run_record import RunRecord, read_run, write_run
from hf_soups.leaderboard import build_leaderboard
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from hf_soups.recipe import load_recipe
from hf_soups.reporting.cards.card import check_card, write_card
from hf_soups.soups import Soup, Step
from hf_soups.soups.options import Options
from hf_soups.soups.scoring import SoupScorer
from hf_soups.soups.soup_record import read_soup
from tests.makers.pile import finished, label, make_pile, make_sweep, near, plain_answers
from tests.makers.ties import turned
from tests.makers.tiny import IMAGE_SIZE, tiny_bert, tiny_resnet


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_sweep(folder)
    return folder


@pytest.fixture
def sweep(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made / "sweep", tmp_path / "sweep")


@pytest.fixture(scope="module")
def pile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pile(tmp_path_factory.mktemp("pile"), models=3)


@pytest.fixture
def plain(pile: Path) -> list[str]:
    return [str(pile / f"m{i}") for i in range(3)]


def quietly(*arguments, **options) -> CookResult:
    return cook(*arguments, tell=None, **options)


def record(folder: Path) -> dict:
    return json.loads((folder / "soup.json").read_text())


def everything(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# --- from a sweep


def test_a_sweep_gives_one_folder_for_each_method(sweep: Path, tmp_path: Path) -> None:
    result = quietly([sweep], ("greedy", "uniform"), tmp_path / "soups")
    assert [(s.method, s.folder) for s in result.soups] == [
        ("uniform", tmp_path / "soups/uniform"),
        ("greedy", tmp_path / "soups/greedy"),
    ]
    assert sorted(p.name for p in (tmp_path / "soups").iterdir()) == ["greedy", "uniform"]
    assert {p.name for p in (tmp_path / "soups/greedy").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json", "soup.json", "predictions",
        "steps.csv", "score_by_ingredients.png", "recipe.yaml", "leaderboard.json",
    }  # fmt: skip


@pytest.mark.parametrize("method", ["uniform", "greedy"])
def test_cached_predictions_are_those_of_the_saved_folder(sweep: Path, tmp_path: Path, method: str) -> None:
    quietly([sweep], method, tmp_path / "soups")
    folder = tmp_path / "soups" / method
    recipe = load_recipe(sweep / "recipe.yaml")
    splits = load_splits(recipe.task, recipe.data)
    for role in ("select", "report"):
        split = getattr(splits, role)
        cached = Predictions.load(folder / "predictions" / f"{role}.safetensors")
        answers = plain_answers(folder, list(split.rows["sentence"]))
        expected = torch.log_softmax(torch.from_numpy(answers).double(), dim=1).numpy()
        np.testing.assert_allclose(cached.log_probs, expected, atol=2e-5)
        np.testing.assert_array_equal(cached.row_ids, split.row_ids)
        assert cached.data == split.fingerprint
        scored = {name: METRICS[name].compute(cached) for name in ("accuracy", "nll", "ece")}
        assert record(folder)["scores"][role] == pytest.approx(scored, abs=1e-12)


def test_the_stock_pipeline_gives_the_leaderboards_score(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("uniform",), tmp_path / "soups")
    recipe = load_recipe(sweep / "recipe.yaml")
    report = load_splits(recipe.task, recipe.data).report
    pipe = pipeline("text-classification", model=str(tmp_path / "soups/uniform"), truncation=True, max_length=32)
    answers = [answer["label"] for answer in pipe(list(report.rows["sentence"]), batch_size=8)]
    accuracy = np.mean([a == report.label_names[y] for a, y in zip(answers, report.labels, strict=True)])
    (row,) = [r for r in build_leaderboard(sweep).rows if r.kind == "soup"]
    cached = Predictions.load(tmp_path / "soups/uniform/predictions/report.safetensors")
    assert row.report == pytest.approx(accuracy, abs=1e-12 + turned(cached))


def test_greedy_on_a_sweep_is_never_below_its_best_run_and_records_every_step(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("greedy",), tmp_path / "soups")
    found = record(tmp_path / "soups/greedy")
    singles = {
        f"run_{i:02d}": METRICS["accuracy"].compute(
            Predictions.load(sweep / f"run_{i:02d}/predictions/select.safetensors")
        )
        for i in range(4)
    }
    assert found["scores"]["singles"] == singles
    assert found["scores"]["select"]["accuracy"] >= max(singles.values())
    assert sorted(step["candidate"] for step in found["steps"]) == sorted(singles)
    rows = list(csv.DictReader((tmp_path / "soups/greedy/steps.csv").open()))
    # what was stopped has a bound in a column of its own, and no score
    assert [(r["candidate"], str(float(r["score"])), r.get("at_best") or "", r["accepted"]) for r in rows] == [
        (s["candidate"], str(s["score"] or math.nan), str(s.get("at_best", "")), str(s["accepted"]))
        for s in found["steps"]
    ]
    assert found["scores"]["select"]["accuracy"] == found["steps"][-1]["best_so_far"]


def test_single_runs_are_scored_without_a_forward_pass(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = SoupScorer.predictions

    def counted(self: SoupScorer, soup: Soup) -> float:
        asked.append(len(soup.ingredients))
        return plain(self, soup)

    monkeypatch.setattr(SoupScorer, "predictions", counted)
    quietly([sweep], ("greedy",), tmp_path / "soups")
    assert len(asked) >= 3  # what came closest may be asked again, to its end
    assert min(asked) == 2


def test_cached_answers_of_other_rows_are_not_trusted(sweep: Path, tmp_path: Path) -> None:
    """run_00's cache is replaced by perfect answers to other data: greedy must not believe them."""
    path = sweep / "run_00/predictions/select.safetensors"
    cached = Predictions.load(path)
    honest = METRICS["accuracy"].compute(cached)
    perfect = np.eye(2)[cached.labels] * 0.98 + 0.01
    Predictions.from_probs(perfect, labels=cached.labels, row_ids=cached.row_ids, data="other").save(path)
    quietly([sweep], ("greedy",), tmp_path / "soups")
    assert record(tmp_path / "soups/greedy")["scores"]["singles"]["run_00"] == honest


def test_cached_answers_of_other_weights_are_not_trusted(sweep: Path, tmp_path: Path) -> None:
    """run.json says of which weights the answers in the folder are."""
    run = sweep / "run_00"
    before = record_of_singles(sweep, tmp_path / "before")
    write_run(run, replace(read_run(run), weights=Checkpoint(str(run)).sha256()))
    shutil.copy(sweep / "run_01/model.safetensors", run / "model.safetensors")
    after = record_of_singles(sweep, tmp_path / "after")
    assert after["run_00"] == before["run_01"] != before["run_00"]


def test_a_soup_whose_record_names_weights_by_sha256_is_the_same_soup(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Records up to 0.1.0 do: ingredients, the soup's own weights, and the key of all that decided what came out."""
    key = cook_run._key
    with monkeypatch.context() as before:
        before.setattr(cook_run, "_key", lambda *of_what: key(*of_what, of=Checkpoint.sha256))
        quietly([sweep], ("uniform",), tmp_path / "soups")
    folder = tmp_path / "soups/uniform"
    values = record(folder)
    for ingredient in values["ingredients"]:
        del ingredient["digest"]
        ingredient["sha256"] = Checkpoint(ingredient["source"]).sha256()
    (folder / "soup.json").write_text(json.dumps({**values, "weights": Checkpoint(folder).sha256()}))
    read_soup(folder).check_weights(folder)
    (again,) = quietly([sweep], ("uniform",), tmp_path / "soups").soups
    assert again.already
    (folder / "soup.json").write_text(json.dumps({**values, "weights": "f" * 64}))
    with pytest.raises(InputError, match="its weights are not those"):
        read_soup(folder).check_weights(folder)


def record_of_singles(sweep: Path, out: Path) -> dict[str, float]:
    """What cooking takes each run to score alone."""
    quietly([sweep], ("greedy",), out)
    return dict(record(out / "greedy")["scores"]["singles"])


def test_a_moved_sweep_with_its_soups_is_gone_on_with(sweep: Path, tmp_path: Path) -> None:
    """Soups and leaderboard, cascades and cards lie relative to each other."""
    project = tmp_path / "project"
    shutil.copytree(sweep, project / "sweep")
    quietly([project / "sweep"], ("uniform",), project / "soups")
    build_leaderboard(project / "sweep", cascades=True)
    moved = project.rename(tmp_path / "moved")
    (cooked,) = quietly([moved / "sweep"], ("uniform",), moved / "soups").soups
    assert cooked.already
    board = build_leaderboard(moved / "sweep")
    assert {row.kind for row in board.rows if row.status == "finished"} >= {"run", "soup", "cascade"}
    write_card(moved / "soups/uniform")


def test_a_soup_whose_weights_were_replaced_makes_no_card(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("uniform",), tmp_path / "soups")
    soup = tmp_path / "soups/uniform"
    write_card(soup)
    shutil.copy(sweep / "run_00/model.safetensors", soup / "model.safetensors")
    with pytest.raises(InputError, match=r"its weights are not those that soup\.json tells of"):
        check_card(soup)


def test_soups_join_the_sweeps_leaderboard(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("uniform", "greedy"), tmp_path / "soups")
    soups = {row.name: row for row in build_leaderboard(sweep).rows if row.kind == "soup"}
    assert set(soups) == {"uniform soup", "greedy soup"}
    for method in ("uniform", "greedy"):
        scores = record(tmp_path / "soups" / method)["scores"]
        row = soups[f"{method} soup"]
        assert (row.select, row.report) == pytest.approx((scores["select"]["accuracy"], scores["report"]["accuracy"]))
        assert row.pool == 4
        assert row.train_seconds == 3.0 * row.ingredients


def test_failed_and_pending_runs_are_left_out_and_listed(sweep: Path, tmp_path: Path) -> None:
    shutil.rmtree(sweep / "run_01")
    shutil.rmtree(sweep / "run_02")
    (sweep / "run_02").mkdir()
    write_run(sweep / "run_02", RunRecord("one-class", "all 50 select rows were answered 'good'"))
    result = quietly([sweep], ("uniform",), tmp_path / "soups")
    assert result.left_out == {
        "run_01": "not finished yet",
        "run_02": "one-class (all 50 select rows were answered 'good')",
    }
    found = record(tmp_path / "soups/uniform")
    assert [i["name"] for i in found["ingredients"]] == ["run_00", "run_03"]
    assert {left["name"]: left["reason"] for left in found["left_out"]} == result.left_out


def test_one_usable_run_is_refused_with_the_reasons_of_the_others(sweep: Path, tmp_path: Path) -> None:
    for i in (1, 2, 3):
        shutil.rmtree(sweep / f"run_0{i}")
    with pytest.raises(InputError, match=r"at least two finished checkpoints, got 1\. Left out: run_01: not finished"):
        quietly([sweep], ("uniform",), tmp_path / "soups")
    assert not (tmp_path / "soups").exists()


def test_greedy_that_keeps_one_says_why(sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run's cached answers are made perfect, so that no mixture can reach it."""
    recipe = load_recipe(sweep / "recipe.yaml")
    best = max(
        (p for p in sweep.glob("run_*")),
        key=lambda p: METRICS["accuracy"].compute(Predictions.load(p / "predictions/select.safetensors")),
    )
    splits = load_splits(recipe.task, recipe.data)
    for role in ("select", "report"):
        split = getattr(splits, role)
        perfect = np.eye(2)[split.labels] * 0.98 + 0.01
        Predictions.from_probs(perfect, labels=split.labels, row_ids=split.row_ids, data=split.fingerprint).save(
            best / "predictions" / f"{role}.safetensors"
        )
    result = quietly([sweep], ("greedy",), tmp_path / "soups")
    found = record(tmp_path / "soups/greedy")
    assert [i["name"] for i in found["ingredients"]] == [best.name]
    closest = max(found["steps"][1:], key=lambda s: s["score"] or 0.0)  # of the others a bound may be all
    assert all(s.get("at_best", 0.0) <= closest["score"] for s in found["steps"])
    lost = round((1 - closest["score"]) * 50)
    assert found["why"].startswith(f"greedy kept only {best.name} (100.0). The closest was {closest['candidate']}")
    assert f"points = {lost} of 50 rows" in found["why"]
    print_result(result)
    assert found["why"] in capsys.readouterr().out


def test_the_words_for_keeping_one() -> None:
    steps = (Step("a", 0.90, 0.90, True, 1), Step("b", 0.885, 0.90, False, 2), Step("c", 0.7, 0.90, False, 2))
    said = why_one(steps, {"a": 0.9, "b": 0.89, "c": 0.6}, "accuracy", 200)
    assert "The closest was b: adding it lost 1.5 points = 3 of 200 rows." in said
    assert "Alone it scores 89.0, so the average of the two is worse than either" in said
    assert why_one((*steps, Step("d", 0.9, 0.9, True, 2)), {}, "accuracy", 200) == ""
    assert "there was nothing else to try" in why_one(steps[:1], {}, "accuracy", 200)
    assert "gave the same score" in why_one((steps[0], Step("b", 0.9, 0.9, False, 2)), {}, "accuracy", 200)
    assert "answered NaN" in why_one((steps[0], Step("b", float("nan"), 0.9, False, 2)), {}, "accuracy", 200)
    lower = (Step("a", 0.3, 0.3, True, 1), Step("b", 0.4, 0.3, False, 2), Step("c", 0.5, 0.3, False, 2))
    assert "The closest was b: adding it lost 0.1000." in why_one(lower, {"b": 0.45}, "nll", 200, sign=-1)


def test_where_lower_is_better_greedy_goes_down(made: Path, tmp_path: Path) -> None:
    sweep = shutil.copytree(made / "sweep", tmp_path / "sweep")
    recipe = sweep / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("metric: accuracy", "metric: nll"))
    quietly([sweep], ("greedy",), tmp_path / "soups")
    found = record(tmp_path / "soups/greedy")
    singles = found["scores"]["singles"]
    assert found["steps"][0]["score"] == min(singles.values()) > 0
    assert found["scores"]["select"]["nll"] <= min(singles.values()) + 1e-6
    bests = [s["best_so_far"] for s in found["steps"]]
    assert bests == sorted(bests, reverse=True)


def test_the_same_call_again_keeps_what_is_there(sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    quietly([sweep], ("uniform",), tmp_path / "soups")
    before = everything(tmp_path / "soups")
    result = quietly([sweep], ("uniform", "greedy"), tmp_path / "soups")
    assert [(s.method, s.already) for s in result.soups] == [("uniform", True), ("greedy", False)]
    after = everything(tmp_path / "soups")
    assert {k: v for k, v in after.items() if k.startswith("uniform")} == before


def test_another_pool_does_not_replace_a_soup_unasked(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("uniform",), tmp_path / "soups")
    before = everything(tmp_path / "soups")
    shutil.rmtree(sweep / "run_03")
    with pytest.raises(InputError, match="exists already"):
        quietly([sweep], ("uniform",), tmp_path / "soups")
    assert everything(tmp_path / "soups") == before
    quietly([sweep], ("uniform",), tmp_path / "soups", overwrite=True)
    assert len(record(tmp_path / "soups/uniform")["ingredients"]) == 3


def test_a_soup_that_another_call_made_meanwhile_leaves_nothing_of_this_one(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("greedy",), tmp_path / "first")
    out = tmp_path / "soups"

    def tell(line: str) -> None:
        if line.startswith("greedy 1/"):
            shutil.copytree(tmp_path / "first/greedy", out / "greedy")

    with pytest.raises(InputError, match="exists already"):
        cook([sweep], ("greedy",), out, tell=tell)
    assert [path.name for path in out.iterdir()] == ["greedy"]


def test_a_greedy_that_was_killed_goes_on_without_repeating_a_score(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain, asked = SoupScorer.predictions, []
    to_the_end = Options(every_row=True)  # else what was stopped may be asked again: it has no score yet

    def dying(self: SoupScorer, soup) -> float:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(soup)
        return plain(self, soup)

    monkeypatch.setattr(SoupScorer, "predictions", dying)
    with pytest.raises(KeyboardInterrupt):
        quietly([sweep], ("greedy",), tmp_path / "soups", options=to_the_end)
    assert not (tmp_path / "soups/greedy").exists()
    more = []
    monkeypatch.setattr(SoupScorer, "predictions", lambda self, soup: more.append(soup) or plain(self, soup))
    quietly([sweep], ("greedy",), tmp_path / "soups", options=to_the_end)
    assert len(more) == 1
    assert [p.name for p in (tmp_path / "soups").iterdir()] == ["greedy"]
    straight = shutil.copytree(sweep, tmp_path / "again")
    quietly([straight], ("greedy",), tmp_path / "straight", options=to_the_end)
    assert record(tmp_path / "straight/greedy")["steps"] == record(tmp_path / "soups/greedy")["steps"]


@pytest.mark.parametrize("stage", ["_answer", "_write_steps"])
def test_a_failure_half_way_leaves_no_half_soup_and_earlier_ones_intact(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: str
) -> None:
    quietly([sweep], ("uniform", "greedy"), tmp_path / "soups")
    before = everything(tmp_path / "soups")

    def full(*arguments: object, **options: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(one_soup, stage, full)
    with pytest.raises(HfSoupsError, match="the disk is full"):
        quietly([sweep], ("greedy",), tmp_path / "soups", overwrite=True)
    after = everything(tmp_path / "soups")
    # measured scores, and the order of the rows, outlive the failure on purpose
    kept = {name for name in after if name.startswith(".greedy.")}
    assert ".greedy.scores.jsonl" in kept
    assert {name: content for name, content in after.items() if name not in kept} == before


# --- selection on report


def test_selection_on_report_is_refused_unless_allowed_and_then_marked(sweep: Path, tmp_path: Path) -> None:
    with pytest.raises(SelectionOnReport, match="`allow_selection_on_report=True`"):
        quietly([sweep], ("greedy",), tmp_path / "soups", select_on="report")
    assert not (tmp_path / "soups").exists()
    quietly([sweep], ("greedy",), tmp_path / "soups", allow_selection_on_report=True)
    found = record(tmp_path / "soups/greedy")
    assert (found["optimistic"], found["selected_on"], found["select_rows"]) == (True, "report", 61)
    assert found["scores"]["report"]["accuracy"] == found["steps"][-1]["best_so_far"]
    (row,) = [r for r in build_leaderboard(sweep).rows if r.kind == "soup"]
    assert row.status == "optimistic"


def test_a_soup_chosen_on_select_is_not_optimistic(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("greedy",), tmp_path / "soups")
    assert record(tmp_path / "soups/greedy")["optimistic"] is False


def test_one_split_for_train_and_report_is_selection_on_report(pile: Path, plain: list[str], tmp_path: Path) -> None:
    with pytest.raises(SelectionOnReport, match="train and report are both the split 'train'"):
        quietly(plain, ("greedy",), tmp_path / "soup", recipe=pile / "recipe.yaml", overrides={"task.report": "train"})


# --- plain checkpoints


def test_one_method_over_plain_checkpoints_is_the_soup_folder_itself(plain: list[str], tmp_path: Path) -> None:
    result = quietly(plain, ("uniform",), tmp_path / "soup")
    assert result.soups[0].folder == tmp_path / "soup"
    found = record(tmp_path / "soup")
    assert [i["coefficient"] for i in found["ingredients"]] == [1 / 3] * 3
    assert "selected_on" not in found
    weights = [load_file(Path(p) / "model.safetensors")["classifier.weight"].astype(np.float64) for p in plain]
    mixed = load_file(tmp_path / "soup/model.safetensors")["classifier.weight"]
    np.testing.assert_allclose(mixed, np.mean(weights, axis=0), rtol=2**-23)


def test_uniform_on_plain_folders_imports_neither_torch_nor_transformers(plain: list[str], tmp_path: Path) -> None:
    code = (
        "import sys; from hf_soups.cooking import cook, print_result\n"
        f"print_result(cook({plain!r}, ('uniform',), {str(tmp_path / 'soup')!r}))\n"
        "print(sorted({'torch', 'transformers', 'datasets', 'sklearn', 'matplotlib'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert (tmp_path / "soup/model.safetensors").is_file()


def test_plain_checkpoints_with_a_recipe_are_scored(pile: Path, plain: list[str], tmp_path: Path) -> None:
    quietly(plain, ("uniform", "greedy"), tmp_path / "soups", recipe=pile / "recipe.yaml")
    found = record(tmp_path / "soups/greedy")
    recipe = load_recipe(pile / "recipe.yaml")
    select = load_splits(recipe.task, recipe.data).select
    for path in plain:
        answers = plain_answers(Path(path), list(select.rows["sentence"])).argmax(axis=1)
        assert found["scores"]["singles"][Path(path).name] == pytest.approx(np.mean(answers == select.labels))


def test_greedy_without_a_task_is_refused(plain: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="greedy chooses by a score, so it needs a task and data"):
        quietly(plain, ("greedy",), tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_run_folders_of_one_recipe_bring_it_along(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep / "run_00", sweep / "run_01"], ("greedy",), tmp_path / "soup")
    assert record(tmp_path / "soup")["metric"] == "accuracy"


def test_a_uniform_soup_of_run_folders_needs_no_data(sweep: Path, tmp_path: Path) -> None:
    shutil.move(sweep / "run_00", tmp_path / "a")
    told = json.loads((tmp_path / "a/run.json").read_text())
    told["recipe"]["task"]["path"] = "/nowhere"
    (tmp_path / "a/run.json").write_text(json.dumps(told))
    quietly([tmp_path / "a", sweep / "run_01"], ("uniform",), tmp_path / "soup")
    assert "selected_on" not in record(tmp_path / "soup")


def test_values_cannot_be_set_without_a_recipe(plain: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data\.seed cannot be set without a recipe's file"):
        quietly(plain, ("uniform",), tmp_path / "soup", overrides={"data.seed": 1})


def test_a_sweeps_recipe_can_be_changed_and_old_answers_are_then_not_used(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = SoupScorer.predictions
    monkeypatch.setattr(SoupScorer, "predictions", lambda self, soup: (asked.append(1), plain(self, soup))[1])
    quietly([sweep], ("greedy",), tmp_path / "soups", overrides={"data.seed": 7})
    assert len(asked) == 4 + 3


def test_run_folders_of_different_data_do_not(sweep: Path, tmp_path: Path) -> None:
    recipe = load_recipe(sweep / "recipe.yaml", {"data.seed": 5})
    write_run(sweep / "run_01", finished(recipe, 1))
    with pytest.raises(InputError, match="needs a task and data"):
        quietly([sweep / "run_00", sweep / "run_01"], ("greedy",), tmp_path / "soup")


def test_failed_run_folders_named_one_by_one_are_left_out(sweep: Path, tmp_path: Path) -> None:
    write_run(sweep / "run_01", RunRecord("one-class", "always 'bad'"))
    result = quietly([sweep / f"run_0{i}" for i in range(3)], ("uniform",), tmp_path / "soup")
    assert result.left_out == {str(sweep / "run_01"): "one-class (always 'bad')"}


def test_the_ingredients_dtype_is_kept_and_answers_are_those_of_the_cast_weights(
    pile: Path, plain: list[str], tmp_path: Path
) -> None:
    quietly(plain, ("uniform",), tmp_path / "soup", recipe=pile / "recipe.yaml", dtype="bfloat16")
    assert json.loads((tmp_path / "soup/config.json").read_text())["dtype"] == "bfloat16"
    recipe = load_recipe(pile / "recipe.yaml")
    report = load_splits(recipe.task, recipe.data).report
    answers = plain_answers(tmp_path / "soup", list(report.rows["sentence"]))
    expected = torch.log_softmax(torch.from_numpy(answers).double(), dim=1).numpy()
    cached = Predictions.load(tmp_path / "soup/predictions/report.safetensors")
    np.testing.assert_allclose(cached.log_probs, expected, atol=2e-5)  # rounding to bfloat16 moves them by 1e-3


def test_labels_in_another_order_are_refused_or_aligned_by_name(pile: Path, tmp_path: Path) -> None:
    turned = label(shutil.copytree(pile / "m1", tmp_path / "turned"), ("good", "bad"))
    weights = load_file(turned / "model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = np.ascontiguousarray(weights[name][::-1])
    save_file(weights, turned / "model.safetensors", metadata={"format": "pt"})
    sources = [str(pile / "m0"), str(turned)]
    with pytest.raises(IncompatibleCheckpoints, match="`align_labels=True`"):
        quietly(sources, ("uniform",), tmp_path / "soup")
    quietly(sources, ("uniform",), tmp_path / "soup", align_labels=True)
    quietly([str(pile / "m0"), str(pile / "m1")], ("uniform",), tmp_path / "straight")
    a, b = (load_file(tmp_path / name / "model.safetensors") for name in ("soup", "straight"))
    assert all(np.array_equal(a[name], b[name]) for name in b)


def test_the_models_label_order_must_be_the_datas(pile: Path, tmp_path: Path) -> None:
    turned = [str(label(shutil.copytree(pile / f"m{i}", tmp_path / f"t{i}"), ("good", "bad"))) for i in range(2)]
    with pytest.raises(InputError, match=r"Give the data the model's order: `overrides=\{'task\.label_names': \["):
        quietly(turned, ("greedy",), tmp_path / "soup", recipe=pile / "recipe.yaml")
    quietly(turned, ("greedy",), tmp_path / "soup", recipe=pile / "recipe.yaml",
            overrides={"task.label_names": ["good", "bad"]})  # fmt: skip


def test_a_model_of_other_classes_is_refused(pile: Path, tmp_path: Path) -> None:
    three = tiny_bert(tmp_path / "start", labels=3)
    pair = [str(near(three, tmp_path / f"m{i}", seed=i)) for i in range(2)]
    with pytest.raises(InputError, match="tells 3 classes apart, but the data have 2"):
        quietly(pair, ("greedy",), tmp_path / "soup", recipe=pile / "recipe.yaml")


# --- bad input


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda f: os.truncate(f / "model.safetensors", 5000), "truncated"),
        (lambda f: (f / "config.json").unlink(), r"no config\.json"),
        (lambda f: shutil.rmtree(f), "no such folder"),
    ],
    ids=["truncated", "no-config", "missing"],
)  # fmt: skip
def test_a_broken_ingredient_is_named_and_nothing_is_written(
    pile: Path, plain: list[str], tmp_path: Path, spoil, says: str
) -> None:
    broken = shutil.copytree(plain[0], tmp_path / "broken")
    spoil(broken)
    with pytest.raises((CheckpointError, IncompatibleCheckpoints), match=says) as raised:
        quietly([plain[1], str(broken)], ("uniform",), tmp_path / "soup")
    assert "broken" in str(raised.value)
    assert raised.value.exit_status == 2
    assert not (tmp_path / "soup").exists()


def test_nan_weights_are_named(plain: list[str], tmp_path: Path) -> None:
    broken = shutil.copytree(plain[0], tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["classifier.weight"][0, 0] = np.nan
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"broken.*classifier\.weight.*NaN"):
        quietly([plain[1], str(broken)], ("uniform",), tmp_path / "soup")
    assert not (tmp_path / "soup").exists()


def test_another_architecture_is_refused(plain: list[str], tmp_path: Path) -> None:
    other = tiny_bert(tmp_path / "other", hidden_size=64)
    with pytest.raises(IncompatibleCheckpoints, match="shape"):
        quietly([plain[0], str(other)], ("uniform",), tmp_path / "soup")


def test_heads_of_different_starts_are_refused(sweep: Path, tmp_path: Path) -> None:
    told = json.loads((sweep / "run_01/run.json").read_text())
    (sweep / "run_01/run.json").write_text(json.dumps({**told, "head_fingerprint": "f" * 64}))
    with pytest.raises(IncompatibleCheckpoints, match="its head started from ffffffffffff"):
        quietly([sweep], ("uniform",), tmp_path / "soups")
    assert not (tmp_path / "soups").exists()


@pytest.mark.parametrize(
    ("arguments", "options", "says"),
    [
        (["nowhere/a", "nowhere/b"], {"methods": ("slerp",)}, "unknown method 'slerp'; methods: uniform, greedy"),
        (["only"], {"methods": ("uniform",)}, "at least two finished checkpoints, got 1"),
        (["a", "b"], {"methods": ("greedy",)}, "greedy chooses by a score"),
        (["a", "b"], {"methods": ("model-stock",)}, "model-stock needs what the ingredients were fine-tuned from"),
        (["a", "b"], {"methods": ("uniform",), "dtype": "int8"}, "cannot be cast to 'int8'"),
    ],
)
def test_wrong_options_are_refused_before_any_work(tmp_path: Path, arguments, options, says: str) -> None:
    with pytest.raises(InputError, match=says):
        quietly(arguments, out=tmp_path / "soup", **options)
    assert list(tmp_path.iterdir()) == []


def test_a_sweep_cannot_be_mixed_with_other_sources(sweep: Path, plain: list[str], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cook one sweep at a time"):
        quietly([sweep, plain[0]], ("uniform",), tmp_path / "soup")


def test_soups_are_not_put_inside_a_soup(plain: list[str], pile: Path, tmp_path: Path) -> None:
    quietly(plain, ("uniform",), tmp_path / "soup")
    with pytest.raises(InputError, match="is a soup itself"):
        quietly(plain, ("uniform", "greedy"), tmp_path / "soup", recipe=pile / "recipe.yaml")


def test_a_folder_that_is_no_soup_is_never_overwritten(plain: list[str], tmp_path: Path) -> None:
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").write_text("years")
    with pytest.raises(InputError, match=r"holds no soup\.json"):
        quietly(plain, ("uniform",), tmp_path / "thesis", overwrite=True)
    assert (tmp_path / "thesis/chapter.tex").read_text() == "years"


# --- BatchNorm


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe over random images of three colours, and three ResNets near one start."""
    from PIL import Image

    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, rows in (("train", 30), ("validation", 12)):
        for i in range(rows):
            for c, name in enumerate(("red", "green", "blue")):
                pixels = random.integers(0, 160, (IMAGE_SIZE, IMAGE_SIZE, 3), dtype=np.uint8)
                pixels += random.integers(0, 40, 3, dtype=np.uint8)  # a tint that misleads now and then
                pixels[..., c] += 25
                (folder / "data" / split / name).mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(folder / "data" / split / name / f"{i}.png")
    start = label(tiny_resnet(folder / "start"), ("blue", "green", "red"))
    fit_head(start, folder / "data" / "train", ("blue", "green", "red"))
    for i in range(3):
        near(start, folder / f"m{i}", seed=i, spread=0.05)
    (folder / "recipe.yaml").write_text(
        f"task: {{kind: image, path: {folder / 'data'}, image: image, label: label}}\n"
        f"model: {start}\ndata: {{select_minimum: 24}}\n"
    )
    return folder


def fit_head(folder: Path, train: Path, names: tuple[str, ...]) -> None:
    """Least squares from the pooled features to the classes, so that the models tell something apart."""
    from PIL import Image
    from transformers import AutoImageProcessor, AutoModelForImageClassification

    model = AutoModelForImageClassification.from_pretrained(folder)
    processor = AutoImageProcessor.from_pretrained(folder)
    rows = [(Image.open(path), i) for i, name in enumerate(names) for path in sorted((train / name).iterdir())]
    with torch.inference_mode():
        pixels = processor([image for image, _ in rows], return_tensors="pt")["pixel_values"]
        features = model.resnet(pixels).pooler_output.flatten(1).numpy()
    wanted = 4 * np.eye(len(names))[[i for _, i in rows]]
    solved = np.linalg.lstsq(np.c_[features, np.ones(len(rows))], wanted, rcond=None)[0].astype(np.float32)
    weights = load_file(folder / "model.safetensors")
    weights["classifier.1.weight"] = np.ascontiguousarray(solved[:-1].T)
    weights["classifier.1.bias"] = np.ascontiguousarray(solved[-1])
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("method", ["uniform", "greedy"])
def test_batchnorm_statistics_are_made_both_ways_and_the_better_is_kept(
    images: Path, tmp_path: Path, method: str
) -> None:
    sources = [str(images / f"m{i}") for i in range(3)]
    quietly(sources, (method,), tmp_path / "soup", recipe=images / "recipe.yaml")
    found = record(tmp_path / "soup")
    told = found["batchnorm"]
    better = "recomputed" if told["recomputed"] > told["averaged"] else "averaged"
    assert told["kept"] == better
    assert found["scores"]["select"]["accuracy"] == pytest.approx(told[better], abs=1e-9)
    assert found["batchnorm_why"].startswith(f"BatchNorm statistics: {better} kept")


def test_recomputed_statistics_are_in_the_saved_folder_and_answer_as_recorded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The choice is forced to the recomputed variant, so that the test does not depend on which is better."""
    monkeypatch.setattr(one_soup, "_better", lambda found: "recomputed")
    sources = [str(images / f"m{i}") for i in range(3)]
    quietly(sources, ("uniform",), tmp_path / "soup", recipe=images / "recipe.yaml")
    averaged = np.mean([load_file(Path(s) / "model.safetensors")[MEAN] for s in sources], axis=0)
    assert not np.allclose(load_file(tmp_path / "soup/model.safetensors")[MEAN], averaged)
    recipe = load_recipe(images / "recipe.yaml")
    report = load_splits(recipe.task, recipe.data).report
    pipe = pipeline("image-classification", model=str(tmp_path / "soup"), top_k=1)
    answers = [pipe(row["image"])[0]["label"] for row in report.rows]
    accuracy = np.mean([a == report.label_names[y] for a, y in zip(answers, report.labels, strict=True)])
    assert record(tmp_path / "soup")["scores"]["report"]["accuracy"] == pytest.approx(accuracy, abs=1e-9)


MEAN = "resnet.embedder.embedder.normalization.running_mean"


def test_ingredients_are_called_as_in_the_pool_however_few_they_are(pile: Path, tmp_path: Path) -> None:
    from types import SimpleNamespace

    from hf_soups.checkpoint import Checkpoint
    from hf_soups.soups.soup_record import read_soup

    places = [shutil.copytree(pile / "m0", tmp_path / place) for place in ("a/run", "b/run", "third")]
    a, b, third = map(Checkpoint, places)
    pool = SimpleNamespace(checkpoints=(a, b, third))
    told = one_soup._named(
        Soup((a, third), (0.5, 0.5), about={"pool": [str(places[0]), str(places[1]), "third"]}), pool
    )
    assert [one["name"] for one in told.record()["ingredients"]] == [str(places[0]), "third"]
    (tmp_path / "soup.json").write_text(json.dumps(told.record()))
    assert read_soup(tmp_path).models == (str(places[0]), "third")


# --- rows that ingredients may have been trained on, and ingredients of no use


def one_class(folder: Path, out: Path) -> Path:
    """A copy that answers the first class whatever the row is."""
    shutil.copytree(folder, out)
    weights = load_file(out / "model.safetensors")
    weights["classifier.bias"] = np.array([100, 0], dtype=np.float32)
    save_file(weights, out / "model.safetensors", metadata={"format": "pt"})
    return out


def test_models_that_answer_one_class_do_not_join_greedy_outside_sweeps(
    pile: Path, plain: list[str], tmp_path: Path
) -> None:
    useless = one_class(pile / "m0", tmp_path / "useless")
    out = tmp_path / "soup"
    lines: list[str] = []
    sources = [str(useless), *plain]
    result = cook(sources, ("greedy",), out, recipe=pile / "recipe.yaml", tell=lines.append)
    made = record(out)
    assert "useless" not in result.soups[0].ingredients
    assert {"name": "useless", "reason": "gives all rows the same answer, or NaN on select"} in made["left_out"]
    assert any("useless alone gives all rows the same answer" in line for line in lines)
    assert made["best_single"]["name"] in {"m0", "m1", "m2"}
    twice = quietly(
        sources,
        ("greedy",),
        tmp_path / "ties",
        recipe=pile / "recipe.yaml",
        options=Options(restarts=3, tie_break=True),
    )
    assert "useless" not in twice.soups[0].ingredients


def test_a_pool_of_models_that_answer_one_class_has_no_greedy_soup(pile: Path, tmp_path: Path) -> None:
    useless = [str(one_class(pile / f"m{i}", tmp_path / f"u{i}")) for i in range(2)]
    with pytest.raises(
        HfSoupsError, match=r"none of the 2 ingredients has a score: all .* give all rows the same answer"
    ):
        quietly(useless, ("greedy",), tmp_path / "soup", recipe=pile / "recipe.yaml")


def test_soups_chosen_on_rows_that_ingredients_may_have_been_trained_on_are_marked(
    pile: Path, plain: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = quietly(plain, ("greedy",), tmp_path / "soup", recipe=pile / "recipe.yaml")
    (warning,) = [w for w in result.warnings if "kept out of their training" in w]
    assert warning.startswith("m0, m1, m2: no run.json says that the select rows were kept out")
    assert "--set task.select=0.5" in warning
    assert record(tmp_path / "soup")["select_optimistic"] is True
    assert record(tmp_path / "soup")["optimistic"] is False
    print_result(result)
    assert "select_optimistic: its ingredients may have been trained on the select rows" in capsys.readouterr().out
    write_card(tmp_path / "soup")
    card = (tmp_path / "soup/README.md").read_text()
    assert "may have been trained on the select rows" in " ".join(card.split())
    again = quietly([*plain, tmp_path / "soup"], ("greedy",), tmp_path / "next", recipe=pile / "recipe.yaml")
    assert any(w.startswith("m0, m1, m2, soup: no run.json") for w in again.warnings)  # as little as its ingredients


def test_rows_of_a_split_of_their_own_or_of_report_are_not_suspected(
    pile: Path, plain: list[str], tmp_path: Path
) -> None:
    shutil.copy(pile / "data/validation.csv", pile / "data/dev.csv")
    for select in (0.5, "dev.csv"):
        changes = {"task.select": select, "task.train": "train.csv", "task.report": "validation.csv"}
        out = tmp_path / str(select)
        result = quietly(plain, ("greedy",), out, recipe=pile / "recipe.yaml", overrides=changes)
        assert not [w for w in result.warnings if "kept out of their training" in w]
        assert record(out)["select_optimistic"] is False
        assert record(out)["select_rows"] == (30 if select == 0.5 else 61)


def test_runs_that_record_the_same_cut_are_proof(sweep: Path, tmp_path: Path) -> None:
    assert not quietly([sweep], ("greedy",), tmp_path / "soups").warnings
    runs = [sweep / f"run_{i:02d}" for i in range(4)]
    for run in runs:
        shutil.rmtree(run / "predictions")
    result = quietly(runs, ("greedy",), tmp_path / "of-runs")
    assert not [w for w in result.warnings if "kept out of their training" in w]
    assert record(tmp_path / "of-runs")["select_optimistic"] is False
    recipe = sweep / "recipe.yaml"
    other = quietly(runs, ("greedy",), tmp_path / "other-cut", recipe=recipe, overrides={"data.seed": 1})
    assert [w for w in other.warnings if "kept out of their training" in w]  # they were trained on most of these
    assert record(tmp_path / "other-cut")["select_optimistic"] is True


def test_the_leaderboard_says_which_soups_were_chosen_on_doubtful_rows(sweep: Path, tmp_path: Path) -> None:
    quietly([sweep], ("greedy",), tmp_path / "soups", overrides={"data.seed": 0})
    file = tmp_path / "soups/greedy/soup.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "select_optimistic": True}))
    notes = build_leaderboard(sweep).notes
    assert "greedy soup: its ingredients may have been trained on the select rows" in " ".join(notes)
