"""Label names that differ by case and surrounding blanks are one label, wherever labels are compared."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.cooking import cook
from hf_soups.data import load_splits
from hf_soups.ensembles import ensemble
from hf_soups.files.label_names import label_keys, order_of, same_labels
from hf_soups.inspection import inspect_checkpoints
from hf_soups.models.clip import prompts
from hf_soups.predictions import Predictions
from hf_soups.recipe import load_recipe
from hf_soups.soups.compatibility import preflight
from tests.makers.pile import label, make_pile
from tests.makers.tiny import tiny_bert


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    one, two = tiny_bert(tmp_path / "one", seed=1), tiny_bert(tmp_path / "two", seed=2)
    return label(one, ["neg", "pos"]), label(two, ["Neg ", " POS"])


def test_cook_and_inspect_take_two_spellings_for_one_label(pair: tuple[Path, Path], tmp_path: Path) -> None:
    found = inspect_checkpoints(pair)
    assert found.mixable
    assert found.rows[1].labels == "same"
    result = cook(list(map(str, pair)), out=tmp_path / "soup", tell=None)
    assert result.warnings == () or "head" in result.warnings[0]
    assert json.loads((tmp_path / "soup" / "soup.json").read_text())["label_names"] == ["neg", "pos"]


def test_another_order_is_found_through_spellings(pair: tuple[Path, Path]) -> None:
    label(pair[1], ["Pos", "NEG"])
    checkpoints = [Checkpoint(folder) for folder in pair]
    assert "in the order ['Pos', 'NEG']" in preflight(checkpoints).errors[0].message
    found = preflight(checkpoints, align_labels=True)
    assert found.errors == ()
    assert found.label_permutations == {str(pair[1]): (1, 0)}
    assert [row.label_order for row in inspect_checkpoints(pair).rows] == [(), (1, 0)]


def test_names_that_one_model_tells_apart_by_case_are_two_labels(pair: tuple[Path, Path]) -> None:
    label(pair[0], ["US", "us"])
    label(pair[1], ["us", "US"])
    assert [f.topic for f in preflight([Checkpoint(folder) for folder in pair]).errors] == ["labels"]
    assert label_keys(["US", "us"]) == ("US", "us")


def test_the_order_of_labels() -> None:
    assert order_of(["Pos", "neg "], ["neg", "pos"]) == (1, 0)
    assert order_of(["pos", "neg"], ["neg", "other"]) is None
    assert order_of(["a", "a"], ["a", "a"]) is None
    assert same_labels(None, None)
    assert not same_labels(None, ["a"])


def test_greedy_scores_on_data_whose_labels_are_spelled_otherwise(tmp_path: Path) -> None:
    pile = make_pile(tmp_path, models=2)
    label(pile / "m0", ["Bad", "GOOD "])
    args = [str(pile / "m0"), str(pile / "m1")], ["greedy"], tmp_path / "soup"
    (soup,) = cook(*args, recipe=pile / "recipe.yaml", tell=None).soups
    assert soup.score is not None


@pytest.mark.parametrize("named", [True, False])
def test_rows_of_two_spellings_are_of_one_class(named: bool, tmp_path: Path) -> None:
    for name, spellings in (("train", ["Pos", "neg", "pos ", "NEG"]), ("validation", ["POS", "neg"])):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["sentence", "label"])
            writer.writerows([f"text {i}", spelling] for i, spelling in enumerate(spellings * 20))
    names = "label_names: [neg, pos], " if named else ""
    (tmp_path / "recipe.yaml").write_text(
        f"task: {{kind: text, path: {tmp_path}, text: [sentence], {names}metric: accuracy}}\n"
        "model: x\ndata: {select_minimum: 10}\n"
    )
    recipe = load_recipe(tmp_path / "recipe.yaml")
    splits = load_splits(recipe.task, recipe.data)
    assert label_keys(splits.label_names) == ("neg", "pos")
    assert set(splits.report.labels.tolist()) == {0, 1}
    assert splits.report.labels[:2].tolist() == [1, 0]


def test_predictions_of_two_spellings_are_joined() -> None:
    one = Predictions.from_probs([[0.9, 0.1]], labels=[0], label_names=["neg", "pos"])
    two = Predictions.from_probs([[0.7, 0.3]], labels=[0], label_names=["Neg", "POS "])
    joined = ensemble([one, two])
    assert np.allclose(np.exp(joined.log_probs), [[0.8, 0.2]])
    assert joined.label_names == ("neg", "pos")


def test_texts_of_classes_are_found_by_any_spelling() -> None:
    texts = prompts(["cat", "dog"], ["a {}"], {"Cat ": "kitten"})
    assert texts == prompts(["cat", "dog"], ["a {}"], {"cat": "kitten"})
