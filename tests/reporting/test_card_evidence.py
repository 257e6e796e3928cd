"""What cooking keeps for cards: the recipe and the leaderboard, told without places of this machine, and checked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from hf_soups.cascades.evidence import read_evidence
from hf_soups.cli import app
from hf_soups.cooking import cook
from hf_soups.errors import InputError, RecipeError
from hf_soups.hub.pushing import gathered
from hf_soups.leaderboard import build_leaderboard
from hf_soups.leaderboard.table import board_text, load_board
from hf_soups.metrics import Score, score
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe, load_recipe
from hf_soups.recipe.origin import RECIPE_FILE, place_shown, recipe_kept, recipe_text
from hf_soups.reporting.cards.card import CardDetails, card_for, check_card, run_snippet, snippet_of, write_card
from hf_soups.reporting.cards.markdown import cells_of, code_of
from hf_soups.soups import Soup
from tests.makers.folders import change_json
from tests.makers.pile import make_sweep
from tests.makers.synthetic_sweep import write_failed_run, write_finished_run, write_plan


@pytest.fixture(scope="module")
def cooked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of two runs with a uniform and a greedy soup, made once."""
    folder = tmp_path_factory.mktemp("cooked")
    sweep = make_sweep(folder, models=2)
    recipe = (sweep / "recipe.yaml").read_text()
    (sweep / "recipe.yaml").write_text(recipe + "revision: v1\nsweep: {runs: 2}\n")
    cook([sweep], ("uniform", "greedy"), folder / "soups", tell=None)
    return folder


@pytest.fixture
def soup(cooked: Path, tmp_path: Path) -> Path:
    return shutil.copytree(cooked / "soups/greedy", tmp_path / "soup")


@pytest.fixture(scope="module")
def carded(cooked: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The greedy soup with its card, for tests that copy it."""
    folder = shutil.copytree(cooked / "soups/greedy", tmp_path_factory.mktemp("carded") / "soup")
    write_card(folder)
    return folder


@pytest.fixture
def told(carded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(carded, tmp_path / "soup")


def far_recipe(place: Path) -> Recipe:
    """A recipe whose every place is a folder of this machine."""
    return Recipe.model_validate(
        {
            "task": {
                "kind": "text", "path": f"{place}/data", "text": ["sentence"],
                "shifts": {"books": {"split": "test", "path": f"{place}/books/*.csv"}},
                "metric": {"load": f"{place}/own_metric"},
            },
            "model": f"{place}/start",
        }
    )  # fmt: skip


def test_a_kept_recipe_names_no_place_of_this_machine(tmp_path: Path) -> None:
    text = recipe_text(far_recipe(tmp_path))
    assert str(tmp_path) not in text
    told = yaml.safe_load(text)
    assert (told["model"], told["task"]["path"]) == ("./start", "./data")
    assert told["task"]["shifts"]["books"]["path"] == "./*.csv"
    assert told["task"]["metric"]["load"] == "./own_metric"


def test_a_place_is_told_by_its_name_and_an_id_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org/data").mkdir(parents=True)
    assert place_shown("org/data") == "./data"  # a folder that looks like an id
    assert place_shown("org/elsewhere") == "org/elsewhere"
    assert [place_shown(p) for p in ("~/data/glue", "../data", "./data", "/")] == [
        "./glue", "./data", "./data", "./data",
    ]  # fmt: skip


def test_a_kept_recipe_read_and_kept_again_is_the_same(tmp_path: Path) -> None:
    text = recipe_text(far_recipe(tmp_path))
    (tmp_path / RECIPE_FILE).write_text(text)
    kept = recipe_kept(tmp_path)
    assert kept is not None
    assert recipe_text(kept) == text
    assert kept.train == far_recipe(tmp_path).train
    assert recipe_kept(tmp_path / "nothing here") is None
    (tmp_path / RECIPE_FILE).write_text("task: [")
    with pytest.raises(RecipeError, match=r"recipe.yaml: not valid YAML"):
        recipe_kept(tmp_path)


def test_a_kept_leaderboard_is_the_leaderboard_without_reasons(tmp_path: Path) -> None:
    sweep = write_plan(tmp_path / "sweep", runs=3)
    write_finished_run(sweep / "run_00", 150, 200)
    write_finished_run(sweep / "run_01", 160, 190, seed=1)
    write_failed_run(sweep / "run_02", reason=f"no such file: {tmp_path}/data")
    board = build_leaderboard(sweep)
    text = board_text(board)
    assert str(tmp_path) not in text
    (tmp_path / "leaderboard.json").write_text(text)
    bare = replace(board, rows=tuple(replace(r, reason="") for r in board.rows), folder="", notes=())
    assert load_board(tmp_path) == bare
    assert [r.status for r in bare.rows if r.name == "run_02"] == ["nan-loss"]
    (tmp_path / "leaderboard.json").write_text('{"format": "another"}')
    with pytest.raises(InputError, match=r"leaderboard.json: expected a leaderboard .*format 'another'"):
        load_board(tmp_path)


def test_shifts_are_kept_with_their_intervals(tmp_path: Path) -> None:
    sweep = write_plan(tmp_path / "sweep", runs=1)
    write_finished_run(sweep / "run_00", 150, 200)
    board = build_leaderboard(sweep)
    row = replace(board.rows[0], shifts={"books": Score(0.5, 0.25, 0.75)})
    (tmp_path / "leaderboard.json").write_text(board_text(replace(board, rows=(row,))))
    kept = load_board(tmp_path)
    assert kept is not None
    assert kept.rows[0].shifts == {"books": Score(0.5, 0.25, 0.75)}


def test_cooking_a_sweep_keeps_recipe_and_leaderboard_with_each_soup(cooked: Path) -> None:
    for method in ("uniform", "greedy"):
        folder = cooked / "soups" / method
        record = json.loads((folder / "soup.json").read_text())
        kept = recipe_kept(folder)
        assert kept is not None
        assert kept.task.path == "./data"
        assert str(cooked) not in (folder / RECIPE_FILE).read_text() + (folder / "leaderboard.json").read_text()
        board = load_board(folder)
        assert board is not None
        assert {row.name for row in board.rows} >= {"greedy soup", "uniform soup", "run_00", "run_01"}
        (own,) = (row for row in board.rows if row.name == f"{method} soup")
        assert own.report == record["scores"]["report"]["accuracy"]
        measured = record["measured"]["report"]
        assert (own.report_low, own.report_high) == (measured["low"], measured["high"])


def test_the_interval_of_a_soup_is_that_of_its_predictions(cooked: Path) -> None:
    folder = cooked / "soups/greedy"
    measured = json.loads((folder / "soup.json").read_text())["measured"]
    for role in ("select", "report"):
        answers = Predictions.load(folder / "predictions" / f"{role}.safetensors")
        found = score(answers, "accuracy")
        assert measured[role] == {"rows": len(answers), "low": found.low, "high": found.high}


def test_a_cooked_soups_card_says_what_it_was_compared_with_and_made_by(soup: Path) -> None:
    write_card(soup)
    text = (soup / "README.md").read_text()
    board, record = load_board(soup), json.loads((soup / "soup.json").read_text())
    assert board is not None
    cells = cells_of(text)
    best = board.rows[0]
    row = f"report: the best single model on select, {best.name}"
    assert cells["Results", row, "accuracy"] == f"{100 * best.report:.1f}"
    told = record["measured"]["report"]
    interval = cells["Results", "report: nothing was chosen on them", "95% interval"]
    assert interval == f"{100 * told['low']:.1f} to {100 * told['high']:.1f}"
    named = {name for title, name, _ in cells if title == "Leaderboard"}
    assert {f"{best.name} (best on select)", "run_00", "run_01", "uniform soup 2/2"} <= named
    assert "<details><summary>the 2 single fine-tunes</summary>" in text
    assert cells["Costs", "parameters", "Value"] == "10"
    assert cells["Costs", "training seconds of the whole pool", "Value"] == "6.0"
    assert cells["Costs", "hardware of the seconds", "Value"] == "cpu"
    assert cells["Data", "select rows", "Value"] == "50"
    assert cells["Data", "data set", "Value"] == "local files, ./data"
    recipe = code_of(text, "yaml")
    assert recipe is not None
    assert recipe.strip() == (soup / RECIPE_FILE).read_text().strip()
    assert (soup / "leaderboard.png").read_bytes()[:4] == b"\x89PNG"
    assert "(leaderboard.png)" in text
    check_card(soup)


def test_results_and_code_come_before_everything_else(soup: Path) -> None:
    titles = [line[3:] for line in str(card_for(soup)).splitlines() if line.startswith("## ")]
    assert titles[:3] == ["Results", "Use", "Leaderboard"]
    assert titles[-3:] == ["Recipe", "Limits", "Citation"]


@pytest.mark.parametrize(
    ("file", "keys", "value", "named"),
    [
        ("leaderboard.json", ("rows", 0, "report"), 0.5, r"of 'report: the best single .* leaderboard.json says"),
        ("leaderboard.json", ("rows", -1, "select_low"), 0.0, r"under 'Leaderboard' is .* but leaderboard.json says"),
        ("leaderboard.json", ("rows", -1, "macs"), 9, r"'MACs' of .* but leaderboard.json says 9"),
        ("leaderboard.json", ("rows", -1, "train_seconds"), 9.0, r"'train s' of .* but leaderboard.json says 9"),
        ("soup.json", ("measured", "report", "low"), 0.0, r"'95% interval' of 'report: .* but soup.json says 0.0 to"),
        ("soup.json", ("measured", "select", "rows"), 9, r"'Number of rows' of 'select: .* but soup.json says 9"),
        ("soup.json", ("select_rows",), 9, "'Value' of 'select rows' under 'How it was chosen'"),
    ],
)  # fmt: skip
def test_a_card_that_is_not_what_was_kept_is_found_out(
    told: Path, file: str, keys: tuple[Any, ...], value: Any, named: str
) -> None:
    change_json(told / file, *keys, to=value)
    with pytest.raises(InputError, match=named):
        check_card(told)


def test_a_card_with_another_recipe_is_found_out(told: Path) -> None:
    recipe = told / RECIPE_FILE
    recipe.write_text(recipe.read_text().replace("runs: 2", "runs: 99"))
    with pytest.raises(InputError, match=r"the recipe is another, but recipe.yaml says 'runs: 99'"):
        check_card(told)


def test_a_leaderboard_of_another_soup_makes_no_card(soup: Path) -> None:
    change_json(soup / "soup.json", "scores", "report", "accuracy", to=0.123)
    with pytest.raises(InputError, match=r"accuracy of the greedy soup on report is .*, but soup.json says 0.123"):
        card_for(soup)


def test_the_leaderboard_command_keeps_the_soups_cards_up_to_date(cooked: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cooked, tmp_path / "cooked")
    for kept in folder.glob("soups/*/leaderboard.json"):
        kept.unlink()
    done = CliRunner().invoke(app, ["leaderboard", str(folder / "sweep")], catch_exceptions=False)
    assert done.exit_code == 0
    assert sorted(p.parent.name for p in folder.glob("soups/*/leaderboard.json")) == ["greedy", "uniform"]


def test_the_same_cooking_again_keeps_both_with_soups_that_lack_them(cooked: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(cooked, tmp_path / "cooked")
    lost = [folder / "soups/uniform" / name for name in (RECIPE_FILE, "leaderboard.json")]
    before = [path.read_bytes() for path in lost]
    for path in lost:
        path.unlink()
    result = cook([folder / "sweep"], ("uniform",), folder / "soups", tell=None)
    assert result.soups[0].already
    assert [path.read_bytes() for path in lost] == before


def test_what_no_file_holds_can_be_said_and_is_not_forgotten(soup: Path) -> None:
    said = CardDetails("apache-2.0", ("en",), "nyu-mll/glue", ("org/start",))
    write_card(soup, details=said)
    again = write_card(soup, name="me/soup")
    told = yaml.safe_load(again.read_text().split("---\n")[1])
    assert (told["license"], told["language"], told["datasets"]) == ("apache-2.0", ["en"], ["nyu-mll/glue"])
    assert (told["base_model"], told["base_model_relation"]) == (["org/start"], "finetune")
    (entry,) = yaml.safe_load((soup / ".eval_results/hf_soups.yaml").read_text())
    assert entry["dataset"]["id"] == "nyu-mll/glue"
    assert entry["notes"] == "accuracy on 61 rows of validation"
    check_card(soup)
    write_card(soup, details=CardDetails("mit"))
    assert "license: mit\n" in again.read_text()
    with pytest.raises(InputError, match="'no id' is no id of a Hub repo"):
        CardDetails(data_set="no id")


def test_the_card_command_takes_what_no_file_holds(soup: Path) -> None:
    words = [
        "card",
        str(soup),
        "--license",
        "mit",
        "--language",
        "en",
        "--data-set",
        "org/data",
        "--base-model",
        "org/m",
    ]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    text = (soup / "README.md").read_text()
    assert [w for w in ("license: mit", "- en", "- org/data", "- org/m") if f"{w}\n" not in text] == []


def test_shifts_of_other_data_are_not_scores_of_the_tasks_data(soup: Path) -> None:
    recipe = load_recipe(soup / RECIPE_FILE).model_dump(mode="json")
    recipe["task"] |= {"path": "org/data", "shifts": {"books": {"split": "test", "path": "org/books"}}}
    (soup / RECIPE_FILE).write_text(yaml.safe_dump(recipe))
    change_json(soup / "soup.json", "scores", "shift-books", to={"accuracy": 0.5})
    found = {r.metric_name: (r.dataset_type, r.dataset_split) for r in card_for(soup).data.eval_results}
    assert found["accuracy on shift-books"] == ("org/books", "test")
    assert found["accuracy on report"] == ("org/data", "validation")
    assert "shifts above" in card_for(soup).text


def test_a_given_recipe_is_kept_by_a_soup_that_has_none(soup: Path) -> None:
    given = load_recipe(soup / RECIPE_FILE)
    (soup / RECIPE_FILE).unlink()
    assert "## Recipe" not in card_for(soup).text
    write_card(soup, recipe=given)
    check_card(soup)
    assert recipe_kept(soup) is not None


def test_names_cannot_put_code_into_a_card(soup: Path) -> None:
    change_json(soup / "soup.json", "label_names", to=["a\n```python\nimport os\n```\n", "b"])
    card = card_for(soup)
    assert "import os" not in snippet_of(card)
    assert card.text.count("```python") == 1


@pytest.mark.slow
def test_the_code_of_a_pair_soups_card_runs_with_its_recipe_and_without(cooked: Path, tmp_path: Path) -> None:
    from hf_soups.checkpoint import Checkpoint

    start = Checkpoint(cooked / "pile/start")
    folder = Soup((start,), (1.0,), method="uniform").save_pretrained(tmp_path / "pair")
    assert run_snippet(folder).startswith("[{'label': ")
    task = {"name": "glue/rte", "path": "nyu-mll/glue"}
    write_card(folder, recipe=Recipe.model_validate({"task": task, "model": "me/start"}))
    assert '"text_pair"' in snippet_of(card_for(folder))
    assert "'label': " in run_snippet(folder)


def test_everything_that_cooking_wrote_is_pushed_but_the_rows_predictions(soup: Path) -> None:
    before = {path.relative_to(soup).as_posix() for path in soup.rglob("*") if path.is_file()}
    predictions = {path for path in before if path.startswith("predictions/")}
    assert {"steps.csv", "score_by_ingredients.png", "recipe.yaml", "leaderboard.json", "soup.json"} <= before
    with gathered(soup, "me/soup", dry_run=True) as found:
        dry = {file.path: file.size for file in found.files}
    assert set(dry) == before - predictions | {"README.md", "leaderboard.png"}
    assert {one.path for one in found.left_out} == predictions
    with gathered(soup, "me/soup") as found:  # writes the card and its picture
        sent = {file.path: file.size for file in found.files}
    assert sent.pop("soup.json") > dry.pop("soup.json")  # which the card adds the ingredients' SHA-256 to
    assert sent == dry


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (["run_00", "run_01"], "a linear combination of 2 of 3 fine-tuned models of one architecture"),
        (["start", "run_00", "run_01"], "of 2 of 3 fine-tuned models and of what they were fine-tuned from of one"),
    ],
)
def test_a_start_that_was_mixed_in_is_none_of_the_fine_tuned_models(told: Path, names: list[str], words: str) -> None:
    record = json.loads((told / "soup.json").read_text())
    ingredients = [{**record["ingredients"][0], "name": name} for name in names]
    pool = ["run_00", "run_01", "run_02"]
    (told / "soup.json").write_text(json.dumps({**record, "pool": pool, "ingredients": ingredients}))
    assert words in str(card_for(told))


@pytest.mark.parametrize(
    "change",
    [
        {"recipe": {"task": {"kind": "text"}, "data": [None]}},
        {"report": [{"score": 0.5}]},
        {"data": {"select": {"path": "p", "split": "train", "rows": "7"}}},
    ],
)
def test_evidence_of_a_cascade_that_is_spoilt_is_named(tmp_path: Path, change: dict[str, Any]) -> None:
    (tmp_path / "evidence.json").write_text(json.dumps({"format": "hf_soups.evidence.v1", **change}))
    with pytest.raises(InputError, match=r"evidence\.json: "):
        read_evidence(tmp_path)
