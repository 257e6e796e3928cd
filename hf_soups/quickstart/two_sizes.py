"""The last stages of the quickstart: a smaller model, and what it and the soup do together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.quickstart.inputs import SMALL, write_recipes

if TYPE_CHECKING:
    from rich.console import Console

# Longer and at higher rates than the large one: with its recipe the small one stayed at 92 % and no cascade gained.
SMALL_PRETRAINING = {"learning_rate": 3e-3, "epochs": 60}
SMALL_RUN = {"learning_rate": 2e-3, "batch_size": 32, "epochs": 40, "mixup": 0.4}

# Members answer alone: the soup's answers are less sure than the small model's (label smoothing, mixup, averaging), so
# in a mean of both the small one's errors outweigh them.
RULE: dict[str, Any] = {"combine": "last"}


def train_small(out: Path) -> Path:
    """Pretrain and fine-tune a ViT of half the width and half the layers; the folder of the fine-tune."""
    from hf_soups.finetune import finetune
    from hf_soups.recipe import load_recipe

    folder = out / "small"
    folder.mkdir()
    pretraining, finetuning = write_recipes(folder, out / "digits", SMALL)
    for recipe, train, into in ((pretraining, SMALL_PRETRAINING, "start"), (finetuning, SMALL_RUN, "run")):
        finetune(load_recipe(recipe, {f"train.{key}": value for key, value in train.items()}), folder / into)
    return folder / "run"


def two_sizes(out: Path, console: Console) -> None:
    """Both models' answers as pools, their ensembles, the search, the cascade's folder and pictures."""
    from hf_soups.from_pool import build_from, draw_plan, pool_ensembles, search_pool
    from hf_soups.pool.predicting import predict_pool
    from hf_soups.report.search import SearchTable

    select, report = out / "preds" / "select", out / "preds" / "report"
    models = [f"small={out / 'small' / 'run'}", f"soup={out / 'soups' / 'greedy'}"]
    for split, pool in (("select", select), ("report", report)):
        predict_pool(models, recipe=out / "digits.yaml", split=split, out=pool)
    console.print(pool_ensembles(select, report=str(report)))
    found = search_pool(select, report=str(report), **RULE)
    console.print(SearchTable(found))
    assert found.choice.plan is not None  # the best single model, or what matches it, always fits the default goal
    index = found.frontier.plans.index(found.choice.plan)
    build_from(f"{found.path}#{index}", out / "cascade")
    draw_plan(f"{found.path}#{index}", out / "pictures")
