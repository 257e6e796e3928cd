"""The T5 and label-word recipes on real GLUE rows, a few steps of tiny models of the same classes."""

from __future__ import annotations

import contextlib
from pathlib import Path

import numpy as np
import pytest

from hf_soups.checkpoint import Checkpoint
from hf_soups.data import load_splits
from hf_soups.errors import RunFailed
from hf_soups.finetune import finetune
from hf_soups.finetune.run_record import read_run
from hf_soups.finetune.start import make_start
from hf_soups.recipe import load_recipe
from hf_soups.recipe.prompts import MASKED_PROMPTS, MASKED_WORDS, T5_PROMPTS
from tests.makers.tiny import tiny_bert_mlm, tiny_t5

pytestmark = pytest.mark.real

GLUE = Path(__file__).parents[2] / "recipes" / "glue"
RECIPES = [*GLUE.glob("*-t5-*.yaml"), *GLUE.glob("*-label-words-*.yaml")]


@pytest.mark.parametrize("path", sorted(RECIPES), ids=lambda path: path.stem)
def test_a_few_steps_of_the_recipe(path: Path, shared: Path, tmp_path: Path) -> None:
    masked = "bert" in path.stem
    small = {
        "task.path": str(shared / "data" / "glue"),
        "model": str((tiny_bert_mlm if masked else tiny_t5)(tmp_path / "model")),
        "data.train_rows": 64,
        "data.report_rows": 40,
        "data.select_minimum": 40,
        "train.max_steps": 4,
        "train.learning_rate": 1e-4,
    }
    recipe = load_recipe(path, small)
    make_start(recipe, load_splits(recipe.task, recipe.data), tmp_path / "start")
    config = Checkpoint(tmp_path / "start").config
    name = recipe.task.name
    labels = list(recipe.task.label_names or ())
    assert config["label_words"] == ([MASKED_WORDS[name][label] for label in labels] if masked else labels)
    assert config["prompt"] == (MASKED_PROMPTS if masked else T5_PROMPTS)[name]
    with contextlib.suppress(RunFailed):  # a random model after four steps may well answer one label
        finetune(recipe, tmp_path / "run", start=tmp_path / "start", progress=False)
    run = read_run(tmp_path / "run")
    assert (run.status in ("finished", "one-class"), run.steps) == (True, 4)
    assert np.isfinite([point["loss"] for point in run.history]).all()
