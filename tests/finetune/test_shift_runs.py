"""Fine-tunes and sweeps whose task has shifts: what a run's folder holds, and what a sweep accepts afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import load_splits
from hf_soups.errors import RecipeError
from hf_soups.finetune import finetune
from hf_soups.finetune.run_record import read_run
from hf_soups.metrics import METRICS
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe
from hf_soups.sweep.run import prepare
from tests.makers.small_task import text_recipe, write_texts
from tests.makers.tiny import tiny_bert


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    tiny_bert(folder / "bert")
    write_texts(folder / "far", train=30, report=12)
    return folder


def recipe(place: Path, *shifts: str, **changes: dict) -> Recipe:
    """With the files of another folder as shifts."""
    plain = text_recipe(place, place / "bert", train={"epochs": 3}, **changes)
    told = {name: {"path": str(place / "far"), "split": f"{name}.csv"} for name in shifts}
    known = {"train.csv": "far", "validation.csv": "near"}
    named = {known[f"{name}.csv"]: told[name] for name in shifts}
    return Recipe.model_validate({**plain.model_dump(), "task": {**plain.task.model_dump(), "shifts": named}})


def test_a_run_answers_every_shift_beside_select_and_report(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = recipe(place, "train", "validation")
    run = finetune(asked, place / "shifted", progress=True)
    splits, record = load_splits(asked.task, asked.data), read_run(run)
    names = ["report", "select", "shift-far", "shift-near"]
    assert sorted(path.stem for path in (run / "predictions").iterdir()) == sorted(record.scores) == names
    for name in names:
        p = Predictions.load(run / "predictions" / f"{name}.safetensors")
        assert p.data == splits.answered[name].fingerprint
        assert record.scores[name]["accuracy"] == pytest.approx(METRICS["accuracy"].compute(p))
    said = capsys.readouterr().out
    assert "30 of the shift far, 12 of the shift near; 30 steps" in said
    assert f"{record.scores['shift-far']['accuracy']:.4f} on far" in said


def test_shifts_change_neither_the_weights_nor_the_other_scores(place: Path) -> None:
    shifted = place / "shifted"  # by the test before
    if not shifted.exists():
        finetune(recipe(place, "train"), shifted, progress=False)
    plain = finetune(recipe(place), place / "plain", progress=False)
    assert Checkpoint(plain).sha256() == Checkpoint(shifted).sha256()
    for role in ("select", "report"):
        assert read_run(plain).scores[role] == read_run(shifted).scores[role]


def test_a_sweep_that_has_begun_accepts_another_shift_and_nothing_else(place: Path, tmp_path: Path) -> None:
    prepare(recipe(place), tmp_path / "sweep")
    (tmp_path / "sweep/start").mkdir()  # a sweep that has begun
    prepare(recipe(place, "train"), tmp_path / "sweep")
    assert "far:" in (tmp_path / "sweep/plan/run_00.yaml").read_text()
    with pytest.raises(RecipeError, match=r"another recipe \(data\.max_length"):
        prepare(recipe(place, "train", data={"max_length": 9}), tmp_path / "sweep")
