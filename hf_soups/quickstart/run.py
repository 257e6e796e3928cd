"""The whole job in minutes, on data that comes with the install: scikit-learn's handwritten digits and small ViTs.

Nothing here is a shortcut: it writes a data set in Hub layout and recipes, and then runs the same functions as the
commands `finetune`, `sweep`, `cook`, `leaderboard`, `predict`, `ensemble` and `cascade` do. Everything it made can be
run again by hand.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.errors import InputError
from hf_soups.quickstart.digits import SMALL, write_inputs, write_recipes

if TYPE_CHECKING:
    from rich.console import Console

    from hf_soups.leaderboard import Leaderboard


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
    from hf_soups.pool.predict import predict_pool
    from hf_soups.pool_jobs import build_from, draw_plan, pool_ensembles, search_pool
    from hf_soups.report.frontier_table import SearchTable

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


STAGES = 7


def quickstart(out: Path, *, slots: int = 2, overwrite: bool = False, sweep_runs: int | None = None) -> Leaderboard:
    """Pretrain, fine-tune, cook and compare; then an ensemble and a cascade with a smaller model. Prints each stage.

    Args:
        out: the folder of the whole job: digits/, start/, runs/, soups/, small/, preds/, cascade/ and the recipes.
        slots: fine-tunes side by side.
        overwrite: throw away what a former quickstart left in `out`.
        sweep_runs: number of fine-tunes; default: the recipe's.
    Raises:
        InputError: if `out` holds something and `overwrite` is not given.
    """
    from rich.console import Console

    from hf_soups.cook import cook
    from hf_soups.finetune import finetune
    from hf_soups.leaderboard import build_leaderboard
    from hf_soups.recipe import load_recipe
    from hf_soups.sweep import sweep

    _clear(out, overwrite)
    started, console = time.perf_counter(), Console(width=None if sys.stdout.isatty() else 140)
    _stage(console, 1, "handwritten digits of scikit-learn, in Hub layout", out / "digits")
    pretraining, finetuning = write_inputs(out)

    _stage(console, 2, "a small ViT is pretrained: which digit, and how is it turned?", out / "start")
    finetune(load_recipe(pretraining), out / "start")

    changes = {} if sweep_runs is None else {"sweep.runs": sweep_runs}
    recipe = load_recipe(finetuning, changes)
    _stage(console, 3, f"{recipe.sweep.runs} fine-tunes from that one start", out / "runs")
    sweep(recipe, out / "runs", slots=slots)

    _stage(console, 4, "uniform and greedy soups", out / "soups")
    cook([str(out / "runs")], methods=("uniform", "greedy"), out=out / "soups")

    _stage(console, 5, "the leaderboard", out / "runs" / "leaderboard.csv")
    board = build_leaderboard(out / "runs")
    board.save(out / "runs")
    console.print(board.to_rich())

    _stage(console, 6, "a smaller ViT, trained the same way", out / "small")
    train_small(out)

    _stage(console, 7, "what the small one and the greedy soup answer: ensembles, and a cascade", out / "cascade")
    two_sizes(out, console)
    console.print(f"The whole job took {time.perf_counter() - started:.0f} s.")
    console.print(f"Look at {out}/runs/leaderboard.png and {out}/pictures/score_vs_cost.png,")
    console.print(f"and repeat any stage by hand, for example: hf-soups sweep {finetuning} --out {out}/again --dry-run")
    console.print(f"Next: hf-soups report {out} (pip install 'hf_soups\\[report]'), or try the cascade in the browser:")
    console.print(f"hf-soups demo {out}/cascade (pip install 'hf_soups\\[demo]').")
    return board


def _clear(out: Path, overwrite: bool) -> None:
    if not out.exists() or not any(out.iterdir()):
        out.mkdir(parents=True, exist_ok=True)
        return
    if not overwrite:
        raise InputError(f"{out} is not empty: give another --out, or --overwrite to start again.")
    if not (out / "digits.yaml").exists():
        raise InputError(f"{out} was not made by the quickstart, so --overwrite deletes nothing: give another --out.")
    shutil.rmtree(out)
    out.mkdir(parents=True)


def _stage(console: Console, number: int, what: str, where: Path) -> None:
    console.print(f"\n[bold]{number}/{STAGES}[/bold] {what}  [dim]({where})[/dim]")
