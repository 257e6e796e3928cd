"""Two fine-tunes of each problem type, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from hf_soups.finetune import finetune
from hf_soups.recipe import load_recipe
from tests.makers.tiny import tiny_bert
from tests.problem_types.made import MULTI_LABEL_TASK, REGRESSION_TASK, recipe

TASKS = {"multi-label": MULTI_LABEL_TASK, "regression": REGRESSION_TASK}


@pytest.fixture(scope="session", params=TASKS)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder called as the problem type: data/recipe.yaml, model, and two runs."""
    folder = tmp_path_factory.mktemp("made") / request.param
    written = recipe(folder / "data", tiny_bert(folder / "model"), task=TASKS[request.param])
    for i, rate in enumerate((4e-3, 6e-3)):
        known = load_recipe(written, {"learning_rate": rate, "seed": i})
        finetune(known, folder / "runs" / f"run_{i}", cache=folder / "cache", progress=False)
    return folder
