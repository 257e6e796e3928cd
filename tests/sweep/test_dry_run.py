"""A dry run says what will happen and leaves nothing behind."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_soups.errors import DataError
from hf_soups.recipe import Recipe, load_recipe, recipe_from
from hf_soups.sweep.dry_run import dry_run, print_dry_run
from hf_soups.sweep.plan import make_plan
from tests.makers.small_task import text_recipe, write_texts
from tests.makers.tiny import tiny_bert


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    write_texts(tmp_path / "data", train=200)
    values = text_recipe(tmp_path / "data", tiny_bert(tmp_path / "bert")).model_dump(mode="json")
    space = {"batch_size": {"choice": [4, 8]}, "epochs": {"choice": [1, 2]}}
    return recipe_from({**values, "sweep": {"runs": 5, "space": space}})


def test_disk_is_that_of_the_checkpoints_and_time_that_of_the_steps(recipe: Recipe, tmp_path: Path) -> None:
    told = dry_run(recipe, tmp_path / "sweep", slots=2)
    weights = (tmp_path / "bert/model.safetensors").stat().st_size
    assert len(told.plan) == 5
    assert told.checkpoint_bytes == pytest.approx(weights, rel=0.1)  # the file has a header, and perhaps another head
    assert told.disk_bytes is not None
    assert told.disk_bytes > 6 * told.checkpoint_bytes
    assert told.seconds is not None
    assert told.step_seconds is not None
    assert told.seconds > told.step_seconds > 0


def test_nothing_is_left_behind(recipe: Recipe, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if "data" not in path.parts}
    dry_run(recipe, tmp_path / "sweep")
    assert {path for path in tmp_path.rglob("*") if "data" not in path.parts} == before


def test_without_a_probe_neither_data_nor_weights_are_fetched(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = recipe_from({"task": "glue/rte", "model": "org/not-here", "sweep": {"runs": 3}})
    told = dry_run(absent, tmp_path / "sweep", probe=False)
    assert len(told.plan) == 3
    assert told.disk_bytes is None
    assert told.data is None
    print_dry_run(absent, tmp_path / "sweep", probe=False)
    assert "rows: not checked, since data of the Hub are fetched with a probe alone" in capsys.readouterr().out


@pytest.mark.parametrize("probe", [True, False])
def test_rows_and_classes_are_printed_with_what_is_odd_about_them(
    recipe: Recipe, tmp_path: Path, probe: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    train, report = ((tmp_path / "data" / f"{name}.csv") for name in ("train", "validation"))
    with report.open("a") as file:
        file.write("".join(train.read_text().splitlines(keepends=True)[1:8]))
        file.write('" ",pos\nsomething else,Pos\n')
    train.write_text(train.read_text() + "something new,Pos\n" * 2)
    names = {"label_names": ["neg", "pos", "Pos"]}
    told = recipe_from({**recipe.model_dump(mode="json"), "task": {**recipe.task.model_dump(mode="json"), **names}})
    print_dry_run(told, tmp_path / "sweep", probe=probe)
    said = capsys.readouterr().out
    assert "rows: " in said
    assert "50 report" in said
    assert "classes: 'neg' " in said
    assert "(train/select/report)" in said
    assert "of 50 report rows have the text of a train row" in said
    assert "1 of 50 report rows have no text in column 'text'" in said
    assert "differ by blanks or capitals alone: 'pos'" in said


def test_rows_that_cannot_be_used_are_told_without_a_probe_too(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "data" / "train.csv").write_text("body,label\na,b\n")
    with pytest.raises(DataError, match="no column 'text'; there are: body, label"):
        dry_run(recipe, tmp_path / "sweep", probe=False)


def test_every_run_is_printed_with_its_values(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    print_dry_run(recipe, tmp_path / "sweep", slots=2)
    said = capsys.readouterr().out
    for name in ("run_00", "run_04", "batch size", "epochs", "disk: about", "time: about"):
        assert name in said


def test_values_of_a_wide_sweep_are_not_cut_off(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = load_recipe(Path(__file__).parents[2] / "recipes/vision/imagenet-clip-vit-b32.yaml")
    print_dry_run(recipe, tmp_path / "sweep", probe=False)
    said = capsys.readouterr().out
    assert "…" not in said
    assert all(f"{run.train['learning_rate']:.3g}" in said for run in make_plan(recipe))
