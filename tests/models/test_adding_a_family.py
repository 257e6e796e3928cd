"""docs/adding-a-family.md, done: its family, with one row in the table, goes through a fine-tune, a pool and a load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from hf_soups import Checkpoint
from hf_soups.data import load_splits
from hf_soups.errors import CheckpointError
from hf_soups.finetune import finetune
from hf_soups.finetune.run_record import read_run
from hf_soups.models import registry
from hf_soups.pool import read_pool
from hf_soups.pool.predict import predict_pool
from hf_soups.predictions import Predictions
from hf_soups.recipe import Recipe
from tests.documents.pages import DOCS, blocks
from tests.makers.small_task import text_recipe
from tests.makers.tiny import tiny_gpt2


@pytest.fixture
def recipe(tmp_path: Path) -> Recipe:
    return text_recipe(tmp_path / "data", tiny_gpt2(tmp_path / "gpt2"))


@pytest.fixture
def family(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The family of the page, in the row that the page gives it."""
    (code,) = (block.text for block in blocks(DOCS / "adding-a-family.md") if block.language == "python")
    names: dict[str, Any] = {"__name__": "page"}
    exec(compile(code, "adding-a-family.md", "exec", dont_inherit=True), names)
    made = names["Decoders"]()
    monkeypatch.setattr(registry, "FAMILIES", (made, *registry.FAMILIES))
    return made


def test_without_the_family_its_models_are_refused(recipe: Recipe, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no padding token"):
        finetune(recipe, tmp_path / "run", progress=False)


def test_a_family_of_one_file_and_one_row_is_fine_tuned_and_predicts(
    family: Any, recipe: Recipe, tmp_path: Path
) -> None:
    run = finetune(recipe, tmp_path / "run", progress=False)
    record = read_run(run)
    assert record.family == "decoder"
    assert record.scores["report"]["accuracy"] > 0.8  # three in five rows are of one class
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe.model_dump(mode="json")))
    predict_pool([f"gpt={run}"], recipe=tmp_path / "recipe.yaml", split="report", out=tmp_path / "preds", device="cpu")
    cached = Predictions.load(run / "predictions" / "report.safetensors")
    fresh = read_pool(tmp_path / "preds").predictions["gpt"]
    np.testing.assert_array_equal(fresh.row_ids, cached.row_ids)
    np.testing.assert_allclose(fresh.log_probs, cached.log_probs, atol=1e-5)


def test_what_it_does_not_override_is_the_base_classs(family: Any, recipe: Recipe, tmp_path: Path) -> None:
    folder = Path(recipe.model)
    assert registry.family_for(Checkpoint(folder).config, "text") == family
    assert family.kinds == ("text", "text-pair")
    names = load_splits(recipe.task, recipe.data).label_names
    loaded = family.load_with_new_head(folder, label_names=names, seed=1)
    assert loaded.new_parameters == ("score.weight",)
    loaded.model.save_pretrained(tmp_path / "saved")
    again = family.load(tmp_path / "saved").state_dict()
    assert all((value == again[name]).all() for name, value in loaded.model.state_dict().items())
