"""`hf-soups answer`: shifts answered by all that a sweep has made, once, and remembered."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import pipeline
from typer.testing import CliRunner

from hf_soups.cli import app
from hf_soups.cooking import cook
from hf_soups.data import load_splits
from hf_soups.errors import InputError, RecipeError
from hf_soups.finetune.run_record import RunRecord, write_run
from hf_soups.leaderboard import build_leaderboard
from hf_soups.leaderboard import shifts as answering
from hf_soups.leaderboard.shifts import AnswerResult, answer
from hf_soups.predictions import Predictions
from hf_soups.recipe import load_recipe
from hf_soups.soups.ingredients import gather
from hf_soups.sweep.folder import SweepFolder, write_recipe
from tests.makers.pile import label, make_pile, make_sweep, plain_answers, write_texts
from tests.makers.small_task import image_recipe
from tests.makers.ties import turned
from tests.makers.tiny import tiny_bert, tiny_resnet

BOOKS = "predictions/shift-books.safetensors"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sweep of three runs with a uniform soup, and other texts that a different model has labelled."""
    folder = tmp_path_factory.mktemp("made")
    make_sweep(folder, models=3)
    cook([folder / "sweep"], ("uniform",), folder / "soups", tell=None)
    write_texts(folder / "books", tiny_bert(folder / "other"), train=23, report=9)
    return folder


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "place")


def books(place: Path) -> dict:
    names = ["good", "bad"]  # the column's 0 is what the task calls good
    return {"task.shifts.books": {"path": str(place / "books/train.csv"), "split": "train", "label_names": names}}


def quietly(place: Path, **options) -> AnswerResult:
    return answer([place / "sweep"], overrides=options.pop("overrides", books(place)), progress=False, **options)


def folders(place: Path) -> dict[str, Path]:
    runs = {f"run_{i:02d}": place / "sweep" / f"run_{i:02d}" for i in range(3)}
    return {**runs, "uniform soup": place / "soups/uniform"}


def test_every_run_and_soup_answers_as_its_checkpoint_does(place: Path) -> None:
    result = quietly(place)
    splits = load_splits(
        *(getattr(load_recipe(place / "sweep/recipe.yaml", books(place)), p) for p in ("task", "data"))
    )
    split = splits.shifts["books"]
    assert set(result.scores) == {(name, "books") for name in folders(place)}
    assert (result.kept, result.failed, result.exit_status) == (0, {}, 0)
    for name, folder in folders(place).items():
        found = Predictions.load(folder / BOOKS)
        logits = plain_answers(folder, list(split.rows["sentence"]))
        expected = torch.log_softmax(torch.from_numpy(logits).double(), dim=1).numpy()
        np.testing.assert_allclose(found.log_probs, expected, atol=2e-5)
        np.testing.assert_array_equal(found.needs_labels(), split.labels)
        assert (found.data, found.model) == (split.fingerprint, name)
        accuracy = np.mean(logits.argmax(axis=1) == split.labels)
        assert result.scores[name, "books"] == pytest.approx(accuracy, abs=1e-12 + turned(found))


def test_the_leaderboard_shows_what_was_answered(place: Path) -> None:
    result = quietly(place)
    rows = {r.name: r for r in build_leaderboard(place / "sweep").rows}
    for (name, shift), value in result.scores.items():
        assert rows[name].shifts[shift].value == value
    assert "books" in rows["mean-logit ensemble"].shifts


def test_what_is_there_is_kept_and_only_the_rest_is_answered(place: Path) -> None:
    quietly(place)
    kept = {name: (folder / BOOKS).stat().st_mtime_ns for name, folder in folders(place).items()}
    (place / "sweep/run_01" / BOOKS).unlink()
    (place / "sweep/run_02" / BOOKS).write_bytes(b"cut short")
    result = quietly(place)
    assert set(result.scores) == {("run_01", "books"), ("run_02", "books")}
    assert result.kept == 2
    for name in ("run_00", "uniform soup"):
        assert (folders(place)[name] / BOOKS).stat().st_mtime_ns == kept[name]


def test_a_killed_call_goes_on(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    plain = answering._Live.answers

    def killed(self, answerer, shift, progress):
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(answerer.name)
        return plain(self, answerer, shift, progress)

    with monkeypatch.context() as patch:
        patch.setattr(answering._Live, "answers", killed)
        with pytest.raises(KeyboardInterrupt):
            quietly(place)
    result = quietly(place, overrides=None)  # and the sweep remembers the shift
    assert asked == ["run_00", "run_01"]
    assert {name for name, _ in result.scores} == {"run_02", "uniform soup"}
    assert not list(place.rglob("*.partial"))


def test_another_definition_of_a_shift_is_answered_anew(place: Path) -> None:
    quietly(place)
    other = {"task.shifts.books": {"path": str(place / "books/validation.csv"), "split": "train"}}
    assert len(quietly(place, overrides=other).scores) == 4
    assert build_leaderboard(place / "sweep").shifts["books"].rows == 9
    assert SweepFolder(place / "sweep").shifts() == other


def test_a_soup_cooked_later_answers_the_sweeps_shifts(place: Path) -> None:
    quietly(place)
    assert list(gather([place / "sweep"]).recipe.task.shifts) == ["books"]  # type: ignore[union-attr]
    cook([place / "sweep"], ("greedy",), place / "soups", tell=None)
    assert (place / "soups/greedy" / BOOKS).is_file()
    told = json.loads((place / "soups/greedy/soup.json").read_text())["scores"]["shift-books"]
    (row,) = [r for r in build_leaderboard(place / "sweep").rows if r.name == "greedy soup"]
    assert row.shifts["books"].value == told["accuracy"]
    assert quietly(place).scores == {}  # and nothing is left to answer


def test_a_new_shift_does_not_cook_a_soup_again(place: Path) -> None:
    cook([place / "sweep"], ("uniform",), place / "again", tell=None)
    quietly(place)
    (soup,) = cook([place / "sweep"], ("uniform",), place / "again", tell=None).soups
    assert soup.already


def test_shifts_may_come_from_another_recipe(place: Path) -> None:
    text = (place / "sweep/recipe.yaml").read_text()
    (place / "other.yaml").write_text(
        text.replace("task: {", f"task: {{shifts: {{books: {{path: {place}/books/validation.csv, split: train}}}}, ")
    )
    result = answer([place / "sweep"], recipe=place / "other.yaml", progress=False)
    assert len(result.scores) == 4
    assert list(SweepFolder(place / "sweep").recipe().task.shifts) == ["books"]


def test_what_cannot_answer_is_said_and_the_others_answer(place: Path) -> None:
    (place / "sweep/run_00/model.safetensors").write_bytes(b"cut short")
    shutil.rmtree(place / "soups/uniform")
    write_run(place / "sweep/run_02", RunRecord("nan-loss", "the loss was NaN"))
    result = quietly(place)
    assert set(result.scores) == {("run_01", "books")}
    assert set(result.failed) == {"run_00", "uniform soup"}
    assert result.exit_status == 1


def test_plain_checkpoints_are_answered_by_a_recipe(tmp_path: Path) -> None:
    pile = make_pile(tmp_path / "pile", models=2)
    (pile / "data/far.csv").write_text((pile / "data/validation.csv").read_text())
    change = {"task.shifts.far": "far.csv"}
    result = answer([pile / "m0", pile / "m1"], recipe=pile / "recipe.yaml", overrides=change, progress=False)
    assert len(result.scores) == 2
    report = load_splits(*(getattr(load_recipe(pile / "recipe.yaml"), part) for part in ("task", "data"))).report
    for name in ("m0", "m1"):
        found = Predictions.load(pile / name / "predictions/shift-far.safetensors")
        logits = plain_answers(pile / name, list(report.rows["sentence"]))
        assert found.answers.tolist() == logits.argmax(axis=1).tolist()


def test_convolutional_networks_answer_with_the_statistics_of_their_own_folders(tmp_path: Path) -> None:
    """Swapped weights bring their BatchNorm statistics; they are not measured anew."""
    from transformers import AutoModelForImageClassification

    sweep, classes = tmp_path / "sweep", ("top", "middle", "bottom")
    sweep.mkdir()
    recipe = image_recipe(tmp_path / "images", tmp_path / "model")
    write_recipe(sweep / "recipe.yaml", recipe)
    (sweep / "plan.json").write_text(
        json.dumps({"format": "hf_soups.sweep.plan.v1", "runs": [{"name": f"run_0{i}"} for i in range(2)]})
    )
    for i in range(2):
        label(tiny_resnet(sweep / f"run_0{i}", seed=i), classes)
        model = AutoModelForImageClassification.from_pretrained(sweep / f"run_0{i}")
        model.resnet.embedder.embedder.normalization.running_mean += 0.3 * i
        model.save_pretrained(sweep / f"run_0{i}")
        write_run(sweep / f"run_0{i}", RunRecord("finished", recipe=recipe.model_dump(mode="json")))
    shutil.copy(tmp_path / "images/validation.parquet", tmp_path / "images/again.parquet")
    answer([sweep], overrides={"task.shifts.books": "again.parquet"}, progress=False)
    split = load_splits(SweepFolder(sweep).recipe().task, recipe.data).shifts["books"]
    for i in range(2):
        found = Predictions.load(sweep / f"run_0{i}" / BOOKS)
        pipe = pipeline("image-classification", model=str(sweep / f"run_0{i}"))
        for image, probs in zip(split.rows["image"][:5], found.probs, strict=False):
            told = {answer["label"]: answer["score"] for answer in pipe(image)}
            assert [told[name] for name in split.label_names] == pytest.approx(probs.tolist(), abs=1e-4)


def test_without_a_shift_there_is_nothing_to_answer(place: Path) -> None:
    with pytest.raises(InputError, match=r"lists no shifts .*`overrides=\{'task\.shifts\.books'"):
        quietly(place, overrides={})


def test_wrong_input_is_refused_before_anything_is_written(place: Path) -> None:
    with pytest.raises(InputError, match="is a sweep; answer one sweep at a time"):
        answer([place / "sweep", place / "soups/uniform"], progress=False)
    with pytest.raises(InputError, match="give a recipe"):
        answer([place / "soups/uniform"], progress=False)
    with pytest.raises(InputError, match=r"no checkpoint's folder"):
        answer([place / "books"], recipe=place / "sweep/recipe.yaml", overrides=books(place), progress=False)
    with pytest.raises(RecipeError, match="cannot be a shift's name"):
        quietly(place, overrides={"task.shifts.report": "train"})
    with pytest.raises(InputError, match=r"task\.shifts\.gone"):
        quietly(place, overrides={"task.shifts.gone": {"path": str(place / "gone.csv"), "split": "train"}})
    assert not (place / "sweep/shifts.json").exists()


def test_a_damaged_memory_is_one_clear_error(place: Path) -> None:
    (place / "sweep/shifts.json").write_text('{"format": "other"}')
    with pytest.raises(InputError, match=r"shifts\.json: .* Remove it and answer the shifts again"):
        quietly(place)


def test_the_command_says_what_it_answered(place: Path) -> None:
    ((key, value),) = books(place).items()
    done = CliRunner().invoke(app, ["answer", str(place / "sweep"), "--set", f"{key}={json.dumps(value)}"])
    assert done.exit_code == 0, done.output
    assert "run_00 on books: accuracy " in done.output
    assert ", 23 rows" in done.output
    assert "4 answers written." in done.output
