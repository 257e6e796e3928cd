"""Recipes: what is wrong with one is said with the key, the value and what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_soups.errors import RecipeError
from hf_soups.recipe import Data, Recipe, Train, load_recipe, recipe_from
from hf_soups.recipe.task import MetricByEvaluate, named_task

LEAST = {"task": "glue/mrpc", "model": "bert-base-uncased"}


def refused(**changes: Any) -> str:
    with pytest.raises(RecipeError) as caught:
        recipe_from({**LEAST, **changes})
    return str(caught.value)


def written(folder: Path, text: str) -> Path:
    path = folder / "mrpc-bert.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_task_and_a_model_are_enough() -> None:
    recipe = recipe_from(LEAST)
    assert recipe.task == named_task("glue/mrpc")
    assert (recipe.data, recipe.train) == (Data(), Train())
    assert (recipe.data.select_fraction, recipe.data.select_minimum) == (0.02, 200)


def test_a_recipe_survives_its_own_dump() -> None:
    space = {"learning_rate": {"log_uniform": [1e-5, 1e-4]}, "batch_size": {"choice": [16, 32]}}
    recipe = recipe_from({**LEAST, "sweep": {"space": space}, "train": {"mixup": 0.2}, "tracker": "trackio"})
    assert recipe_from(recipe.model_dump()) == recipe
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_named_task_may_be_changed_in_part() -> None:
    recipe = recipe_from(
        {**LEAST, "task": {"name": "glue/rte", "path": "/data/glue", "metric": {"load": "m", "key": "k"}}}
    )
    assert (recipe.task.path, recipe.task.config, recipe.task.text) == ("/data/glue", "rte", ("sentence1", "sentence2"))
    assert recipe.task.metric == MetricByEvaluate(load="m", key="k")


def test_a_task_of_ones_own_may_have_any_name() -> None:
    task = {"name": "reviews", "kind": "text", "path": "reviews.csv", "text": ["review"]}
    assert recipe_from({**LEAST, "task": task}).task.name == "reviews"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trian": {}}, "recipe: unknown key `trian`; did you mean `train`?"),
        (
            {"zzz": 1},
            "unknown key `zzz`; known here: name, task, model, revision, members, head, data, train, sweep, tracker",
        ),
        ({"train": {"learning_rte": 1}}, "unknown key `train.learning_rte`; did you mean `learning_rate`?"),
        ({"data": {"max_len": 1}}, "unknown key `data.max_len`; did you mean `max_length`?"),
        ({"task": {"name": "glue/mrpc", "lable": "x"}}, "unknown key `task.lable`; did you mean `label`?"),
        (
            {"task": {"name": "glue/mrpc", "metric": {"lod": "f1", "load": "f1"}}},
            "unknown key `task.metric.lod`; did you",
        ),
        (
            {"sweep": {"space": {"learning_rat": {"choice": [1]}}}},
            "unknown key 'learning_rat'; did you mean `learning_",
        ),
        ({"sweep": {"space": {"epochs": {"choise": [1]}}}}, "`sweep.space.epochs.choise`; did you mean `choice`?"),
    ],
)
def test_an_unknown_key_is_named_with_the_nearest_known_one(changes: dict[str, Any], message: str) -> None:
    assert message in refused(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"task": "mrpc"},
            "unknown task 'mrpc'; known by name: glue/mrpc, glue/rte, glue/cola, glue/sst2, glue/stsb; for other",
        ),
        ({"task": {"name": "mrpc"}}, "unknown task 'mrpc'"),
        ({"task": {"kind": "text", "path": "x"}}, "`task`: a task of kind 'text' names 1 text columns, got []"),
        ({"task": {"path": "x", "text": ["a"]}}, "`task.kind`: Field required"),
        ({"model": None}, "`model`: Input should be a valid string (got None)"),
        ({"train": {"learning_rate": 0}}, "`train.learning_rate`: Input should be greater than 0 (got 0)"),
        ({"train": {"learning_rate": "fast"}}, "`train.learning_rate`: Input should be a valid number"),
        (
            {"train": {"learning_rate": float("nan")}},
            "`train.learning_rate`: Input should be a finite number (got nan)",
        ),
        ({"train": {"epochs": float("inf")}}, "`train.epochs`: Input should be a finite number (got inf)"),
        ({"train": {"batch_size": 1.5}}, "`train.batch_size`: Input should be a valid integer"),
        ({"train": {"seed": -1}}, "`train.seed`: Input should be greater than or equal to 0 (got -1)"),
        ({"data": {"select_fraction": 1}}, "`data.select_fraction`: Input should be less than 1 (got 1)"),
        (
            {"head": {"init": "random"}},
            "`head.init`: Input should be 'shared-random', 'linear-probe', 'zero-shot', 'label-words' or 'keep'",
        ),
        ({"sweep": {"runs": 0}}, "`sweep.runs`: Input should be greater than or equal to 1 (got 0)"),
        ({"task": {"name": "glue/mrpc", "metric": {"key": "f1"}}}, "`task.metric.load`: Field required"),
    ],
)
def test_a_wrong_value_is_told_with_its_key(changes: dict[str, Any], message: str) -> None:
    assert message in refused(**changes)


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = refused(train={"epochs": 0, "mixup": -1}, tracker="tensorboard")
    assert "`train.epochs`" in told
    assert "`train.mixup`" in told
    assert "`tracker`" in told


@pytest.mark.parametrize(
    ("distribution", "message"),
    [
        ({}, "give exactly one of log_uniform, uniform, integer, choice"),
        ({"uniform": [0, 1], "choice": [1]}, "give exactly one of"),
        ({"uniform": [2, 1]}, "uniform: 2.0 is above 1.0"),
        ({"integer": [2, 1]}, "integer: 2 is above 1"),
        ({"log_uniform": [0, 1]}, "log_uniform needs bounds above 0"),
        ({"choice": []}, "choice needs at least one value"),
    ],
)
def test_a_distribution_is_one_and_makes_sense(distribution: dict[str, Any], message: str) -> None:
    assert message in refused(sweep={"space": {"epochs": distribution}})


def test_a_grid_is_made_of_choices() -> None:
    told = refused(sweep={"method": "grid", "space": {"epochs": {"uniform": [1, 2]}}})
    assert "a grid needs `choice` for every key; epochs has none" in told


def test_a_file_is_read_and_named_after_itself(tmp_path: Path) -> None:
    path = written(tmp_path, "task: glue/mrpc\nmodel: bert-base-uncased\ntrain: {learning_rate: 1e-5}\n")
    recipe = load_recipe(path)
    assert recipe.name == "mrpc-bert"
    assert recipe.train.learning_rate == 1e-5  # YAML 1.1 takes "1e-5" for text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "a recipe is a YAML mapping with at least `task` and `model`"),
        ("- task", "a recipe is a YAML mapping"),
        ("task: [", "not valid YAML"),
        ("model: m\n", "`task`: Field required"),
        ("task: !!python/object/apply:os.system [ls]\nmodel: m", "not valid YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_told_by_its_path(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, text))
    assert message in str(caught.value)
    assert str(caught.value).startswith(str(tmp_path / "mrpc-bert.yaml"))


def test_a_missing_or_unreadable_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match=r"none\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "none.yaml")
    with pytest.raises(RecipeError, match="cannot read the recipe"):
        load_recipe(tmp_path)
    (tmp_path / "latin.yaml").write_bytes(b"task: caf\xe9")
    with pytest.raises(RecipeError, match=r"latin\.yaml: cannot read the recipe"):
        load_recipe(tmp_path / "latin.yaml")


def test_overrides_change_train_by_bare_name_and_all_else_by_dotted_name(tmp_path: Path) -> None:
    path = written(tmp_path, "task: glue/mrpc\nmodel: m\ntrain: {epochs: 5, seed: 3}\n")
    changes = {"learning_rate": "3e-5", "data.max_length": 64, "task.path": "/data/glue", "model": "other", "epochs": 1}
    recipe = load_recipe(path, changes)
    assert (recipe.train.learning_rate, recipe.train.epochs, recipe.train.seed) == (3e-5, 1, 3)
    assert (recipe.data.max_length, recipe.model) == (64, "other")
    assert recipe.task == named_task("glue/mrpc", path="/data/glue")
    assert load_recipe(path).train.epochs == 5  # the file stays as it was


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"learning_rte": 1}, "unknown key `train.learning_rte`; did you mean `learning_rate`?"),
        ({"data.max_len": 1}, "unknown key `data.max_len`"),
        ({"model.size": 1}, "cannot set model.size: `model` is not a mapping in the recipe"),
        ({"epochs": "many"}, "`train.epochs`: Input should be a valid number"),
    ],
)
def test_a_wrong_override_is_told_like_a_wrong_recipe(tmp_path: Path, overrides: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError) as caught:
        load_recipe(written(tmp_path, "task: glue/mrpc\nmodel: m\n"), overrides)
    assert message in str(caught.value)


def test_a_recipe_cannot_be_changed_in_place() -> None:
    with pytest.raises(ValueError, match="frozen"):
        recipe_from(LEAST).train.seed = 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from([*Recipe.model_fields, "other"]), JSON, max_size=5))
@settings(deadline=None)
def test_no_mapping_ends_in_anything_but_a_recipe_or_a_recipe_error(raw: dict[str, Any]) -> None:
    try:
        assert isinstance(recipe_from({**LEAST, **raw}), Recipe)
    except RecipeError as error:
        assert str(error).startswith("recipe: ")  # noqa: PT017 (either outcome is allowed)
